"""A training whose note of checkpoints a kill has emptied goes on from the newest whole one, or anew, and says so.

Ray Train's own manager of checkpoints reads the note; no Ray is needed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as NOTE
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from ezxmc_ray.stages.train_snapshot import _note_of, mend_snapshot
from ezxmc_ray.storage import Storage

TRAINING = "cycle-0/training-0123"
NAMES = [f"checkpoint_2026-11-28_10-00-0{number}" for number in range(3)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints, and the note of the last."""
    for number, name in enumerate(NAMES):
        folder = tmp_path / TRAINING / name
        folder.mkdir(parents=True)
        torch.save({"step": number, "weights": torch.rand(1000)}, folder / "state.pt")
    (tmp_path / TRAINING / NOTE).write_text(_note_of(NAMES[2]))
    return tmp_path


def latest(run: Path) -> Checkpoint | None:
    """The checkpoint that Ray Train would hand to the workers. Errors: Ray's, for a note that it cannot read."""
    context = StorageContext(str(run / "cycle-0"), "training-0123", read_only=True)
    result = CheckpointManager(CheckpointConfig(num_to_keep=1), context).latest_checkpoint_result
    return result.checkpoint if result else None


def test_a_note_that_is_whole_stays_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / TRAINING / NOTE).read_bytes()
    mend_snapshot(Storage(str(run)), TRAINING)
    assert (run / TRAINING / NOTE).read_bytes() == before and capsys.readouterr().out == ""
    mend_snapshot(Storage(str(run)), "cycle-0/training-none")


@pytest.mark.parametrize("left", [b"", b'{"ray_version": "2.60', b"[]", b"\xff"])
def test_training_goes_on_from_the_newest_whole_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str], left: bytes
) -> None:
    (run / TRAINING / NOTE).write_bytes(left)
    last = run / TRAINING / NAMES[2] / "state.pt"
    os.truncate(last, last.stat().st_size // 2)  # the kill may have come while it was copied
    with pytest.raises(Exception, match=r"."):
        latest(run)
    mend_snapshot(Storage(str(run)), TRAINING)
    found = latest(run)
    assert found is not None
    with found.as_directory() as folder:
        assert torch.load(Path(folder) / "state.pt")["step"] == 1
    assert (run / TRAINING / f"{NOTE}.damaged").read_bytes() == left
    assert "goes on from the newest whole checkpoint" in " ".join(capsys.readouterr().out.split())


def test_where_no_checkpoint_is_whole_it_begins_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / TRAINING / NOTE).write_bytes(b"")
    for name in NAMES:
        (run / TRAINING / name / "state.pt").write_bytes(b"")
    mend_snapshot(Storage(str(run)), TRAINING)
    assert latest(run) is None
    assert "goes on anew" in " ".join(capsys.readouterr().out.split())


def test_a_note_of_checkpoints_that_are_gone_is_damaged_too(run: Path) -> None:
    (run / TRAINING / NOTE).write_text(_note_of("checkpoint_of_another_time"))
    mend_snapshot(Storage(str(run)), TRAINING)
    found = latest(run)
    assert found is not None and found.path.endswith(NAMES[2])

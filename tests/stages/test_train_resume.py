"""Training that is stopped between its last checkpoint and its manifest goes on; a user's mistake in it does not.

Each with a local Ray of its own, since its workers must find the simulated Weights & Biases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ezxmc_ray import steps
from ezxmc_ray.cluster.session import ray_cluster
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
from tests.stages.test_train import training
from tests.student.toy import save_tiny_bert

pytestmark = pytest.mark.slow
SIMULATED = str(Path(__file__).with_name("simulated"))


@pytest.fixture(scope="module")
def wandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the simulated Weights & Biases notes its calls, which this process and the workers can import."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SIMULATED_WANDB", str(folder))
        patched.setenv("PYTHONPATH", SIMULATED)
        patched.syspath_prepend(SIMULATED)
        yield folder


@pytest.fixture(scope="module", autouse=True)
def local_ray(wandb: Path) -> Iterator[None]:
    """A local Ray of two CPUs."""
    with ray_cluster(ClusterConfig(address="local", cpus=2)):
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("encoder"), 0.1)


def test_a_users_mistake_in_a_worker_is_one_sentence_and_not_tried_again(encoder: Path, tmp_path: Path) -> None:
    """Tried again, it would go on beyond the time limit of this test."""
    knobs = ["student.learning_rate=1e6", "student.workers=2", "student.max_failures=1000000"]
    work, step = training(tmp_path, encoder, *knobs)
    with pytest.raises(UserError, match=r"^Training broke down at step 2: [^\n]*\.$") as told:
        work.execute(step)
    assert type(told.value) is UserError


@pytest.fixture
def resumed(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: Path) -> dict[str, Any]:
    """Details of a training that was stopped between its end and its manifest's commit, and begun again.

    Its last checkpoint is made to say that 1,000 s had gone by, and to be of a version that counted less. In between it
    cannot begin, since a tracker is down.
    """
    knobs = ["student.trackers=[tensorboard,wandb]", "student.validate_every_steps=5"]
    work, step = training(tmp_path, encoder, *knobs, held_out=8)  # 4 steps
    stale = tmp_path / "cycle-0" / "tensorboard" / "events.of.an.older.training"
    stale.parent.mkdir()
    stale.touch()
    with monkeypatch.context() as patched:
        patched.setattr(steps, "write_manifest", _killed)
        with pytest.raises(KeyboardInterrupt):
            work.execute(step)
    assert not stale.exists()
    (state_file,) = tmp_path.glob("cycle-0/training-*/checkpoint_*/state.pt")
    state = torch.load(state_file, weights_only=True)
    state["progress"]["training_seconds"] += 1000
    del state["progress"]["truncated_readings"], state["progress"]["lost_trackers"]
    torch.save(state, state_file)
    (wandb / "down").touch()
    with pytest.raises(UserError, match=r"has wandb, but wandb does not begin \(the simulated server is down\)"):
        work.execute(step)
    (wandb / "down").unlink()
    return {**work.execute(step).details, "folder": tmp_path}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_kill_before_the_commit_loses_no_more_than_the_steps_after_the_last_checkpoint(
    resumed: dict[str, Any], wandb: Path
) -> None:
    folder: Path = resumed["folder"]
    assert resumed["resumed_at"] == [3] and resumed["steps"] == 4
    assert [point["step"] for point in resumed["loss_curve"]] == [1, 2, 3, 4]
    assert [point["step"] for point in resumed["validation_curve"]] == [4]
    assert (folder / "cycle-0" / "student" / "manifest.json").exists()
    assert list(folder.glob("cycle-0/training-*")) == []  # removed after the commit
    assert len(list(folder.glob("cycle-0/tensorboard/events*"))) == 2  # one a start
    calls = [json.loads(line) for line in (wandb / "calls.jsonl").read_text().splitlines()]
    begun = [call for call in calls if "id" in call]
    assert (
        begun == [{"id": None, "resume": None}, {"id": "first", "resume": "allow"}] and resumed["lost_trackers"] == {}
    )
    assert [call["step"] for call in calls if "step" in call and "loss" in call["figures"]] == [1, 2, 3, 4, 4]
    # Start and training of this command, not of the one before.
    assert resumed["training_seconds"] > 1000 and 0 < resumed["start_seconds"] < 300

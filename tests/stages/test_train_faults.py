"""Training that is killed goes on to the same losses: one of its workers, the driver, or fewer workers than before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Project = Any  # conftest.Project
#: 4 steps an epoch, each with a checkpoint, of which Ray Train makes one in 2 s: long enough to be killed on the way.
SETTINGS = ["student.epochs=8", "student.checkpoint_every_s=0", "student.dtype=float32", "student.dropout=true"]


def untrained(project: Project, folder: Path) -> Project:
    """A copy of the run before its training."""
    copy = project.copy(folder)
    shutil.rmtree(copy.run / "cycle-0" / "student")
    return copy


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, "the command ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def has_checkpoint(copy: Project) -> bool:
    """Whether Ray Train has noted a checkpoint; its file is there a moment earlier, when it does not count yet."""
    notes = copy.run.glob("cycle-0/training-*/checkpoint_manager_snapshot.json")
    return any("checkpoint_2" in note.read_text() for note in notes)


def on_the_way(project: Project, folder: Path, *settings: str) -> tuple[Project, subprocess.Popen[str]]:
    """A training that has its first checkpoint: a copy of the run, and the command at work on it."""
    copy = untrained(project, folder)
    driver = copy.start("train", *copy.arguments, *SETTINGS, *settings)
    wait_for(lambda: has_checkpoint(copy), driver)
    return copy, driver


def training_workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def curve(copy: Project) -> list[tuple[int, float]]:
    return [(one["step"], one["loss"]) for one in copy.manifest("cycle-0/student")["details"]["loss_curve"]]


@pytest.fixture(scope="module")
def undisturbed(project: Project, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """Steps and losses of a training that nothing happens to."""
    copy = untrained(project, tmp_path_factory.mktemp("undisturbed") / "copy")
    done = copy.ezxmc("train", *copy.arguments, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert copy.manifest("cycle-0/student")["details"]["resumed_at"] == []
    return curve(copy)


def assert_same_losses(copy: Project, undisturbed: list[tuple[int, float]], within: float = 1e-4) -> None:
    found = curve(copy)
    assert [step for step, _ in found] == [step for step, _ in undisturbed]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in undisturbed], abs=within)


def test_a_killed_worker_is_replaced_and_the_losses_go_on(
    project: Project, undisturbed: list[tuple[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it end because a tracker does not begin again."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("simulated")))
    monkeypatch.setenv("SIMULATED_WANDB", str(tmp_path))
    copy, driver = on_the_way(project, tmp_path / "copy", "student.trackers=[wandb]")
    (tmp_path / "down").touch()
    training_workers(driver)[0].kill()
    assert driver.wait(400) == 0
    details = copy.manifest("cycle-0/student")["details"]
    assert details["lost_trackers"] == {"wandb": "does not begin (the simulated server is down)"}
    resumed = details["resumed_at"]
    assert len(resumed) == 1 and resumed[0] > 0
    assert_same_losses(copy, undisturbed)


def test_a_killed_driver_goes_on_from_the_last_checkpoint(
    project: Project, undisturbed: list[tuple[int, float]], tmp_path: Path
) -> None:
    copy, driver = on_the_way(project, tmp_path / "copy")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (copy.run / "cycle-0" / "student" / "manifest.json").exists()
    again = copy.ezxmc("train", *copy.arguments, *SETTINGS)
    assert again.returncode == 0, again.stderr
    resumed = copy.manifest("cycle-0/student")["details"]["resumed_at"]
    assert len(resumed) == 1 and resumed[0] > 0
    assert_same_losses(copy, undisturbed)


def test_fewer_workers_go_on_where_more_were(project: Project, tmp_path: Path) -> None:
    """Elastic: two workers are killed with their driver, one goes on, and reads the same batches.

    Without dropout, which each worker draws for itself.
    """
    whole = untrained(project, tmp_path / "undisturbed")
    done = whole.ezxmc("train", *whole.arguments, *SETTINGS, "student.dropout=false")
    assert done.returncode == 0, done.stderr
    copy, driver = on_the_way(project, tmp_path / "copy", "student.dropout=false")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    again = copy.ezxmc("train", *copy.arguments, *SETTINGS, "student.dropout=false", "student.workers=1")
    assert again.returncode == 0, again.stderr
    details = copy.manifest("cycle-0/student")["details"]
    assert details["workers"] == 1 and details["resumed_at"][0] > 0
    assert copy.manifest("cycle-0/student")["rows"] == 8 * details["examples"]
    assert_same_losses(copy, curve(whole), 1e-3)

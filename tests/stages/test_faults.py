"""A run that is killed goes on where it was and leaves no process; a run as a Ray job does the same as on a laptop."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

# The first test waits for the run that all of them look at.
pytestmark = pytest.mark.timeout(900)
Project = Any  # conftest.Project
ROOT = Path(__file__).parents[2]


def verdict_files(project: Project, key: str) -> list[Path]:
    """The teacher's committed batches of pairs (priors apart)."""
    return sorted((project.run / "verdicts" / key).glob("shard-*/*.parquet"))


def pairs_in(files: list[Path]) -> list[tuple[bytes, bytes]]:
    return [(row["document_hash"], row["label_hash"]) for file in files for row in pq.read_table(file).to_pylist()]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` came true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_driver_killed_while_judging_leaves_no_process_and_no_pair_is_judged_twice(
    project: Project, tmp_path: Path
) -> None:
    copy = project.copy(tmp_path / "copy")
    key = project.manifest("cycle-0/examples")["details"]["teacher"]["key"]
    shutil.rmtree(copy.run / "verdicts")
    shutil.rmtree(copy.run / "cycle-0" / "examples")
    driver = copy.start("judge", *copy.arguments)
    assert wait_for(lambda: len(verdict_files(copy, key)) >= 2 or driver.poll() is not None, 150)
    assert driver.poll() is None, "the driver ended before it could be killed"
    of_the_run = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(of_the_run) > 5
    assert wait_for(lambda: not any(map(running, of_the_run)), 30), [p for p in of_the_run if running(p)]
    held = pairs_in(verdict_files(copy, key))
    assert 0 < len(held) < project.manifest("cycle-0/examples")["rows"]

    again = copy.ezxmc("judge", *copy.arguments)
    assert again.returncode == 0, again.stderr
    judged = copy.manifest("cycle-0/examples")
    assert judged["details"]["pairs_held"] == len(held)
    assert judged["details"]["pairs_asked"] == judged["rows"] - len(held)
    pairs = pairs_in(verdict_files(copy, key))
    assert len(pairs) == len(set(pairs)) == judged["rows"]
    mine, undisturbed = copy.rows("cycle-0/examples"), project.rows("cycle-0/examples")
    assert [one["labels"] for one in mine] == [one["labels"] for one in undisturbed]
    # bfloat16 rounds differently in batches of another size: mean log likelihoods differ by a few hundredths.
    difference = np.concatenate([np.subtract(a["raw"], b["raw"]) for a, b in zip(mine, undisturbed, strict=True)])
    assert np.abs(difference).mean() < 0.02


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray head node on this machine with its job server; its address."""
    # `ray start` asks for a token where ~/.ray holds one (a local Ray leaves it there); `ray job submit` must be told.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    ray = str(Path(sys.executable).with_name("ray"))
    port, dashboard = free_port(), free_port()
    command = [ray, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    environment = {**os.environ, "PATH": f"{Path(ray).parent}{os.pathsep}{os.environ['PATH']}"}
    node = subprocess.Popen(
        [*command, "--disable-usage-stats", "--object-store-memory=300000000", "--dashboard-agent-listen-port=0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    yield f"http://127.0.0.1:{dashboard}"
    started = psutil.Process(node.pid).children(recursive=True)
    node.terminate()
    node.wait(timeout=60)
    for process in filter(running, started):
        process.kill()


def test_a_ray_job_with_other_gold_labels_trains_the_same_student(
    project: Project, new_project: Callable[..., Project], head: str, tmp_path: Path
) -> None:
    """``ray job submit jobs/run.py`` on the same documents and stored verdicts, every gold label another one."""
    job = new_project(tmp_path / "job", gold_shift=1)
    job.run.mkdir()
    shutil.copytree(project.run / "verdicts", job.run / "verdicts")
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "job", "submit", "--address", head, "--", sys.executable, str(ROOT / "jobs" / "run.py")]
    submitted: list[subprocess.CompletedProcess[str]] = []

    def submit() -> bool:
        """Submit once the job server answers."""
        submitted.append(subprocess.run([*command, *job.arguments], capture_output=True, text=True, timeout=400))
        return submitted[-1].returncode == 0 or "Failed to connect" not in submitted[-1].stdout + submitted[-1].stderr

    assert wait_for(submit, 60)
    done = submitted[-1]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    assert job.manifest("cycle-0/examples")["details"]["pairs_asked"] == 0
    assert job.rows("gold") != project.rows("gold")
    for folder in ("cycle-0/student", "student"):
        weights = [one.run / folder / "model.safetensors" for one in (project, job)]
        assert filecmp.cmp(*weights, shallow=False)
    assert job.manifest("student")["details"]["chosen"] == project.manifest("student")["details"]["chosen"]
    assert job.rows("predictions") == project.rows("predictions")
    reports = [json.loads((one.run / "report.json").read_text()) for one in (project, job)]
    assert reports[0]["metrics"]["chosen"] != reports[1]["metrics"]["chosen"]

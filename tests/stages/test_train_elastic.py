"""Elastic training on a simulated cluster: two Ray nodes on this machine, one of which is lost on the way."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Project = Any  # conftest.Project
RAY = Path(sysconfig.get_path("scripts"), "ray")
SETTINGS = [
    "student.epochs=25",
    "student.checkpoint_every_steps=10",
    "student.dtype=float32",
    "student.workers=2",
    "student.min_workers=1",
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start_node(folder: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    """A Ray node of one CPU, in the foreground, on ports that are free; its log is ``folder/name.log``."""
    options = ["--num-cpus=1", "--object-store-memory=100000000", f"--temp-dir={folder}", "--disable-usage-stats"]
    options += ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
    options += ["--dashboard-agent-listen-port=0", "--block"]
    log = (folder / f"{name}.log").open("w")
    command = [str(RAY), "start", *arguments, *options]
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True)


def wait_for_nodes(address: str, count: int, folder: Path) -> None:
    """Until the cluster counts so many nodes that live."""
    code = f"import ray; ray.init('{address}', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    deadline = time.monotonic() + 90
    while True:
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if asked.stdout.strip().endswith(str(count)):
            return
        logs = [one.read_text()[-2000:] for one in folder.glob("*.log")]
        assert time.monotonic() < deadline, (asked.stderr[-1000:], logs)
        time.sleep(1)


def end_node(node: subprocess.Popen[str]) -> None:
    """As where a machine goes away: every process of the node is killed at once."""
    for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    node.wait()


@pytest.fixture
def nodes() -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """The address of the simulated cluster, and its nodes."""
    folder, port = Path(tempfile.mkdtemp(prefix="ray")), free_port()  # a short path: Ray's sockets lie in it
    address, found = f"127.0.0.1:{port}", []
    try:
        found.append(start_node(folder, "head", "--head", f"--port={port}", "--include-dashboard=false"))
        wait_for_nodes(address, 1, folder)
        found.append(start_node(folder, "second", f"--address={address}"))
        wait_for_nodes(address, 2, folder)
        yield address, found
    finally:
        for node in found:
            if node.poll() is None:
                end_node(node)
        shutil.rmtree(folder, ignore_errors=True)


def has_checkpoint(run: Path) -> bool:
    notes = run.glob("cycle-0/training-*/checkpoint_manager_snapshot.json")
    return any("checkpoint_2" in note.read_text() for note in notes)


def test_a_lost_node_of_a_simulated_cluster_leaves_a_training_with_one_worker(
    project: Project, tmp_path: Path, nodes: tuple[str, list[subprocess.Popen[str]]]
) -> None:
    address, (_, second) = nodes
    copy = project.copy(tmp_path / "copy")
    shutil.rmtree(copy.run / "cycle-0" / "student")
    log = (tmp_path / "log").open("w+")
    command = [str(RAY.with_name("ezxmc")), "train", *copy.arguments, *SETTINGS, f"cluster.address={address}"]
    driver = subprocess.Popen(command, stdout=log, stderr=log, text=True)
    try:
        deadline = time.monotonic() + 300
        while not has_checkpoint(copy.run):
            assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.1)
        end_node(second)
        assert driver.wait(400) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
        log.close()
    details = copy.manifest("cycle-0/student")["details"]
    assert details["workers"] == 1
    assert len(details["resumed_at"]) >= 1 and details["resumed_at"][0] % 10 == 0 and details["resumed_at"][0] > 0
    curve = [one["step"] for one in details["loss_curve"]]
    assert curve == sorted(set(curve)) and copy.manifest("cycle-0/student")["rows"] == 25 * details["examples"]

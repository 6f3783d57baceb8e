"""The board with a real local Ray: what workers tell between two results, and what they wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import ray

from ezxmc_ray.cluster.board import report_done, report_item, report_phase, report_start, watched
from ezxmc_ray.cluster.session import ray_cluster, run_task
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import Seen, StageProgress
from ezxmc_ray.watchdog import descendants

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A local Ray of two CPUs."""
    with ray_cluster(ClusterConfig(address="local", cpus=2)):
        yield


@ray.remote(num_cpus=1)
class Worker:
    """Actor: tells what the test wants told, as a stage's worker does."""

    def __init__(self) -> None:
        report_phase("loading the teacher")

    def work(self, *reports: tuple[str, int]) -> int:
        """Tell how far items are; returns this process's niceness."""
        for item, done in reports:
            report_done(item, done)
        return os.nice(0)

    def phase(self, phase: str) -> None:
        """Tell another phase."""
        report_phase(phase)

    def start(self, item_before: bool = False) -> None:
        """Tell that it starts, as an actor that Ray made anew does; it may die once."""
        if item_before:
            report_item()
        report_start(deaths=1)


def eventually(look: Callable[[], Seen | None], wanted: Seen) -> None:
    """Wait for what workers tell without waiting for an answer."""
    deadline = time.monotonic() + 240
    while (seen := look()) != wanted:
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)


def test_workers_tell_phases_and_counts_and_an_item_that_is_given_out_again_counts_once() -> None:
    with watched(StageProgress("judge", "pairs", 100)) as progress:
        workers = [Worker.remote()]  # type: ignore[attr-defined]
        eventually(progress.poll, Seen(phase="loading the teacher"))
        workers.append(Worker.remote())  # type: ignore[attr-defined]
        ray.get(workers[1].phase.remote("first batch"))
        eventually(progress.poll, Seen(phase="first batch (1 of 2 workers)"))
        assert ray.get(workers[0].work.remote(("a", 32), ("a", 64))) == os.nice(0)
        eventually(progress.poll, Seen(done=64, phase="first batch (1 of 2 workers)"))
        ray.get(workers[1].work.remote(("a", 32), ("b", 5)))
        eventually(progress.poll, Seen(done=69, phase="first batch (1 of 2 workers)"))
        for item_before in (False, False, True):  # what died in between counts no more once an item was done
            ray.get(workers[0].start.remote(item_before))
        ray.get(workers[1].start.remote())
        with pytest.raises(UserError, match="A process of the engine died 2 times without one item done in between"):
            ray.get(workers[0].start.remote())
        for worker in workers:
            ray.kill(worker)
    with watched(StageProgress("next stage", "pairs", 100)) as progress:
        eventually(progress.poll, Seen())


def test_an_actor_that_has_no_room_is_told_of() -> None:
    with watched(StageProgress("judge", "pairs", 100)) as progress:
        holder = Worker.options(num_cpus=2).remote()  # type: ignore[attr-defined]
        eventually(progress.poll, Seen(phase="loading the teacher"))
    with watched(StageProgress("predict", "documents", 100)) as progress:
        late = Worker.options(num_cpus=2).remote()  # type: ignore[attr-defined]
        eventually(progress.poll, Seen(phase="waiting for 2 CPUs (0 of 2 free)"))
        ray.kill(holder)
        eventually(progress.poll, Seen(phase="loading the teacher"))
        ray.kill(late)


def test_a_local_ray_is_reached_from_its_machine_only() -> None:
    """And from another process of it, which joins by the address."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    assert host == "127.0.0.1"
    of_ray = {one.pid: one.name() for one in descendants(os.getpid()) if one.name() in ("gcs_server", "raylet")}
    listening = [one for one in psutil.net_connections("tcp") if one.pid in of_ray and one.status == psutil.CONN_LISTEN]
    assert {of_ray[one.pid] for one in listening} == {"gcs_server", "raylet"}
    assert {one.laddr.ip.removeprefix("::ffff:") for one in listening} == {host}
    script = (
        "from ezxmc_ray.config import ClusterConfig; from ezxmc_ray.cluster.session import *\n"
        f"with ray_cluster(ClusterConfig(address='127.0.0.1:{port}')): print('CPUs:', cluster_cpus())"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert "CPUs: 2" in ended.stdout, ended.stderr


def test_reports_of_what_nobody_watches_are_no_error() -> None:
    run_task(report_done, "item", 1)
    assert run_task(lambda: os.nice(0)) == os.nice(0)  # the command's own priority

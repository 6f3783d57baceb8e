"""Waits for room on a cluster: told within ten seconds, ended after cluster.wait_s, but never where something works.

The cluster is a real Ray on this machine with one pretended GPU. An idle actor holds what another job would.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from ezxmc_ray.cluster import pools, session
from ezxmc_ray.cluster.board import watched
from ezxmc_ray.cluster.pools import Pool, map_over_engines
from ezxmc_ray.cluster.session import ray_cluster, run_tasks
from ezxmc_ray.cluster.teacher_dtype import of_cluster
from ezxmc_ray.config import ClusterConfig, Config, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.storage import Storage

pytestmark = pytest.mark.timeout(300)
GPU = Pool(size=1, cpus=0, gpus=1)


@pytest.fixture(scope="module")
def simulated_cluster() -> Iterator[None]:
    """One node, of two CPUs and a pretended GPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        with ray_cluster(ClusterConfig(address=cluster.address)):
            yield
    finally:
        cluster.shutdown()


@pytest.fixture
def waits(simulated_cluster: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Config]:
    """Sets cluster.wait_s, and lets it be looked at often; returns the configuration."""
    for module in (session, pools):
        monkeypatch.setattr(module, "WAIT_S", 0.5)

    def set_to(wait_s: int) -> Config:
        config = load_config(None, [f"cluster.wait_s={wait_s}"])
        monkeypatch.setattr(session, "_joined", [config.cluster])
        return config

    return set_to


@ray.remote
class Holder:
    """Does nothing with what it holds."""

    def ready(self) -> None:
        """Answers when it is there."""


@pytest.fixture
def train() -> Any:
    """stages.train. Not at the top: Ray's processes import this file, and would import torch with it each."""
    from ezxmc_ray.stages import train

    return train


@contextmanager
def held(**resources: float) -> Iterator[None]:
    """The cluster has so much less for the block."""
    actor = Holder.options(**resources).remote()  # type: ignore[attr-defined]
    ray.get(actor.ready.remote())
    try:
        yield
    finally:
        ray.kill(actor)


class Sleeps:
    """Takes ``load_s`` to be made, and an item's ``seconds`` for it."""

    def __init__(self, load_s: float = 0.0) -> None:
        time.sleep(load_s)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        time.sleep(item["seconds"])
        return {"n": item["n"]}


def sleep(seconds: float) -> None:
    """Task."""
    time.sleep(seconds)


def items(*seconds: float) -> list[Any]:
    return [{"n": number, "seconds": one} for number, one in enumerate(seconds)]


@pytest.mark.slow
def test_the_teachers_number_format_waits_for_a_busy_gpu_with_an_end(
    waits: Callable[[int], Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = waits(20)
    began = time.monotonic()
    with held(num_gpus=1), pytest.raises(UserError) as error:
        of_cluster(config.teacher)
    assert 20 <= time.monotonic() - began < 40
    assert str(error.value) == (
        "Within 20 s (cluster.wait_s) the cluster had no room (waiting for 1 GPU (0 of 1 free)): it has 2 CPUs and 1 "
        "GPUs. See by `ray status` why no machine comes, or who holds those that are there, and give the same command "
        "again; what is done is kept."
    )
    assert "Teacher: waiting for 1 GPU (0 of 1 free)" in capsys.readouterr().out


def test_a_task_on_a_gpu_leaves_no_process_that_holds_some_of_it(waits: Callable[[int], Config]) -> None:
    waits(20)
    [pid] = run_tasks(lambda: os.getpid(), [()], gpus=1)
    until = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_tasks_without_room_end(waits: Callable[[int], Config]) -> None:
    waits(2)
    with held(num_cpus=2), pytest.raises(UserError, match=r"^Within 2 s .* \(waiting for 3 CPUs \(0 of 2 free\)\)"):
        list(run_tasks(sleep, [(0,)] * 3))


@pytest.mark.slow
def test_tasks_at_work_do_not_end_whatever_waits_for_them(waits: Callable[[int], Config]) -> None:
    waits(60)
    assert len(list(run_tasks(sleep, [(0,)] * 2))) == 2  # by processes that take some to start
    waits(2)
    with held(num_cpus=1):  # one works, the other waits for it
        assert len(list(run_tasks(sleep, [(5,)] * 2))) == 2


@pytest.mark.parametrize("wait_s", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_engines_without_room_end_and_say_what_they_wait_for(
    waits: Callable[[int], Config], capsys: pytest.CaptureFixture[str], wait_s: int
) -> None:
    waits(120)
    assert len(list(map_over_engines(items(0), Sleeps, (), GPU))) == 1  # with room: what Ray Data starts once is there
    waits(wait_s)
    with (
        held(num_gpus=1),
        pytest.raises(UserError, match=rf"^Within {wait_s} s .* \(waiting for 1 GPU \(0 of 1 free\)\)"),
        watched(StageProgress("judge", "pairs", 2)),
    ):
        list(map_over_engines(items(0, 0), Sleeps, (), GPU))
    until = time.monotonic() + 30  # Ray takes the longer to end it the busier the machine is
    while engines() and time.monotonic() < until:
        time.sleep(0.2)
    assert not engines()  # none goes on asking for room
    if wait_s > 10:  # a line comes within ten seconds
        assert "judge: waiting for 1 GPU (0 of 1 free)" in capsys.readouterr().out


def engines() -> list[dict[str, Any]]:
    """Ray's entries of the actors that Ray Data has, or asks for."""
    job = ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id()))
    found = (one for one in actors(job_id=job).values() if one["State"] != "DEAD")
    return [one for one in found if one["ActorClassName"].startswith(pools.ENGINES)]


@pytest.mark.slow
def test_engines_that_load_or_work_for_longer_than_the_wait_are_left_alone(waits: Callable[[int], Config]) -> None:
    waits(15)  # a process may take some of them to start
    pool = Pool(size=2, cpus=0, gpus=1)  # one of them has no room
    done = list(map_over_engines(items(20, 20), Sleeps, (20.0,), pool))
    assert sorted(one["n"] for one in done) == [0, 1]


@pytest.mark.slow
def test_engines_whose_gpus_others_take_end_too(waits: Callable[[int], Config]) -> None:
    """An engine dies, and what waits for its GPU has that before Ray makes the engine again."""
    waits(4)
    rows = map_over_engines(items(0, 600), Sleeps, (), GPU)
    assert next(rows)["n"] == 0
    other = Holder.options(num_gpus=1).remote()  # type: ignore[attr-defined]
    [engine] = engines()
    os.kill(engine["Pid"], signal.SIGKILL)
    with pytest.raises(UserError, match=r"^Within 4 s .* \(waiting for 1 GPU \(0 of 1 free\)\)"):
        next(rows)
    ray.kill(other)


def training(config: Config, folder: Path) -> Any:
    """Settings of a training, as far as the driver reads them."""
    return SimpleNamespace(config=config, storage=Storage(str(folder)), cycle=0)


@pytest.mark.slow
@pytest.mark.parametrize(("least", "workers"), [(0, 1), (1, 2)])
def test_a_training_without_room_ends(
    waits: Callable[[int], Config],
    train: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    least: int,
    workers: int,
) -> None:
    config = waits(10)
    config.student.min_workers = least
    began = time.monotonic()
    with (
        held(num_gpus=1),
        pytest.raises(UserError, match=r"^Within 10 s .* had no room \(waiting for .*1 GPUs\. See"),
        watched(StageProgress("train", "steps", 2, phase="starting")),
    ):
        train._fit(f"waits-{least}", training(config, tmp_path), workers)
    assert time.monotonic() - began < 60
    assert "train: waiting for" in capsys.readouterr().out


def works_on(told: dict[str, Any]) -> None:
    """In place of stages.train._train_worker: dies the first time, then works."""
    mark = Path(told["settings"].storage.path("died"))
    if not mark.exists():
        mark.touch()
        time.sleep(3)  # Ray Train is to see it at work before
        os._exit(1)
    time.sleep(6)


@pytest.mark.slow
def test_a_training_that_works_for_longer_than_the_wait_is_left_alone(
    waits: Callable[[int], Config], train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(train, "_train_worker", works_on)
    monkeypatch.setattr(train, "cluster_gpus", lambda: 0)  # the pretended GPU computes nothing
    config = waits(2)
    config.student.max_failures = 1
    train._fit("works", training(config, tmp_path), 1)
    assert (tmp_path / "died").exists()

"""Pools of actors on a real Ray: kept from one mapping to the next, replaced when they die, gone with the command."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ezxmc_ray.cluster import kept, pools, session
from ezxmc_ray.cluster.board import report_start, watched
from ezxmc_ray.cluster.growth import Growth
from ezxmc_ray.cluster.pools import (
    Pool,
    encoder_pool,
    gpu_cpus,
    look_with_encoder,
    map_items,
    map_over_engines,
    run_with_encoder,
)
from ezxmc_ray.cluster.session import ray_cluster
from ezxmc_ray.config import ClusterConfig, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation import first_pairs
from ezxmc_ray.evaluation.first_pairs import FirstPairs
from ezxmc_ray.progress import StageProgress

POOL = Pool(size=2, cpus=1)


class Echo:
    """Says which process did an item; ``folder``: where it notes each item that it begins."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.folder:
            Path(self.folder, f"{item['n']}-{os.getpid()}").touch()
        time.sleep(item.get("seconds", 0.0))
        return {"n": item["n"], "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


class DiesAt(Echo):
    """Is killed, as by the kernel, by the item that says so, unless ``folder`` knows that it was before."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        mark = Path(self.folder, "died")
        if item.get("dies") and (item["dies"] == "always" or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        failed = Path(self.folder, "failed")
        if item.get("fails") == "always" or (item.get("fails") and not failed.exists()):
            failed.touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().__call__(item)


class DiesOnceAnItem(Echo):
    """Is killed the first time that it is given an item, whichever it is; ``item["folder"]`` knows of it."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        mark = Path(item["folder"], f"died at {item['n']}")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(item)


class Refuses:
    """A user's mistake at the start, or at an item."""

    def __init__(self, at_start: bool) -> None:
        if at_start:
            raise UserError("The model is not there.")

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        raise UserError(f"The item {item['n']} is wrong.")


@pytest.fixture(scope="module")
def cluster(ray_head: Any) -> Iterator[None]:
    with ray_cluster(ClusterConfig(address=ray_head.address)):
        yield


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"n": number, **more} for number in range(count)]


def pids(done: list[dict[str, Any]]) -> set[int]:
    return {one["pid"] for one in done}


def test_actors_are_kept_from_one_mapping_to_the_next(cluster: None) -> None:
    first = list(map_items(items(16, seconds=0.5), Echo, (), POOL))  # long enough for both to have started
    began = time.monotonic()
    second = list(map_items(items(8, seconds=0.1), Echo, ("",), POOL))
    assert time.monotonic() - began < 5
    assert sorted(one["n"] for one in second) == list(range(8))
    assert len(pids(first)) == 2 and pids(second) == pids(first)
    assert run_with_encoder(os.getpid) in pids(first)
    assert look_with_encoder(os.getpid) in pids(first)


def test_a_look_before_the_first_stage_takes_no_gpu(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cluster has some, or may get some."""
    monkeypatch.setattr(pools, "cluster_gpus", lambda: 4)
    monkeypatch.setattr(pools, "kept_actors", lambda *_: pytest.fail("an actor with a GPU is kept"))
    assert look_with_encoder(lambda: os.getpid()) != os.getpid()


def test_without_a_gpu_an_actor_has_threads_but_holds_no_cpu(cluster: None) -> None:
    import ray

    done = list(map_items(items(2), Echo, (), POOL))
    assert {one["threads"] for one in done} == {str(min(4, 2))}
    assert ray.available_resources()["CPU"] == 2


def test_an_actor_that_dies_is_replaced_and_each_item_is_done_once(cluster: None, tmp_path: Path) -> None:
    work = items(9)
    work[4]["dies"] = "once"
    work[6]["fails"] = "with the GPU under it"
    done = list(map_items(work, DiesAt, (str(tmp_path),), POOL))
    assert (tmp_path / "died").exists() and (tmp_path / "failed").exists()
    assert sorted(one["n"] for one in done) == list(range(9))
    again = list(map_items(items(40, seconds=0.3), Echo, (), POOL))
    assert len(pids(again)) == 2


def test_a_node_that_goes_with_more_actors_than_one_may_lose_is_survived(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each actor of the pool dies once, none having done an item: as when the node goes that they are on."""
    monkeypatch.setattr(kept, "MAX_DEATHS", 2)
    many = 3
    done = list(map_items(items(many, folder=str(tmp_path)), DiesOnceAnItem, (), Pool(size=many, cpus=1)))
    assert sorted(one["n"] for one in done) == list(range(many))
    assert len(list(tmp_path.iterdir())) == many


def test_actors_that_always_die_end_the_mapping_with_one_sentence(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MAX_DEATHS", 1)
    # Those count too that died in the same place in the mapping before, which may have been ended by the others.
    with pytest.raises(UserError, match=r"^[2-4] processes with the encoder died one after the other"):
        list(map_items(items(1, dies="always"), DiesAt, (str(tmp_path),), POOL))
    said = (
        r"died one after the other \(CUDA error: an illegal memory access was encountered\): see `nvidia-smi` of the ma"
    )
    with pytest.raises(UserError, match=said):
        list(map_items(items(1, fails="always"), DiesAt, (str(tmp_path),), POOL))


@pytest.mark.parametrize(("at_start", "sentence"), [(True, "The model is not there."), (False, "The item 0 is wrong.")])
def test_a_users_mistake_in_an_actor_is_raised_as_such(cluster: None, at_start: bool, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        list(map_items(items(1), Refuses, (at_start,), POOL))


def test_a_mapping_that_is_left_leaves_no_actor_at_work(cluster: None, tmp_path: Path) -> None:
    mapping = map_items(items(40, seconds=0.3), Echo, (str(tmp_path),), POOL)
    left = next(iter(mapping))["pid"]
    mapping.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while psutil.pid_exists(left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(left)
    begun = len(list(tmp_path.iterdir()))
    assert begun < 10
    assert len(list(map_items(items(3), Echo, (), POOL))) == 3


def test_an_encoder_with_a_gpu_takes_its_share_of_its_nodes_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"NodeID": "node", "Alive": alive, "Resources": resources}

    monkeypatch.setattr(session, "growth", lambda config: Growth(nodes=[{"CPU": 24, "GPU": 4}]))
    monkeypatch.setattr("ray.nodes", lambda: [node(CPU=4.0)])
    assert (gpu_cpus(), session.node_gpus()) == (6, 4)  # of nodes that the autoscaler may bring
    monkeypatch.setattr(session, "growth", lambda config: Growth())
    for nodes, expected in (
        ([node(CPU=64.0), node(CPU=96.0, GPU=8.0), node(CPU=32.0, GPU=4.0), node(False, CPU=2.0, GPU=2.0)], 8),
        ([node(CPU=4.0, GPU=8.0)], 1),
        ([node(CPU=4.0)], 1),
    ):
        monkeypatch.setattr("ray.nodes", lambda nodes=nodes: nodes)
        assert gpu_cpus() == expected


def test_an_actor_has_the_gpus_that_share_its_labels_and_their_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("pool_gpus", 13), ("node_gpus", 8), ("gpu_cpus", 12)):
        monkeypatch.setattr(pools, name, lambda value=value: value)
    assert encoder_pool() == Pool(13, 12, 1)
    assert encoder_pool(4) == Pool(3, 48, 4)
    with pytest.raises(UserError, match=r"index\.gpus_per_actor is 9, but no node has more than 8 GPUs"):
        encoder_pool(9)


def test_gpus_that_do_not_come_end_the_mapping_with_one_sentence(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's Ray has none, and no autoscaler; the user says that eight may come."""
    monkeypatch.setattr(session, "WAIT_S", 0.1)
    monkeypatch.setattr(kept, "WAIT_S", 0.1)
    monkeypatch.setattr(session, "_joined", [ClusterConfig(wait_s=1, max_gpus=8)])
    sentence = r"^Within 1 s \(cluster.wait_s\) .* 0 GPUs and may grow to 8\."
    with pytest.raises(UserError, match=sentence):  # how many CPUs go with a GPU is known when there is one
        encoder_pool()
    assert (session.pool_gpus(), session.node_gpus()) == (8, 8)
    for map_over in (map_items, map_over_engines):
        with pytest.raises(UserError, match=sentence):
            list(map_over(items(3), Echo, (), Pool(8, 1, 1)))


class EngineDies(Echo):
    """As a worker whose engine is a process of its own and dies: Ray makes it anew, again and again."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        report_start(deaths=1)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        super().__call__(item)
        os._exit(1)


def test_an_engine_that_always_dies_ends_the_mapping_with_one_sentence(cluster: None, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"^A process of the engine died 2 times without one item done in between: "),
        watched(StageProgress("judge", "pairs")),
    ):
        list(map_over_engines(items(1), EngineDies, (str(tmp_path),), Pool(1, 1)))
    assert len(list(tmp_path.iterdir())) == 2


def two_rows(*_: Any) -> list[tuple[int, int]]:
    """In place of first_pairs.spread_rows."""
    return [(0, 2)]


def looked_at(folder: str, *_: Any) -> dict[str, Any]:
    """In place of first_pairs.audit_first_pairs; ``folder``: the context's storage."""
    Path(folder, "looked at").touch()
    return {"sentence": None}


class WaitsForTheLook(Echo):
    """Does all but the first item when ``folder`` has seen :func:`looked_at`, or after 30 s; says whether it has."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + 30
        while item["n"] and not Path(self.folder, "looked at").exists() and time.monotonic() < until:
            time.sleep(0.05)
        return {"n": item["n"], "saw": Path(self.folder, "looked at").exists()}


def test_the_first_pairs_are_looked_at_while_engines_have_all_cpus(
    cluster: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(first_pairs, "spread_rows", two_rows)
    monkeypatch.setattr(first_pairs, "audit_first_pairs", looked_at)
    config = load_config(None, ["teacher.readout=yes_no"])
    context: Any = SimpleNamespace(storage=str(tmp_path), shards=1, teacher=config.teacher, config=config)
    first = FirstPairs(context, "key", 0, session.run_task)
    first.wait_for([{"n": 0}])
    saw = {}
    for done in map_over_engines(items(4), WaitsForTheLook, (str(tmp_path),), Pool(1, session.node_cpus())):
        first.done({"n": done["n"]})
        saw[done["n"]] = done["saw"]
    assert first.found is not None and saw == {0: False, 1: True, 2: True, 3: True}


def test_a_wait_for_room_begins_when_room_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data takes a while to ask, longest on a busy machine; there is no Ray here to be asked."""
    monkeypatch.setattr(pools, "WAIT_S", 0.05)
    monkeypatch.setattr(session, "_joined", [replace(load_config(None, []).cluster, wait_s=1)])
    rows = ({"n": time.sleep(2) or 1} for _ in range(1))
    assert list(pools._while_there_is_room(rows)) == [{"n": 1}]


def test_ray_is_asked_again_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it knows that later than that there is no room."""
    words = iter(["", "", "waiting for 1 GPU (0 of 1 free)"])
    monkeypatch.setattr(session, "waits_for", lambda: next(words))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    monkeypatch.setattr(session, "growth", lambda config: Growth({}))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"had no room \(waiting for 1 GPU \(0 of 1 free\)\): it has 2 CPUs and 1 GPUs"):
        session.check_wait(10_000)


def test_an_error_of_the_engines_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        list(pools._while_there_is_room(1 / n for n in (1, 0)))  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("there", "may", "gpus", "asked"),
    [(0, 8, 8, 8), (2, 8, 2, 8), (2, 0, 2, 2), (0, 0, 0, 0), (0, sys.maxsize, 1, 1), (3, sys.maxsize, 3, 3)],
)
def test_gpus_are_those_there_or_those_that_the_autoscaler_may_bring(
    monkeypatch: pytest.MonkeyPatch, there: int, may: int, gpus: int, asked: int
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": float(there)})
    monkeypatch.setattr(session, "growth", lambda config: Growth({"GPU": may} if may else {}))
    assert session.cluster_gpus() == gpus
    assert session.pool_gpus() == asked

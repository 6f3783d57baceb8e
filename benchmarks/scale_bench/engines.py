"""How near does a cluster of simulated engines come to its ideal? Real Ray, real driver, workers that sleep.

    python benchmarks/scale.py engines --name simulated-engines [--engines 64] [--documents 10000000] [--rate 12000]

Ray, its actors, the pool, the work items and the board that the driver looks at are those of the judge stage; this
machine is said to have a CPU for each engine. A worker takes an item, sleeps for as long as an engine of --rate pairs a
second would judge it (one item at a time, as an engine does), and tells the board every second what it has done, as the
stage's own worker. It reads no documents and makes no prompts: what these cost is measured by ``scale.py judge``.

``efficiency``: the time that all engines would take if each worked all the time, over the time from the first item's
beginning to the last one's end. ``driver_documents_per_s``: with engines that take no time, where the driver is what
bounds.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.data

from common.publish import publish
from ezxmc_ray.cluster.board import report_done, watched
from ezxmc_ray.cluster.pools import Pool, WorkItem, map_over_engines
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.judge import item_documents, work_items
from ezxmc_ray.stages.judge_worker import LOOK_S, PAIRS, Counts
from scale_bench.judge import SHARD_ROWS, SHORTLIST

#: All actors are to be there before the first item is given out.
STARTED_WITHIN_S = 1800


class SimulatedJudgeWorker:
    """Takes as long for an item as an engine of ``rate`` pairs a second (0: no time at all)."""

    def __init__(self, rate: float) -> None:
        self.rate, self.engine = rate, threading.Lock()

    def __call__(self, item: WorkItem) -> dict[str, Any]:
        """As the stage's own worker; ``began`` and ``ended``: of the engine's work, by this machine's clock."""
        pairs = (item["stop"] - item["start"]) * SHORTLIST
        with self.engine:
            began = time.time()
            end = began + (pairs / self.rate if self.rate else 0.0)
            while (left := end - time.time()) > 0:
                time.sleep(min(left, LOOK_S))
                report_done(
                    f"{item['shard']} {item['start']}", round(pairs * (1 - max(0.0, end - time.time()) / (end - began)))
                )
            return {**vars(Counts(pairs=pairs)), **item, "began": began, "ended": time.time()}


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; returns the exit status."""
    given = parse(arguments)
    ray.init(
        "local", num_cpus=given.engines, include_dashboard=False, object_store_memory=300_000_000, log_to_driver=False
    )
    # A cluster has its actors at about the same time; here they would come one after the other, and work meanwhile.
    ray.data.DataContext.get_current().wait_for_min_actors_s = STARTED_WITHIN_S
    try:
        at_work, idle = (judge_all(given, rate) for rate in (given.rate, 0.0))
    finally:
        ray.shutdown()
    pairs = given.documents * SHORTLIST
    seconds = at_work["seconds"]
    row = {
        "engines": given.engines,
        "pairs/s of an engine": given.rate,
        "documents": given.documents,
        "items": at_work["items"],
        "documents an item": at_work["documents an item"],
        "efficiency": pairs / given.rate / given.engines / seconds,
        "seconds from the first item's beginning to the last one's end": seconds,
        "starting the actors, seconds": at_work["start"],
        "driver_documents_per_s": given.documents / idle["seconds"],
        "driver_items_per_s": idle["items"] / idle["seconds"],
    }
    print(row, flush=True)
    result = {
        "rows": [row],
        f"efficiency_{given.engines}": row["efficiency"],
        "notes": [
            "Simulated: the engines, which sleep, and the cluster, one machine that is said to have a CPU for each.",
            f"{os.cpu_count()} cores; load of the machine before it began: {os.getloadavg()[0]:.1f}.",
        ],
    }
    publish(given.name, "What a cluster of simulated engines loses by being many", result)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--rate", type=float, default=12_000, help="pairs/s of an engine")
    return parser.parse_args(arguments)


def judge_all(given: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Let engines of ``rate`` judge all documents, as the stage's driver does."""
    size = item_documents(given.documents, given.engines, TeacherConfig())
    items = [
        item
        for shard, start in enumerate(range(0, given.documents, SHARD_ROWS))
        for item in work_items(PAIRS, 0, min(SHARD_ROWS, given.documents - start), size, shard)
    ]
    called, began, ended, documents = time.time(), float("inf"), 0.0, 0
    with watched(StageProgress("simulated judge", "pairs", given.documents * SHORTLIST)) as progress:
        for done in map_over_engines(items, SimulatedJudgeWorker, (rate,), Pool(given.engines, 1)):
            began, ended = min(began, done["began"]), max(ended, done["ended"])
            documents += done["stop"] - done["start"]
            progress.advance(done["pairs"])
    assert documents == given.documents
    # The driver's own end: with engines that take no time it is the driver that is waited for.
    last = ended if rate else time.time()
    return {"items": len(items), "documents an item": size, "seconds": last - began, "start": began - called}

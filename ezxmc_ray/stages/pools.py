"""Pools of actors: sized from what the cluster has, and mapped over work items by Ray Data.

A work item is a small dict (shard number, row range); what it stands for is read and written by the actors through
the run directory, so neither the driver nor Ray's object store ever holds documents, verdicts or vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray.data

from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.cluster import cluster_cpus, cluster_gpus, node_cpus
from ezxmc_ray.storage import Storage

Item = dict[str, Any]

USER_ERROR = "user_error"
#: A key in the counts of a file that was there already.
HELD = "held"
#: CPUs that an encoder takes where there is no GPU: MiniLM gains little beyond.
ENCODER_CPUS = 4


@dataclass(frozen=True)
class Pool:
    """A fixed pool of actors: how many, and what each takes."""

    size: int
    cpus: float
    gpus: float = 0.0

    def capped(self, items: int) -> Pool:
        """No more actors than there are items."""
        return Pool(max(1, min(self.size, items)), self.cpus, self.gpus)


def encoder_pool() -> Pool:
    """One encoder a GPU; on a CPU cluster, one for every four CPUs."""
    if gpus := cluster_gpus():
        return Pool(gpus, 1, 1)
    cpus = min(ENCODER_CPUS, node_cpus())
    return Pool(max(1, cluster_cpus() // cpus), cpus)


class GuardedWorker:
    """Actor: a worker whose UserErrors travel to the driver as values.

    Ray Data loses the cause of an exception on its way, and starts an actor whose constructor raised again and again.
    """

    def __init__(self, worker: type, arguments: tuple[Any, ...]) -> None:
        self.worker: Any = None
        self.error: str | None = None
        try:
            self.worker = worker(*arguments)
        except UserError as error:
            self.error = str(error)

    def __call__(self, item: Item) -> Item:
        """Do one item; returns its counts."""
        if self.error is None:
            try:
                done: Item = self.worker(item)
                return done
            except UserError as error:
                self.error = str(error)
        return {USER_ERROR: self.error}


def map_items(
    items: list[Item], worker: type, arguments: tuple[Any, ...], pool: Pool, in_flight: int = 2
) -> Iterator[Item]:
    """Give every item to one of ``pool``'s actors, ``worker(*arguments)(item)``; yield what each returns.

    One item a block, so that an item is the unit of scheduling and of retry. An actor that dies is replaced and its
    items are given out again. A UserError raised in an actor is raised here as such.
    """
    if not items:
        return
    pool = pool.capped(len(items))
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        GuardedWorker,
        fn_constructor_args=(worker, arguments),
        compute=ray.data.ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=in_flight),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    for done in dataset.iter_rows():
        if done.get(USER_ERROR) is not None:
            raise UserError(done[USER_ERROR])
        yield done


def map_files(
    storage: Storage, items: list[Item], worker: type, arguments: tuple[Any, ...], pool: Pool
) -> Iterator[dict[str, int]]:
    """As :func:`map_items`, for items that each commit the Parquet file ``item["file"]``; yields the files' counts.

    A file that is there already (of a run that was killed) is not made again: its counts are read from its footer, with
    HELD among them.
    """
    folders = {item["file"].rpartition("/")[0] for item in items}
    there = {name for folder in folders for name in storage.list(folder, ".parquet")}
    for item in items:
        if item["file"] in there:
            yield {**storage.read_counts(item["file"]), HELD: 1}
    yield from map_items([item for item in items if item["file"] not in there], worker, arguments, pool)

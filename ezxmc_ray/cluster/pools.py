"""Pools of actors: sized from what the cluster has, and mapped over work items.

A work item is a small dict (shard number, row range); what it stands for is read and written by the actors through
the run directory, so neither the driver nor Ray's object store ever holds documents, verdicts or vectors.

Engines are Ray Data's actors (:func:`map_over_engines`): a pool a stage, which takes the GPUs and gives them back.
Encoders are needed by one stage after the other, and most of a small stage's time would go into starting processes and
importing libraries: their actors (:func:`map_items`) are kept until the command ends, or until another stage wants
their GPUs. Without work a kept actor holds no model and no CPU.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ray

from ezxmc_ray.cluster.at_work import actors_at_work
from ezxmc_ray.cluster.board import report_waiting
from ezxmc_ray.cluster.kept import (
    USER_ERROR,
    Done,
    Mapping,
    Pool,
    Times,
    UserErrorBoundary,
    WorkItem,
    end_actors,
    kept_actors,
)
from ezxmc_ray.cluster.session import (
    WAIT_S,
    check_wait,
    cluster_cpus,
    cluster_gpus,
    machines,
    node_cpus,
    node_gpus,
    pool_gpus,
    run_task,
    user_errors,
    wait_for_gpus,
)
from ezxmc_ray.errors import UserError
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage, damage_error

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "ENCODER_CPUS",
    "HELD",
    "Done",
    "Pool",
    "Times",
    "WorkItem",
    "encoder_pool",
    "free_gpus",
    "look_with_encoder",
    "map_files",
    "map_items",
    "map_over_engines",
    "run_with_encoder",
]

#: A key in the counts of a file that was there already.
HELD = "held"
#: CPUs that an encoder takes where there is no GPU: MiniLM gains little beyond.
ENCODER_CPUS = 4
#: How the classes of Ray Data's actors are called: MapWorker(Map(UserErrorBoundary)).
ENGINES = "MapWorker("
#: Behind the last item.
_NO_MORE: Done = {"no": "more"}
#: Items that an actor has at hand, so that it does not wait for the next one; an engine works on them all at once: it
#: writes one, judges one and reads the next.
IN_FLIGHT, ENGINE_IN_FLIGHT = 2, 3


def encoder_pool(gpus_per_actor: int = 1) -> Pool:
    """One encoder for every ``gpus_per_actor`` GPUs; on a CPU cluster, one for every four CPUs.

    GPUs that Ray's autoscaler may bring count: actors that find no room yet are what it brings them for, and the
    others have the items meanwhile. Errors: UserError where no node has so many GPUs.
    """
    if gpus := pool_gpus():
        if not any(has.get("GPU", 0) for has in machines()):
            wait_for_gpus()  # what a machine has is known when one is there
        if gpus_per_actor > max(node_gpus(), 1):
            raise UserError(
                f"index.gpus_per_actor is {gpus_per_actor}, but no node has more than {node_gpus()} GPUs: set it lower."
            )
        return Pool(max(1, gpus // gpus_per_actor), gpus_per_actor * gpu_cpus(), gpus_per_actor)
    cpus = min(ENCODER_CPUS, node_cpus())
    return Pool(max(1, cluster_cpus() // cpus), cpus)


def gpu_cpus() -> int:
    """CPUs for an encoder with a GPU: its share of its node's, by GPUs, where that is least; one at least.

    With one CPU, reading texts and words would keep the GPU waiting.
    """
    with_gpu = (has for has in machines() if has.get("GPU", 0) >= 1)
    return max(1, min((int(has.get("CPU", 0) // has["GPU"]) for has in with_gpu), default=1))


def map_over_engines(items: list[WorkItem], worker: type, arguments: tuple[Any, ...], pool: Pool) -> Iterator[Done]:
    """Give every item to one of ``pool``'s Ray Data actors, ``worker(*arguments)(item)``; yield what each returns.

    One item a block, so that an item is the unit of scheduling and of retry. A worker is called in ENGINE_IN_FLIGHT
    threads at once. An actor that dies is replaced and its items are given out again. A UserError raised in an actor is
    raised here as such. Errors: UserError where no actor has room for ``cluster.wait_s``.
    """
    if not items:
        return
    data = _ray_data()
    pool = pool.capped(len(items))
    if pool.gpus:
        wait_for_gpus()
    dataset = data.from_items(items, override_num_blocks=len(items)).map(
        UserErrorBoundary,
        fn_constructor_args=(worker, arguments),
        compute=data.ActorPoolStrategy(
            size=pool.size,
            max_tasks_in_flight_per_actor=ENGINE_IN_FLIGHT,
            max_concurrent_calls_per_actor=ENGINE_IN_FLIGHT,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    made = _executors(dataset)
    # Without prefetching, which would keep an item's result back until the next one's is there.
    blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    rows = (row for block in blocks for row in block.to_pylist())
    yield from map(_checked, _while_there_is_room(rows, made))


def _ray_data() -> ModuleType:
    """Ray Data, which prints nothing. It takes as long to import as Ray; tasks, encoders and taggers go without it."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data


def _executors(dataset: Dataset) -> list[Any]:
    """What runs ``dataset``, once it does: Ray Data tells of it only when there is a first row."""
    made: list[Any] = []
    create = dataset._create_executor

    def noted() -> Any:
        made.append(create())
        return made[-1]

    dataset._create_executor = noted  # type: ignore[method-assign]
    return made


def _while_there_is_room(rows: Iterator[Done], executors: Sequence[Any] = ()) -> Iterator[Done]:
    """``rows``; Ray Data waits for its actors without end. Errors: UserError once none had room for too long.

    ``executors``: what runs them, once it does. Before it does nothing has asked for room, and nothing could be ended.
    """
    while True:
        coming: Future[Done] = Future()
        Thread(target=_ask_into, args=(coming, rows), daemon=True).start()
        since = time.monotonic()
        while not wait([coming], timeout=WAIT_S).done:
            if not executors or actors_at_work(ENGINES):
                since = time.monotonic()
            else:
                report_waiting()
            try:
                check_wait(time.monotonic() - since)
            except UserError:
                for executor in executors:  # else it goes on asking for room, after Ray's end too; nothing works now
                    executor.shutdown(force=True)
                raise
        if (done := coming.result()) == _NO_MORE:
            return
        yield done


def _ask_into(coming: Future[Done], rows: Iterator[Done]) -> None:
    try:
        coming.set_result(next(rows, _NO_MORE))
    except BaseException as error:
        coming.set_exception(error)


def map_items(
    items: list[WorkItem], worker: type, arguments: tuple[Any, ...], pool: Pool, times: Times | None = None
) -> Iterator[Done]:
    """Give every item to one of ``pool``'s kept actors, ``worker(*arguments)(item)``; yield what each returns.

    An actor that dies (or whose node does) is replaced, and its items are given out again: to the others, if there is
    no room for a new one. Each item's result is yielded once. A UserError raised in an actor is raised here as such.
    What it took beside the work is added to ``times``. Errors: UserError where actors die again and again.
    """
    if not items:
        return
    with user_errors():
        work = ray.put((worker, arguments))
        threads = int(pool.cpus) if pool.gpus else min(ENCODER_CPUS, node_cpus())
        crew = kept_actors(pool.capped(len(items)), threads)
        for done in Mapping(deque(items), work, crew, times or Times(), IN_FLIGHT):
            yield _checked(done)


def map_files(
    storage: Storage,
    items: list[WorkItem],
    worker: type,
    arguments: tuple[Any, ...],
    pool: Pool,
    times: Times | None = None,
) -> Iterator[dict[str, int]]:
    """As :func:`map_items`, for items that each commit the Parquet file ``item["file"]``; yields the files' counts.

    A file that is there already (of a run that was killed) is not made again: its counts are read from its footer, with
    HELD among them. One that is damaged is.
    """
    folders = {item["file"].rpartition("/")[0] for item in items}
    there = {name for folder in folders for name in storage.list(folder, ".parquet")}
    files, held = [item["file"] for item in items if item["file"] in there], set()
    for file, counts in zip(files, at_once(partial(_counts_or_error, storage), files), strict=True):
        if isinstance(counts, UserError):
            say(f"It is made anew: {counts}")
        else:
            held.add(file)
            yield {**counts, HELD: 1}
    missing = [item for item in items if item["file"] not in held]
    yield from map_items(missing, worker, arguments, pool, times)


def _counts_or_error(storage: Storage, file: str) -> dict[str, int] | UserError:
    """The counts in a file's footer, or what is wrong with it."""
    try:
        return storage.read_counts(file) or damage_error(storage.path(file), "its footer has no counts")
    except UserError as error:
        return error


def run_with_encoder(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in one of the kept actors, which has the libraries of the encoder at hand."""
    [done] = map_items([{}], _Call, (function, arguments), encoder_pool())
    return done["returned"]


def look_with_encoder(function: Callable[..., Any], *arguments: Any) -> Any:
    """As :func:`run_with_encoder`, but on a CPU: GPUs may be far from there when a command begins, and one that is
    taken would be idle through ``prepare``. Where there are none a kept actor has the libraries for later."""
    return run_task(function, *arguments) if cluster_gpus() else run_with_encoder(function, *arguments)


def free_gpus() -> None:
    """End the kept actors if they hold GPUs: a stage that needs these comes next."""
    if cluster_gpus():
        end_actors()


def _checked(done: Done) -> Done:
    if done.get(USER_ERROR) is not None:
        raise UserError(done[USER_ERROR])
    return done


class _Call:
    """A worker that calls a function, whatever the item is."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self, item: WorkItem) -> Done:
        return {"returned": self.function(*self.arguments)}

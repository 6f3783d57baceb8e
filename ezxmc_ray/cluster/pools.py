"""Pools of actors: sized from what the cluster has, and mapped over work items.

A work item is a small dict (shard number, row range); what it stands for is read and written by the actors through
the run directory, so neither the driver nor Ray's object store ever holds documents, verdicts or vectors.

Engines are Ray Data's actors (:func:`map_over_engines`): a pool a stage, which takes the GPUs and gives them back.
Encoders are needed by one stage after the other, and most of a small stage's time would go into starting processes and
importing libraries: their actors (:func:`map_items`) are kept until the command ends, or until another stage wants
their GPUs. Without work a kept actor holds no model and no CPU.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

import ray
import ray.data
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ezxmc_ray.cluster.session import at_end, cluster_cpus, cluster_gpus, node_cpus, user_errors
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage


class WorkItem(TypedDict, total=False):
    """What an actor is to do: of which stage's keys there are, the stage says."""

    kind: str
    shard: int
    encoder: int
    #: Rows of a shard or labels, from ``start`` (``first``) on, ``stop`` apart.
    start: int
    first: int
    stop: int
    #: The file that is committed with it.
    file: str


#: What an actor returns of an item: counts, or USER_ERROR.
Done = dict[str, Any]

USER_ERROR = "user_error"
#: A key in the counts of a file that was there already.
HELD = "held"
#: CPUs that an encoder takes where there is no GPU: MiniLM gains little beyond.
ENCODER_CPUS = 4
#: Items that an actor has at hand, so that it does not wait for the next one.
IN_FLIGHT = 2
#: Actors that may die one after the other in one place without one item done in between.
MAX_DEATHS = 5


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


@dataclass
class Times:
    """What mappings took beside their work, in seconds.

    ``start_seconds``: until the first process answered (none where one was kept). ``load_seconds``: what the slowest
    process took to import libraries and to load models and indexes.
    """

    start_seconds: float = 0.0
    load_seconds: float = 0.0


class UserErrorBoundary:
    """A worker whose UserErrors travel to the driver as values.

    Ray Data loses the cause of an exception on its way, and starts an actor whose constructor raised again and again.
    """

    def __init__(self, worker: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.worker: Any = None
        self.error: str | None = None
        try:
            self.worker = worker(*arguments)
        except UserError as error:
            self.error = str(error)

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        if self.error is None:
            try:
                done: Done = self.worker(item)
                return done
            except UserError as error:
                self.error = str(error)
        return {USER_ERROR: self.error}


def map_over_engines(items: list[WorkItem], worker: type, arguments: tuple[Any, ...], pool: Pool) -> Iterator[Done]:
    """Give every item to one of ``pool``'s Ray Data actors, ``worker(*arguments)(item)``; yield what each returns.

    One item a block, so that an item is the unit of scheduling and of retry. An actor that dies is replaced and its
    items are given out again. A UserError raised in an actor is raised here as such.
    """
    if not items:
        return
    pool = pool.capped(len(items))
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        UserErrorBoundary,
        fn_constructor_args=(worker, arguments),
        compute=ray.data.ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    yield from map(_checked, dataset.iter_rows())


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
        crew = _crew(pool.capped(len(items)))
        for done in _Mapping(deque(items), ray.put((worker, arguments)), crew, times or Times()):
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
    missing = []
    for item in items:
        if item["file"] not in there:
            missing.append(item)
            continue
        try:
            yield {**storage.read_counts(item["file"]), HELD: 1}
        except UserError as error:
            say(f"It is made anew: {error}")
            missing.append(item)
    yield from map_items(missing, worker, arguments, pool, times)


def run_with_encoder(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in one of the kept actors, which has the libraries of the encoder at hand."""
    [done] = map_items([{}], _Call, (function, arguments), encoder_pool())
    return done["returned"]


def free_gpus() -> None:
    """End the kept actors if they hold GPUs: a stage that needs these comes next."""
    if cluster_gpus():
        _end_actors()


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


class _Process:
    """Actor: a process that is kept from stage to stage and holds the worker of one mapping at a time."""

    def __init__(self, threads: int) -> None:
        # Ray sets it to 1 for an actor that holds no CPU; libraries read it when they are imported.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.mapping = -1
        self.worker: UserErrorBoundary | None = None

    def ready(self) -> None:
        """Answers when the process is there."""

    def do(self, mapping: int, work: tuple[type, tuple[Any, ...]], item: WorkItem) -> tuple[Done, float]:
        """Do one item of the mapping number ``mapping``, whose worker and its arguments are ``work``.

        Returns what the worker does, and the seconds that it took to make the worker, if this item was its first.
        """
        began, loaded = time.monotonic(), 0.0
        if self.worker is None or mapping != self.mapping:
            self.rest()
            self.mapping, self.worker = mapping, UserErrorBoundary(*work)
            loaded = time.monotonic() - began
        return self.worker(item), loaded

    def rest(self) -> None:
        """Let go of the worker and what it loaded."""
        self.worker = None
        gc.collect()


@dataclass(eq=False)
class _Actor:
    """A kept actor as the driver sees it: its handle, where it was put, whether it has answered, its items.

    ``deaths``: of those that were in its place before it, since an item was done there.
    """

    handle: Any
    place: dict[str, Any]
    is_ready: bool = False
    items: int = 0
    deaths: int = 0


#: The kept actors of this process's cluster.
_actors: list[_Actor] = []
_numbers = itertools.count()


def _crew(pool: Pool) -> list[_Actor]:
    """So many kept actors, started where they are not there yet."""
    places = _places(pool)
    while len(_actors) < pool.size:
        if not _actors:
            at_end(_end_actors)
        _actors.append(_start(places[len(_actors) % len(places)]))
    return _actors[: pool.size]


def _places(pool: Pool) -> list[dict[str, Any]]:
    """Ray's options of each actor of ``pool``.

    An actor holds no CPU, so that the tasks of the stages between may use it; so without a GPU it is told its node.
    """
    if pool.gpus:
        return [{"num_cpus": 0, "num_gpus": pool.gpus}]
    places = [
        {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)}
        for node in ray.nodes()
        if node["Alive"]
        for _ in range(int(node["Resources"].get("CPU", 0) // pool.cpus))
    ]
    return places or [{"num_cpus": pool.cpus}]  # no node has CPUs now: ask for some


def _start(place: dict[str, Any]) -> _Actor:
    threads = 1 if place.get("num_gpus") else min(ENCODER_CPUS, node_cpus())
    return _Actor(ray.remote(_Process).options(**place).remote(threads), place)


def _end_actors() -> None:
    for actor in _actors:
        with contextlib.suppress(Exception):  # Ray is gone already, and so are they
            ray.kill(actor.handle)
    _actors.clear()


@dataclass
class _Mapping:
    """Gives ``waiting`` items to ``crew`` and yields the results; ``work``: Ray's reference of worker and arguments."""

    waiting: deque[WorkItem]
    work: Any
    crew: list[_Actor]
    times: Times
    number: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        self.running: dict[Any, tuple[_Actor, WorkItem | None]] = {}
        for actor in self.crew:
            self._ask_whether_ready(actor)

    def __iter__(self) -> Iterator[Done]:
        done, began, load_seconds, answered = False, time.monotonic(), 0.0, any(one.is_ready for one in self.crew)
        try:
            while self.waiting or any(item is not None for _, item in self.running.values()):
                [answer], _ = ray.wait(list(self.running))
                actor, item = self.running.pop(answer)
                try:
                    result = ray.get(answer)
                except (RayActorError, OutOfMemoryError) as error:
                    self._replace(actor, item, error)
                    continue
                if not answered:
                    answered, self.times.start_seconds = True, self.times.start_seconds + time.monotonic() - began
                actor.is_ready = True
                if item is not None:
                    actor.items -= 1
                    actor.deaths = 0
                    load_seconds = max(load_seconds, result[1])
                    yield result[0]
                self._hand_out(actor)
            done = True
        finally:
            self.times.load_seconds += load_seconds
            self._let_go(done)

    def _ask_whether_ready(self, actor: _Actor) -> None:
        """Items are for actors that answer: one that finds no room on the cluster must not keep any."""
        if actor.is_ready:
            self._hand_out(actor)
        else:
            self.running[actor.handle.ready.remote()] = actor, None

    def _hand_out(self, actor: _Actor) -> None:
        while self.waiting and actor.items < IN_FLIGHT:
            item = self.waiting.popleft()
            self.running[actor.handle.do.remote(self.number, self.work, item)] = actor, item
            actor.items += 1

    def _replace(self, actor: _Actor, item: WorkItem | None, error: Exception) -> None:
        """Take back the item of an actor that died, and start another one in its place."""
        if item is not None:
            self.waiting.appendleft(item)
        if actor in self.crew:  # and is not replaced yet: it had another item
            self._check_deaths(actor.deaths + 1, error)
            fresh = _start(actor.place)
            fresh.deaths = actor.deaths + 1
            self.crew[self.crew.index(actor)] = _actors[_actors.index(actor)] = fresh
            self._ask_whether_ready(fresh)
        for other in self.crew:
            if other.is_ready:
                self._hand_out(other)

    def _check_deaths(self, deaths: int, error: Exception) -> None:
        if deaths > MAX_DEATHS:
            raise UserError(
                f"{deaths} processes with the encoder died one after the other ({_reason(error)}): see whether "
                "the machines have memory for the encoder and the label vectors."
            ) from error

    def _let_go(self, done: bool) -> None:
        if not done:  # left in its midst: what is still at work must not be taken for idle
            _end_actors()
        for actor in self.crew if done else []:
            if actor.is_ready:
                actor.handle.rest.remote()


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

"""Kept actors: processes that outlive a stage, and the mapping of work items over them.

An item goes only to an actor that has answered. One that dies, or whose node does, is replaced, and its items are given
out again, to the others where the cluster has no room for a new one. Without work a kept actor holds no model and no
CPU. Which pool a stage gets, and what it maps, is in pools.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ezxmc_ray.cluster.board import MAX_DEATHS
from ezxmc_ray.cluster.session import WAIT_S, at_end, check_wait
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import is_device_fault, release_memory

USER_ERROR = "user_error"


class WorkItem(TypedDict, total=False):
    """What an actor is to do: of which stage's keys there are, the stage says."""

    kind: str
    shard: int
    encoder: int
    #: Rows of a shard or labels, from ``start`` (``first``) on, ``stop`` apart.
    start: int
    first: int
    stop: int
    #: The file that is committed with it, and what made the one that is there (stages/tagged_files.py).
    file: str
    made_by: str


#: What an actor returns of an item: counts, or USER_ERROR.
Done = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """A fixed pool of actors: how many, and what each takes."""

    size: int
    cpus: float
    gpus: float = 0.0

    def capped(self, items: int) -> Pool:
        """No more actors than there are items."""
        return Pool(max(1, min(self.size, items)), self.cpus, self.gpus)


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


class GpuFailed(Exception):
    """A GPU failed under an actor's process, which can work no more; another one is to take its place."""


class _Process:
    """Actor: a process that is kept from stage to stage and holds the worker of one mapping at a time."""

    def __init__(self, threads: int, on_gpu: bool) -> None:
        # Ray sets it to 1 for an actor that holds no CPU; libraries read it when they are imported.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if on_gpu:  # where a GPU computes, its CPUs are free to tokenize
            os.environ.update(RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM=str(threads > 1).lower())
        self.mapping = -1
        self.worker: UserErrorBoundary | None = None

    def ready(self) -> None:
        """Answers when the process is there."""

    def do(self, mapping: int, work: tuple[type, tuple[Any, ...]], item: WorkItem) -> tuple[Done, float]:
        """Do one item of the mapping number ``mapping``, whose worker and its arguments are ``work``.

        Returns what the worker does, and the seconds that it took to make the worker, if this item was its first.
        """
        try:
            return self._do(mapping, work, item)
        except Exception as error:
            if is_device_fault(error):
                raise GpuFailed(one_line(error)) from None
            raise

    def _do(self, mapping: int, work: tuple[type, tuple[Any, ...]], item: WorkItem) -> tuple[Done, float]:
        began, loaded = time.monotonic(), 0.0
        if self.worker is None or mapping != self.mapping:
            self.rest()
            self.mapping, self.worker = mapping, UserErrorBoundary(*work)
            loaded = time.monotonic() - began
        return self.worker(item), loaded

    def rest(self) -> None:
        """Let go of the worker and what it loaded."""
        self.worker = None
        release_memory()


@dataclass(eq=False)
class Actor:
    """A kept actor as the driver sees it: its handle, where it was put, its threads, whether it answered, its items.

    ``deaths``: of those that were in its place before it, since an item was done there.
    """

    handle: Any
    place: dict[str, Any]
    threads: int
    is_ready: bool = False
    items: int = 0
    deaths: int = 0


#: The kept actors of this process's cluster.
_actors: list[Actor] = []
_numbers = itertools.count()


def kept_actors(pool: Pool, threads: int) -> list[Actor]:
    """So many kept actors, of ``threads`` each, started where they are not there yet; those first that found room."""
    places = _places(pool)
    if any(actor.place.get("num_gpus", 0) != pool.gpus for actor in _actors):
        end_actors()
    while len(_actors) < pool.size:
        if not _actors:
            at_end(end_actors)
        _actors.append(_start(places[len(_actors) % len(places)], threads))
    return sorted(_actors, key=lambda actor: not actor.is_ready)[: pool.size]


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


def _start(place: dict[str, Any], threads: int) -> Actor:
    on_gpu = bool(place.get("num_gpus"))
    return Actor(ray.remote(_Process).options(**place).remote(threads, on_gpu), place, threads)


def end_actors() -> None:
    """End all kept actors."""
    for actor in _actors:
        _end(actor)
    _actors.clear()


def _end(actor: Actor) -> None:
    with contextlib.suppress(Exception):  # Ray is gone already, and so is it
        ray.kill(actor.handle)


@dataclass
class Mapping:
    """Gives ``waiting`` items to ``crew`` and yields the results, each once.

    ``work``: Ray's reference of worker and arguments. ``in_flight``: items that an actor has at hand.
    """

    waiting: deque[WorkItem]
    work: Any
    crew: list[Actor]
    times: Times
    in_flight: int
    number: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        self.running: dict[Any, tuple[Actor, WorkItem | None]] = {}
        for actor in self.crew:
            self._ask_whether_ready(actor)

    def __iter__(self) -> Iterator[Done]:
        done, began, load_seconds, answered = False, time.monotonic(), 0.0, any(one.is_ready for one in self.crew)
        try:
            while self.waiting or any(item is not None for _, item in self.running.values()):
                answer = self._next_answer()
                actor, item = self.running.pop(answer)
                try:
                    result = ray.get(answer)
                except (RayActorError, OutOfMemoryError) as error:
                    self._replace(actor, item, error)
                    continue
                except GpuFailed as error:  # which Ray raises as one of its own and this in one
                    _end(actor)
                    self._replace(actor, item, getattr(error, "cause", error))
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

    def _next_answer(self) -> Any:
        """Ray's reference of what an actor answers next. Errors: UserError where none finds room for too long."""
        began = time.monotonic()
        while True:
            answers, _ = ray.wait(list(self.running), timeout=WAIT_S)
            if answers:
                return answers[0]
            if not any(actor.is_ready for actor in self.crew):
                check_wait(time.monotonic() - began)

    def _ask_whether_ready(self, actor: Actor) -> None:
        """Items are for actors that answer: one that finds no room on the cluster must not keep any."""
        if actor.is_ready:
            self._hand_out(actor)
        else:
            self.running[actor.handle.ready.remote()] = actor, None

    def _hand_out(self, actor: Actor) -> None:
        while self.waiting and actor.items < self.in_flight:
            item = self.waiting.popleft()
            self.running[actor.handle.do.remote(self.number, self.work, item)] = actor, item
            actor.items += 1

    def _replace(self, actor: Actor, item: WorkItem | None, error: Exception) -> None:
        """Take back the item of an actor that died, and start another one in its place."""
        if item is not None:
            self.waiting.appendleft(item)
        if actor in self.crew:  # and is not replaced yet: it had another item
            self._check_deaths(actor.deaths + 1, error)
            fresh = _start(actor.place, actor.threads)
            fresh.deaths = actor.deaths + 1
            self.crew[self.crew.index(actor)] = _actors[_actors.index(actor)] = fresh
            self._ask_whether_ready(fresh)
        for other in self.crew:
            if other.is_ready:
                self._hand_out(other)

    def _check_deaths(self, deaths: int, error: Exception) -> None:
        if deaths > MAX_DEATHS:
            look = "whether the machines have memory for the encoder and the label vectors"
            if isinstance(error, GpuFailed):
                look = "`nvidia-smi` of the machines"
            raise UserError(
                f"{deaths} processes with the encoder died one after the other ({_reason(error)}): see {look}."
            ) from error

    def _let_go(self, done: bool) -> None:
        if not done:  # left in its midst: what is still at work must not be taken for idle
            end_actors()
        for actor in self.crew if done else []:
            if actor.is_ready:
                actor.handle.rest.remote()
            elif actor.place.get("num_gpus"):  # it would go on asking the cluster for room
                _end(actor)
                _actors.remove(actor)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

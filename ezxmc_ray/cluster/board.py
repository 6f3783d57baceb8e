"""The board: where workers tell what they are doing and how far they are, between two results.

A small actor on the driver's node. A worker calls :func:`report_phase` and :func:`report_done`, which wait for nothing
and fail for nothing; the driver shows what stands there with :func:`watched`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ezxmc_ray.cluster.session import waits_for
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import Seen, StageProgress

NAME = "ezxmc-progress"
#: Actors that may die one after the other in one place without one item done in between.
MAX_DEATHS = 5
ASK_S = 5.0
#: The driver's handle: the actor lives as long as one does.
_held: list[Any] = []


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Actor: units done by item, and the phases of workers, of the stage that runs."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Another stage begins."""
        self.done: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.phases: dict[str, str] = {}
        self.starts: dict[str, int] = {}
        self.waiting: str | None = None

    def wait(self, phase: str) -> None:
        """No worker is there any more, or yet; ``phase``: what is waited for, where Ray does not say it."""
        self.phases, self.waiting = {}, phase

    def phase(self, worker: str, phase: str) -> None:
        """What ``worker`` is doing."""
        self.phases.pop(worker, None)
        self.phases[worker], self.waiting = phase, None

    def at(self, item: str, done: int, held: int) -> None:
        """``done`` units of ``item`` are done, ``held`` of them by an earlier command, as its first report says.

        An item that is given out again begins from zero; it counts again from where it had been on.
        """
        first = self.held.setdefault(item, held)
        self.done[item], self.waiting = max(self.done.get(item, 0), done - first), None

    def start(self, actor: str) -> int:
        """``actor`` was started, or started anew. How often it was since it did an item."""
        self.starts[actor] = self.starts.get(actor, 0) + 1
        return self.starts[actor]

    def item(self, actor: str) -> None:
        """``actor`` did an item."""
        self.starts[actor] = 1

    def seen(self) -> tuple[int, int, list[str], str | None]:
        """Units done by this command, units held, the phases of all workers, the newest last, and what is waited for;
        None: of none is known that it waits."""
        return sum(self.done.values()), sum(self.held.values()), list(self.phases.values()), self.waiting


def report_phase(phase: str) -> None:
    """In a worker: say what it is doing from now on ("loading the teacher")."""
    _tell("phase", _worker(), phase)


def report_done(item: str, done: int, held: int = 0) -> None:
    """In a worker: ``done`` units of ``item`` (any name that is its own) are done; ``held`` of them before the command.

    What the item's result says later is not added: the driver takes the larger of what results and reports say.
    """
    _tell("at", item, done, held)


def report_start(deaths: int = MAX_DEATHS) -> None:
    """In an actor that Ray makes anew whenever its process dies: say that it starts, before anything that may kill it.

    Errors: UserError where its process has died more than ``deaths`` times since it did an item (:func:`report_item`).
    """
    if not (worker := _worker()):
        return
    starts = 1
    with contextlib.suppress(ValueError, RayError):
        starts = ray.get(_board_for(worker).start.remote(_actor()), timeout=ASK_S)
    if starts > deaths + 1:
        raise UserError(
            f"A process of the engine died {starts - 1} times without one item done in between: its last words are in "
            "Ray's logs (worker-*.err); see whether its machine, or its GPU, has memory for the teacher "
            "(teacher.gpu_memory_share, teacher.cpu_kv_cache_gib)."
        )


def report_item() -> None:
    """In such an actor: an item is done."""
    _tell("item", _actor())


def _actor() -> str:
    return str(ray.get_runtime_context().get_actor_id() or "") if ray.is_initialized() else ""


def report_waiting(phase: str = "") -> None:
    """No worker of the stage has room on the cluster; ``phase``: what is waited for, where Ray does not say it."""
    _tell("wait", phase)


def _worker() -> str:
    return str(ray.get_runtime_context().get_worker_id()) if ray.is_initialized() else ""


def _tell(method: str, *arguments: Any) -> None:
    """Call the board without waiting for it; where there is none (a unit test, another driver's actor): nothing."""
    if worker := _worker():
        with contextlib.suppress(ValueError, RayError):
            getattr(_board_for(worker), method).remote(*arguments)


@lru_cache(maxsize=1)
def _board_for(worker: str) -> Any:
    """The board, looked up once by the process of ``worker``. Errors: ValueError where there is none yet."""
    return ray.get_actor(NAME)


@contextlib.contextmanager
def watched(progress: StageProgress) -> Iterator[StageProgress]:
    """Show ``progress`` for as long as the block runs, with what its workers report, or what they wait for."""
    board = _board()
    ray.get(board.clear.remote())
    progress.poll = lambda: _look(board)
    with progress:
        yield progress


def _board() -> Any:
    """The driver's board, made now if there is none."""
    with contextlib.suppress(ValueError):
        return ray.get_actor(NAME)
    # On the driver's node, which the run needs anyway: elsewhere it would go with a node that is lost on the way.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    _held[:] = [ProgressBoard.options(name=NAME, scheduling_strategy=here).remote()]  # type: ignore[attr-defined]
    return _held[0]


def _look(board: Any) -> Seen | None:
    """What stands on the board; None where it does not answer, as on a machine that is very busy."""
    try:
        done, held, phases, waiting = ray.get(board.seen.remote(), timeout=ASK_S)
    except RayError:
        return None
    is_known = bool(phases or done) and waiting is None  # workers are there: what others ask for is not waited for
    phase = (phases or [""])[-1] if is_known else waits_for() or waiting or ""
    alike = phases.count(phase)
    return Seen(done, held, f"{phase} ({alike} of {len(phases)} workers)" if alike < len(phases) else phase)

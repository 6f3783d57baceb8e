"""The command ``ezxmc verify``: every file of a run read, and held against what was written.

In: a run directory. Out: what is damaged in it, noted there for the next ``ezxmc run``, which makes it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.checks import check_shared
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.context import RunTasks, stored_configuration
from ezxmc_ray.curriculum import open_run
from ezxmc_ray.cycles import planned_cycles
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import Verified, note_damage
from ezxmc_ray.integrity import verify as read_all
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage, check_writable

#: Bytes of a run that threads of the command read; Ray's tasks, on all nodes, read more.
VERIFY_HERE_BYTES = 4 << 30


def verify(run: str) -> Verified:
    """Read every file of ``run``; what is damaged is noted there for the next ``ezxmc run``.

    A run that is in use is refused; one that cannot be written to is verified all the same. Errors: UserError, also
    for a directory that is no run.
    """
    storage = Storage(run)
    there = storage.sizes(recursive=True)
    if layout.CONFIG not in there and not any(name.endswith(f"/{layout.MANIFEST}") for name in there):
        raise UserError(f"{run} is not a run: it has no {layout.CONFIG}; give the directory that `ezxmc run` wrote.")
    with ExitStack() as stack:
        is_writable = _is_writable(storage)
        if is_writable:
            stack.enter_context(run_lock(storage))
        found = read_all(storage, stack.enter_context(_side_by_side(storage, sum(there.values()))))
        if is_writable:
            note_damage(storage, found.damaged)
    return found


def known_damage(run: str) -> dict[str, str]:
    """Files of a run's steps that are missing, of another size, or were found damaged by a verification; and how."""
    plan = open_run(run)
    steps = plan.steps_of(planned_cycles(plan.config))
    return {name: what for step in steps for name, what in plan.damage(step).items()}


def _is_writable(storage: Storage) -> bool:
    try:
        check_writable(storage)
    except UserError:
        return False
    return True


@contextmanager
def _side_by_side(storage: Storage, total_bytes: int) -> Iterator[RunTasks]:
    """What runs tasks: threads, or Ray where there is much to read."""
    if total_bytes > VERIFY_HERE_BYTES:
        from ezxmc_ray.cluster.session import ray_cluster, run_tasks

        cluster = _cluster_of(storage)
        check_shared(cluster, "the run", storage.root)
        with ray_cluster(cluster):
            yield run_tasks
        return
    with ThreadPoolExecutor() as threads:

        def run(task: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterable[Any]:
            return threads.map(lambda one: task(*one), arguments)

        yield run


def _cluster_of(storage: Storage) -> ClusterConfig:
    """Where a run is read: as its own configuration has it, but what lies on a disk on this machine, which sees it."""
    try:
        found = stored_configuration(storage).cluster if storage.exists(layout.CONFIG) else ClusterConfig()
    except UserError:  # damaged, which the verification says
        found = ClusterConfig()
    return replace(found, address="local") if storage.is_local else found

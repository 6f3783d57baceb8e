"""Ray for the stages: starting or joining a cluster, what it has, and tasks on it.

How a local Ray is started is in ray_start.py, pools of actors are in pools.py.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray import exceptions
from ray.autoscaler.v2.sdk import get_cluster_status

from ezxmc_ray.cluster.at_work import tasks_at_work
from ezxmc_ray.cluster.entrypoint import left_at_most, left_of
from ezxmc_ray.cluster.growth import growth
from ezxmc_ray.cluster.native_output import native_output_logged, says_something
from ezxmc_ray.cluster.ray_start import join_ray, ray_logs, start_local_ray
from ezxmc_ray.config import ClusterConfig, cluster_address
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.progress import WAITING, StageProgress, doing
from ezxmc_ray.watchdog import start_watchdog

ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    # Seconds between two looks of Ray Train at its workers: at 2 it adds some to every start and end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray's C++ side prints notes for its developers at level error; what goes wrong is raised in Python as well.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
#: Seconds between two looks at tasks of which none has ended, and the longest wait for Ray's word on them.
WAIT_S, ASK_S = 5.0, 5
#: Seconds between two looks whether any task is at work.
LOOK_S = 60.0
#: Times that Ray is asked again, a second apart, what a stage that gives up waited for: if busy, it may not know yet.
ASK_AGAIN = 3
#: What a busy machine, a lost node, memory or a disk that is full does to Ray.
MACHINE = (
    exceptions.GetTimeoutError,
    exceptions.LocalRayletDiedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.ObjectStoreFullError,
    exceptions.OutOfDiskError,
    exceptions.OutOfMemoryError,
    exceptions.RayActorError,
    exceptions.RaySystemError,
    exceptions.RpcError,
    exceptions.RuntimeEnvSetupError,
    exceptions.TaskUnschedulableError,
    exceptions.WorkerCrashedError,
)
#: Words of Ray's of an actor that raised when it was made.
_IN_CONSTRUCTOR = "error raised in its creation task"
#: What Ray says of a resource whose growth has no bound.
NO_LIMIT = sys.maxsize
#: How this process has joined its cluster, once it has.
_joined = [ClusterConfig()]
#: What is to be done before this process leaves its cluster.
_endings: list[Callable[[], None]] = []


def at_end(ending: Callable[[], None]) -> None:
    """Call ``ending`` before this process leaves the cluster."""
    _endings.append(ending)


def _end() -> None:
    while _endings:
        _endings.pop()()


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Join the cluster of ``config.address`` (or of this job), or start a local one and end it with the block.

    What the machine does to Ray inside the block (a worker that dies, memory that runs out) is raised as a UserError.
    """
    joined_as(config)
    if ray.is_initialized():
        try:
            with user_errors():
                yield
        finally:
            _end()
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = cluster_address(config)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    watchdog = start_watchdog() if address == "local" else None
    try:
        with native_output_logged() as log, user_errors(log):
            with sigterm_kept(), StageProgress("Ray", phase="starting" if watchdog else f"joining {address}"):
                if watchdog:
                    joined_as(replace(config, max_gpus=None))  # a machine, and not the cluster that the run was made on
                    start_local_ray(config, **quiet)
                else:
                    join_ray(address, **quiet)
            try:
                yield
            finally:
                _end()
                ray.shutdown()
    finally:
        if watchdog is not None and watchdog.stdin is not None:
            watchdog.stdin.close()
            watchdog.wait(timeout=30)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """What SIGTERM does stays as it is: Ray's C++ side takes the signal for itself, and prints its stacks at it."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def cluster_gpus() -> int:
    """GPUs of the cluster; where it has none now, as many as :func:`pool_gpus` asks for."""
    return gpus_there() or pool_gpus()


def pool_gpus() -> int:
    """GPUs that a pool asks for: all that the cluster has, or may grow to; one at least of a growth without bound."""
    limit = cluster_limit("GPU")
    return max(1, gpus_there()) if limit == NO_LIMIT else limit


def gpus_there() -> int:
    """GPUs of the cluster now. What the job's own entrypoint holds is left out, here and below."""
    return int(left_of(ray.cluster_resources()).get("GPU", 0))


def cluster_cpus() -> int:
    """CPUs of the cluster, one at least."""
    return max(1, int(left_of(ray.cluster_resources()).get("CPU", 1)))


def cluster_limit(resource: str) -> int:
    """What the cluster has of ``resource`` ("CPU", "GPU"), or may grow to (growth.py).

    Errors: UserError where the job's own entrypoint holds all of it.
    """
    most = _most(resource)
    return most if most == NO_LIMIT else left_at_most(resource, most)


def _most(resource: str) -> int:
    """As Ray counts, the entrypoint's included."""
    limits = growth(_joined[0]).limits
    return max(int(ray.cluster_resources().get(resource, 0)), int(limits.get(resource, 0)))


def node_cpus() -> int:
    """CPUs of the largest node: what one actor can have at most."""
    return max((int(has.get("CPU", 0)) for has in nodes_there()), default=0) or 1


def node_gpus() -> int:
    """GPUs of the largest node that there is, or that may come: one may have all where no type of node is known."""
    return max((int(has.get("GPU", 0)) for has in machines()), default=0) or pool_gpus()


def nodes_there() -> list[dict[str, float]]:
    """Resources of every node that is alive."""
    return [left_of(node["Resources"], node["NodeID"]) for node in ray.nodes() if node["Alive"]]


def machines() -> list[dict[str, float]]:
    """Resources of every node that is alive, and of every type of node that Ray's autoscaler may bring."""
    return [*nodes_there(), *growth(_joined[0]).nodes]


def wait_for_gpus() -> None:
    """Where the cluster has no GPU now but may grow to some: ask for one, and wait until it is there.

    Errors: UserError after ``cluster.wait_s``.
    """
    if gpus_there() or not cluster_limit("GPU"):
        return
    asked = ray.remote(num_cpus=0, num_gpus=1)(_is_there).remote()
    began = time.monotonic()
    while not ray.wait([asked], timeout=WAIT_S)[0]:
        doing(waits_for() or "waiting for GPUs")
        check_wait(time.monotonic() - began)
    ray.get(asked)


def _is_there() -> bool:
    """Task: the machine that it needs is there."""
    return True


def joined_as(config: ClusterConfig) -> None:
    """This process is on a cluster that another one joined as ``config`` has it."""
    _joined[:] = [config]


def is_local() -> bool:
    """Whether the Ray that this process has joined is one of its own, on this machine."""
    return cluster_address(_joined[0]) == "local"


def check_wait(seconds: float, what: str = "") -> None:
    """Errors: UserError if nothing has found room on the cluster for ``seconds``, longer than ``cluster.wait_s``.

    ``what``: is waited for, where Ray does not say it.
    """
    longest = _joined[0].wait_s
    if seconds < longest:
        return
    told, again = waits_for() or what, ASK_AGAIN
    while not told and again:
        time.sleep(1)
        told, again = waits_for(), again - 1
    gpus = gpus_there()
    grows = f" and may grow to {pool_gpus()}" if pool_gpus() > gpus else ""
    cpus = int(left_of(ray.cluster_resources()).get("CPU", 0))
    raise UserError(
        f"Within {longest} s (cluster.wait_s) the cluster had no room ({told or 'no word of what for'}): it has {cpus} "
        f"CPUs and {gpus} GPUs{grows}. See by `ray status` why no machine comes, or who holds those that are there, "
        "and give the same command again; what is done is kept."
    )


def waits_for(least: int = 1) -> str:
    """What tasks or actors wait for that is not free ("waiting for 4 GPUs (2 of 4 free)").

    Of what Ray calls its resource demands, the rarest resource; empty if fewer than ``least`` wait.
    """
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=ASK_S)
    except (exceptions.RayError, RuntimeError):  # on a machine that is very busy
        return ""
    demands = [*status.resource_demands.ray_task_actor_demand, *status.resource_demands.placement_group_demand]
    requests = [request for demand in demands for request in demand.bundles_by_count]
    if sum(request.count for request in requests) < least:
        return ""
    total, free = status.total_resources(), status.available_resources()
    for name in ("GPU", "CPU"):
        if wanted := sum(request.bundle.get(name, 0) * request.count for request in requests):
            plural = "" if wanted == 1 else "s"
            limit = _most(name)
            grows = f", the cluster may grow to {limit}" if total.get(name, 0) < limit < NO_LIMIT else ""
            return f"{WAITING} {wanted:g} {name}{plural} ({free.get(name, 0):g} of {total.get(name, 0):g} free{grows})"
    return ""


def run_tasks(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], cpus: float = 1, gpus: float = 0
) -> Iterator[Any]:
    """``function(*a)`` as a Ray task for every ``a``, at most two a CPU in flight; results in order of ending.

    Errors: UserError where none of them has room for ``cluster.wait_s``.
    """
    # Where options() name a GPU, and not remote(), Ray keeps the process, and with it what it holds of the GPU.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    limit = 2 * cluster_cpus()
    waiting: list[Any] = []
    phase = function.__name__.strip("_").replace("_", " ")
    doing(phase)
    with user_errors():
        for one in arguments:
            if len(waiting) >= limit:
                ready, waiting = _ended(waiting, phase)
                yield from ray.get(ready)
            waiting.append(task.remote(*one))
        while waiting:
            ready, waiting = _ended(waiting, phase)
            yield from ray.get(ready)


def _ended(waiting: list[Any], phase: str) -> tuple[list[Any], list[Any]]:
    """Those of the tasks that have ended, one at least, and the others; while none of them has room, that is told.

    Errors: UserError where none ends within ``cluster.wait_s``, and none is at work then.
    """
    since = looked = time.monotonic()
    while True:
        ready, others = ray.wait(waiting, timeout=WAIT_S)
        if ready:
            return ready, others
        doing(waits_for(len(waiting)) or phase)
        if time.monotonic() - looked >= min(LOOK_S, _joined[0].wait_s / 2):
            looked = time.monotonic()
            since = looked if tasks_at_work() else since
        check_wait(time.monotonic() - since)


def run_task(function: Callable[..., Any], *arguments: Any, cpus: float = 1, gpus: float = 0) -> Any:
    """``function(*arguments)`` as one Ray task. Errors: as :func:`run_tasks`."""
    return next(iter(run_tasks(function, [arguments], cpus, gpus)))


@contextmanager
def user_errors(log: str = "") -> Iterator[None]:
    """Raise a UserError that happened in a task or actor as itself, without Ray's wrapping.

    What a busy machine, or one that is lost, does to Ray becomes a UserError too; it names ``log`` (a file) and Ray's
    own logs. Another error is a fault of this program and stays as it is.
    """
    try:
        yield
    except Exception as error:
        log = log if log and says_something(log) else ""
        found = _user_error_in(error)
        if found is None and (cause := _machine_error_in(error)):
            logs = " and ".join(place for place in (log, ray_logs()) if place)
            raise UserError(
                f"Ray lost a worker or a node, or did not answer ({type(cause).__name__}: {one_line(cause)}): the "
                "machine is busy, out of memory or gone; give the same command again, and what is done is kept"
                + (f" (see {logs})." if logs else ".")
            ) from error
        if found is None and log:
            error.add_note(f"What Ray's processes printed is in {log}.")
        if found is None or found is error:
            raise
        raise UserError(str(found)) from None


def _user_error_in(error: BaseException) -> UserError | None:
    """Ray raises a task's error as one of its own kind and the task's kind in one, whose text is a traceback."""
    found = (one for one in _behind(error) if isinstance(one, UserError) and not isinstance(one, exceptions.RayError))
    return next(found, None)


def _machine_error_in(error: BaseException) -> BaseException | None:
    """What the machine did, behind ``error``; an actor that could not be made is a fault of its constructor."""
    return next((one for one in _behind(error) if isinstance(one, MACHINE) and _IN_CONSTRUCTOR not in str(one)), None)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from, wherever Ray puts that."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        queue += [getattr(one, "cause", None), getattr(one, "controller_failure", None)]
        # What was being handled when something else went wrong is no cause of it; but Ray raises some errors so.
        queue += [one.__cause__, one.__context__ if isinstance(one, exceptions.RayError) else None]
        queue += list((getattr(one, "worker_failures", None) or {}).values())

"""Ray for the stages: starting or joining a cluster, what it has, and tasks on it.

Pools of actors are in pools.py.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray._private.state import state as ray_state

from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.watchdog import start_watchdog

#: What is to be done before this process leaves its cluster.
_endings: list[Callable[[], None]] = []


def at_end(ending: Callable[[], None]) -> None:
    """Call ``ending`` before this process leaves the cluster."""
    _endings.append(ending)


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Join the cluster of ``config.address`` (or of this job), or start a local one and end it with the block."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Ray's C++ side prints notes for its developers at level error; what goes wrong is raised in Python as well.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    watchdog = None
    try:
        if address == "local":
            _check_file_size_limit(config.object_store_mib)
            watchdog = start_watchdog()
            # Two CPUs at least: training has two workers, and a stage's tasks run beside its actors.
            cpus = max(2, config.cpus or os.cpu_count() or 2)
            memory = config.object_store_mib * 1024 * 1024
            with _native_stderr_closed():
                ray.init(address="local", num_cpus=cpus, object_store_memory=memory, include_dashboard=False, **quiet)
        else:
            with _native_stderr_closed():
                ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"Ray cannot be reached or started at {address}: {one_line(error)}.") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        while _endings:
            _endings.pop()()
        ray.shutdown()
        if watchdog is not None and watchdog.stdin is not None:
            watchdog.stdin.close()
            watchdog.wait(timeout=30)


def _check_file_size_limit(object_store_mib: int) -> None:
    """Ray's object store is one file in memory, and Ray dies without a word where it cannot be made."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < object_store_mib << 20:
        raise UserError(
            f"This shell lets no file grow beyond {limit >> 10} KiB (ulimit -f), and Ray's object store alone has "
            f"{object_store_mib} MiB (cluster.object_store_mib): raise the limit."
        )


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Keep Ray's C++ start-up notes off the terminal; a failed start is an exception all the same."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def cluster_gpus() -> int:
    """GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def cluster_cpus() -> int:
    """CPUs of the cluster."""
    return int(ray.cluster_resources().get("CPU", 1))


def cluster_limit(resource: str) -> int:
    """What the cluster has of ``resource`` ("CPU", "GPU"), or may grow to where Ray's autoscaler knows its node types.

    The latter has no public interface; Ray Train asks in the same way.
    """
    grown = ray_state.get_max_resources_from_cluster_config() or {}
    return max(int(ray.cluster_resources().get(resource, 0)), int(grown.get(resource, 0)))


def node_cpus() -> int:
    """CPUs of the largest node: what one actor can have at most."""
    return _largest_node("CPU") or 1


def node_gpus() -> int:
    """GPUs of the largest node."""
    return _largest_node("GPU")


def _largest_node(resource: str) -> int:
    return max((int(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]), default=0)


def run_tasks(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], cpus: float = 1) -> Iterator[Any]:
    """``function(*a)`` as a Ray task for every ``a``, at most two a CPU in flight; results in order of ending."""
    task = ray.remote(function).options(num_cpus=cpus)
    limit = 2 * cluster_cpus()
    waiting: list[Any] = []
    with user_errors():
        for one in arguments:
            if len(waiting) >= limit:
                ready, waiting = ray.wait(waiting)
                yield from ray.get(ready)
            waiting.append(task.remote(*one))
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)


def run_task(function: Callable[..., Any], *arguments: Any, cpus: float = 1) -> Any:
    """``function(*arguments)`` as one Ray task."""
    return next(iter(run_tasks(function, [arguments], cpus)))


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise a UserError that happened in a task or actor as itself, without Ray's wrapping."""
    try:
        yield
    except Exception as error:
        found = _user_error_in(error)
        if found is None or found is error:
            raise
        raise UserError(str(found)) from None


def _user_error_in(error: BaseException | None) -> UserError | None:
    seen: set[int] = set()
    queue = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if type(one) is UserError:
            return one
        queue += [getattr(one, "cause", None), getattr(one, "controller_failure", None)]
        queue += [one.__cause__, one.__context__]
        queue += list((getattr(one, "worker_failures", None) or {}).values())
    return None

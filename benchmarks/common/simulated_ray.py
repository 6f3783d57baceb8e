"""A simulated Ray: tasks, actors and the training worker are called in this process, one after the other.

For what is to be shown of stages and their files, where starting a Ray for each of hundreds of runs would take hours.
Nothing that Ray does itself is shown so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import starmap
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from ezxmc_ray.cluster import board, pools, session, teacher_dtype
from ezxmc_ray.stages import evaluate, index, judge, predict, prepare, report, select, shortlist, train, train_worker
from ezxmc_ray.teacher.engine import dtype_here

STAGES = (evaluate, index, judge, predict, prepare, report, select, shortlist, train)


def _run_tasks(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], cpus: float = 1) -> Iterator[Any]:
    return starmap(function, arguments)


def _run_task(function: Callable[..., Any], *arguments: Any, cpus: float = 1) -> Any:
    return function(*arguments)


def _map(items: list[Any], worker: type, arguments: tuple[Any, ...], pool: Any, times: Any = None) -> Iterator[Any]:
    if items:
        yield from map(worker(*arguments), items)


def _fit(name: str, settings: Any, workers: int) -> None:
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_experiment_name=lambda: name)
    of_train = {
        "get_context": lambda: context,
        "get_checkpoint": lambda: None,
        "report": lambda *_, **__: None,
        "Checkpoint": SimpleNamespace(from_directory=lambda folder: None),
        "torch": SimpleNamespace(get_device=lambda: torch.device("cpu")),
    }
    with mock.patch.object(train_worker, "ray_train", SimpleNamespace(**of_train)):
        train_worker.train_worker(settings, time.monotonic())


@contextmanager
def simulated_ray() -> Iterator[None]:
    """For as long as the block runs, every module of the project that has one of these functions has the simulation."""
    stand_ins = {
        session.run_tasks: _run_tasks,
        session.run_task: _run_task,
        session.cluster_gpus: lambda: 0,
        session.cluster_cpus: lambda: 1,
        session.node_cpus: lambda: 1,
        session.ray_cluster: lambda config: nullcontext(),
        pools.map_items: _map,
        pools.map_over_engines: _map,
        pools.run_with_encoder: _run_task,
        pools.encoder_pool: lambda: pools.Pool(1, 1),
        board.watched: lambda progress: progress,
        teacher_dtype.of_cluster: lambda config: replace(config, dtype=dtype_here(config)),
        judge.engine_pool: lambda config: pools.Pool(1, 1),
        train._fit: _fit,
        train.count_workers: lambda config: 1,
    }
    patches = [
        mock.patch.object(module, name, stand_ins[value])
        for module in [one for key, one in sys.modules.items() if key.startswith("ezxmc_ray.") and one is not None]
        for name, value in list(vars(module).items())
        if callable(value) and getattr(value, "__hash__", None) and value in stand_ins
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()

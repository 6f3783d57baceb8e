"""A simulated Ray: tasks, actors and the training worker are called one after the other, in this process by default.

For what is to be shown of stages and their files, where starting a Ray for each of hundreds of runs would take hours.
Nothing that Ray does itself is shown so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import starmap
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ezxmc_ray.cluster import board, pools, session, teacher_dtype
from ezxmc_ray.stages import cross_encoder, evaluate, index, judge, predict, prepare, report, select, shortlist, train
from ezxmc_ray.teacher.engine import dtype_here

STAGES = (cross_encoder, evaluate, index, judge, predict, prepare, report, select, shortlist, train)


class TasksHere:
    """Calls what Ray would send elsewhere."""

    def run_tasks(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], cpus: float = 1, gpus: float = 0
    ) -> Iterator[Any]:
        """As cluster.session.run_tasks."""
        return starmap(function, arguments)

    def run_task(self, function: Callable[..., Any], *arguments: Any, cpus: float = 1, gpus: float = 0) -> Any:
        """As cluster.session.run_task."""
        return next(iter(self.run_tasks(function, [arguments], cpus, gpus)))

    def map_items(
        self, items: list[Any], worker: Callable[..., Any], arguments: tuple[Any, ...], pool: Any, times: Any = None
    ) -> Iterator[Any]:
        """As cluster.pools.map_items, and map_over_engines, with one actor."""
        if items:
            yield from map(worker(*arguments), items)

    def fit(self, name: str, settings: Any, workers: int) -> None:
        """As stages.train._fit, with one worker."""
        from ezxmc_ray.stages import train_worker

        with simulated_ray_train(name):
            train_worker.train_worker(settings, time.monotonic())


@contextmanager
def simulated_ray_train(name: str) -> Iterator[None]:
    """For the block ``ray.train`` is a simulation with one worker on the CPU, of the training named ``name``."""
    import torch

    from ezxmc_ray.stages import train_worker

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_experiment_name=lambda: name)
    of_train = {
        "get_context": lambda: context,
        "get_checkpoint": lambda: None,
        "report": lambda *_, **__: None,
        "Checkpoint": SimpleNamespace(from_directory=lambda folder: None),
        "torch": SimpleNamespace(get_device=lambda: torch.device("cpu")),
    }
    with mock.patch.object(train_worker, "ray_train", SimpleNamespace(**of_train)):
        yield


@contextmanager
def simulated_ray(tasks: TasksHere | None = None, others: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """For as long as the block runs, every module of the project that has one of these functions has the simulation.

    ``tasks``: what calls tasks and actors. ``others``: more stand-ins, by what they stand in for.
    """
    tasks = tasks or TasksHere()
    stand_ins = {
        session.run_tasks: tasks.run_tasks,
        session.run_task: tasks.run_task,
        session.cluster_gpus: lambda: 0,
        session.cluster_cpus: lambda: 1,
        session.node_cpus: lambda: 1,
        session.ray_cluster: lambda config: nullcontext(),
        pools.map_items: tasks.map_items,
        pools.map_over_engines: tasks.map_items,
        pools.run_with_encoder: tasks.run_task,
        pools.encoder_pool: lambda gpus=1: pools.Pool(1, 1),
        board.watched: lambda progress: progress,
        teacher_dtype.of_cluster: lambda config: replace(config, dtype=dtype_here(config)),
        judge.engine_pool: lambda config: pools.Pool(1, 1),
        train._fit: tasks.fit,
        train.count_workers: lambda config: 1,
        **(others or {}),
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

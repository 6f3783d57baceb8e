"""A simulated object store that counts requests, and tasks and actors in a process of their own that are timed.

Comes in: a local folder; functions and workers with their arguments, as a stage gives them to Ray. Goes out: a Storage
as the stages use it; what they return; requests by kind, and their CPU seconds. Requests are counted as pyarrow
makes them of S3: a look at a name is one, a list is one, opening a file for reading one and every read of it another
one, a file that is written one, a folder that is removed two.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from common.simulated_ray import TasksHere
from ezxmc_ray.storage import Storage

#: Requests of this process, by kind.
REQUESTS: Counter[str] = Counter()


class SimulatedObjectStore(Storage):
    """A local folder that the stages take for an object store."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.filesystem = fs.PyFileSystem(_CountingHandler(LocalFileSystem(auto_mkdir=True)))

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return SimulatedObjectStore, (self.root,)

    @property
    def is_local(self) -> bool:
        """It is not, as far as the stages can see."""
        return False

    def below(self, relative: str) -> Storage:
        """As a Storage's."""
        return SimulatedObjectStore(f"{self.root}/{relative}")


class _CountingHandler(fs.FSSpecHandler):  # type: ignore[misc]
    def get_file_info(self, paths: list[str]) -> Any:
        """One request a name."""
        REQUESTS["head"] += len(paths)
        return super().get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        """One request."""
        REQUESTS["list"] += 1
        return super().get_file_info_selector(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """One request, and one a read."""
        REQUESTS["head"] += 1
        return pa.PythonFile(_CountingFile(path), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """One request."""
        REQUESTS["put"] += 1
        return super().open_output_stream(path, metadata)

    def copy_file(self, src: str, dest: str) -> None:
        """One request."""
        REQUESTS["copy"] += 1
        super().copy_file(src, dest)

    def delete_file(self, path: str) -> None:
        """One request."""
        REQUESTS["delete"] += 1
        super().delete_file(path)

    def delete_dir(self, path: str) -> None:
        """Its files are listed, and removed together."""
        REQUESTS["delete"] += 2
        super().delete_dir(path)


class _CountingFile(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        """One request, if it asks for anything."""
        REQUESTS["get"] += bool(size)
        return super().read(size) or b""


@dataclass
class Spent:
    """By tasks and actors: CPU seconds of their work, and of what comes before it (making an actor, a training until
    its first step); requests to the storage; documents that were trained on."""

    cpu_s: float = 0.0
    start_cpu_s: float = 0.0
    requests: int = 0
    trained: int = 0

    def __sub__(self, before: Spent) -> Spent:
        return Spent(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


class TimedTasks(TasksHere):
    """Runs tasks and actors one after the other in another process, as Ray does in many; ``spent``: what they took.

    ``fit_there``: what trains, with the arguments of stages.train._fit; it returns CPU seconds of its start and its
    work, and the documents of the latter.
    """

    def __init__(self, fit_there: Callable[..., tuple[float, float, int]]) -> None:
        self.spent, self.fit_there = Spent(), fit_there
        # Started afresh: the memory of this process is to be that of a driver.
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def run_tasks(
        self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], cpus: float = 1, gpus: float = 0
    ) -> Iterator[Any]:
        """As cluster.session.run_tasks."""
        for one in arguments:
            result, cpu_s = self._there(function, *one)
            self.spent.cpu_s += cpu_s
            yield result

    def map_items(
        self, items: list[Any], worker: Callable[..., Any], arguments: tuple[Any, ...], pool: Any, times: Any = None
    ) -> Iterator[Any]:
        """As cluster.pools.map_items, with one actor."""
        if not items:
            return
        self.spent.start_cpu_s += self._there(_make, worker, arguments)[1]
        yield from self.run_tasks(_work, ((item,) for item in items))
        self._there(_rest)

    def fit(self, name: str, settings: Any, workers: int) -> None:
        """As stages.train._fit."""
        (start_s, work_s, documents), _ = self._there(self.fit_there, name, settings, workers)
        self.spent.start_cpu_s += start_s
        self.spent.cpu_s += work_s
        self.spent.trained += documents

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()

    def _there(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        """What the function returns, and its CPU seconds."""
        result, cpu_s, requests = self._process.submit(_timed, function, arguments).result()
        self.spent.requests += requests.total()
        return result, cpu_s


#: The actor of this process, if it is one of TimedTasks'.
_actor: list[Any] = []


def _make(worker: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _actor[:] = [worker(*arguments)]


def _work(item: Any) -> Any:
    return _actor[0](item)


def _rest() -> None:
    _actor.clear()
    gc.collect()


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, Counter[str]]:
    REQUESTS.clear()
    began = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - began, Counter(REQUESTS)

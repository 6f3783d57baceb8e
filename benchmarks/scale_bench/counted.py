"""A simulated object store that counts requests, and tasks in a process of their own that are timed.

Comes in: a local folder; functions with their arguments, as a stage gives them to Ray. Goes out: a Storage as the
stages use it; what the tasks return; requests by kind, and CPU seconds of the tasks. Requests are counted as pyarrow
makes them of S3: a look at a name is one, a list is one, opening a file for reading one and every read of it another
one, a file that is written one, a folder that is removed two.
"""

from __future__ import annotations

import io
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

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


class TimedTasks:
    """Runs tasks one after the other in another process, as Ray does in many; what they took is added up."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.requests: Counter[str] = Counter()
        # Started afresh: the memory of this process is to be that of a driver.
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def run_tasks(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """As cluster.session.run_tasks."""
        for one in arguments:
            result, cpu_s, requests = self._process.submit(_timed, function, one).result()
            self.cpu_s += cpu_s
            self.requests += requests
            yield result

    def run_task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As cluster.session.run_task."""
        return next(self.run_tasks(function, [arguments]))

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, Counter[str]]:
    REQUESTS.clear()
    began = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - began, Counter(REQUESTS)

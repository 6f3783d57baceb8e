"""A simulated object store: a local folder whose every request takes a while, and is counted.

Comes in: the folder, seconds a request. Goes out: a Storage as the stages use it. Requests are counted as pyarrow makes
them of S3: a look at a name is one, opening a file for reading one and every read of it another one, a file that is
written one (``put_requests=3``: an upload in parts, as without allow_delayed_open).
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ezxmc_ray.storage import Storage


class SimulatedObjectStore(Storage):
    """``requests``: by kind (``head``, ``list``, ``get``, ``put``) and the name's first two folders."""

    def __init__(self, root: str, latency_s: float, put_requests: int = 1) -> None:
        super().__init__(root)
        handler = _SlowHandler(latency_s, put_requests)
        self.filesystem, self.requests = fs.PyFileSystem(handler), handler.requests

    @property
    def is_local(self) -> bool:
        """It is not, as far as the stages can see."""
        return False


class _SlowHandler(fs.FileSystemHandler):
    def __init__(self, latency_s: float, put_requests: int) -> None:
        self.local, self.latency_s, self.put_requests = fs.LocalFileSystem(), latency_s, put_requests
        self.requests: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()

    def request(self, kind: str, path: str, times: int = 1) -> None:
        """Wait, and count."""
        with self.lock:
            self.requests[kind, path] += times
        time.sleep(times * self.latency_s)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def get_type_name(self) -> str:
        """The name that pyarrow shows."""
        return "simulated object store"

    def normalize_path(self, path: str) -> str:
        """As it is."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """One request a name, two where it is not there: S3 is then asked whether it is a folder."""
        found = self.local.get_file_info(paths)
        for info in found:
            self.request("head", info.path, 2 if info.type == fs.FileType.NotFound else 1)
        return list(found)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """One request."""
        self.request("list", selector.base_dir)
        return list(self.local.get_file_info(selector))

    def open_input_file(self, path: str) -> pa.NativeFile:
        """One request, and one a read."""
        self.request("head", path)
        with self.local.open_input_file(path) as source:
            return pa.PythonFile(_SlowSource(source.read(), self, path), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """As a file."""
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any = None) -> pa.NativeFile:
        """Sent when it is closed."""
        return pa.PythonFile(_SlowSink(self, path), mode="w")

    def delete_file(self, path: str) -> None:
        """One request."""
        self.request("delete", path)
        self.local.delete_file(path)

    def _refuse(self, *arguments: Any) -> None:
        raise NotImplementedError("stage judge does not ask for this")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    move = copy_file = open_append_stream = _refuse


class _SlowSource(io.BytesIO):
    def __init__(self, content: bytes, handler: _SlowHandler, path: str) -> None:
        super().__init__(content)
        self.handler, self.path = handler, path

    def read(self, size: int | None = -1) -> bytes:
        """One request, if it asks for anything."""
        if size:
            self.handler.request("get", self.path)
        return super().read(size)


class _SlowSink(io.BytesIO):
    def __init__(self, handler: _SlowHandler, path: str) -> None:
        super().__init__()
        self.handler, self.path = handler, path

    def close(self) -> None:
        """Send what was written."""
        if not self.closed:
            self.handler.request("put", self.path, self.handler.put_requests)
            self.handler.local.create_dir(self.path.rpartition("/")[0])
            with self.handler.local.open_output_stream(self.path) as sink:
                sink.write(self.getvalue())
        super().close()

"""Files of a run as files of this machine, which all of its processes map: one copy of what each would load for itself.

Comes in: a run's storage and what was noted of a file when it was written (:class:`FileNote`). Goes out: a path, or an
array on it. On a file system it is the run's own file. Of what an object store holds a machine makes one copy in the
cache ($EZXMC_CACHE), under a lock, checked by size and checksum. Whoever makes a copy removes those that no process
uses any more; a process uses what it has asked for until it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from pyarrow import fs

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.models import cache_directory
from ezxmc_ray.storage import Storage, copy_file

#: Bytes that are read at once.
_CHUNK = 1 << 24
#: The locks of this process on the copies that it uses, by their path.
_used: dict[Path, IO[bytes]] = {}


@dataclass(frozen=True)
class FileNote:
    """What a file was when it was written: its path in the run, its bytes, and their SHA-256."""

    file: str
    bytes: int
    sha256: str


class NotedSink:
    """Writes to ``sink`` and keeps count: what :meth:`note` says of the file."""

    def __init__(self, sink: Any) -> None:
        self.sink, self.bytes, self.digest = sink, 0, hashlib.sha256()

    def write(self, content: Any) -> None:
        """Write ``content``, bytes or an array."""
        view = memoryview(content).cast("B")
        self.sink.write(view)
        self.digest.update(view)
        self.bytes += view.nbytes

    def note(self, file: str) -> FileNote:
        """Of what was written so far, as the file ``file``."""
        return FileNote(file, self.bytes, self.digest.hexdigest())


@contextmanager
def array_file(storage: Storage, file: str, shape: tuple[int, ...], dtype: Any) -> Iterator[NotedSink]:
    """A .npy file of this shape and dtype, to which the block writes the values; committed when the block ends well."""
    with storage.open_file(file) as sink:
        noted = NotedSink(sink)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(noted, header)
        yield noted


def write_array(storage: Storage, file: str, array: np.ndarray) -> FileNote:
    """Commit ``array`` as a .npy file."""
    array = np.ascontiguousarray(array)
    with array_file(storage, file, array.shape, array.dtype) as sink:
        if array.size:
            sink.write(array)
    return sink.note(file)


def map_array(storage: Storage, note: FileNote, shape: tuple[int, ...] | None = None, dtype: Any = None) -> np.ndarray:
    """The array in a .npy file, of ``shape`` and ``dtype`` if these are given, mapped and read-only.

    Errors: UserError as :func:`node_file`, and for another shape or dtype.
    """
    path = node_file(storage, note)
    try:
        array = np.load(path, mmap_mode="r")
    except Exception as error:  # whatever becomes of a damaged header: it is parsed as Python's own text
        raise _damaged(storage, note) from error
    if (shape or array.shape, dtype or array.dtype) != (array.shape, array.dtype):
        raise _damaged(storage, note)
    if isinstance(array, np.memmap) and array.offset + array.nbytes != note.bytes:
        raise _damaged(storage, note)
    return array


def map_checked_array(storage: Storage, note: FileNote) -> np.ndarray:
    """As :func:`map_array`; all bytes are held against the checksum first, as those of an object store always are."""
    if checksum(node_file(storage, note)) != note.sha256:
        raise _damaged(storage, note)
    return map_array(storage, note)


def node_file(storage: Storage, note: FileNote) -> Path:
    """A path on this machine with the file of ``note``; it stays for as long as this process does.

    Errors: UserError for a file that is not there or not what was written.
    """
    if storage.is_local:
        path = Path(storage.path(note.file))
        if not path.is_file() or path.stat().st_size != note.bytes:
            raise _damaged(storage, note)
        return path
    folder = cache_directory() / "node"
    folder.mkdir(exist_ok=True)
    path = folder / f"{note.sha256[:32]}{Path(note.file).suffix}"
    if path in _used and path.is_file():
        return path
    _let_go(path)
    while True:
        lock = _lock_of(path).open("ab")
        _lock(lock, fcntl.LOCK_SH)
        if path.is_file():  # and nobody sweeps it away from now on
            _used[path] = lock
            return path
        lock.close()
        with _lock_of(path).open("ab") as lock:
            _lock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                _sweep(folder, path)
                _copy(storage, note, path)


def _lock(file: IO[bytes], how: int) -> None:
    """As flock. Errors: BlockingIOError where another process holds it; UserError where nothing can be locked."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise UserError(
            f"Files in {Path(file.name).parent} cannot be locked ({one_line(error)}): set EZXMC_CACHE to a folder on a "
            "disk of this machine."
        ) from error


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _let_go(path: Path) -> None:
    if (lock := _used.pop(path, None)) is not None:
        lock.close()


def _sweep(folder: Path, wanted: Path) -> None:
    """Remove the copies in ``folder`` that no process uses, whole ones and parts; ``wanted`` is being made."""
    for lock_file in folder.glob("*.lock"):
        path = lock_file.with_suffix("")
        if path == wanted:
            continue
        with lock_file.open("ab") as lock, suppress(BlockingIOError):
            _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            _part_of(path).unlink(missing_ok=True)


def _copy(storage: Storage, note: FileNote, path: Path) -> None:
    temporary = _part_of(path)
    try:
        copy_file(storage.filesystem, storage.path(note.file), fs.LocalFileSystem(), str(temporary))
        if temporary.stat().st_size != note.bytes or checksum(temporary) != note.sha256:
            raise _damaged(storage, note)
        os.replace(temporary, path)
    except FileNotFoundError as error:
        raise _damaged(storage, note) from error
    except OSError as error:
        raise UserError(
            f"{note.file} ({note.bytes:,} bytes) cannot be copied to {path.parent} ({error.strerror or error}): make "
            "room there, or set EZXMC_CACHE."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(storage: Storage, note: FileNote) -> UserError:
    folder = note.file.rpartition("/")[0]
    return UserError(
        f"{note.file} of the run {storage.root} is not there or not what was written: remove {folder} there and run "
        "again."
    )

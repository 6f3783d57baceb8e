"""The run directory: atomic commits, manifests and tables, on a local disk or an object store alike (pyarrow.fs).

Comes in: a directory or URI (``s3://bucket/run``). Goes out: files that are whole or absent. On a file system a file
is written under a temporary name beside its target, flushed, and renamed; for an object store it is written to a local
temporary file, and put when it is whole. A stage's manifest is written last (steps.py says when a stage is done).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ezxmc_ray import layout
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.errors import UserError, one_line, writing_to
from ezxmc_ray.leftovers import is_temporary, temporary_folder, temporary_name
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.tables import check, open_parquet, read_parquet

Names = list[str]
COUNTS = b"ezxmc.counts"
#: The key of a note's checksum.
CHECKSUM = "checksum"
_LOCAL = fs.LocalFileSystem()
#: Bytes that are copied at once.
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Manifest:
    """What a stage leaves behind when it is done.

    ``fingerprint`` is of its inputs and its part of the configuration; ``commit`` names what it gave, so that what was
    made from it can tell when that is another. ``files`` are relative to the run directory. ``details`` holds the
    stage's own counts (what was dropped, cut, skipped) and measures; the report reads them. ``sizes`` (bytes) and
    ``checksums`` (:func:`checksum`) are of the files, by which integrity.py finds damage.
    """

    stage: str
    fingerprint: str
    rows: int
    seconds: float
    files: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    commit: str = field(default_factory=lambda: uuid.uuid4().hex)


class Storage:
    """Files below one root; every path in its methods is relative to that root and uses ``/``."""

    #: Called before each change: raises where the run is another command's by now (run_lock.py). Tasks get it too.
    guard: Callable[[], None] | None = None

    def __init__(self, root: str) -> None:
        self.root = root
        try:
            if "://" in root:
                self.filesystem, self._base = fs.FileSystem.from_uri(_with_one_put(root))
            else:
                self.filesystem, self._base = fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(root))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"The path {root} cannot be used: {one_line(error)}.") from error

    def __reduce__(self) -> tuple[Any, ...]:
        root = self.root if "://" in self.root else self._base
        return Storage, (root,), {"guard": self.guard} if self.guard else None

    @property
    def is_local(self) -> bool:
        """Whether the root is on this machine's file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def below(self, relative: str) -> Storage:
        """The storage whose root is the directory ``relative``; the guard and what a URI asks for behind ``?`` stay."""
        root, mark, query = self.root.partition("?" if "://" in self.root else "\0")
        below = Storage(f"{root.rstrip('/')}/{relative}{mark}{query}")
        below.guard = self.guard
        return below

    def path(self, relative: str = "") -> str:
        """The path of ``relative`` as ``self.filesystem`` takes it."""
        return f"{self._base.rstrip('/')}/{relative}" if relative else self._base

    def exists(self, relative: str) -> bool:
        """Whether a file or directory is there."""
        return self.filesystem.get_file_info(self.path(relative)).type != fs.FileType.NotFound

    def is_folder(self, relative: str) -> bool:
        """Whether a directory is there."""
        return bool(self.filesystem.get_file_info(self.path(relative)).type == fs.FileType.Directory)

    def list(self, relative: str = "", suffix: str = "", recursive: bool = False) -> Names:
        """Files (not directories) below ``relative`` whose names end in ``suffix``, sorted, relative to the root."""
        return sorted(name for name in self.sizes(relative, recursive) if name.endswith(suffix))

    def sizes(self, relative: str = "", recursive: bool = False) -> dict[str, int]:
        """Bytes of the files below ``relative``, by their names relative to the root; no file is opened."""
        files = self._found(relative, recursive, fs.FileType.File)
        return {name: int(one.size) for name, one in files.items() if not is_temporary(name)}

    def folders(self, relative: str = "") -> Names:
        """Directories directly below ``relative``, sorted, relative to the root."""
        return sorted(self._found(relative, False, fs.FileType.Directory))

    def _found(self, relative: str, recursive: bool, kind: fs.FileType) -> dict[str, fs.FileInfo]:
        selector = fs.FileSelector(self.path(relative), allow_not_found=True, recursive=recursive)
        infos = [one for one in self.filesystem.get_file_info(selector) if one.type == kind]
        try:
            return {one.path[len(self._base.rstrip("/")) + 1 :]: one for one in infos}
        except UnicodeDecodeError as error:
            raise UserError(f"Below {self.path(relative)} is a name that is not UTF-8: rename that file.") from error

    def read_bytes(self, relative: str) -> bytes:
        """The whole file."""
        with self.filesystem.open_input_file(self.path(relative)) as source:
            return source.read()

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Commit a file: afterwards it is there whole, or (on an error) as it was before."""
        with self.open_file(relative) as sink:
            sink.write(content)

    @contextmanager
    def open_file(self, relative: str) -> Iterator[pa.NativeFile]:
        """A file to write bytes to, one after the other; committed when the block ends well."""
        with self._commit(relative) as temporary, _LOCAL.open_output_stream(temporary) as sink:
            yield sink

    def read_json(self, relative: str) -> Any:
        """The JSON value in a file."""
        return json.loads(self.read_bytes(relative))

    def write_json(self, relative: str, value: Any) -> None:
        """Commit ``value`` as indented JSON."""
        self.write_bytes(relative, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_note(self, relative: str) -> dict[str, Any]:
        """What :meth:`write_note` wrote; older versions noted no checksum. Errors: ValueError for what is damaged."""
        told = self.read_json(relative)
        if not isinstance(told, dict):
            raise ValueError("it is no JSON object")
        if told.pop(CHECKSUM, None) not in (None, _checksum_of(told)):
            raise ValueError("its content is not what was written")
        return told

    def write_note(self, relative: str, value: dict[str, Any]) -> None:
        """Commit ``value`` as JSON that carries a checksum of itself, without credentials."""
        told = without_credentials(json.loads(json.dumps(value)))
        self.write_json(relative, told | {CHECKSUM: _checksum_of(told)})

    def read_table(self, relative: str, schema: pa.Schema | None = None, columns: Names | None = None) -> pa.Table:
        """A Parquet file; with ``schema``, its columns and types are checked. ``columns`` reads only those.

        Errors: UserError for a file that is not there, or damaged: its pages have checksums (tables.py).
        """
        with self._whole(relative):
            table = read_parquet(self.path(relative), self.filesystem, columns)
            if schema is None:
                return table
            wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
            return check(table, wanted, relative)

    def read_shard(self, folder: str, shard: int, schema: pa.Schema, columns: Names | None = None) -> pa.Table:
        """The table of document shard ``shard`` in ``folder``, checked as :meth:`read_table` does."""
        return self.read_table(layout.shard_file(folder, shard), schema, columns)

    @contextmanager
    def open_table(self, relative: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """A Parquet file to write tables of ``schema`` to, one after the other; committed when the block ends well."""
        with self._commit(relative) as temporary, open_parquet(temporary, _LOCAL, schema) as writer:
            yield writer

    @contextmanager
    def _whole(self, relative: str) -> Iterator[None]:
        """For as long as a table is read: what is wrong with its file is a UserError that says what to do."""
        path = self.path(relative)
        try:
            yield
        except FileNotFoundError as error:
            raise damage_error(path, "it is missing") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damage_error(path, one_line(error, 120).rstrip(".")) from error

    def read_counts(self, relative: str) -> dict[str, int]:
        """The counts that :meth:`write_table` put into a Parquet file's footer; empty if there are none."""
        with self._whole(relative):
            return counts_of(pq.read_schema(self.path(relative), filesystem=self.filesystem))

    def rows(self, relative: str) -> int:
        """Rows of a Parquet file, from its footer."""
        with self._whole(relative):
            return int(pq.read_metadata(self.path(relative), filesystem=self.filesystem).num_rows)

    def write_table(self, relative: str, table: pa.Table, counts: dict[str, int] | None = None) -> None:
        """Commit ``table`` as Parquet (zstd), with ``counts`` of how it was made in its footer."""
        if counts is not None:
            table = table.replace_schema_metadata({COUNTS: json.dumps(counts | {CHECKSUM: _checksum_of(counts)})})
        with self.open_table(relative, table.schema) as writer:
            writer.write_table(table)

    def write_shard(self, folder: str, shard: int, table: pa.Table, counts: dict[str, int] | None = None) -> None:
        """Commit the table of document shard ``shard`` in ``folder``, as :meth:`write_table` does."""
        self.write_table(layout.shard_file(folder, shard), table, counts)

    def upload(self, local: Path, relative: str) -> None:
        """Copy the file or directory ``local`` to ``relative``, each file committed by itself."""
        files = [local] if local.is_file() else sorted(p for p in local.rglob("*") if p.is_file())
        for file in files:
            target = relative if local.is_file() else f"{relative}/{file.relative_to(local).as_posix()}"
            if self.is_local:
                with self._commit(target) as temporary:
                    shutil.copyfile(file, temporary)
            else:
                with writing_to(self.path(target)):
                    self._put(str(file), target)

    @contextmanager
    def local(self, relative: str) -> Iterator[Path]:
        """A local path with the file or directory ``relative``: itself, or a temporary copy of what a store holds."""
        if self.is_local:
            yield Path(self.path(relative))
            return
        with temporary_folder() as folder:
            names = self.list(relative, recursive=True)
            for name in names or [relative]:
                target = folder / "copy" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_file(self.filesystem, self.path(name), _LOCAL, str(target))
            yield folder / "copy" / relative

    def remove(self, relative: str) -> None:
        """Remove a file or a directory with all below it; nothing happens if it is not there."""
        self._check_owner()
        kind = self.filesystem.get_file_info(self.path(relative)).type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(relative))
        elif kind == fs.FileType.File:
            self.filesystem.delete_file(self.path(relative))

    def rename(self, source: str, target: str) -> None:
        """Move the file or directory ``source`` to ``target``; what ``target`` held before is gone.

        One step on a file system. An object store copies file by file, a few at once; then the old ones go together.
        """
        self.remove(target)
        if self.is_local:
            os.makedirs(folder := os.path.dirname(self.path(target)), exist_ok=True)
            os.replace(self.path(source), self.path(target))
            return _sync_folder(folder)
        is_file = self.filesystem.get_file_info(self.path(source)).type == fs.FileType.File
        names = [source] if is_file else self.list(source, recursive=True)
        copies = [(self.path(name), self.path(target + name[len(source) :])) for name in names]
        list(at_once(lambda both: self.filesystem.copy_file(*both), copies))
        self.remove(source)

    def rows_of(self, files: Sequence[str]) -> tuple[int, ...]:
        """:meth:`rows` of each of ``files``, a few asked at once."""
        return tuple(at_once(self.rows, files))

    @contextmanager
    def _commit(self, relative: str) -> Iterator[str]:
        """A local path to write to; what was written becomes ``relative`` when the block ends well, or nothing does."""
        if not self.is_local:
            with writing_to(self.path(relative), tempfile.gettempdir()), temporary_folder() as folder:
                yield str(folder / "file")
                self._put(str(folder / "file"), relative)
            return
        self._check_owner()
        temporary = temporary_name(target := self.path(relative))
        try:
            with writing_to(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                yield temporary
                with open(temporary, "rb+") as written:
                    os.fsync(written.fileno())
                self._check_owner()
                os.replace(temporary, target)
                _sync_folder(os.path.dirname(target))
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)

    def _put(self, local: str, relative: str) -> None:
        """Put the file ``local`` into an object store, in a thread that no signal reaches: a stream there puts what it
        has, whatever ends it."""
        self._check_owner()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_file, _LOCAL, local, self.filesystem, self.path(relative)).result()

    def _check_owner(self) -> None:
        if self.guard is not None:
            self.guard()


def copy_file(source: fs.FileSystem, path: str, destination: fs.FileSystem, target: str) -> None:
    """Copy a file from one file system to another.

    Errors: those of both. pyarrow.fs.copy_files closes what it wrote where nobody hears that it failed.
    """
    with (
        source.open_input_stream(path, compression=None) as content,
        destination.open_output_stream(target, compression=None) as sink,
    ):
        shutil.copyfileobj(content, sink, _BLOCK_BYTES)


def counts_of(schema: pa.Schema) -> dict[str, int]:
    """The counts in a footer; empty if there are none. Errors: ValueError for what is damaged."""
    found = json.loads(schema.metadata.get(COUNTS, b"0") if schema.metadata else b"{}")
    if not isinstance(found, dict) or found.pop(CHECKSUM, None) not in (None, _checksum_of(found)):
        raise ValueError("the counts in its footer are not what was written")
    return {str(name): int(value) for name, value in found.items()}


def _with_one_put(uri: str) -> str:
    """``uri``, of S3 with the option by which a small file is one request, and not the three of an upload in parts."""
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _sync_folder(folder: str) -> None:
    """Make the names in a local folder last: a rename is on the disk when its folder is, not before (see rename(2))."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage_error(path: str, reason: str) -> UserError:
    """The sentence for a file of a run that cannot be used for ``reason``."""
    return UserError(
        f"{path} is damaged ({reason}): remove the file, or let `ezxmc verify` name all that is damaged in the run; "
        "`ezxmc run` then makes it anew from what is whole."
    )


def checksum(content: IO[bytes] | pa.NativeFile) -> str:
    """BLAKE2b of what is left to read in ``content``, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    while chunk := content.read(1 << 22):
        digest.update(chunk)
    return digest.hexdigest()


def write_manifest(storage: Storage, folder: str, manifest: Manifest) -> None:
    """Commit ``manifest`` of the stage that wrote ``folder``; call it last of all in a stage."""
    storage.write_note(layout.manifest(folder), dataclasses.asdict(manifest))


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """The manifest in ``folder``; None if there is none, or one that is broken, damaged or from another version."""
    path = layout.manifest(folder)
    if not storage.exists(path):
        return None
    try:
        return Manifest(**storage.read_note(path))
    except (TypeError, ValueError):
        return None


def _checksum_of(told: dict[str, Any]) -> str:
    return checksum(io.BytesIO(json.dumps(told, sort_keys=True).encode()))


def check_writable(storage: Storage) -> None:
    """Raise a UserError unless a file can be committed in the root."""
    probe = temporary_name(".probe")
    try:
        storage.write_bytes(probe, b"probe")
        storage.remove(probe)
    except OSError as error:
        raise UserError(f"Cannot write to {storage.root}: {one_line(error)}; name another place.") from error


def copy_into(storage: Storage, source: Path, relative: str) -> None:
    """Replace the directory ``relative`` by a copy of the local directory ``source``."""
    storage.remove(relative)
    storage.upload(source, relative)

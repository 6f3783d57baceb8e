"""The files that users bring: what one is, and streaming its rows with bounded memory. (Finding them: finding.py.)

Comes in: paths and URIs (``s3://…``) of JSON, Parquet or CSV files, plain, .gz, .zst or .bz2. Goes out:
:class:`Source`, and for each of them a stream of :class:`RawRow`. What is wrong with one row (broken JSON, invalid
UTF-8, a ragged CSV row) is a row with a reason; what is wrong with a file is a UserError.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from ezxmc_ray.errors import UserError, one_line

FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
#: What documents, and what labels may be besides; a directory does not stand for those, since a README.txt is no data.
TEXT_FORMATS = {".txt": "list"}
LABEL_FORMATS = TEXT_FORMATS | {".ttl": "turtle", ".rdf": "rdfxml", ".nt": "ntriples"}
#: Those that prepare.format does not stand instead of, since it names none of them.
RDF_FORMATS = ("turtle", "rdfxml", "ntriples")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}

#: A line (JSON lines, text) or a field (CSV) that is longer is a bad row, so that a file without line ends fits memory.
MAX_LINE_BYTES = 64 << 20
#: Characters of a bad row that rejected.parquet shows.
SNIPPET_CHARACTERS = 200
#: Columns that a sentence lists, and characters of a name.
_SHOWN, _CHARACTERS = 20, 60
#: Columns that a source must have: for each group, the configuration key and the names, of which one must be there.
Required = Sequence[tuple[str, tuple[str, ...]]]
_BLOCK_BYTES, _ENCODING_BYTES = 1 << 20, 64
_POINTERS = (b"version https://git-lfs.github.com/spec/", b"/annex/objects/")


@dataclass(frozen=True)
class Source:
    """One file: ``name`` as users know it, ``path`` as ``filesystem`` takes it, and how to read it.

    ``format`` is jsonl (JSON arrays too), parquet, csv, lines (one text a line, its row number the id), labels (the
    same, where an id may stand beside the text), list (one text a line, its own id), or an RDF syntax (turtle, rdfxml,
    ntriples); ``compression`` is gzip, zstd, bz2 or None.
    ``csv_separator``: between columns; None: by the header. ``language``: of a vocabulary's labels; "": that of most.
    """

    name: str
    path: str
    filesystem: fs.FileSystem
    format: str
    compression: str | None
    size: int
    mtime_ns: int
    csv_separator: str | None = None
    language: str = ""

    @classmethod
    def of_file(
        cls,
        name: str,
        filesystem: fs.FileSystem,
        info: fs.FileInfo,
        format_: str,
        compression: str | None,
        csv_separator: str | None = None,
    ) -> Source:
        """The source in a file that was found. UserError for one that is compressed and has no bytes: it would pass for
        one without rows, where an upload failed or a disk was full."""
        if compression and info.size == 0:
            raise UserError(
                f"{name} has 0 bytes, which no file in {compression} has: it was cut off; write or copy it anew, or "
                "remove it."
            )
        return cls(name, info.path, filesystem, format_, compression, info.size or 0, info.mtime_ns or 0, csv_separator)

    @property
    def parts(self) -> list[str]:
        """The folders that the file lies in, and its name last, from the root (or the kind of a URI) on.

        Two ways of naming a file are one here.
        """
        if isinstance(self.filesystem, fs.LocalFileSystem):
            return self.path.strip("/").split("/")
        return self.name.replace("://", "/").split("/")

    def open(self) -> io.BufferedReader:
        """The decompressed bytes."""
        stream = self.filesystem.open_input_stream(self.path, compression=self.compression)
        return io.BufferedReader(stream, _BLOCK_BYTES)

    def read_bytes(self) -> bytes:
        """The whole decompressed file; UserError if it cannot be read."""
        try:
            with self.open() as stream:
                return stream.read()
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self, error) from error


class RawRow(NamedTuple):  # made four times as fast as a frozen dataclass
    """One row of a source: ``line`` from 1, and either ``values`` (column to value) or the ``reason`` why not.

    A reason reads "class: detail". ``snippet`` is the beginning of what was read where there are no values; ``lines``:
    how many a record of CSV spans; ``repeated``: a key that a JSON object gives two values, of which the last counts.
    """

    line: int
    values: dict[str, Any] | None
    reason: str | None = None
    snippet: str = ""
    lines: int = 1
    repeated: str = ""

    def content(self) -> str:
        """The beginning of the row, as rejected.parquet shows it; always valid Unicode."""
        text = self.snippet
        if self.values is not None:
            cut = {k: v[:SNIPPET_CHARACTERS] if isinstance(v, str) else v for k, v in self.values.items()}
            text = json.dumps(cut, ensure_ascii=False, default=str)
        return printable(text[:SNIPPET_CHARACTERS])


def printable(text: str) -> str:
    """``text`` with lone surrogates, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def unreadable(source: Source, error: BaseException) -> UserError:
    """The UserError for a file that is damaged, or not what its name says, or not to be opened."""
    kinds = {"jsonl": "JSON lines", "csv": "CSV", "parquet": "Parquet"}
    kinds |= {"turtle": "Turtle", "rdfxml": "RDF/XML", "ntriples": "N-Triples"}
    kind = kinds.get(source.format, "text")
    kind += f" in {source.compression}" if source.compression else ""
    return UserError(f"{source.name} cannot be read as {kind}: {one_line(error)}; is it cut off, damaged or misnamed?")


def classify(
    name: str, wanted_format: str = "auto", more_formats: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, str | None]:
    """Format and compression of a file by its name; UserError if they are not known."""
    formats = {**FORMATS, **more_formats}
    stem, ending = os.path.splitext(name.lower())
    compression = COMPRESSIONS.get(ending)
    if compression is None:
        stem = name.lower()
    by_name = formats.get(os.path.splitext(stem)[1], "")
    format_ = by_name if wanted_format == "auto" or by_name in RDF_FORMATS else wanted_format
    if not format_:
        known = ", ".join(formats)
        raise UserError(
            f"The name of {name} does not end in one of {known} (plain, .gz, .zst or .bz2); set prepare.format."
        )
    if format_ == "parquet" and compression:
        raise UserError(
            f"{name} is a compressed Parquet file, which no reader takes; unpack it (gzip -d, zstd -d, bzip2 -d)."
        )
    return format_, compression


def open_location(location: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path in it; UserError for a URI of an unknown kind."""
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (OSError, pa.ArrowException, ValueError, ImportError) as error:
        raise UserError(f"{location} cannot be opened: {one_line(error)}.") from error
    return filesystem, path


def display_name(location: str, path: str) -> str:
    """How users know the file ``path`` that was found at ``location``: relative stays relative, a URI stays a URI."""
    if "://" in location:
        return f"{location.partition('://')[0]}://{path}"
    return path if os.path.isabs(os.path.expanduser(location)) else os.path.relpath(path)


def real_path(filesystem: fs.FileSystem, path: str) -> str:
    """``path`` with its links resolved, where the file system has links: two names of one place are one."""
    return os.path.realpath(path) if isinstance(filesystem, fs.LocalFileSystem) else path


def common_folders(paths: Sequence[Sequence[str]]) -> int:
    """How many folders ``paths`` (folders, and the file's name last) have in common."""
    folders = [path[:-1] for path in paths]
    same = (len(set(level)) == 1 for level in zip(*folders, strict=False))
    return sum(itertools.takewhile(bool, same))


def read_lines(source: Source) -> Iterator[tuple[int, bytes | None]]:
    """Line number (from 1) and line, with its end, without a byte order mark; None for a line over MAX_LINE_BYTES.

    Errors: UserError as :func:`check_encoding`.
    """
    with source.open() as stream:
        check_encoding(source, stream)
        yield from lines_of(stream)


def check_encoding(source: Source, stream: io.BufferedReader) -> None:
    """UserError for what begins as UTF-16 does, with its mark or without: half of it can pass for UTF-8; and for what
    Git LFS and git-annex put in a file's stead."""
    head = stream.peek(_ENCODING_BYTES)[:_ENCODING_BYTES]
    if head.startswith(_POINTERS):
        raise UserError(
            f"{source.name} only points to the file that it stands for: fetch that (git lfs pull, git annex get)."
        )
    zeros = [head[start::2].count(0) for start in (0, 1)]
    is_wide = len(head) >= 8 and min(zeros) == 0 and max(zeros) >= len(head) // 2
    if is_wide or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{source.name} is UTF-16: save it as UTF-8.")


def lines_of(stream: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """As :func:`read_lines`, of an open file."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def bad_line(number: int, line: bytes | None, error: UnicodeDecodeError | None = None) -> RawRow:
    """The bad row for a line that is too long (None) or not UTF-8."""
    if line is None:
        return RawRow(number, None, f"line too long: over {MAX_LINE_BYTES >> 20} MiB")
    where = f": byte {error.start + 1} of the line" if error else ""
    return RawRow(number, None, f"invalid UTF-8{where}", snippet(line.decode("utf-8", "replace")))


def snippet(text: str) -> str:
    """The beginning of ``text``."""
    return text[:SNIPPET_CHARACTERS].rstrip("\r\n")


def check_columns(source: Source, found: Iterable[str], required: Required) -> None:
    """UserError unless of every group of columns in ``required`` one is ``found``."""
    columns = list(found)
    for key, names in required:
        if not any(name in columns for name in names):
            wanted = " or ".join(repr(name) for name in names)
            raise UserError(f"{source.name} has no column {wanted}; its columns are {listed(columns)}: set {key}.")


def listed(names: Sequence[str]) -> str:
    """Some of ``names``, for a sentence; those that a terminal would obey, or too long ones, as in a program."""
    shown = [name if name.isprintable() and len(name) <= _CHARACTERS else repr(name[:_CHARACTERS]) for name in names]
    return ", ".join(shown[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") if names else "none"

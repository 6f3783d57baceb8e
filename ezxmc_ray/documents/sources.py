"""The files that users bring: finding them, and streaming their rows with bounded memory.

Comes in: paths, globs, directories and URIs (``s3://…``) of JSON, Parquet or CSV files, plain, .gz, .zst or .bz2. Goes
out: a sorted list of :class:`Source`, and for each of them a stream of :class:`RawRow`. What is wrong with one row
(broken JSON, invalid UTF-8, a ragged CSV row) is a row with a reason; what is wrong with a file is a UserError.
"""

from __future__ import annotations

import fnmatch
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
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
#: What publishers call files that tell of the data they lie beside, without .json.
_ABOUT_DATA = {"dataset_info", "dataset_infos", "dataset_dict", "state", "readme", "metadata", "dataset-metadata"}
_ABOUT_DATA |= {"dataset_metadata", "datapackage", "croissant", "package", "schema", "config", "manifest", "license"}
_ABOUT_DATA |= {"citation", "info", "about", "stats", "statistics"}
_BLOCK_BYTES, _ENCODING_BYTES = 1 << 20, 64
_MAGIC = frozenset("*?[")


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


def find_sources(
    patterns: Sequence[str],
    wanted_format: str,
    key: str,
    csv_separator: str | None = None,
    more_formats: Mapping[str, str] = MappingProxyType({}),
    unread: list[str] | None = None,
) -> list[Source]:
    """The files that ``patterns`` (paths, globs with ``**``, directories, URIs) name, sorted by name, each once.

    A directory stands for the data files below it; hidden ones and those that begin with ``_`` are not data, and the
    names of others that are not read (of another ending, or called as what tells of data) go to ``unread``.
    ``wanted_format`` is "auto" or a format; ``key`` is the configuration key, for messages; ``more_formats``: endings
    besides FORMATS. UserError for a pattern that matches nothing, and for a file whose format its name does not tell.
    """
    found: dict[str, Source] = {}
    for pattern in patterns:
        others: list[str] = []
        matched = list(_match(pattern, wanted_format, others))
        if not matched:
            raise UserError(f"{key}: {_nothing_at(pattern, others)}")
        if unread is not None:
            unread += others
        for filesystem, name, info in matched:
            format_, compression = classify(name, wanted_format, more_formats)
            changed = info.mtime_ns or 0
            source = Source(name, info.path, filesystem, format_, compression, info.size or 0, changed, csv_separator)
            found.setdefault("/".join(source.parts), source)
    if not found:
        raise UserError(f"{key} is empty; set it to the paths, globs or URIs of your files.")
    return sorted(found.values(), key=attrgetter("name"))


def _nothing_at(pattern: str, others: Sequence[str]) -> str:
    """``others``: files that are there, and are no data by their names."""
    filesystem, path = open_location(pattern)
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        return f"there is no file {pattern}; give the path, glob or URI of files that exist."
    there = f" (there are {listed([name.rpartition('/')[2] for name in others])})" if others else ""
    return (
        f"the directory {pattern} holds no file that ends in {', '.join(FORMATS)}{there}; name the files, or "
        "convert them."
    )


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


def _match(pattern: str, wanted_format: str, unread: list[str]) -> Iterator[tuple[fs.FileSystem, str, fs.FileInfo]]:
    filesystem, path = open_location(pattern)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound and _MAGIC & set(path):
            parts = path.split("/")
            first = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
            infos = list(_glob(filesystem, "/".join(parts[:first]) or "/", parts[first:]))
        else:
            infos = [info]
        for info in infos:
            is_folder = info.type == fs.FileType.Directory
            for file in _below(filesystem, info.path, set()) if is_folder else [info]:
                if file.type != fs.FileType.File:
                    continue
                name = display_name(pattern, file.path)
                if is_folder and not _is_data(file.base_name, wanted_format):
                    unread.append(name)
                else:
                    yield filesystem, name, file
    except OSError as error:
        raise UserError(f"{pattern} cannot be listed: {one_line(error)}.") from error
    except UnicodeError as error:
        raise UserError(
            f"{printable(pattern)} cannot be listed: the name of a file there is not UTF-8; rename it."
        ) from error


def _glob(
    filesystem: fs.FileSystem, folder: str, patterns: list[str], been: set[str] | None = None
) -> Iterator[fs.FileInfo]:
    """Files and directories below ``folder`` whose path matches ``patterns``, one a level; ``**`` is any depth.

    ``been``: what ``**`` has gone through, so that links which lead back have an end.
    """
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        been = set() if been is None else been
        if _has_been(filesystem, folder, been):
            return
        if rest:
            yield from _glob(filesystem, folder, rest)
    for info in _listed(filesystem, folder):
        if info.base_name.startswith(".") and not head.startswith("."):
            continue
        is_folder = info.type == fs.FileType.Directory
        if head == "**":
            if is_folder:
                yield from _glob(filesystem, info.path, patterns, been)
            elif not rest:
                yield info
        elif fnmatch.fnmatchcase(info.base_name, head):
            if not rest:
                yield info
            elif is_folder:
                yield from _glob(filesystem, info.path, rest)


def _listed(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """What is in a folder, by name; links last, so that what they lead to is met under its own name first."""
    infos = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    local = isinstance(filesystem, fs.LocalFileSystem)
    return sorted(infos, key=lambda info: (local and os.path.islink(info.path), info.path))


def _has_been(filesystem: fs.FileSystem, folder: str, been: set[str]) -> bool:
    """Whether a local ``folder``, links resolved, is in ``been``; it is from now on."""
    if not isinstance(filesystem, fs.LocalFileSystem):
        return False
    real = os.path.realpath(folder)
    known = real in been
    been.add(real)
    return known


def _is_data(name: str, wanted_format: str) -> bool:
    """Whether a file of a directory is read, by its name."""
    name = name.lower()
    whole, ending = os.path.splitext(name)
    stem, ending = os.path.splitext(whole if ending in COMPRESSIONS else name)
    if ending == ".json" and stem in _ABOUT_DATA:
        return False
    return wanted_format != "auto" or ending in FORMATS


def _below(filesystem: fs.FileSystem, folder: str, been: set[str]) -> Iterator[fs.FileInfo]:
    """All files below ``folder`` but hidden ones and those that begin with ``_``, and what lies in such a folder."""
    if not isinstance(filesystem, fs.LocalFileSystem):  # one request for the whole of it
        for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True)):
            below = info.path[len(folder.rstrip("/")) + 1 :].split("/")
            if not any(part.startswith((".", "_")) for part in below):
                yield info
    elif not _has_been(filesystem, folder, been):
        for info in _listed(filesystem, folder):
            if info.base_name.startswith((".", "_")):
                continue
            if info.type == fs.FileType.Directory:
                yield from _below(filesystem, info.path, been)
            else:
                yield info


def read_lines(source: Source) -> Iterator[tuple[int, bytes | None]]:
    """Line number (from 1) and line, with its end, without a byte order mark; None for a line over MAX_LINE_BYTES.

    Errors: UserError as :func:`check_encoding`.
    """
    with source.open() as stream:
        check_encoding(source, stream)
        yield from lines_of(stream)


def check_encoding(source: Source, stream: io.BufferedReader) -> None:
    """UserError for what begins as UTF-16 does, with its mark or without: half of it can pass for UTF-8."""
    head = stream.peek(_ENCODING_BYTES)[:_ENCODING_BYTES]
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

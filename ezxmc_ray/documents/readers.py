"""Streams of rows from a source: one reader for each format.

Comes in: a Source, the columns that are wanted, and those that must be there. Goes out: RawRow after RawRow, in the
order of the file; blank lines of JSON lines, CSV and lists are no rows. A dotted name of a column that is not there as
it stands is a path into objects or structs, or lists of them. No row has a column that is called "", which stands for
none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ezxmc_ray.documents.csv_reader import csv_rows
from ezxmc_ray.documents.json_reader import is_stream, json_row, json_rows
from ezxmc_ray.documents.list_reader import check_texts_alone, label_rows, line_row, list_rows
from ezxmc_ray.documents.parquet_reader import parquet_columns, parquet_rows, parquet_sample
from ezxmc_ray.documents.rdf_reader import rdf_rows
from ezxmc_ray.documents.sources import RawRow, Required, Source, check_columns, read_lines, unreadable
from ezxmc_ray.documents.values import field_at, has_field

#: What reading a damaged file raises; the names of a Parquet file's columns may be no UTF-8.
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
#: Columns of a JSON file that are kept in mind.
_MAX_COLUMNS = 1000
_ABSENT = object()
_Item = TypeVar("_Item")
Columns = dict[str, None]


def read_rows(
    source: Source,
    columns: Sequence[str],
    required: Required,
    seen: Columns | None = None,
    notes: list[str] | None = None,
) -> Iterator[RawRow]:
    """The rows of ``source``; ``columns`` are the ones of interest (a Parquet file's others are not read).

    ``seen`` takes up the names of all columns that were met, in their order, ``notes`` sentences of what was chosen in
    reading a file of labels. Errors: UserError if the file cannot be read to its end, or if it has none of a group of
    ``required`` columns.
    """
    readers = {"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows}
    readers |= {"lines": _line_rows, "list": list_rows}
    reader = readers.get(source.format)
    notes = [] if notes is None else notes
    try:
        if reader:
            yield from reader(source, columns, required, {} if seen is None else seen)
        else:
            yield from (label_rows if source.format == "labels" else rdf_rows)(source, notes)
    except _DAMAGE as error:
        raise unreadable(source, error) from error


def sample_rows(
    source: Source, columns: Sequence[str], required: Required, size: int, most: int
) -> tuple[int, list[RawRow]]:
    """How many of the first ``most`` rows there are, and ``size`` to twice ``size`` of them from all over (or all).

    Every row of a text file is read, and the sampled ones parsed; of a Parquet file, row groups at even distances.
    """
    try:
        if source.format == "parquet":
            with source.filesystem.open_input_file(source.path) as file:
                parquet = pq.ParquetFile(file)
                check_columns(source, parquet_columns(source, parquet.schema_arrow), required)
                return min(parquet.metadata.num_rows, most), parquet_sample(parquet, columns, size)
        parse = _cheap_parser(source)
        if parse is None:
            return _spread(read_rows(source, columns, required), size, most)
        lines = ((number, line) for number, line in read_lines(source) if line is None or line.strip())
        count, sampled = _spread(lines, size, most)
    except _DAMAGE as error:
        raise unreadable(source, error) from error
    return count, [parse(number, line) for number, line in sampled]


def _cheap_parser(source: Source) -> Callable[[int, bytes | None], RawRow] | None:
    """What makes a row of a line, where each line is one."""
    if source.format == "jsonl":
        with source.open() as stream:
            return None if is_stream(stream.peek()) else json_row
    return line_row if source.format == "lines" else None


def _spread(items: Iterable[_Item], size: int, most: int) -> tuple[int, list[_Item]]:
    """The number of ``items`` (the first ``most``), and every so many-th of them."""
    step, count, kept = 1, 0, list[_Item]()
    for count, item in enumerate(itertools.islice(items, most), 1):
        if (count - 1) % step:
            continue
        kept.append(item)
        if len(kept) == 2 * size:
            kept, step = kept[::2], 2 * step
    return count, kept


def _json_rows(source: Source, columns: Sequence[str], required: Required, seen: Columns) -> Iterator[RawRow]:
    paths = {name: name.split(".") for name in columns if "." in name}
    known: set[str] = set()
    for row in json_rows(source):
        if row.values is not None:
            row.values.pop("", None)
            if not known.issuperset(row.values):
                more = row.values if len(known) < _MAX_COLUMNS else columns
                _take_up([name for name in more if name in row.values], known, seen)
            for name, path in paths.items():
                _lift(row.values, name, path)
                if name not in known and has_field(row.values, path):
                    _take_up([name], known, seen)
        yield row
    if known:
        check_columns(source, seen, required)


def _take_up(names: Sequence[str], known: set[str], seen: Columns) -> None:
    known.update(names)
    seen.update(dict.fromkeys(names))


def _lift(values: dict[str, Any], name: str, path: list[str]) -> None:
    """Give what lies at ``path`` the dotted ``name``, unless there is a column of that name."""
    found = field_at(values, path, _ABSENT)
    if found is not _ABSENT:
        values.setdefault(name, found)


def _csv_rows(source: Source, columns: Sequence[str], required: Required, seen: Columns) -> Iterator[RawRow]:
    header, rows = csv_rows(source, columns)
    if header:
        check_columns(source, header, required)
        seen.update(dict.fromkeys(header))
    yield from rows


def _parquet_rows(source: Source, columns: Sequence[str], required: Required, seen: Columns) -> Iterator[RawRow]:
    with source.filesystem.open_input_file(source.path) as file:
        parquet = pq.ParquetFile(file, buffer_size=1 << 20, page_checksum_verification=True)
        names = parquet_columns(source, parquet.schema_arrow)
        check_columns(source, names, required)
        seen.update({name: None for name in names if "." not in name or name in columns})
        yield from parquet_rows(parquet, columns)


def _line_rows(source: Source, columns: Sequence[str], required: Required, seen: Columns) -> Iterator[RawRow]:
    """One text a line, blank ones too: its row (from 0) as ``id`` and the line as ``text``.

    Errors: UserError where each has something before it.
    """
    check_texts_alone(source)
    for number, line in read_lines(source):
        yield line_row(number, line)

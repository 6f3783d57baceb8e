"""Streams of rows from a source: one reader for each format.

Comes in: a Source, the columns that are wanted, and those that must be there. Goes out: RawRow after RawRow, in the
order of the file; blank lines of JSON lines and CSV are no rows.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ezxmc_ray.documents.sources import (
    MAX_LINE_BYTES,
    RawRow,
    Required,
    Source,
    bad_line,
    check_columns,
    read_lines,
    snippet,
    unreadable,
)
from ezxmc_ray.errors import UserError

_BATCH_ROWS = 1024
_MAX_COLUMNS_SHOWN = 100
_BAD_TEXT = object()
_Item = TypeVar("_Item")


def read_rows(source: Source, columns: Sequence[str], required: Required) -> Iterator[RawRow]:
    """The rows of ``source``; ``columns`` are the ones of interest (a Parquet file's others are not read).

    Errors: UserError if the file cannot be read to its end, or if it has none of a group of ``required`` columns.
    """
    readers = {"jsonl": _json_rows, "csv": _csv_rows, "parquet": _parquet_rows, "lines": _text_rows}
    try:
        yield from readers[source.format](source, columns, required)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(source, error) from error


def sample_rows(
    source: Source, columns: Sequence[str], required: Required, size: int, most: int
) -> tuple[int, list[RawRow]]:
    """How many of the first ``most`` rows there are, and ``size`` to twice ``size`` of them from all over (or all).

    Every row of a text file is read, and the sampled ones parsed; of a Parquet file, row groups at even distances.
    """
    if source.format == "parquet":
        return _parquet_sample(source, columns, required, size, most)
    try:
        if source.format == "csv":  # a row may span lines
            return _spread(read_rows(source, columns, required), size, most)
        parse = _json_row if source.format == "jsonl" else _line_row
        lines = ((number, line) for number, line in read_lines(source) if line is None or line.strip())
        count, sampled = _spread(lines, size, most)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(source, error) from error
    return count, [parse(number, line) for number, line in sampled]


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


def _parquet_sample(
    source: Source, columns: Sequence[str], required: Required, size: int, most: int
) -> tuple[int, list[RawRow]]:
    try:
        with source.filesystem.open_input_file(source.path) as file:
            parquet = pq.ParquetFile(file)
            check_columns(source, parquet.schema_arrow.names, required)
            wanted = [name for name in dict.fromkeys(columns) if name in parquet.schema_arrow.names]
            groups = range(0, parquet.num_row_groups, max(1, parquet.num_row_groups // 10))
            each, rows = -(-size // max(1, len(groups))), list[RawRow]()
            for group in groups:
                for batch in itertools.islice(parquet.iter_batches(each, row_groups=[group], columns=wanted), 1):
                    fields = zip(*map(_python_values, batch.columns), strict=True)
                    rows += [RawRow(0, dict(zip(batch.schema.names, one, strict=True))) for one in fields]
            return min(parquet.metadata.num_rows, most), rows
    except (OSError, pa.ArrowException) as error:
        raise unreadable(source, error) from error


def column_values(source: Source, column: str, most: int) -> Iterator[Any]:
    """The first ``most`` values of a column of a Parquet file; none if it has no such column."""
    with source.filesystem.open_input_file(source.path) as file:
        parquet = pq.ParquetFile(file, buffer_size=1 << 20)
        batches = parquet.iter_batches(columns=[column]) if column in parquet.schema_arrow.names else iter(())
        yield from itertools.islice((value for batch in batches for value in _python_values(batch.column(0))), most)


def _json_rows(source: Source, columns: Sequence[str], required: Required) -> Iterator[RawRow]:
    missing, seen = list(required), dict[str, None]()
    for number, line in read_lines(source):
        if line is not None and not line.strip():
            continue
        row = _json_row(number, line)
        if row.values is not None and (missing or not seen):
            missing = [one for one in missing if not any(name in row.values for name in one[1])]
            if len(seen) < _MAX_COLUMNS_SHOWN:
                seen.update(dict.fromkeys(row.values))
        yield row
    if seen:
        check_columns(source, seen, missing)


def _json_row(number: int, line: bytes | None) -> RawRow:
    if line is None:
        return bad_line(number, line)
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return bad_line(number, line, error)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        return RawRow(number, None, f"broken JSON: {error.msg} at column {error.colno}", snippet(text))
    except RecursionError:
        return RawRow(number, None, "broken JSON: nested too deeply", snippet(text))
    except ValueError:  # int() takes 4,300 digits
        return RawRow(number, None, "broken JSON: a number is too long", snippet(text))
    if not isinstance(values, dict):
        return RawRow(number, None, f"not a JSON object: {type(values).__name__}, one object a line", snippet(text))
    return RawRow(number, values)


class _CsvLines:
    """Decoded lines for csv.reader; ``fault`` is the last line that was not fit for it."""

    def __init__(self, source: Source) -> None:
        self._lines = read_lines(source)
        self.fault = RawRow(0, None)
        self.current = ""

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        try:
            self.current = "\n" if line is None else line.decode("utf-8")
            if line is None:
                self.fault = bad_line(number, None)
        except UnicodeDecodeError as error:
            self.fault = bad_line(number, line, error)
            assert line is not None
            self.current = line.decode("utf-8", "replace")
        return self.current


def _csv_rows(source: Source, columns: Sequence[str], required: Required) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _CsvLines(source)
    reader = csv.reader(lines, strict=True)
    header = _csv_header(source, reader, lines)
    if not header:
        return
    check_columns(source, header, required)
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield RawRow(first, None, f"broken CSV: {error}", snippet(lines.current))
            continue
        if fields is None:
            return
        if not fields:
            continue
        if lines.fault.line >= first:
            yield lines.fault
        elif len(fields) != len(header):
            reason = f"ragged CSV row: {len(fields)} fields, the header has {len(header)}"
            yield RawRow(first, None, reason, snippet(",".join(fields)))
        else:
            yield RawRow(first, dict(zip(header, fields, strict=True)))


def _csv_header(source: Source, reader: Iterator[list[str]], lines: _CsvLines) -> list[str]:
    """The first row that is not blank; [] if there is none."""
    try:
        header = next((row for row in reader if row), [])
    except csv.Error as error:
        raise UserError(
            f"The header of {source.name} is broken CSV: {error}; write the columns' names there."
        ) from error
    if lines.fault.line:
        raise UserError(f"The header of {source.name} is not valid UTF-8; save the file as UTF-8.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"The header of {source.name} names {twice[0]!r} twice; give each column a name of its own.")
    return header


def _parquet_rows(source: Source, columns: Sequence[str], required: Required) -> Iterator[RawRow]:
    with source.filesystem.open_input_file(source.path) as file:
        parquet = pq.ParquetFile(file, buffer_size=1 << 20)
        names = parquet.schema_arrow.names
        check_columns(source, names, required)
        line = 0
        wanted = [name for name in dict.fromkeys(columns) if name in names]
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            lists = [_python_values(column) for column in batch.columns]
            for fields in zip(*lists, strict=True):
                line += 1
                values = dict(zip(batch.schema.names, fields, strict=True))
                bad = [name for name, value in values.items() if value is _BAD_TEXT]
                if bad:
                    shown = {name: value for name, value in values.items() if value is not _BAD_TEXT}
                    yield RawRow(line, None, f"invalid UTF-8: column {bad[0]!r}", RawRow(line, shown).content())
                else:
                    yield RawRow(line, values)


def _python_values(column: pa.Array) -> list[Any]:
    """Python values; bytes are read as UTF-8, and what is not UTF-8 is _BAD_TEXT."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except UnicodeDecodeError:
            pass
    return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        plain = value.as_py()
        return plain.decode("utf-8") if isinstance(plain, bytes) else plain
    except UnicodeDecodeError:
        return _BAD_TEXT


def _text_rows(source: Source, columns: Sequence[str], required: Required) -> Iterator[RawRow]:
    """One text a line, blank ones too: its row (from 0) as ``id`` and the line as ``text``."""
    for number, line in read_lines(source):
        yield _line_row(number, line)


def _line_row(number: int, line: bytes | None) -> RawRow:
    try:
        return bad_line(number, None) if line is None else _text_row(number, line)
    except UnicodeDecodeError as error:
        return bad_line(number, line, error)


def _text_row(number: int, line: bytes) -> RawRow:
    return RawRow(number, {"id": str(number - 1), "text": line.decode("utf-8").rstrip("\r\n")})

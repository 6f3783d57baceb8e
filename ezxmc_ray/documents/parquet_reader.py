"""Parquet: rows in batches of the columns that are wanted; a dotted name is a field of a column of structs, or of
lists of them.

Comes in: a Source and columns. Goes out: RawRow after RawRow. Bytes are read as UTF-8, wherever they lie in a value.
What no Python value can hold (a date in the year 300,000) is a bad row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ezxmc_ray.documents.sources import RawRow, Source
from ezxmc_ray.documents.values import field_at
from ezxmc_ray.errors import UserError

_BATCH_ROWS = 1024
_BAD_TEXT, _BAD_VALUE = object(), object()
_REASONS = {id(_BAD_TEXT): "invalid UTF-8: column {!r}", id(_BAD_VALUE): "bad value: column {!r} is out of range"}


def parquet_columns(source: Source, schema: pa.Schema) -> list[str]:
    """The columns, and the dotted paths of the fields of structs. UserError for a name that two columns have."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{source.name} has two columns {twice!r}; give each column a name of its own.")
    return _columns(schema)


def parquet_rows(parquet: pq.ParquetFile, columns: Sequence[str]) -> Iterator[RawRow]:
    """The rows of an open file, counted from 1; of its columns those in ``columns``."""
    line = 0
    wanted = _wanted(parquet, columns)
    for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=_roots(parquet, wanted)):
        yield from _rows_of(batch, wanted, line)
        line += batch.num_rows


def parquet_sample(parquet: pq.ParquetFile, columns: Sequence[str], size: int) -> list[RawRow]:
    """About ``size`` rows (or all) from row groups at even distances; their lines are not those of the file."""
    wanted = _wanted(parquet, columns)
    groups = range(0, parquet.num_row_groups, max(1, parquet.num_row_groups // 10))
    each, rows = -(-size // max(1, len(groups))), list[RawRow]()
    for group in groups:
        batches = parquet.iter_batches(each, row_groups=[group], columns=_roots(parquet, wanted))
        rows += [row for batch in itertools.islice(batches, 1) for row in _rows_of(batch, wanted, 0)]
    return rows


def column_values(source: Source, column: str, most: int) -> Iterator[Any]:
    """The first ``most`` values of a column of a Parquet file; none if it has no such column."""
    with source.filesystem.open_input_file(source.path) as file:
        parquet = pq.ParquetFile(file, buffer_size=1 << 20, page_checksum_verification=True)
        wanted = _wanted(parquet, [column])
        batches = parquet.iter_batches(columns=_roots(parquet, wanted)) if wanted else iter(())
        yield from itertools.islice((value for batch in batches for value in _named(batch, column)), most)


def _columns(schema: pa.Schema) -> list[str]:
    return [path for field in schema for path in _paths(field.name, field.type) if path]


def _paths(name: str, kind: pa.DataType) -> Iterator[str]:
    yield name
    while _is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _paths(f"{name}.{field.name}", field.type)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _wanted(parquet: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
    """Those of ``columns`` that the file has, each once."""
    there = set(_columns(parquet.schema_arrow))
    return [name for name in dict.fromkeys(columns) if name and name in there]


def _roots(parquet: pq.ParquetFile, names: Sequence[str]) -> list[str]:
    """The columns in which ``names`` are."""
    return [_root(parquet.schema_arrow, name) for name in names]


def _root(schema: pa.Schema, name: str) -> str:
    return name if name in schema.names else next(one for one in schema.names if name.startswith(f"{one}."))


def _rows_of(batch: pa.RecordBatch, names: list[str], before: int) -> Iterator[RawRow]:
    lists = [_named(batch, name) for name in names]
    for line, fields in enumerate(zip(*lists, strict=True) if names else [()] * batch.num_rows, before + 1):
        values = dict(zip(names, fields, strict=True))
        bad = [(name, _REASONS[id(value)]) for name, value in values.items() if id(value) in _REASONS]
        if bad:
            shown = {name: value for name, value in values.items() if id(value) not in _REASONS}
            yield RawRow(line, None, bad[0][1].format(bad[0][0]), RawRow(line, shown).content())
        else:
            yield RawRow(line, values)


def _named(batch: pa.RecordBatch, name: str) -> list[Any]:
    """The values of a column, or of a field by its path, as :func:`_values` gives them."""
    root = _root(batch.schema, name)
    column, path = batch.column(root), name[len(root) + 1 :].split(".") if name != root else []
    while path and pa.types.is_struct(column.type):
        column = pc.struct_field(column, path.pop(0))
    kind = _along(column.type, path) if path else None
    values = _values(column if kind is None else column.cast(kind))
    return [one if id(one) in _REASONS else field_at(one, path) for one in values] if path else values


def _along(kind: pa.DataType, path: Sequence[str]) -> pa.DataType | None:
    """``kind``, lists or structs, without the fields that are not on ``path``: what they hold is nobody's matter.

    None where a part of ``path`` is not the name of one field: then the values are read as they are.
    """
    if not path:
        return kind
    if pa.types.is_struct(kind):
        number = kind.get_field_index(path[0])  # -1: none has the name, or two have it
        inner = _along(kind.field(number).type, path[1:]) if number >= 0 else None
        return None if inner is None else pa.struct([kind.field(number).with_type(inner)])
    item_kind = _along(kind.value_type, path)
    if item_kind is None:
        return None
    item = kind.value_field.with_type(item_kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(item, kind.list_size)
    return pa.large_list(item) if pa.types.is_large_list(kind) else pa.list_(item)


def _values(column: pa.Array) -> list[Any]:
    """Python values, with _BAD_TEXT and _BAD_VALUE where there is none."""
    if not _has_bytes(column.type):
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except (UnicodeDecodeError, ValueError, OverflowError, ArithmeticError, pa.ArrowException):
            pass
    return [_value(value) for value in column]


def _has_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _has_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in tests)


def _value(value: pa.Scalar) -> Any:
    try:
        return _decoded(value.as_py())
    except UnicodeDecodeError:
        return _BAD_TEXT
    except (ValueError, OverflowError, ArithmeticError, pa.ArrowException):
        return _BAD_VALUE


def _decoded(value: Any) -> Any:
    """``value`` with all bytes in it as UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    return {key: _decoded(one) for key, one in value.items()} if isinstance(value, dict) else value

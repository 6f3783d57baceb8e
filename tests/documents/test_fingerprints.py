"""Fingerprints change with every value and with their order, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ezxmc_ray.documents import fingerprints
from ezxmc_ray.documents.fingerprints import combined_fingerprint, table_fingerprint

SCHEMA = pa.schema(
    [("id", pa.string()), ("held_out", pa.bool_()), ("hash", pa.binary(2)), ("gold", pa.list_(pa.int32()))]
)
ROWS: list[tuple[Any, ...]] = [("a", True, b"xx", [1, 2]), ("", False, b"yy", None), ("é\x00", False, b"zz", [])]


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA)


def _fingerprint(table: pa.Table) -> str:
    return table_fingerprint(table, SCHEMA.names)


def test_every_value_and_the_order_count() -> None:
    variants = [ROWS, ROWS[::-1], ROWS[:2]]
    for index, value in [(0, "b"), (1, False), (2, b"xy"), (3, [2, 1]), (3, [1]), (3, None)]:
        first = list(ROWS[0])
        first[index] = value
        variants.append([tuple(first), *ROWS[1:]])
    variants.append([ROWS[0], ("", False, b"yy", []), ROWS[2]])
    variants.append([("", True, b"xx", [1, 2]), ("a", False, b"yy", None), ROWS[2]])
    variants.append([("a", True, b"xx", [1]), ("", False, b"yy", None), ("é\x00", False, b"zz", [2])])
    found = [_fingerprint(_table(rows)) for rows in variants]
    assert len(set(found)) == len(variants)


def test_chunks_and_encodings_do_not_count(tmp_path: Path) -> None:
    table = _table(ROWS)
    pq.write_table(table, tmp_path / "a.parquet", compression="gzip", row_group_size=1, use_dictionary=False)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert _fingerprint(table) == _fingerprint(chunked) == _fingerprint(pq.read_table(tmp_path / "a.parquet"))
    assert _fingerprint(pa.concat_tables([_table(ROWS[:1]), table]).slice(1)) == _fingerprint(table)


TEXTS = {"text": ["é", None, ""], "others": [["b", ""], None, ["ü"]]}


def _columns() -> pa.Table:
    """A column of each kind that has a fingerprint."""
    return pa.table(dict(zip(SCHEMA.names, _table(ROWS).columns, strict=True)) | TEXTS)


class ColumnThatIsNotToBeOneArray:
    """What a fingerprint may know of a column of more than 2 GiB of text: its chunks cannot be combined."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.type, self.chunks = column.type, column.chunks


def test_fingerprints_are_what_they_were_whatever_the_chunks() -> None:
    """Another value for the same content would make every run that there is stale."""
    table = _columns()
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1, 1), table.slice(2)])
    assert [column.num_chunks for column in chunked.columns] == [4] * 6
    for one in (table, chunked):
        assert table_fingerprint(one, table.column_names) == "6b3ff884753246c4cdab054768e03f67"
        assert table_fingerprint(one.slice(0, 0), table.column_names) == "cae66941d9efbd404e4d88758ea67670"
    large = {name: ColumnThatIsNotToBeOneArray(chunked[name]) for name in table.column_names}
    assert table_fingerprint(large, table.column_names) == "6b3ff884753246c4cdab054768e03f67"


def content_by_python(chunk: pa.StringArray) -> bytes:
    """The plain way."""
    return "".join(value for value in chunk.to_pylist() if value is not None).encode()


NULLABLE = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.lists(st.tuples(NULLABLE, st.one_of(st.none(), st.lists(NULLABLE, max_size=3))), max_size=6)),
    cut=st.tuples(st.integers(0, 8), st.integers(0, 12)),
    has_hidden_values=st.booleans(),
)
def test_texts_count_as_the_plain_way_has_them(
    chunks: list[list[tuple[Any, Any]]], cut: tuple[int, int], has_hidden_values: bool
) -> None:
    schema = pa.schema([("text", pa.string()), ("others", pa.list_(pa.string()))])
    tables = [pa.table([[row[n] for row in rows] for n in (0, 1)], schema=schema) for rows in chunks]
    table = pa.concat_tables([schema.empty_table(), *tables]).slice(*cut)
    if has_hidden_values:  # nulls under which bytes lie
        table = table.set_column(
            0, "text", pa.chunked_array(map(with_hidden_values, table["text"].chunks), pa.string())
        )
    found = table_fingerprint(table, schema.names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "_text_bytes", content_by_python)
        assert table_fingerprint(table, schema.names) == found
    assert table_fingerprint(table.combine_chunks(), schema.names) == found


def with_hidden_values(chunk: pa.StringArray) -> pa.StringArray:
    """The same values, and bytes of no value where the nulls are."""
    full = chunk.fill_null("hidden")
    mask = pa.array(chunk.is_valid().to_pylist(), pa.bool_())
    return pa.Array.from_buffers(pa.string(), len(full), [mask.buffers()[1], *full.buffers()[1:]], offset=full.offset)


def test_the_order_of_parts_counts() -> None:
    assert combined_fingerprint(["a", "b"]) != combined_fingerprint(["b", "a"])
    assert combined_fingerprint(["a"]) != combined_fingerprint([])

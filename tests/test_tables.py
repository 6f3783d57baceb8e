"""What tables.py does beside the schemas, against pyarrow's own on tables small enough for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from ezxmc_ray.tables import open_parquet, read_parquet, rows_of

TABLE = pa.table({"text": pa.chunked_array([["a", None], ["c"], ["d", "e"]]), "number": range(5)})


@pytest.mark.parametrize("rows", [[], [0, 1, 2, 3, 4], [1, 3], [4, 0, 2], [2, 2, 0, 2]])
def test_rows_are_those_that_take_gives(rows: list[int]) -> None:
    found = rows_of(TABLE, np.array(rows, np.int32))
    assert found.to_pylist() == TABLE.take(pa.array(rows, pa.int32())).to_pylist()


def test_rows_of_texts_beyond_two_gib() -> None:
    """Four times the same chunk, so that the texts are in memory once; a few short rows are taken."""
    chunk = pa.array(["x" * (1 << 27)] * 5 + ["short"])
    table = pa.table({"text": pa.chunked_array([chunk] * 4)})
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        table.take(pa.array([5, 11, 23]))
    assert rows_of(table, np.array([5, 11, 23])).to_pydict() == {"text": ["short"] * 3}


@pytest.mark.parametrize("columns", [None, ["c", "a"], []])
def test_a_table_is_read_in_three_requests_and_as_pyarrow_reads_it(tmp_path: Path, columns: list[str] | None) -> None:
    """Requests of an object store, simulated: fsspec's local file system counts them."""
    asked = Counter[str]()

    class Store(LocalFileSystem):
        cachable = False

        def info(self, path: str, **options: Any) -> Any:
            asked["info"] += 1
            return super().info(path, **options)

        def _open(self, *arguments: Any, **options: Any) -> Any:
            asked["open"] += 1
            file = super()._open(*arguments, **options)
            read = file.read
            file.read = lambda *size: asked.update(["read"]) or read(*size)
            return file

    path = str(tmp_path / "t.parquet")
    table = pa.table({"a": [1, 2], "b": ["x", "y"], "c": [[1], []]}).replace_schema_metadata({"k": "v"})
    with open_parquet(path, fs.LocalFileSystem(), table.schema) as writer:
        writer.write_table(table)
    found = read_parquet(path, fs.PyFileSystem(fs.FSSpecHandler(Store())), columns)
    assert found.equals(pq.read_table(path, columns=columns), check_metadata=True)
    assert asked == Counter(open=1, read=1 if columns == [] else 2)
    with pytest.raises(pa.ArrowInvalid, match="no column 'z'"):
        read_parquet(path, fs.LocalFileSystem(), ["a", "z"])


@pytest.mark.parametrize("columns", [None, ["c", "a"]])
def test_lists_that_cannot_be_read_at_once_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: list[str] | None
) -> None:
    """A fake error: pyarrow's comes with more than 2 GiB of texts in lists. (Tried by hand with 3,006 x 1 MiB.)"""

    def fail(*_: Any) -> None:
        raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")

    path, rows = str(tmp_path / "t.parquet"), 3000
    numbers = list(range(rows))
    pq.write_table(pa.table({"a": numbers, "c": [[str(n)] * 2 for n in numbers]}, metadata={"k": "v"}), path)
    monkeypatch.setattr(pq.ParquetFile, "read", fail)
    found = read_parquet(path, fs.LocalFileSystem(), columns)
    monkeypatch.undo()
    assert found["c"].num_chunks == 3
    assert found.equals(pq.read_table(path, columns=columns), check_metadata=True)


def test_rows_in_another_order_are_of_the_type_that_holds_more() -> None:
    """Texts beyond 2 GiB: take makes one array of all that it is asked for. (Tried by hand with 90 x 25 MiB.)"""
    assert rows_of(TABLE, np.array([4, 0])).schema.field("text").type == pa.large_string()

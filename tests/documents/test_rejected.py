"""rejected.parquet: rows of many tables in the order of sources and lines, however much text they hold."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.documents import rejected as module
from ezxmc_ray.documents.rejected import LISTED, REJECTED_PART, merge_rejected
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import REJECTED_SCHEMA

Row = dict[str, Any]


def _tables(rows: list[Row], sizes: list[int]) -> list[pa.Table]:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    parts = [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return [pa.Table.from_pylist(part, schema=REJECTED_PART) for part in parts]


def _rows(count: int) -> list[Row]:
    """In no order; some are of one line, as two reasons may be."""
    random_ = random.Random(0)
    rows = []
    for place in range(count):
        number, reason = random_.randrange(4), random_.choice(["broken JSON: x", "empty document: y", "odd"])
        content = f"{place} é" * random_.randrange(3)
        row = {"line": random_.randrange(15), "reason": reason, "content": content, "number": number}
        rows.append({"source": f"s{number}"} | row)
    return rows


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("last", [None, (2, 7), (0, -1)])
def test_rows_are_in_order_of_source_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: tuple[int, int] | None, at_once: int
) -> None:
    monkeypatch.setattr(module, "_WRITTEN_ROWS", at_once)
    storage, rows = Storage(str(tmp_path)), _rows(100)
    names = [f"{number}.parquet" for number in range(4)]
    for name, table in zip(names, _tables(rows, [40, 0, 1, 59]), strict=True):
        storage.write_table(name, table)
    told = merge_rejected(storage, names, last)
    expected = sorted(rows, key=lambda row: (row["number"], row["line"]))  # stable
    expected = [row for row in expected if last is None or (row["number"], row["line"]) <= last]
    found = storage.read_table("rejected.parquet")
    assert found.schema.equals(REJECTED_SCHEMA)
    assert found.to_pylist() == [{name: row[name] for name in REJECTED_SCHEMA.names} for row in expected]
    assert (told.rows, told.sources) == (len(expected), len({row["number"] for row in expected}))
    reasons = [row["reason"].partition(": ")[0] for row in expected]
    assert told.by_reason == {one: reasons.count(one) for one in sorted(set(reasons))}
    assert told.first == [f"{row['source']}:{row['line']}: {row['reason']}" for row in expected[:LISTED]]


def test_no_table_is_an_empty_file(tmp_path: Path) -> None:
    told = merge_rejected(Storage(str(tmp_path)), [], None)
    assert (told.rows, told.sources, told.by_reason, told.first) == (0, 0, {}, [])
    assert Storage(str(tmp_path)).read_table("rejected.parquet", REJECTED_SCHEMA).num_rows == 0


class StorageOfPartsThatShareOneText(Storage):
    """Reads tables whose contents are one text of 64 MiB in memory, and more than 2 GiB in all."""

    def read_table(self, relative: str, schema: pa.Schema | None = None, columns: Any = None) -> pa.Table:
        text = pa.array(["x" * (64 << 20)])
        row = {"source": "s", "line": 100, "reason": "odd", "content": "", "number": 0}
        table = pa.Table.from_pylist([row], schema=REJECTED_PART).set_column(3, REJECTED_PART.field("content"), text)
        first = pa.Table.from_pylist([row | {"line": 3}, row | {"line": 1}], schema=REJECTED_PART)
        return pa.concat_tables([table] * 40 + [first])


def test_rows_of_more_text_than_an_array_holds_are_ordered(tmp_path: Path) -> None:
    storage = StorageOfPartsThatShareOneText(str(tmp_path))
    assert merge_rejected(storage, ["a.parquet"], (0, 3)).rows == 2
    assert Storage(str(tmp_path)).read_table("rejected.parquet")["line"].to_pylist() == [1, 3]

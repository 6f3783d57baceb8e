"""Rows of one document are united, however many there are: in blocks of any size as a plain loop over all rows does."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from ezxmc_ray.documents import unite as module
from ezxmc_ray.documents.parts import PART, Part
from ezxmc_ray.documents.unite import unite
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import content_hash


class Row(NamedTuple):
    id: int
    text: str
    split: str
    gold: list[int] | None
    unknown: int


def _rows(seed: int) -> list[Row]:
    """Rows of few ids, so that most repeat: one id has a third of them, some have another text or split."""
    random_ = random.Random(seed)
    rows = []
    for _ in range(300):
        number = 7 if random_.random() < 0.3 else random_.randrange(40)
        text = "another" if random_.random() < 0.1 else "text"
        split = "test" if random_.random() < 0.1 else "train"
        gold = None if random_.random() < 0.1 else sorted(random_.sample(range(30), random_.randrange(4)))
        rows.append(Row(number, text, split, gold, int(random_.random() < 0.2)))
    return rows


def _expected(rows: list[Row]) -> tuple[list[tuple[list[int] | None, int]], list[bool]]:
    """Row after row: gold labels and unknown ones of all rows, and whether each repeated one brought something."""
    said = [(row.gold, row.unknown) for row in rows]
    first: dict[int, int] = {}
    brought = []
    for number, row in enumerate(rows):
        original = first.setdefault(row.id, number)
        if original == number:
            continue
        known, left_out = said[original]
        same = rows[original][1:3] == row[1:3] and known is not None and row.gold is not None
        brought.append(bool(same and (row.unknown or set(row.gold or []) - set(known or []))))
        if brought[-1]:
            said[original] = sorted({*(known or []), *(row.gold or [])}), left_out + row.unknown
    return said, brought


def _write(storage: Storage, rows: list[Row]) -> list[Part]:
    """Part files of 1 to 40 rows."""
    random_, parts, start = random.Random(1), list[Part](), 0
    while start < len(rows):
        some = rows[start : start + random_.randrange(1, 40)]
        columns: dict[str, Any] = {
            "content_hash": [content_hash("", row.text) for row in some],
            "split": [row.split for row in some],
            "gold": [row.gold for row in some],
            "unknown_gold": [row.unknown for row in some],
        }
        arrays = [pa.array(columns.get(one.name, [None] * len(some)), one.type) for one in PART]
        parts.append(Part(f"part-{len(parts)}.parquet", 0, "s", len(some), 0))
        storage.write_table(parts[-1].path, pa.table(arrays, schema=PART))
        start += len(some)
    return parts


def _repeated(rows: list[Row]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    ids = [row.id for row in rows]
    repeated = [number for number, one in enumerate(ids) if ids.index(one) < number]
    return np.array(repeated, np.int64), np.array([ids.index(ids[number]) for number in repeated], np.int64)


@pytest.mark.parametrize("most", [1, 2, 7, 60, 10**6])
@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_of_any_size_unite_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, most: int
) -> None:
    rows, storage = _rows(seed), Storage(str(tmp_path))
    parts = _write(storage, rows)
    written, held = Counter[str](), list[int]()
    write, read = Storage.write_table, module._read
    monkeypatch.setattr(module, "MAX_ROWS", most)
    monkeypatch.setattr(Storage, "write_table", lambda self, name, *a: written.update([name]) or write(self, name, *a))
    monkeypatch.setattr(module, "_read", lambda *words: held.append(len(words[-1])) or read(*words))
    found = unite(storage, parts, *_repeated(rows))
    said, brought = _expected(rows)
    assert found.tolist() == brought and 0 < sum(brought) < len(brought)
    tables = [storage.read_table(part.path, PART) for part in parts]
    both = [zip(table["gold"].to_pylist(), table["unknown_gold"].to_pylist(), strict=True) for table in tables]
    assert [one for some in both for one in some] == said
    assert max(held) <= 2 * most  # a first row for each at most
    assert set(written.values()) == {1}
    starts = np.cumsum([0, *(part.rows for part in parts)])
    changed = [number for number, row in enumerate(rows) if said[number] != (row.gold, row.unknown)]
    assert set(written) == {parts[one].path for one in np.searchsorted(starts, changed, side="right") - 1}


def test_nothing_repeated_is_nothing_to_do(tmp_path: Path) -> None:
    none = np.empty(0, np.int64)
    assert unite(Storage(str(tmp_path)), [], none, none).tolist() == []

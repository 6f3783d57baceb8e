"""Files that a killed stage has made are looked at before the others are given out. Without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.cluster import pools
from ezxmc_ray.prefetch import REQUESTS_AT_ONCE
from ezxmc_ray.storage import Storage


def test_the_footers_of_what_is_there_are_read_side_by_side_and_the_rest_is_made_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, asked = Storage(str(tmp_path)), Barrier(REQUESTS_AT_ONCE)
    items = [{"file": f"a/{number:02}.parquet", "n": number} for number in range(2 * REQUESTS_AT_ONCE + 2)]
    for item in items[1:-1]:
        counts = {"n": item["n"]} if item["n"] != 5 else None
        storage.write_table(item["file"], pa.table({"x": [1]}), counts)
    read_counts = Storage.read_counts

    def together(self: Storage, file: str) -> dict[str, int]:
        asked.wait(60)  # for as many as are read at once
        return read_counts(self, file)

    def made(missing: list[dict[str, Any]], *_: Any) -> Iterator[dict[str, int]]:
        yield from ({"made": item["n"]} for item in missing)

    monkeypatch.setattr(Storage, "read_counts", together)
    monkeypatch.setattr(pools, "map_items", made)
    done = list(pools.map_files(storage, items, object, (), pools.Pool(1, 1)))
    held = [{"n": item["n"], pools.HELD: 1} for item in items[1:-1] if item["n"] != 5]
    assert done == [*held, {"made": 0}, {"made": 5}, {"made": items[-1]["n"]}]
    assert "It is made anew: " in capsys.readouterr().out

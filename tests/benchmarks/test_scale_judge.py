"""benchmarks/scale_bench/judge.py on a few documents: the stage's worker, a simulated engine, a simulated store."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest

from ezxmc_ray.storage import Storage
from scale_bench import judge
from scale_bench.slow_storage import SimulatedObjectStore

TEXTS = [{"title": f"title {n}", "text": f"one half {n} and the other half {n}"} for n in range(40)]


def test_every_request_of_the_simulated_store_waits_and_is_counted(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    began = time.perf_counter()
    for put_requests in (1, 3):
        storage = SimulatedObjectStore(str(tmp_path), 0.01, put_requests)
        storage.write_table("b/c.parquet", table)
        assert dict(storage.requests) == {("put", f"{tmp_path}/b/c.parquet"): put_requests}
    assert storage.read_table("b/c.parquet") == table == Storage(str(tmp_path)).read_table("b/c.parquet")
    kinds = [kind for kind, _ in storage.requests]
    assert {"head", "get"} < set(kinds)
    storage.requests.clear()
    assert not storage.exists("nothing") and storage.list("b") == ["b/c.parquet"]
    assert list(storage.requests.values()) == [2, 1]
    assert time.perf_counter() - began > 0.01 * (4 + 2 + 3)


def test_all_pairs_are_judged_and_a_shard_is_a_file_and_a_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "SHARD_ROWS", 80)
    monkeypatch.setattr(judge, "LABELS", 60)
    judge.make_run(Storage(str(tmp_path)), 2, TEXTS, [f"label {n}" for n in range(12)])
    row = judge.measure(SimulatedObjectStore(str(tmp_path), 0.001), 2, 20_000, slow_motion=2)
    # Ten labels by chance: few documents have one twice, and few documents are alike.
    assert 0.85 * 1600 < row["pairs"] <= 1600
    assert (row["files a shard"], row["put requests a shard"]) == (1, 1)
    assert row["requests of the verdict store a shard"] == 2  # what is there is listed, what is new is put
    assert 0 < row["ideal_over_real"] <= row["engine_busy"] <= 1
    assert row["seconds from first step to last"] > row["pairs"] / 10_000

"""Verdicts that are written in a thread: when, in how many files, and what an error of the thread does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import content_hash
from ezxmc_ray.teacher.engine import BatchPrompts, JudgedBatch, PairPrompt
from ezxmc_ray.verdicts.store import VerdictStore
from ezxmc_ray.verdicts.writer import VerdictWriter

HERE, THERE = "shard-00000", "shard-00001"


def judged(*documents: int) -> JudgedBatch:
    """Two pairs a document, whose score is the document's number."""
    pairs = [
        PairPrompt(content_hash("", str(number)), content_hash("", f"label {label}"), [1] * 5, 3, 5, False)
        for number in documents
        for label in range(2)
    ]
    raw = np.repeat(np.array(documents, np.float32), 2)
    return JudgedBatch(BatchPrompts(pairs, 0, 0), raw, computed_tokens=7, seconds=0.25)


def raw_in(store: VerdictStore, folder: str) -> list[float]:
    return sorted(store.read(folder)["raw"].to_pylist())


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(Storage(str(tmp_path)), "key")


def test_a_folders_batches_become_one_file_when_that_is_asked_for(store: VerdictStore) -> None:
    writer = VerdictWriter(store)
    for number in range(10):
        writer.add(HERE, judged(number))
        writer.add(THERE, judged(100 + number))
    writer.flush(HERE).result(10)
    assert (len(store.files(HERE)), store.files(THERE)) == (1, [])
    assert raw_in(store, HERE) == [float(number) for number in range(10) for _ in range(2)]
    assert store.counts(HERE) == {"computed_tokens": 70, "engine_ms": 2500}
    assert store.read(HERE)["prompt_tokens"].to_pylist() == [5] * 20
    writer.close(10)
    assert len(store.files(THERE)) == 1 and len(store.read(THERE)) == 20


def test_what_waits_is_committed_by_seconds_and_by_size(store: VerdictStore) -> None:
    writer = VerdictWriter(store, flush_s=0.2, max_rows=1000)
    began = time.monotonic()
    writer.add(HERE, judged(1))
    while not store.files(HERE):
        assert time.monotonic() < began + 10
        time.sleep(0.01)
    assert time.monotonic() >= began + 0.2
    writer = VerdictWriter(store, max_rows=6)
    for number in range(8):
        writer.add(THERE, judged(number))
    writer.flush("another").result(10)  # when it is done, what came before is
    assert len(store.files(THERE)) == 2 and len(store.read(THERE)) == 12


class SlowStore(VerdictStore):
    """Simulates a slow disk, or one that is full."""

    def __init__(self, storage: Storage, seconds: float, error: Exception | None = None) -> None:
        super().__init__(storage, "key")
        self.seconds, self.error, self.appended = seconds, error, 0

    def append(self, folder: str, table: pa.Table, counts: Any = None) -> str:
        time.sleep(self.seconds)
        self.appended += 1
        if self.error:
            raise self.error
        return super().append(folder, table, counts)


def test_adding_waits_for_no_disk(tmp_path: Path) -> None:
    store = SlowStore(Storage(str(tmp_path)), 0.3)
    writer = VerdictWriter(store, max_rows=2)
    began = time.monotonic()
    for number in range(3):
        writer.add(HERE, judged(number))
    assert time.monotonic() < began + 0.25
    writer.close(10)
    assert len(store.read(HERE)) == 6


def test_an_error_of_the_thread_reaches_who_adds_and_who_flushes(tmp_path: Path) -> None:
    store = SlowStore(Storage(str(tmp_path)), 0, UserError("the disk is full"))
    writer = VerdictWriter(store)
    writer.add(HERE, judged(1))
    with pytest.raises(UserError, match="the disk is full"):
        writer.flush(HERE).result(10)
    with pytest.raises(UserError, match="the disk is full"):
        writer.add(HERE, judged(2))
    with pytest.raises(UserError, match="the disk is full"):
        writer.close(10)
    assert store.appended == 1

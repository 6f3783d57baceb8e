"""The actor of stage judge, in this process, with a simulated engine: order, commits, errors, the end by SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ezxmc_ray import layout
from ezxmc_ray.cluster.pools import ENGINE_IN_FLIGHT, WorkItem
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import judge_worker
from ezxmc_ray.stages.judge_worker import PAIRS, JudgeWorker
from ezxmc_ray.teacher.engine import BatchPrompts, DocumentPairs, JudgedBatch, PairPrompt
from ezxmc_ray.verdicts.store import VerdictStore
from tests.verdicts.conftest import make_run
from tests.verdicts.judged_run import KEY, LABELS, Run, names, score

__all__ = ["make_run"]  # a fixture
PAIRS_PER_DOCUMENT = LABELS - 1


class SimulatedEngine:
    """Judges as tests/verdicts/judged_run.py does, a batch at a time. ``log``: "judged" and "idle", in their order."""

    def __init__(self, fail_after: int = 1 << 30) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self.fail_after, self.may_go_on, self.idle = fail_after, threading.Event(), 0
        self.may_go_on.set()

    def prompts(self, batch: Sequence[DocumentPairs]) -> BatchPrompts:
        pairs = [(document.document_hash, label) for document in batch for label in document.label_hashes]
        return BatchPrompts([PairPrompt(*pair, [0] * 9, 3, 5, False) for pair in pairs], 0, 0)

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        held: list[BatchPrompts] = []
        for prompts in coming:
            held += [prompts] if prompts else []
            self.idle += prompts is None
            if prompts is None or len(held) > 1:
                yield self.judged(held.pop(0))

    def judged(self, prompts: BatchPrompts) -> JudgedBatch:
        self.may_go_on.wait(20)
        pairs = [(pair.document_hash, pair.label_hash) for pair in prompts.pairs]
        self.asked += pairs
        if len(self.asked) > self.fail_after:
            raise UserError("the teacher gave no finite score")
        return JudgedBatch(prompts, np.array([score(*pair) for pair in pairs], np.float32), 1, 0.001)


Maker = Callable[..., tuple[Run, SimulatedEngine, JudgeWorker]]


@pytest.fixture
def make_worker(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    """``make_worker(texts, engine)``: a run with these documents, and a worker on it; batches of two documents."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(judge_worker, "start_watchdog", lambda: None)

    def make(texts: list[str], engine: SimulatedEngine | None = None) -> tuple[Run, SimulatedEngine, JudgeWorker]:
        run, used = make_run(texts), engine or SimulatedEngine()
        monkeypatch.setattr(judge_worker, "start_engine", lambda config: used)
        config = TeacherConfig(dtype="float32", batch_documents=2)
        return run, used, JudgeWorker(run.storage, config, KEY, 0)

    yield make
    signal.signal(signal.SIGTERM, before)


def items_of(run: Run, size: int = 2) -> list[WorkItem]:
    return [
        WorkItem(kind=PAIRS, shard=shard, start=start, stop=start + size)
        for shard in range(run.context.shards)
        for start in range(0, 4, size)
    ]


def do_all(worker: JudgeWorker, items: list[WorkItem]) -> list[dict[str, Any]]:
    """As Ray does: several items at once, each in a thread."""
    with ThreadPoolExecutor(ENGINE_IN_FLIGHT) as threads:
        return list(threads.map(worker, items))


def test_every_pair_is_asked_once_and_committed_when_its_item_is_done(make_worker: Maker) -> None:
    # Two documents alike in one shard, in two items: no pair of theirs is asked twice.
    texts = [*names(*range(11)), "text 9"]
    run, engine, worker = make_worker(texts)
    items = items_of(run)
    done = do_all(worker, items)
    assert run.pending() == 0
    run.check_scores()
    assert len(engine.asked) == len(set(engine.asked)) == 11 * PAIRS_PER_DOCUMENT
    assert [{name: one[name] for name in items[0]} for one in done] == items
    assert sum(one["pairs"] for one in done) == len(engine.asked)
    assert sum(one["prompt_tokens"] for one in done) == 9 * len(engine.asked)
    assert [one["start_seconds"] > 0 for one in done].count(True) == 1
    stored = [len(run.store().read(layout.shard_name(shard))) for shard in range(3)]
    assert sum(stored) == len(engine.asked)
    rows = sum(run.storage.rows(name) for shard in range(3) for name in run.store().files(layout.shard_name(shard)))
    assert rows == len(engine.asked)  # no pair is in two files
    again = do_all(worker, items)  # given out again, as when an actor has died
    assert sum(one["pairs"] for one in again) == 0 and rows == len(engine.asked)


def test_an_items_verdicts_are_one_file(make_worker: Maker) -> None:
    run, _, worker = make_worker(names(*range(8)))
    do_all(worker, items_of(run, size=4))
    assert [len(run.store().files(layout.shard_name(shard))) for shard in range(2)] == [1, 1]


def test_the_next_item_is_in_the_engines_hands_before_this_one_is_done(make_worker: Maker) -> None:
    run, engine, worker = make_worker(names(*range(16)))
    engine.may_go_on.clear()
    with ThreadPoolExecutor(ENGINE_IN_FLIGHT) as threads:
        waiting = [threads.submit(worker, item) for item in items_of(run, size=4)]
        deadline = time.monotonic() + 10
        while worker._coming.qsize() < judge_worker.BATCHES_AHEAD and time.monotonic() < deadline:
            time.sleep(0.01)
        # Two batches an item: two are in the engine, four wait before it, none is judged.
        assert worker._coming.qsize() == judge_worker.BATCHES_AHEAD and not engine.asked
        engine.may_go_on.set()
        for one in waiting:
            one.result(10)
    assert run.pending() == 0 and engine.idle > 0


@pytest.mark.parametrize("after", [0, 12])
def test_an_error_of_the_engine_ends_every_item_with_its_sentence(make_worker: Maker, after: int) -> None:
    run, _, worker = make_worker(names(*range(12)), SimulatedEngine(fail_after=after))
    for item in items_of(run)[2:]:
        with pytest.raises(UserError, match="no finite score"):
            for one in [item, *items_of(run)]:
                worker(one)


def test_an_error_of_the_writer_ends_every_item_with_its_sentence(
    make_worker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, worker = make_worker(names(*range(12)))

    def full(*arguments: Any) -> str:
        raise UserError("Cannot write: the disk is full")

    monkeypatch.setattr(VerdictStore, "append", full)
    for item in items_of(run)[:2]:
        with pytest.raises(UserError, match="the disk is full"):
            worker(item)


def test_sigterm_writes_what_is_judged(make_worker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, engine, worker = make_worker(names(*range(4)))
    ended = []
    # What stands for the end of the process, which was there before the worker's own handler.
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(number))
    batch = worker._shortlist_pairs.documents(0, 0, 4)
    worker._writer.add("shard-00000", engine.judged(engine.prompts(batch)))
    assert run.pending() == 4 * PAIRS_PER_DOCUMENT
    assert callable(handler)
    handler(signal.SIGTERM, None)
    assert run.pending() == 0 and ended == [signal.SIGTERM]


class EngineDeadError(Exception):
    """Has the name of vLLM's."""


@pytest.mark.parametrize(
    "error",
    [
        EngineDeadError("gone"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
)
def test_a_dead_engine_ends_the_process_when_its_verdicts_are_written(
    make_worker: Maker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class DyingEngine(SimulatedEngine):
        def judged(self, prompts: BatchPrompts) -> JudgedBatch:
            if self.asked:
                raise error
            return super().judged(prompts)

    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set() or threading.Event().wait())
    run, engine, worker = make_worker(names(*range(4)), DyingEngine())
    threading.Thread(target=worker, args=(items_of(run, size=4)[0],), daemon=True).start()
    assert ended.wait(10)
    assert len(run.store().read("shard-00000")) == len(engine.asked) == 2 * PAIRS_PER_DOCUMENT

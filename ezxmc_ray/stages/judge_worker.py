"""The actor of stage ``judge``: one engine that never waits for a table, a prompt or a file.

Items come several at a time (cluster/pools.py), each in a thread of its own that reads its documents, makes its prompts
batch by batch, and waits until its verdicts are committed. The engine works in one thread through all of them, one
after the other, and has the next item's first batch when it is done with the last one of this. A third kind of thread
writes (verdicts/writer.py).
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_item, report_phase, report_start
from ezxmc_ray.cluster.pools import WorkItem
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.hardware import end_process, is_device_fault
from ezxmc_ray.storage import Storage
from ezxmc_ray.teacher.engine import BatchPrompts, DocumentPairs, Engine, JudgedBatch
from ezxmc_ray.teacher.start import start_engine
from ezxmc_ray.verdicts.costs import step_of
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs
from ezxmc_ray.verdicts.store import PRIORS
from ezxmc_ray.verdicts.writer import VerdictWriter
from ezxmc_ray.watchdog import start_watchdog

#: What an item asks for.
PAIRS, LABEL_PRIORS = "pairs", "priors"
#: Batches whose prompts are made before the engine wants them.
BATCHES_AHEAD = 4
#: Seconds between two looks of a waiting item at the engine's health, and two reports of its progress.
LOOK_S = 1.0
#: A thread that wants Python's lock gets it after so many seconds, not after the usual 5 ms: the engine's thread comes
#: back from every step, and others join tokens meanwhile.
SWITCH_S = 0.0005
#: Seconds that what is not written yet may take where the process is told to end, or its engine has died.
LAST_FLUSH_S = 4.0


@dataclass
class Counts:
    """What engines did.

    Pairs judged, prompt tokens, of them computed (the rest came from the cache), cuts; ``seconds`` that the engines
    worked, ``worker_seconds`` that their actors were at it (from the engine's start, or the end of the item before),
    ``start_seconds`` that engines took to start.
    """

    pairs: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    truncated_documents: int = 0
    truncated_labels: int = 0
    seconds: float = 0.0
    worker_seconds: float = 0.0
    start_seconds: float = 0.0

    def add(self, other: dict[str, Any]) -> None:
        """Add another engine's counts, as its actor returns them."""
        for name, value in other.items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class _Work:
    """An item on its way: the store's folder, what was judged so far, and how many batches of it the engine has yet."""

    folder: str
    counts: Counts = field(default_factory=Counts)
    open_batches: int = 0


class JudgeWorker:
    """Actor: one engine, and the verdict store that it appends to. Items may be given in several threads."""

    def __init__(self, storage: Storage, config: TeacherConfig, key: str, cycle: int) -> None:
        report_start()
        self._config = config
        # An engine may start worker processes of its own; they end with this actor, whatever ends it.
        self._watchdog = start_watchdog()
        self._shortlist_pairs = ShortlistPairs(storage, key, cycle)
        self._shortlist_pairs.store.step = step_of(storage, cycle)
        self._writer = VerdictWriter(self._shortlist_pairs.store)
        self._feeding, self._changed = threading.Lock(), threading.Condition()
        self._coming: queue.Queue[tuple[_Work, BatchPrompts]] = queue.Queue(BATCHES_AHEAD)
        self._held: deque[_Work] = deque()
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        sys.setswitchinterval(SWITCH_S)
        report_phase("loading the teacher" if config.enforce_eager else "loading and compiling the teacher")
        started = time.monotonic()
        # The engine lives in the thread that uses it.
        threading.Thread(target=self._run_engine, name="engine", daemon=True).start()
        self._wait(lambda: self._engine is not None)
        report_phase("first batch")
        self._mark = time.monotonic()
        self._start_seconds = self._mark - started
        self._flush_when_told_to_end()

    def __call__(self, item: WorkItem) -> dict[str, Any]:
        """Do one item; returns it with its counts when its verdicts are committed."""
        kind, shard, start, stop = item["kind"], int(item["shard"]), int(item["start"]), int(item["stop"])
        work = _Work(PRIORS if kind == LABEL_PRIORS else layout.shard_name(shard))
        if kind == LABEL_PRIORS:
            documents = self._shortlist_pairs.planned_priors(start, stop)
        else:
            documents = self._shortlist_pairs.documents(shard, start, stop)
        with self._feeding:  # the engine gets one item after the other
            for batch in _batches(documents, self._config.batch_documents):
                self._feed(work, batch)
        self._wait(lambda: not work.open_batches, f"{kind} {shard} {start}", work.counts)
        self._writer.flush(work.folder).result()
        report_item()
        with self._changed:
            counts, work.counts.start_seconds = work.counts, self._start_seconds
            mark, self._mark, self._start_seconds = self._mark, time.monotonic(), 0.0
            counts.worker_seconds = self._mark - mark
        return {**vars(counts), **item}

    def _feed(self, work: _Work, batch: list[DocumentPairs]) -> None:
        """Make a batch's prompts and leave them where the engine's thread finds them."""
        assert self._engine is not None
        prompts = self._engine.prompts(batch)
        with self._changed:
            work.open_batches += 1
        while True:
            self._check()
            try:
                return self._coming.put((work, prompts), timeout=LOOK_S)
            except queue.Full:
                continue

    def _wait(self, condition: Any, told: str = "", counts: Counts | None = None) -> None:
        """Until ``condition()``; what ``counts`` has goes to the board now and then. Errors: the engine's thread's."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._error or condition(), LOOK_S):
                if counts is not None:
                    report_done(told, counts.pairs)
        self._check()

    def _check(self) -> None:
        if self._error:
            raise self._error

    def _run_engine(self) -> None:
        """The engine's thread: its start, and then batch after batch, whichever item they are of."""
        try:
            engine = start_engine(self._config)
            with self._changed:
                self._engine = engine
                self._changed.notify_all()
            for judged in engine.judge_stream(self._next_batches()):
                self._done(self._held.popleft(), judged)
        except BaseException as error:
            if type(error).__name__ == "EngineDeadError" or is_device_fault(error):
                self._end_with_the_engine(error)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _next_batches(self) -> Iterator[BatchPrompts | None]:
        """For the engine: what has come; None where nothing has and it holds work; where it holds none, it waits."""
        while True:
            try:
                work, prompts = self._coming.get(block=not self._held)
            except queue.Empty:
                yield None
            else:
                self._held.append(work)
                yield prompts

    def _done(self, work: _Work, judged: JudgedBatch) -> None:
        self._writer.add(work.folder, judged)
        with self._changed:
            work.counts.add(
                {
                    "pairs": len(judged.raw),
                    "prompt_tokens": judged.prompt_tokens,
                    "computed_tokens": judged.computed_tokens,
                    "truncated_documents": judged.truncated_documents,
                    "truncated_labels": judged.truncated_labels,
                    "seconds": judged.seconds,
                }
            )
            work.open_batches -= 1
            self._changed.notify_all()

    def _end_with_the_engine(self, error: BaseException) -> None:
        """A dead engine does not come back in its process, nor does a GPU that failed under it. Ray replaces an actor
        that ends, and gives its items out again; raising would hand the next item to the same dead engine."""
        try:
            self._writer.close(LAST_FLUSH_S)
        finally:
            end_process(error)

    def _flush_when_told_to_end(self) -> None:
        """On SIGTERM write what is judged, and go on to end as before (Ray makes the actor in its main thread)."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)

        def flush_and_end(number: int, frame: Any) -> None:
            try:
                self._writer.close(LAST_FLUSH_S)
            except Exception as error:
                print(f"verdicts could not be written at the end: {error}", file=sys.stderr, flush=True)
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, flush_and_end)


def _batches(documents: list[DocumentPairs], size: int) -> Iterator[list[DocumentPairs]]:
    for start in range(0, len(documents), size):
        yield documents[start : start + size]

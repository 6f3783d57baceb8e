"""Verdicts are written in a thread, many batches a file, so that no engine waits for a disk or an object store.

Comes in: judged batches with their folder in the verdict store, one after the other. Goes out: files. A folder's
batches are committed as one file when the oldest of them has waited ``FLUSH_S`` seconds, when they are ``MAX_ROWS``
pairs, or when somebody asks for it (:meth:`VerdictWriter.flush`). What a kill loses is asked again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field

import pyarrow as pa

from ezxmc_ray.teacher.engine import JudgedBatch
from ezxmc_ray.verdicts.store import VerdictStore

#: Seconds that a verdict waits for its commit at most, and pairs of a folder that wait together at most.
FLUSH_S, MAX_ROWS = 30.0, 1 << 17
#: Batches that may wait for the thread; where it is that far behind, whoever judges waits too.
MAX_BATCHES = 64


@dataclass
class _Uncommitted:
    """A folder's batches that are not written yet, and when the first of them came."""

    since: float
    batches: list[JudgedBatch] = field(default_factory=list)
    rows: int = 0


class VerdictWriter:
    """Writes to ``store`` in a thread of its own, until :meth:`close`.

    The thread's first error is raised in whoever adds or flushes from then on: nothing is written any more.
    """

    def __init__(self, store: VerdictStore, flush_s: float = FLUSH_S, max_rows: int = MAX_ROWS) -> None:
        self._store, self._flush_s, self._max_rows = store, flush_s, max_rows
        self._orders: queue.Queue[tuple[str | None, JudgedBatch | None, Future[None] | None]] = queue.Queue(MAX_BATCHES)
        self._waiting: dict[str, _Uncommitted] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="verdict-writer", daemon=True)
        self._thread.start()

    def add(self, folder: str, judged: JudgedBatch) -> None:
        """Have a batch written some time; waits where the thread is ``MAX_BATCHES`` behind. Errors: the thread's."""
        if self._error:
            raise self._error
        self._orders.put((folder, judged, None))

    def flush(self, folder: str | None = None) -> Future[None]:
        """Have what was added to ``folder`` (None: to all) written now; the result is there when it is committed."""
        done: Future[None] = Future()
        self._orders.put((folder, None, done))
        return done

    def close(self, timeout_s: float | None = None) -> None:
        """Write what was added. Errors: the thread's; TimeoutError where that takes longer than ``timeout_s``."""
        self.flush().result(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                order = self._orders.get(timeout=self._seconds_left())
            except queue.Empty:
                order = None
            if order is not None:
                self._obey(*order)
            for folder, waiting in list(self._waiting.items()):
                if waiting.rows >= self._max_rows or time.monotonic() - waiting.since >= self._flush_s:
                    self._commit(folder)

    def _obey(self, folder: str | None, judged: JudgedBatch | None, done: Future[None] | None) -> None:
        if judged is not None and folder is not None:
            waiting = self._waiting.setdefault(folder, _Uncommitted(time.monotonic()))
            waiting.batches.append(judged)
            waiting.rows += len(judged.raw)
        if done is not None:
            for name in [folder] if folder is not None else list(self._waiting):
                self._commit(name)
            if self._error:
                done.set_exception(self._error)
            else:
                done.set_result(None)

    def _commit(self, folder: str) -> None:
        waiting = self._waiting.pop(folder, None)
        if waiting is None or self._error:
            return
        cost: Counter[str] = Counter()
        for judged in waiting.batches:
            cost.update(computed_tokens=judged.computed_tokens, engine_ms=round(1000 * judged.seconds))
        try:
            self._store.append(folder, pa.concat_tables([judged.table for judged in waiting.batches]), cost)
        except Exception as error:
            self._error = error

    def _seconds_left(self) -> float | None:
        """Until the oldest batch must be committed; None: none waits."""
        since = min((waiting.since for waiting in self._waiting.values()), default=None)
        return None if since is None else max(0.0, since + self._flush_s - time.monotonic())

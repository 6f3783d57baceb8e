"""Progress of a long stage: what it is doing, how many documents, pairs or steps, at which rate, and the time left.

On a terminal a bar (rich) that says so; elsewhere (a log file, a job's output) a line every ten seconds, after the
first minute every thirty, also when nothing moved. A thread looks once a second. What is done elsewhere, by workers
that tell of it between two results, comes in through a callable (:class:`Seen`): this module knows no Ray. A progress
inside another one takes its place on the screen until it ends.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ezxmc_ray.shown import shown

TICK_S = 1.0
#: Seconds between two lines: in the first minute of a stage, and later.
LINE_EVERY_S, LATER_LINE_EVERY_S, FIRST_MINUTE_S = 10.0, 30.0, 60.0
#: What is over within these seconds needs no line: another phase is told of after them.
SHORT_S = 3.0
#: How a phase begins in which nothing has room: it is told beside the counts too.
WAITING = "waiting for"

console = Console(highlight=False, soft_wrap=True)


#: Those that are shown, each inside the one before.
_open: list[StageProgress] = []
_log = logging.getLogger("ezxmc_ray")


def say(message: str) -> None:
    """Print one line to the user; it is logged as well (logger ``ezxmc_ray``), for a job that keeps a file."""
    message = shown(message)
    console.print(message, markup=False)
    _log.info(message)


@contextmanager
def data_on_stdout(is_data: bool = True) -> Iterator[None]:
    """While the block runs what is told goes to stderr, where ``is_data``: stdout then holds that alone."""
    before, console.stderr = console.stderr, console.stderr or is_data
    try:
        yield
    finally:
        console.stderr = before


def doing(phase: str) -> None:
    """Tell what is being done from now on, in the progress that is shown; nothing where there is none."""
    if _open:
        _open[-1].doing(phase)


@dataclass(frozen=True)
class Seen:
    """What workers told so far: units ``done`` by them, units that were there (``held``), and what they are doing."""

    done: int = 0
    held: int = 0
    phase: str = ""


class StageProgress:
    """Counts ``unit`` of ``total`` (None: not known yet) for the step ``name``; use it as a context manager.

    ``poll``: asked once a second for what workers told; None if that cannot be known now. ``phase``: what is being done
    while nothing is counted. The rate and the time left are of the work: from the first unit that was done here on, and
    without those that an earlier command did.
    """

    def __init__(
        self,
        name: str,
        unit: str = "",
        total: int | None = None,
        phase: str = "starting",
        poll: Callable[[], Seen | None] = Seen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.unit, self.total, self.poll = shown(name), unit, total, poll
        self._clock = clock
        self._begun = self._last_line = self._phase_since = clock()
        self._phase, self._said_phase = phase, ""
        self._own_phase = phase
        self._held = self._advanced = 0
        self._seen = Seen()
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] = (self._begun, 0)
        self._bar: Progress | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """Units that are done, those of an earlier command among them."""
        return self._held + self._seen.held + self._work

    @property
    def _work(self) -> int:
        """Units done by this command: what results said, or what the workers told before, whichever is more."""
        return max(self._advanced, self._seen.done)

    def __enter__(self) -> StageProgress:
        if sys.stdout.isatty():
            columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}")]
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(self.name, total=self.total or None, words=self.words())
        if _open:
            _open[-1]._show(False)
        _open.append(self)
        self._show(True)
        self._thread = threading.Thread(target=self._tick_until_the_end, daemon=True)
        self._thread.start()
        return self

    def advance(self, count: int, held: bool = False) -> None:
        """``count`` more units are done; ``held``: they were there already, done by an earlier command."""
        with self._lock:
            if held:
                self._held += count
            else:
                self._advanced += count
            self._note()

    def doing(self, phase: str) -> None:
        """What is being done from now on."""
        with self._lock:
            self._own_phase = phase
            self._set_phase(phase)

    def tick(self) -> None:
        """Look at what the workers told, and show where things are if it is time to."""
        seen = self.poll()
        with self._lock:
            if seen is not None:
                self._seen = seen
                # What all waited for is over where nobody tells of it any more.
                self._set_phase(seen.phase or (self._own_phase if self._phase.startswith(WAITING) else self._phase))
                self._note()
            if _open[-1:] != [self]:
                return
            if self._bar:
                self._bar.update(self._task, completed=self.done, words=self.words())
            elif self._line_is_due():
                self._last_line, self._said_phase = self._clock(), self._phase
                say(f"{self.name}: {self.words()}")

    def words(self) -> str:
        """Where things are, in words: the phase and its seconds until something is counted, then counts; with them the
        phase only while all waits for room."""
        now = self._clock()
        if not self._work:
            held = f"{self._count()} were there, " if self.done else ""
            seconds = int(now - self._phase_since)
            return f"{held}{self._phase}" + (f", {_duration(seconds) if seconds >= 60 else f'{seconds} s'}")
        waits = f", {self._phase}" if self._phase.startswith(WAITING) else ""
        return self._count() + self._speed(now) + waits

    def _count(self) -> str:
        return f"{self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}"

    def _speed(self, now: float) -> str:
        """Rate and time left; nothing until something was done after the first unit: before it lies the start."""
        assert self._first is not None
        (first_at, first), (last_at, last) = self._first, self._last
        if last <= first or last_at <= first_at:
            return ""
        rate = (last - first) / (last_at - first_at)
        speed = f", {_rate(rate)} {self.unit}/s"
        if not self.total or self.done >= self.total:
            return speed
        return f"{speed}, {_duration(max(0.0, (self.total - self.done) / rate - (now - last_at)))} left"

    def _note(self) -> None:
        """Note when the work began, and when it moved."""
        now, work = self._clock(), self._work
        if work and self._first is None:
            self._first = now, work
        if work > self._last[1]:
            self._last = now, work

    def _set_phase(self, phase: str) -> None:
        if phase != self._phase:
            self._phase, self._phase_since = phase, self._clock()

    def _line_is_due(self) -> bool:
        now = self._clock()
        since = now - self._last_line
        if not self._work and self._phase != self._said_phase and now - self._phase_since >= SHORT_S:
            return since >= SHORT_S
        return since >= (LINE_EVERY_S if now - self._begun < FIRST_MINUTE_S else LATER_LINE_EVERY_S)

    def _tick_until_the_end(self) -> None:
        while not self._ended.wait(TICK_S):
            self.tick()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=10 * TICK_S)
        self._show(False)
        _open.remove(self)
        if _open:
            _open[-1]._show(True)

    def _show(self, on: bool) -> None:
        if self._bar:
            (self._bar.start if on else self._bar.stop)()


def _rate(rate: float) -> str:
    return f"{rate:,.1f}" if rate >= 1 else f"{rate:.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

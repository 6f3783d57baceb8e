"""Progress of a long stage: how many documents, pairs or steps, at which rate, and how long it will take.

On a terminal a bar (rich); elsewhere (a log file, a job's output) a line every ten seconds.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_S = 10.0

console = Console(highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one line to the user."""
    console.print(message, markup=False)


class StageProgress:
    """Counts ``unit`` of ``total`` (None: not known yet) for the step ``name``; use it as a context manager."""

    def __init__(self, name: str, unit: str, total: int | None) -> None:
        self.name, self.unit, self.total = name, unit, total
        self.done = 0
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> StageProgress:
        if sys.stdout.isatty():
            columns: list[ProgressColumn] = [
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,}/{task.total:,} " + self.unit),
                _Rate(self.unit),
                TimeRemainingColumn(),
            ]
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(self.name, total=self.total or 0)
            self._bar.start()
        return self

    def advance(self, count: int) -> None:
        """``count`` more units are done."""
        self.done += count
        if self._bar:
            self._bar.advance(self._task, count)
        elif count and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            say(self._line())

    def _line(self) -> str:
        seconds = time.monotonic() - self._start
        rate = self.done / seconds if seconds else 0.0
        of = f" of {self.total:,}" if self.total else ""
        left = f", {_duration((self.total - self.done) / rate)} left" if self.total and rate else ""
        return f"{self.name}: {self.done:,}{of} {self.unit}, {_rate(rate)} {self.unit}/s{left}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.finished_speed or task.speed or 0.0)} {self._unit}/s")


def _rate(rate: float) -> str:
    return f"{rate:,.1f}" if rate >= 1 else f"{rate:.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

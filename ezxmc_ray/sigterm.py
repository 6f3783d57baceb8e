"""SIGTERM ends a command in order, as Ctrl-C does: `kubectl delete`, `ray job stop` and `timeout` send it."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType

_received: list[int] = []


def end_in_order_at_sigterm() -> None:
    """From now on SIGTERM raises a KeyboardInterrupt in the main thread; a second one changes nothing."""
    _received.clear()
    with suppress(ValueError):  # not in the main thread: a test's, a notebook's
        signal.signal(signal.SIGTERM, _end)


def interrupted_status() -> int:
    """The exit status of a command that was interrupted: 143 by SIGTERM, else 130."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    if not _received:
        _received.append(number)
        raise KeyboardInterrupt

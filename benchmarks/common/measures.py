"""Small pieces that the benchmarks' processes measure with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


def memory(kind: str) -> float:
    """GiB of this process: ``RssAnon``, its own; ``RssFile``, of mapped files; ``VmHWM``, the most of both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 2**20


def shared_memory() -> float:
    """GiB of this process, of what it shares with others its part: the sum over processes is what all hold."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


def in_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """``items`` in order, ``size`` at a time."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]

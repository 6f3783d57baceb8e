"""Processes of a command that is at work: who they are, whether they live, and waiting for something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import psutil


def family(pid: int) -> set[psutil.Process]:
    """All processes below the one with this pid; empty if it has ended."""
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def named(processes: Iterable[psutil.Process], part: str) -> list[psutil.Process]:
    """Those that live and whose command line holds ``part``, the largest in memory first."""
    found = []
    for one in processes:
        try:
            if alive(one) and part in " ".join(one.cmdline()):
                found.append((one.memory_info().rss, one.pid, one))
        except psutil.Error:
            continue
    return [one for _, _, one in sorted(found, reverse=True)]


def alive(process: psutil.Process) -> bool:
    """Whether the process still runs."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Until ``condition`` holds; SystemExit after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds} s in vain")
        time.sleep(0.1)

"""A process that outlives its owner by a moment and ends what the owner left behind.

Ray's own processes follow a driver that dies, but an inference engine's worker processes may not: a process that is
killed by ``kill -9`` cannot clean up. So the owner (a driver with a local Ray; an actor with an engine) starts one
small watchdog. It notes the owner's descendants twice a second; when the pipe from the owner closes, by whatever
signal, it ends those that are still alive. What the owner had started before it is none of its business.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Collection

import psutil

POLL_S = 0.5
GRACE_S = 5.0


def start_watchdog() -> subprocess.Popen[bytes]:
    """Start a watchdog over the calling process's descendants; it ends by itself after the caller has ended.

    ``process.stdin.close()`` on the returned object makes it act at once, as if the caller had died.
    """
    before = descendants(os.getpid())
    # A session of its own: a signal to the caller's process group (Ctrl-C, a shell's kill) does not reach it.
    return subprocess.Popen(
        [sys.executable, "-m", "ezxmc_ray.watchdog", str(os.getpid()), *(str(one.pid) for one in before)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )


def descendants(owner: int, but: Collection[int] = ()) -> set[psutil.Process]:
    """Processes below ``owner`` now, by pid and start time, so that a reused pid differs; empty if it has ended.

    Those with the pids ``but`` are left out, with all below them.
    """
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(owner).children(recursive=True)  # looks at all processes of the machine: once
    left_out = set(but)
    found = set()
    for one in below:  # parents before their children
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.pid in left_out or one.ppid() in left_out:
                left_out.add(one.pid)
            else:
                found.add(one)
    return found


def watch(owner: int, pipe: int, before: Collection[int] = ()) -> None:
    """Note descendants of ``owner`` until ``pipe`` reaches its end, then end them: SIGTERM, SIGKILL after a grace.

    ``before``: pids of those that are to be left alone, with all below them.
    """
    seen: set[psutil.Process] = set()
    while True:
        seen = {process for process in seen if process.is_running()} | descendants(owner, before)
        readable, _, _ = select.select([pipe], [], [], POLL_S)
        if readable and not os.read(pipe, 64):
            break
    # Children of a noted process may have started since the last look.
    for process in list(seen):
        seen |= descendants(process.pid)
    seen.discard(psutil.Process())
    end(seen)


def end(processes: set[psutil.Process]) -> None:
    """End ``processes``: SIGTERM first, SIGKILL for those alive after a grace of five seconds."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and _alive(processes):
        time.sleep(0.2)
    for process in _alive(processes):
        with contextlib.suppress(psutil.Error):
            process.kill()


def _alive(processes: set[psutil.Process]) -> list[psutil.Process]:
    """Those that run; a zombie waits for its parent and is none of them."""
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.stdin.fileno(), [int(pid) for pid in sys.argv[2:]])

"""What a killed process leaves behind is ended; what is not its own is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from unittest import mock

import psutil

from ezxmc_ray.watchdog import descendants

OWNER = """
import subprocess, sys, time
from ezxmc_ray.watchdog import start_watchdog
# Started before, and what that starts later: not the watchdog's.
nested = "import subprocess, sys, time; time.sleep(1); " \
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); time.sleep(600)"
earlier = subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE)
start_watchdog()
print(earlier.pid, int(earlier.stdout.readline()), flush=True)
# A process that ignores SIGTERM, started by a child that ends at once: an orphan that nobody else would end.
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
sleeper = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(sleeper.pid, flush=True)
time.sleep(600)
"""


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_killed_owner_leaves_nothing_behind() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    others = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    sleeper = psutil.Process(int(owner.stdout.readline()))
    watchdogs = [
        child for child in psutil.Process(owner.pid).children() if "ezxmc_ray.watchdog" in " ".join(child.cmdline())
    ]
    time.sleep(2)  # the watchdog looks twice a second
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(map(gone, [sleeper, *watchdogs])):
        time.sleep(0.2)
    assert len(watchdogs) == 1
    assert gone(sleeper)
    assert gone(watchdogs[0])
    assert bystander.poll() is None
    assert not any(map(gone, others))
    for process in others:
        process.kill()
    bystander.kill()
    bystander.wait()


def test_a_look_at_the_processes_is_one_however_many_are_left_alone() -> None:
    """Each goes through all processes of the machine, twice a second for as long as the owner lives."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    left_alone, watched = ([subprocess.Popen(sleep) for _ in range(3)] for _ in range(2))
    try:
        with mock.patch.object(psutil.Process, "children", autospec=True, side_effect=psutil.Process.children) as look:
            found = descendants(os.getpid(), [process.pid for process in left_alone])
        assert {process.pid for process in watched} <= {process.pid for process in found}
        assert not {process.pid for process in left_alone} & {process.pid for process in found}
        assert look.call_count == 1
    finally:
        for process in (*left_alone, *watched):
            process.kill()
            process.wait()

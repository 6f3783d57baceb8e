"""Starts of a local Ray beside busy loops: how many seconds each takes, and how it ends.

    python benchmarks/ray_start.py [starts=10] [busy=8]

Each start is a process of its own that does what every `ezxmc` command does: start Ray, run a task, end it. It works,
or ends in one sentence; anything else is a fault of this program, and ends the benchmark with status 1.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from common.publish import ROOT, publish

START = """
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.cluster.session import ray_cluster, run_task
try:
    with ray_cluster(ClusterConfig(address="local")):
        assert run_task(lambda: "done") == "done"
except UserError as error:
    raise SystemExit(f"sentence: {error}")
"""
BUSY = "while True: pass"
LIMIT_S = 900


def one_start() -> dict[str, Any]:
    """Seconds of a start, its task and its end, and the outcome: works, sentence or fault."""
    began = time.monotonic()
    command = [sys.executable, "-c", START]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=ROOT)
    told = ended.stderr.strip()
    outcome = "works" if ended.returncode == 0 else "sentence" if told.startswith("sentence: ") else "fault"
    tries = 1 + ("trying once more" in ended.stdout)
    return {"seconds": round(time.monotonic() - began, 1), "outcome": outcome, "tries": tries, "told": told}


def main(starts: int = 10, busy: int = 8) -> None:
    """Start Ray so many times beside so many busy loops."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    found: list[dict[str, Any]] = []
    try:
        for number in range(1, starts + 1):
            found.append({"start": number, **one_start()})
            print(found[-1], flush=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    outcomes, seconds = [one["outcome"] for one in found], [one["seconds"] for one in found]
    count = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("works", "sentence", "fault"))
    note = f"{count}; median {statistics.median(seconds):.0f} s, longest {max(seconds):.0f} s"
    publish("ray_start", f"{starts} starts of Ray beside {busy} busy loops", {"rows": found, "notes": [note]})
    if "fault" in outcomes:
        raise SystemExit(1)


if __name__ == "__main__":
    main(**{name: int(value) for name, value in (word.split("=", 1) for word in sys.argv[1:])})

"""What do SIGTERM, Ctrl-C and kill -9 do, in every stage of a run, on a real Ray?

    python benchmarks/signals.py --name signals

A small run (common/small_run.py: real small models, vLLM) is made once. Then, case after case, what a stage and nothing
else has written is removed from a copy, `ezxmc run` is given, and at a random moment while that stage is at work a
process gets a signal: the command itself, or with kill -9 also the command's watchdog, or an actor or a training worker
as soon as it is at work. Where the command ends, all its processes must be gone within 30 s, and it is given again;
where it goes on it must end well by itself. Afterwards the run must be complete, whole by `ezxmc verify`, with the
verdicts' pairs each once and the predictions of the undisturbed run. ``left``: temporary files that are there after all
that.

Exit status 1 if a case did not end as it should.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from common.processes import alive, family, named, wait_for
from common.publish import publish
from common.small_run import EZXMC, write_small_run

SENTENCE = "stopped; a run goes on where it was when you give the same command again"
#: What each stage writes, as patterns, and the pattern of what is there once it has begun.
WRITES = {
    "prepare": (["documents", "gold", "labels.parquet"], ".prepare-*"),
    "shortlist": (["cycle-0/shortlist", "cycle-0/label_vectors", "lexical"], "cycle-0/shortlist/.begun.json"),
    "judge": (["cycle-0/examples", "verdicts/*"], "cycle-0/examples/.begun.json"),
    "train": (["cycle-0/student", "cycle-0/training-*"], "cycle-0/student/.begun.json"),
    "index": (["index"], "index/.begun.json"),
    "predict": (["predictions"], "predictions/.begun.json"),
    "evaluate": (["evaluation"], "evaluation/.begun.json"),
}
MANIFESTS = {
    "prepare": "documents",
    "shortlist": "cycle-0/shortlist",
    "judge": "cycle-0/examples",
    "train": "cycle-0/student",
    "index": "index",
    "predict": "predictions",
    "evaluate": "evaluation",
}
#: Who gets the signal as soon as it is at work.
AT_WORK = ("encoder actor", "engine actor", "training worker")
#: Words in the command lines of processes that are killed by themselves.
PROCESSES = {
    "encoder actor": "ray::_Process.do",
    "engine actor": "ray::MapWorker(Map(UserErrorBoundary)).submit",
    "training worker": "RayTrainWorker",
    "watchdog": "ezxmc_ray.watchdog",
}
KILLS = (
    ("judge", "engine actor"),
    ("train", "training worker"),
    ("shortlist", "encoder actor"),
    ("judge", "watchdog"),
    ("judge", "watchdog, command"),
    ("judge", "command"),
    ("train", "command"),
    ("predict", "encoder actor"),
    ("evaluate", "encoder actor"),
)
GONE_S, LIMIT_S = 30, 600


@dataclass(frozen=True)
class Case:
    """A signal to somebody while a stage is at work."""

    stage: str
    signal: str
    to: str = "command"


def main() -> None:
    """Disturb, give again, look, publish."""
    given = parse()
    cases = [Case(stage, "SIGKILL", to) for stage, to in KILLS]
    cases += [Case(stage, name) for name in ("SIGTERM", "SIGINT") for stage in WRITES]
    cases = [one for one in cases if one.stage in given.stages and one.signal in given.signals][given.skip :]
    deadline = time.monotonic() + 60 * given.minutes
    draw = random.Random(given.seed)
    short = tempfile.TemporaryDirectory(prefix="sig-")  # Ray's sockets lie below it
    with nullcontext(given.folder) if given.folder else short as scratch:
        runs = Runs(Path(scratch), given.documents)
        rows = [runs.disturbed(case, draw) for case in cases if time.monotonic() < deadline]
    good = sum(row["as_it_should"] for row in rows)
    notes = [f"{good} of {len(rows)} as it should be. {given.documents} documents."]
    if left_out := cases[len(rows) :]:
        named = "; ".join(f"{one.signal} to the {one.to} in {one.stage}" for one in left_out)
        notes.append(f"Not tried, since {given.minutes:g} minutes were over: {named}.")
    publish(given.name, "Signals and kill -9 in every stage", {"rows": rows, "notes": notes})
    if good < len(rows):
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--documents", type=int, default=96)
    parser.add_argument("--folder", help="a short path to work in, whose undisturbed run is used again by a later call")
    parser.add_argument("--stages", nargs="*", default=list(WRITES))
    parser.add_argument("--skip", type=int, default=0, help="so many cases, which an earlier call has tried")
    parser.add_argument("--signals", nargs="*", default=["SIGTERM", "SIGINT", "SIGKILL"])
    parser.add_argument("--minutes", type=float, default=120, help="no case is begun later; those left out are named")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Runs:
    """The undisturbed run in ``scratch``, and copies of it that are disturbed."""

    def __init__(self, scratch: Path, documents: int) -> None:
        self.conf = scratch / "whole" / "conf.yaml"
        if not self.conf.exists():
            write_small_run(scratch / "whole", documents)
        self.whole, self.copy, self.temporary = scratch / "whole" / "run", scratch / "run", scratch / "t"
        self.temporary.mkdir(exist_ok=True)
        self.log = scratch / "log"
        if status := self._start(self.whole).wait(LIMIT_S):
            raise SystemExit(f"the undisturbed run ended with {status}:\n{self.log.read_text()}")
        self.pairs = pairs_of(self.whole)
        self.predictions = predictions_of(self.whole)

    def disturbed(self, case: Case, draw: random.Random) -> dict[str, Any]:
        """What came of one case."""
        seconds = json.loads((self.whole / MANIFESTS[case.stage] / "manifest.json").read_text())["seconds"]
        share = draw.uniform(0.1, 0.7)
        for tried in range(4):  # a stage that was faster this time is disturbed earlier
            self._without(case.stage)
            row = self._once(case, share * seconds / 2**tried)
            if row:
                break
        else:
            row = {"as_it_should": False, "status": "the stage was always done before"}
        row = {"stage": case.stage, "signal": case.signal, "to": case.to, **row}
        print(json.dumps(row), flush=True)
        if not row["as_it_should"]:
            print(self.log.read_text()[-3000:], flush=True)
        return row

    def _without(self, stage: str) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        # Every command replaces files and fills none; but a lock is held by its file, whatever that is called.
        locks = shutil.ignore_patterns(".lock")
        shutil.copytree(self.whole, self.copy, copy_function=os.link, ignore=locks)
        for pattern in WRITES[stage][0]:
            for found in self.copy.glob(pattern):
                shutil.rmtree(found) if found.is_dir() else found.unlink()

    def _start(self, run: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [EZXMC, "run", str(self.conf), f"run={run}"], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def _once(self, case: Case, delay: float) -> dict[str, Any] | None:
        """None: the stage was done before the signal."""
        self.log.write_bytes(b"")
        command, begun = self._start(self.copy), WRITES[case.stage][1]
        wait_for(lambda: any(self.copy.glob(begun)) or command.poll() is not None, LIMIT_S)
        time.sleep(0 if case.to in AT_WORK else delay)
        below = family(command.pid)
        victims = [self._victim(command, below, one) for one in case.to.split(", ")]
        done = (self.copy / MANIFESTS[case.stage] / "manifest.json").exists()
        if done or command.poll() is not None or None in victims:
            command.kill()
            command.wait()
            wait_for(lambda: not any(map(alive, below)), LIMIT_S)
            return None
        for victim in filter(None, victims):
            os.kill(victim, getattr(signal, case.signal))
            below |= family(command.pid)
        return self._what_came(case, command, below, 0 if case.to in AT_WORK else delay)

    def _victim(self, command: subprocess.Popen[bytes], below: set[psutil.Process], to: str) -> int | None:
        """The pid of who gets the signal; waits for one that is not there yet."""
        if to == "command":
            return command.pid
        deadline = time.monotonic() + 120
        while not (found := named(below, PROCESSES[to])):
            if time.monotonic() > deadline or command.poll() is not None:
                return None
            time.sleep(0.1)
            below |= family(command.pid)
        if to == "watchdog":  # the command's own, not an engine's
            found = [one for one in found if one.ppid() == command.pid]
        return int(found[0].pid) if found else None

    def _what_came(
        self, case: Case, command: subprocess.Popen[bytes], below: set[psutil.Process], delay: float
    ) -> dict[str, Any]:
        ends, began, gone = "command" in case.to, time.monotonic(), None
        while command.poll() is None and time.monotonic() - began < LIMIT_S:
            below |= family(command.pid)
            time.sleep(0.1)
        ended, status = time.monotonic() - began, command.poll()
        if ends:
            wait_for(lambda: not any(map(alive, below)) or time.monotonic() - began > 4 * GONE_S, LIMIT_S)
            gone = round(time.monotonic() - began, 1)
        said = SENTENCE in self.log.read_text()
        again = self._start(self.copy).wait(LIMIT_S) if ends else status
        expected = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -9 if ends else 0}[case.signal]
        is_whole = subprocess.run([EZXMC, "verify", str(self.copy)], capture_output=True).returncode == 0
        pairs, left = pairs_of(self.copy), self._left()
        as_before = is_whole and predictions_of(self.copy) == self.predictions
        each_once = len(pairs) == len(set(pairs)) and set(pairs) <= set(self.pairs)  # a later cycle's may be gone
        right = status == expected and again == 0 and as_before and each_once and not left
        right = right and (not ends or (gone or 0) <= GONE_S) and said == (ends and case.signal != "SIGKILL")
        return {
            "after_s": round(delay, 1),
            "status": status,
            "sentence": said,
            "ended_s": round(ended, 1),
            "processes_gone_s": gone,
            "again": again if ends else "",
            "whole_and_as_undisturbed": as_before,
            "pairs_each_once": each_once,
            "left": " ".join(left),
            "as_it_should": right,
        }

    def _left(self) -> list[str]:
        """Temporary files and folders in the run, and of ours in the folder for such; a log stays there for a day."""
        found = [path.name for path in self.copy.rglob("*.tmp-*")]
        found += [path.name for path in self.copy.glob(".prepare*")]
        ours = (path.name for path in self.temporary.glob("ezxmc-*"))
        return found + [name for name in ours if "home" not in name and not name.endswith(".log")]


def pairs_of(run: Path) -> list[tuple[bytes, ...]]:
    """Document hash and label hash of each stored verdict."""
    files = sorted((run / "verdicts").glob("*/*/*.parquet"))
    columns = ["document_hash", "label_hash"]
    return [tuple(row.values()) for file in files for row in pq.read_table(file, columns=columns).to_pylist()]


def predictions_of(run: Path) -> list[dict[str, Any]]:
    """The rows of all predictions."""
    return [row for file in sorted((run / "predictions").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


if __name__ == "__main__":
    main()

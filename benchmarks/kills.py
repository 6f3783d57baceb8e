"""What does a kill -9 cost the judge stage? Of the driver, the engine's actor, the engine's own process; at any moment.

    python benchmarks/kills.py --name kills --data data/debian-packages

A run is prepared and shortlisted once and judged once undisturbed. Then, for each target and --times times, a copy
without verdicts is judged and the target killed at a random moment after the first batch was committed. A killed driver
leaves nothing running, and the command is given again; after the two other kills the command must end by itself. Then
every pair must have one verdict, and no committed pair may have been judged twice. The engine's own process exists only
where vLLM runs it apart (VLLM_ENABLE_V1_MULTIPROCESSING=1, as with tensor parallelism); its rounds are run so.
float32, so that verdicts can be compared closely with the undisturbed run's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from common.processes import alive, family, named, wait_for
from common.publish import publish

EZXMC = str(Path(sys.executable).with_name("ezxmc"))
TARGETS = ("driver", "actor", "engine")
BATCH_DOCUMENTS = 8


def main() -> None:
    """Kill, check, publish."""
    given = parse()
    draw = random.Random(given.seed)
    knobs = knobs_of(given)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        for stage in ("prepare", "shortlist"):
            subprocess.run(command(stage, base, knobs), check=True)
        undisturbed = copy_of(base, Path(scratch) / "undisturbed")
        subprocess.run(command("judge", undisturbed, knobs), check=True)
        expected = scores(undisturbed)
        for target in given.targets:
            for number in range(given.times):
                run = copy_of(base, Path(scratch) / f"{target}-{number}")
                rows.append({"killed": target, **one_kill(run, knobs, target, draw.uniform(0, 12), expected)})
                print(json.dumps(rows[-1]), flush=True)
                shutil.rmtree(run)
    worst = max(row["largest_difference"] for row in rows)
    notes = [
        f"{len(expected):,} pairs, batches of {BATCH_DOCUMENTS} documents; two batches in flight.",
        f"Largest difference of a raw score from the undisturbed run's: {worst:.4f}.",
    ]
    publish(given.name, "Kill -9 while judging", {"rows": rows, "notes": notes})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument(
        "--data", type=Path, required=True, help="directory with documents.jsonl.gz and labels.jsonl.gz"
    )
    parser.add_argument("--documents", type=int, default=150)
    parser.add_argument("--times", type=int, default=5, help="kills of each target")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def knobs_of(given: argparse.Namespace) -> list[str]:
    """The settings of all runs."""
    return [
        f"prepare.documents=[{given.data}/documents.jsonl.gz]",
        f"prepare.labels=[{given.data}/labels.jsonl.gz]",
        f"prepare.limit_documents={given.documents}",
        "teacher.dtype=float32",
        "teacher.readout=likelihood",
        "teacher.prompt=package",
        f"teacher.batch_documents={BATCH_DOCUMENTS}",
    ]


def command(stage: str, run: Path, knobs: list[str]) -> list[str]:
    """``ezxmc STAGE`` on the run directory."""
    return [EZXMC, stage, "examples/debian_packages.yaml", f"run={run}", *knobs]


def copy_of(base: Path, run: Path) -> Path:
    """A copy of the shortlisted run, without verdicts."""
    shutil.copytree(base, run, copy_function=shutil.copy2)
    return run


def scores(run: Path) -> dict[tuple[int, int, int], float]:
    """Raw score by shard, row and label, from cycle 0's examples."""
    found = {}
    for shard, file in enumerate(sorted((run / "cycle-0" / "examples").glob("*.parquet"))):
        for row in pq.read_table(file).to_pylist():
            for label, raw in zip(row["labels"], row["raw"], strict=True):
                found[shard, row["row"], label] = raw
    return found


def verdict_files(run: Path) -> list[Path]:
    """Committed batches of pairs."""
    return list((run / "verdicts").glob("*/shard-*/*.parquet"))


def pairs_of(file: Path) -> list[dict[str, bytes]]:
    """Document hash and label hash of each pair in a batch file."""
    found: list[dict[str, bytes]] = pq.read_table(file, columns=["document_hash", "label_hash"]).to_pylist()
    return found


def one_kill(
    run: Path, knobs: list[str], target: str, delay: float, expected: dict[tuple[int, int, int], float]
) -> dict[str, Any]:
    """Judge, kill ``target`` ``delay`` seconds after the first batch, finish, check."""
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if target == "engine" else "0"}
    log = run.with_suffix(".log").open("w")
    driver = subprocess.Popen(command("judge", run, knobs), stdout=log, stderr=subprocess.STDOUT, env=environment)
    wait_for(lambda: bool(verdict_files(run)) or driver.poll() is not None, 300)
    time.sleep(delay)
    below = family(driver.pid)
    held = sum(pq.read_metadata(file).num_rows for file in verdict_files(run))
    # The actor that holds the engine is the Ray worker with the most memory; or the engine's own process.
    part = "EngineCore" if target == "engine" else "ray::"
    os.kill(driver.pid if target == "driver" else named(below, part)[0].pid, signal.SIGKILL)
    killed = time.monotonic()
    status = driver.wait(timeout=500)
    gone = None
    if target == "driver":
        wait_for(lambda: not any(map(alive, below)), 60)
        gone = round(time.monotonic() - killed, 1)
        status = subprocess.run(command("judge", run, knobs), stdout=log, stderr=log, env=environment).returncode
    if status:
        raise SystemExit(
            f"after the kill of the {target} the command ended with {status}:\n{Path(log.name).read_text()}"
        )
    found = scores(run)
    held_pairs = [tuple(pair.values()) for file in verdict_files(run) for pair in pairs_of(file)]
    if found.keys() != expected.keys():
        raise SystemExit(f"after the kill of the {target} the pairs differ")
    return {
        "after_s": round(delay, 1),
        "pairs_held_at_the_kill": held,
        "pairs": len(found),
        "committed_twice": len(held_pairs) - len(set(held_pairs)),
        "largest_difference": round(float(np.abs([found[key] - expected[key] for key in expected]).max()), 5),
        "processes_gone_s": gone,
        "finished_s": round(time.monotonic() - killed, 1),
    }


if __name__ == "__main__":
    main()

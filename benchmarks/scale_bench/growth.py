"""What does a run's every stage cost a document, as the documents become more?

    python benchmarks/scale.py growth --data DIRECTORY [--documents 10000,100000] [--labels 100000]

Every size is a whole run, in processes of its own (growth_run.py). Documents are recombined from those in --data
(documents.jsonl.gz, labels.jsonl.gz): a title and some words of two texts, of three documents. Simulated are the
engine, which takes no time, the encoder, a layer of 32 with random weights, the training's steps after the first 160,
which are left out, and Ray: tasks and actors run one after the other in another process. So CPU time is of one core,
and the memory of the driver's process is the driver's alone. Label priors are there beforehand, by chance. The storage
is a local folder that the stages take for an object store; its requests are counted, and answered at once (counted.py).

A stage's start costs the same for ten documents and for a million (imports, the labels' vectors and words), and would
make the smallest size look dear. So a run of --start documents, one shard, comes first in the same processes and is
measured as a size of its own. ``cpu_ms_per_document`` is of the documents beyond it, of all processes, the making of
actors left out; of ``train`` of the documents in the steps after the first. ``cpu_s`` is all of a stage, its start
included, ``growth`` the largest size's CPU a document over the smallest's; null for a stage whose CPU hardly depends on
the documents. ``requests_per_shard`` and ``files_per_shard``: all of a stage's over all shards;
``requests_per_more_shard`` and ``files_per_more_shard``: of the shards that the size before did not have. Shards have
--shard-rows documents in every size. Of sizes up to --small the median of --runs runs counts, by stage.

What a size came to lies in --scratch; another call with the same name takes it over.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common.publish import publish, run_module
from ezxmc_ray.errors import UserError

#: A stage whose work on the smallest size is a smaller share of its start does not grow by documents.
MIN_WORK_SHARE = 0.1


def main(arguments: Sequence[str]) -> int:
    """Measure every size and publish; returns the exit status (2 for what the user can mend)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="growth", help="of the result file")
    parser.add_argument("--data", default=os.environ.get("EZXMC_DATA"), help="directory; without it EZXMC_DATA")
    parser.add_argument("--documents", default="10000,100000", help="sizes, by commas")
    parser.add_argument("--start", type=int, default=1250, help="documents of the run that a stage's start is known by")
    parser.add_argument("--small", type=int, default=10_000, help="documents of a size that runs more than once")
    parser.add_argument("--runs", type=int, default=3, help="of a small size, of which the median counts")
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--shard-rows", type=int, default=1250)
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the runs lie meanwhile"
    )
    given = parser.parse_args(arguments)
    try:
        start, *sizes = [run_of(given, int(size)) for size in [given.start, *given.documents.split(",")]]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(given.name, f"Growth: {given.documents} documents, {given.labels:,} labels", summary(start, sizes))
    return 0


def run_of(given: argparse.Namespace, documents: int) -> dict[str, Any]:
    """What growth_run.py measured of so many documents. Errors: UserError where it did not come to an end."""
    given.scratch.mkdir(parents=True, exist_ok=True)
    output, log = (given.scratch / f"{given.name}-{documents}.{kind}" for kind in ("json", "log"))
    if output.is_file():
        held: dict[str, Any] = json.loads(output.read_text())
        return held
    if not given.data or not (Path(given.data) / "documents.jsonl.gz").is_file():
        raise UserError("No data is given: name the directory that holds documents.jsonl.gz by --data or EZXMC_DATA.")
    runs = given.runs if documents <= given.small else 1
    numbers = [str(number) for number in (documents, given.start, runs, given.shard_rows)]
    words = [*numbers, str(Path(given.data).absolute()), str(given.labels), str(given.scratch)]
    result = run_module("scale_bench.growth_run", words, output, log)
    if "error" in result:
        raise UserError(f"The run of {documents} documents failed ({result['error']}): see {log}.")
    log.unlink()
    return result


def summary(start: dict[str, Any], sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures a document and a shard, by stage and number of documents; and the rows of the table."""
    rows = [row_of(name, start, *pair) for name in start["stages"] for pair in pairwise([start, *sizes])]
    growth: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("stage", "documents"):
                growth.setdefault(row["stage"], {}).setdefault(name, {})[str(row["documents"])] = value
    for name, figures in growth.items():
        figures["growth"] = growth_of(start["stages"][name], figures)
    memory = max(row["driver_mib"] for row in rows if row["documents"] == sizes[-1]["documents"]) - max(
        row["driver_mib"] for row in rows if row["documents"] == sizes[0]["documents"]
    )
    told = {name: one["growth"] for name, one in growth.items() if one["growth"] is not None}
    notes = [
        f"CPU a document beyond a stage's start, {sizes[-1]['documents']:,} documents over {sizes[0]['documents']:,}: "
        + ", ".join(f"{name} {value:.2f}" for name, value in told.items())
        + f"; the driver's memory {memory:+,.0f} MiB",
        f"A stage's start is that of a run of {start['documents']:,} documents, whose CPU is taken off.",
        "Simulated: the engine, the object store, Ray, and the size of the encoder; label priors are by chance; tasks "
        "run one after the other.",
        f"{os.cpu_count()} cores, which other work used too.",
    ]
    return {"growth": growth, "driver_mib_more": memory, "rows": rows, "notes": notes}


def row_of(stage: str, start: dict[str, Any], smaller: dict[str, Any], size: dict[str, Any]) -> dict[str, Any]:
    """The figures of one stage and size; ``smaller``: the size before it."""
    cost, before = size["stages"][stage], smaller["stages"][stage]
    shards, more = size["shards"], size["shards"] - smaller["shards"]
    work_s, documents = _cpu_s(cost) - _cpu_s(start["stages"][stage]), size["documents"] - start["documents"]
    if cost["trained"]:  # some steps, however many documents there are
        work_s, documents = cost["task_cpu_s"], cost["trained"]
    return {
        "stage": stage,
        "documents": size["documents"],
        "shards": shards,
        "cpu_ms_per_document": 1000 * work_s / documents,
        "cpu_s": _cpu_s(cost) + cost["start_cpu_s"],
        "driver_cpu_s": cost["driver_cpu_s"],
        "requests_per_shard": cost["requests"] / shards,
        "requests_per_more_shard": (cost["requests"] - before["requests"]) / more,
        "files_per_shard": cost["files"] / shards,
        "files_per_more_shard": (cost["files"] - before["files"]) / more,
        "driver_mib": cost["driver_mib"],
    }


def growth_of(before: dict[str, Any], figures: dict[str, Any]) -> float | None:
    """CPU a document of the largest size over that of the smallest; None where the documents hardly count.

    ``before``: what the stage cost in the run that its start is known by.
    """
    first, last = (list(figures["cpu_ms_per_document"].values())[place] for place in (0, -1))
    work_s = next(iter(figures["cpu_s"].values())) - _cpu_s(before) - before["start_cpu_s"]
    return last / first if work_s > MIN_WORK_SHARE * _cpu_s(before) else None


def _cpu_s(cost: dict[str, Any]) -> float:
    return float(cost["task_cpu_s"] + cost["driver_cpu_s"])

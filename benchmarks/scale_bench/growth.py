"""What do prepare, evaluate, report and the join of examples cost a document, as the documents become more?

    python benchmarks/scale.py growth --data DIRECTORY [--documents 10000,100000] [--labels 100000]

Every size is a run in a process of its own. Documents are recombined from those in --data (documents.jsonl.gz,
labels.jsonl.gz): a title and the halves of two texts, of three documents. Shortlists, verdicts and rankings by two
encoders are by chance; all else is this project's own. A stage's tasks run one after the other in another process,
where Ray would have many; so CPU time is of one core, and the memory of the driver's process is the driver's alone.

The storage is a local folder that the stages take for an object store; its requests are counted, and answered at once
(scale_bench/counted.py). ``growth``: CPU of the largest run over that of the smallest, a document.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.publish import publish, run_module
from ezxmc_ray.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Measure every size and publish; returns the exit status (2 for what the user can mend)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="growth", help="of the result file")
    parser.add_argument("--data", default=os.environ.get("EZXMC_DATA"), help="directory; without it EZXMC_DATA")
    parser.add_argument("--documents", default="10000,100000", help="sizes, by commas")
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--shard-rows", type=int, default=4096)
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the runs lie meanwhile"
    )
    given = parser.parse_args(arguments)
    try:
        sizes = [run_of(given, int(size)) for size in given.documents.split(",")]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(given.name, f"Growth: {given.documents} documents, {given.labels:,} labels", summary(sizes))
    return 0


def run_of(given: argparse.Namespace, documents: int) -> dict[str, Any]:
    """What growth_run.py measured of so many documents. Errors: UserError where it did not come to an end."""
    if not given.data or not (Path(given.data) / "documents.jsonl.gz").is_file():
        raise UserError("No data is given: name the directory that holds documents.jsonl.gz by --data or EZXMC_DATA.")
    output, log = (given.scratch / f"{given.name}-{documents}.{kind}" for kind in ("json", "log"))
    words = [str(documents), str(given.shard_rows), str(Path(given.data).absolute()), str(given.labels)]
    result = run_module("scale_bench.growth_run", [*words, str(given.scratch)], output, log)
    if "error" in result:
        raise UserError(f"The run of {documents} documents failed ({result['error']}): see {log}.")
    output.unlink()
    log.unlink()
    return result


def summary(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures a document and a shard, by stage and number of documents; and the rows of the table."""
    stages: dict[str, Any] = {}
    rows = []
    for size in sizes:
        documents, shards = size["documents"], size["shards"]
        for name, cost in size["stages"].items():
            figures = {
                "task_cpu_ms_per_document": 1000 * cost["task_cpu_s"] / documents,
                "driver_cpu_ms_per_document": 1000 * cost["driver_cpu_s"] / documents,
                "requests_per_shard": cost["requests"] / shards,
                "files_per_shard": cost["files"] / shards,
                "driver_mib": cost["driver_mib"],
            }
            stages.setdefault(name, {})[str(documents)] = figures
            rows.append({"stage": name, "documents": documents, "shards": shards, **figures})
    rows.sort(key=lambda row: list(stages).index(row["stage"]))
    growth = {name: _cpu(by_size, -1) / _cpu(by_size, 0) for name, by_size in stages.items()}
    notes = [
        f"CPU a document, {sizes[-1]['documents']:,} documents over {sizes[0]['documents']:,}: "
        + ", ".join(f"{name} {value:.2f}" for name, value in growth.items()),
        "Shortlists, verdicts and rankings are by chance, the object store is simulated, and tasks run one after the "
        "other; one run of each size.",
    ]
    return {"stages": stages, "growth": growth, "rows": rows, "notes": notes}


def _cpu(by_size: dict[str, Any], place: int) -> float:
    one = list(by_size.values())[place]
    return float(one["task_cpu_ms_per_document"] + one["driver_cpu_ms_per_document"])

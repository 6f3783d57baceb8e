"""The packed engine beside vLLM and one forward a pair: speed, tokens over the ideal, scores, memory; real weights.

    python benchmarks/packed.py --name packed-smollm2
    python benchmarks/packed.py --name packed-qwen-0.5b --teacher DIRECTORY --works 250x10 --reference-pairs 200

A work TxL is documents of T tokens with shortlists of L labels, made as benchmarks/teacher.py makes them (stages
``prepare`` and ``shortlist``); without --data they are Debian packages. Every engine is a process of its own, without
Ray, tables and verdict store. One forward a pair judges the first work's first --slow-pairs only. The scores of the
first work are compared with float32's, one forward a pair over the same prompts.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.arguments import add_teacher_arguments, name_of
from common.publish import publish, run_module
from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher.engine import dtype_here
from ezxmc_ray.versions import versions
from teacher import configure, inputs, take_sample
from teacher_bench.figures import TOLERANCE, agreement_of
from teacher_bench.task import Task, make_task

WORKS = "250x10,32x10,2000x10,250x1,250x100"
#: Documents of a work have so many pairs together at most, but ten documents at least.
MOST_PAIRS, LEAST_DOCUMENTS = 1000, 10


def main() -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse()
    works: list[dict[str, Any]] = []
    try:
        for number, (tokens, labels) in enumerate(given.works):
            works.append(work_of(given, tokens, labels, is_first=not number))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    first = works[0]["engines"]
    scores = agreements(first)
    rows = [row for work in works for row in rows_of(work)]
    result = {
        "model": name_of(given.teacher or "the bundled SmolLM2-135M"),
        "dtype": works[0]["dtype"],
        "pairs_per_s": {name: one["pairs_per_s"] for name, one in first.items() if name != "float32"},
        **{key: first["packed"][key] for key in ("tokens_over_ideal", "tokens_over_ideal_of_the_padded")},
        **{key: scores["packed, float32"][key] for key in ("decision_agreement", "share_within_tolerance")},
        "scores": scores,
        "tables": [
            {"title": "Speed", "rows": rows},
            {"title": "Scores", "rows": [{"scores of": name, **one} for name, one in scores.items()]},
        ],
        "versions": versions(),
        "notes": notes(scores),
    }
    publish(given.name, "The packed engine beside vLLM and one forward a pair", result)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_teacher_arguments(parser, 50, "of a work, at most")
    parser.add_argument("--works", type=works_in, default=works_in(WORKS), help="tokens x labels, by commas")
    parser.set_defaults(reference_pairs=0)
    return parser.parse_args()


def works_in(text: str) -> list[tuple[int, int]]:
    """(tokens, labels) of each work in ``text``."""
    found = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", one) for one in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text}: write works as 250x10,32x10")
    return [(int(one[1]), int(one[2])) for one in found if one]


def work_of(given: argparse.Namespace, tokens: int, labels: int, is_first: bool) -> dict[str, Any]:
    """What every engine gives for one work. Errors: UserError where one fails."""
    documents = min(given.documents, max(LEAST_DOCUMENTS, MOST_PAIRS // labels))
    given = argparse.Namespace(**vars(given) | {"document_tokens": tokens, "shortlist": labels, "documents": documents})
    data, labels_file = inputs(given)
    config = configure(given, labels_file)
    task = Task(str(given.runs.absolute() / f"{given.name}-{tokens}x{labels}"), given.slow_pairs, given.reference_pairs)
    make_task(task, config, take_sample(given, data, config))
    engines: dict[str, dict[str, Any]] = {}
    for name in ("packed", "vllm", *(("one_forward", "float32") if is_first else ())):
        output, log = (Path(task.folder, f"{name}.{end}") for end in ("json", "log"))
        engines[name] = run_module("teacher_bench.packed", [name, task.folder], output, log)
        if "error" in engines[name]:
            raise UserError(f"The engine {name} failed ({engines[name]['error']}); see {log}.")
        print(name, {key: value for key, value in engines[name].items() if key != "raw"}, flush=True)
    return {"tokens": tokens, "labels": labels, "engines": engines, "dtype": dtype_here(config.teacher)}


def rows_of(work: dict[str, Any]) -> list[dict[str, Any]]:
    """A row an engine; ``times vLLM's pairs/s``."""
    of_vllm = work["engines"]["vllm"]["pairs_per_s"]
    return [
        {
            "tokens of a document": work["tokens"],
            "labels": work["labels"],
            "engine": name,
            "pairs": one["pairs"],
            "pairs/s": one["pairs_per_s"],
            "times vLLM's": one["pairs_per_s"] / of_vllm,
            "tokens computed a pair": one["computed_tokens_per_pair"],
            "tokens over the ideal": one["tokens_over_ideal"],
            "padding apart": one["tokens_over_ideal_of_the_padded"],
            "most memory, GiB": one["most_memory_gib"],
        }
        for name, one in work["engines"].items()
        if name != "float32"
    ]


def agreements(engines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the two that are compared; see teacher_bench.figures."""
    raw = {name: np.array(one["raw"]) for name, one in engines.items()}
    pairs = (("packed", "float32"), ("vllm", "float32"), ("packed", "vllm"))
    return {f"{one}, {other}": agreement_of(raw[one], raw[other]) for one, other in pairs}


def notes(scores: dict[str, dict[str, Any]]) -> list[str]:
    """What the tables do not say."""
    found = scores["packed, float32"]
    return [
        f"Packed and float32, one forward a pair: |ΔP| is at most {TOLERANCE} for "
        f"{found['share_within_tolerance']:.1%} of {found['reference_pairs']} pairs, and at most "
        f"{found['largest_difference']:.4f}; {found['decision_agreement']:.1%} decisions are the same.",
        "One run of each. What all prompts begin with is computed before the clock starts, and not counted.",
    ]


if __name__ == "__main__":
    sys.exit(main())

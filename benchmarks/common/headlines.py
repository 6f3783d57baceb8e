"""The one sentence that benchmarks/RESULTS.md has of a result, by the benchmark that wrote it.

Comes in: a result, as its JSON file has it. Goes out: a sentence of figures that are all in it. Where a rule has to
choose among methods it takes the strongest other one, so that no row is the most flattering comparison.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Result: TypeAlias = "dict[str, Any]"
#: Methods that judge the very documents that are ranked; the others are rivals of a student.
JUDGES = ("llm_rerank", "llm_fusion")


def benchmark_of(result: Result) -> str:
    """The name of the script that wrote ``result``."""
    return Path(shlex.split(result["command"])[1]).stem


def headline(result: Result) -> str:
    """The figure of ``result``; of a benchmark without a rule its first note."""
    rule = RULES.get(benchmark_of(result), lambda one: str(one["notes"][0]))
    return rule(result)


def _demo(result: Result) -> str:
    """The mean over the seeds, of the run with most documents."""
    before = result["rows"][0]
    after = next(row for row in result["rows"] if row["seed"] == "mean")
    seeds = sum(row["seed"] not in ("", "mean") and row["encoder"] == after["encoder"] for row in result["rows"])
    changes = ", ".join(f"{name} {before[name]:.1f} → {after[name]:.1f}" for name in ("P@1", "R@10"))
    judged = f" with {after['judged']} judged documents" if "judged" in after else ""
    return f"{changes}{judged}, mean of {seeds} runs"


def _encode(result: Result) -> str:
    rows = {row["method"]: row for row in result["rows"]}
    ours = rows["ezxmc, auto"]
    fastest = max((row for name, row in rows.items() if not name.startswith("ezxmc")), key=_speed)
    return (
        f"{_speed(ours):.0f} documents/s, {ours['documents_ratio']:.2f} times SentenceTransformer.encode's default; "
        f"its fastest ({fastest['method'].split(', ')[-1]}): {_speed(fastest):.0f}; "
        f"cosine at least {ours['cosine_min']}"
    )


def _speed(row: Result) -> float:
    return float(row["documents_per_s"])


def _kills(result: Result) -> str:
    rows = result["rows"]
    twice = sum(row["committed_twice"] for row in rows)
    worst = max(row["largest_difference"] for row in rows)
    return f"{len(rows)} kills: {twice} pairs committed twice, a raw score differs by at most {worst:.4f}"


def _quality(result: Result) -> str:
    """For each dataset, teacher and student ezxmc minus the method that comes closest to it by nDCG@5."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for row in result["differences"]:
        if row["method"] not in JUDGES:
            groups.setdefault(tuple(row[name] for name in ("dataset", "labels", "teacher", "student")), []).append(row)
    closest = {key: min(rows, key=lambda row: row["metrics"]["nDCG@5"]["value"]) for key, rows in groups.items()}
    varying = [place for place in range(4) if place < 2 or len({key[place] for key in closest}) > 1]
    return "ezxmc minus the closest method, points: " + "; ".join(
        f"{', '.join(_short(key[place]) for place in varying)}: {row['method']}, {_gains(row)}"
        for key, row in closest.items()
    )


def _short(name: str) -> str:
    """A model of a package or directory by the package or the file."""
    return name.removeprefix("package:").split("/")[0]


def _gains(row: Result) -> str:
    return ", ".join(
        f"{name} {one['value']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})"
        for name, one in row["metrics"].items()
        if name in ("P@1", "R@10")
    )


def _student(result: Result) -> str:
    """A phrase a part that was measured."""
    found = []
    if "train_ratios" in result:
        plain, dropout = (result[name] or {} for name in ("train_ratios", "train_ratios_with_dropout"))
        found.append(f"trains {_times(plain)} as fast as MultipleNegativesRankingLoss ({_times(dropout)} with dropout)")
    if "encode_ratio" in result:
        both = result["encode_ratio_float32"]
        found.append(f"encodes {result['encode_ratio']:.2f} times as fast ({both:.2f} with both in float32)")
    for part, teacher in (("quality", ""), ("perfect", "a simulated perfect teacher: ")):
        means = {name: one for name, one in result.get(part, {}).items() if isinstance(one, dict)}
        shown = ", ".join(f"{name} {one['P@1']:.1f}" for name, one in means.items())
        found += [f"{teacher}P@1 {shown}"] if means else []
    if "scaling" in result:
        found.append(f"two workers {result['scaling']['ratio']:.2f} times as fast as one")
    return "; ".join(found)


def _times(ratios: Result) -> str:
    ratio = ratios.get("st_mnrl")
    return "not measured" if ratio is None else f"{ratio:.2f} times"


def _teacher(result: Result) -> str:
    ratios = {name: one for name, one in result["ratios"].items() if name != "ezxmc" and one is not None}
    others = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in ratios.items())
    ours = result["pairs_per_s"]["ezxmc"]
    return f"{ours:.1f} pairs/s, {others}; {result['tokens_over_ideal']:.3f} times the tokens that are needed"


def _teacher_quality(result: Result) -> str:
    alone, *judged = result["rows"]
    low, high = (pick(row["AUC_alone"] for row in judged) for pick in (min, max))
    return f"AUC within a document: similarity {alone['AUC_alone']:.2f}, teacher {low:.2f} to {high:.2f} by calibration"


RULES: dict[str, Callable[[Result], str]] = {
    "demo": _demo,
    "encode": _encode,
    "kills": _kills,
    "quality": _quality,
    "student": _student,
    "teacher": _teacher,
    "teacher_quality": _teacher_quality,
}

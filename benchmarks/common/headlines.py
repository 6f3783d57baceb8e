"""The one sentence that benchmarks/RESULTS.md has of a result, by the benchmark that wrote it.

Comes in: a result, as its JSON file has it. Goes out: a sentence of figures that are all in it. Where a rule has to
choose among methods it takes the strongest other one, so that no row is the most flattering comparison.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Result: TypeAlias = "dict[str, Any]"
#: No rivals of the student: methods that judge the very documents that are ranked, and ezxmc in another way.
RERANKED = "ezxmc_reranked"
NO_RIVALS = ("icxml", "llm_rerank", "llm_fusion", "ezxmc_once", RERANKED)


def benchmark_of(result: Result) -> str:
    """The name of the script that wrote ``result``; of scale.py that of its part."""
    words = shlex.split(result["command"])
    name = Path(words[1]).stem
    return words[2] if name == "scale" else name


def headline(result: Result) -> str:
    """The figure of ``result``; of a benchmark without a rule its first note."""
    rule = RULES.get(benchmark_of(result), lambda one: str(one["notes"][0]))
    return rule(result)


def _demo(result: Result) -> str:
    """The mean over the seeds, of the runs with fewest judged documents."""
    before = result["rows"][0]
    after = min((row for row in result["rows"] if row["seed"] == "mean"), key=lambda row: int(row.get("judged") or 0))
    seeds = sum(
        row["seed"] != "mean" and all(row.get(name) == after.get(name) for name in ("encoder", "judged"))
        for row in result["rows"]
    )
    changes = ", ".join(f"{name} {before[name]:.1f} → {after[name]:.1f}" for name in ("P@1", "R@10"))
    judged = f" with {after['judged']} judged documents" if "judged" in after else ""
    return f"{changes}{judged}, mean of {seeds} runs"


def _judge(result: Result) -> str:
    rows = result["rows"]
    busy = ", ".join(f"{row['engine_busy']:.1%} at {row['pairs/s of the simulated engine']:,}" for row in rows)
    slowed = re.search(r"--slow-motion[ =](\d+)", result["command"])
    motion = f", engine and storage slowed {slowed[1]} times" if slowed else ""
    return f"a simulated engine works {busy} pairs/s{motion}; {rows[0]['cpu_us_per_pair']:.0f} µs of CPU a pair"


def _engines(result: Result) -> str:
    [row] = result["rows"]
    return (
        f"{row['engines']} simulated engines of {row['pairs/s of an engine']:,.0f} pairs/s come to "
        f"{row['efficiency']:.1%} of their ideal; the driver bounds at {row['driver_documents_per_s']:,.0f} documents/s"
    )


def _encode(result: Result) -> str:
    rows = {row["method"]: row for row in result["rows"]}
    ours = rows["ezxmc, auto"]
    fastest = max((row for name, row in rows.items() if not name.startswith("ezxmc")), key=_speed)
    return (
        f"{_speed(ours):.0f} documents/s, {ours['documents_ratio']:.2f} times SentenceTransformer.encode's default; "
        f"its fastest ({fastest['method'].split(', ')[-1]}): {_speed(fastest):.0f}; "
        f"cosine at least {ours['cosine_min']}"
    )


def _gpu(result: Result) -> str:
    """Pairs a second by teacher and engine, and what else was measured, each in its best setting."""
    figures = result["figures"]
    judged = "; ".join(
        f"{model}{' (random weights)' * model.startswith('random')} "
        + ", ".join(f"{engine} {rate:,.0f}" for engine, rate in sorted(engines.items(), reverse=True))
        for model, engines in sorted(figures["pairs_per_s"].items(), reverse=True)
    )
    agreement = figures["agreement"].get("decision_agreement")
    told = [f"{result['gpu']}, pairs/s: {judged}"] if judged else [str(result["gpu"])]
    told += [] if agreement is None else [f"packed decides as vLLM for {agreement:.1%} of the pairs"]
    for name, what in (
        ("encoder_documents_per_s", "encodes {:,.0f} documents/s"),
        ("student_documents_per_s", "learns from {:,.0f}"),
        ("search_queries_per_s", "searches for {:,.0f}"),
        ("run_seconds", "a whole run takes {:,.0f} s"),
    ):
        told += [] if figures.get(name) is None else [what.format(figures[name])]
    return "; ".join(told)


def _tagging(result: Result) -> str:
    rows = {row["tagged by"]: row for row in result["rows"]}
    ours = rows["export of it"]
    command = ", ".join(f"{name} {row['command_s']:.1f} s" for name, row in rows.items())
    return (
        f"an export tags its first text after {ours['first_tag_s']:.2f} s, a text by itself in "
        f"{ours['text_ms']:.0f} ms, {ours['documents_per_s']:.0f} documents/s; the command with one text: {command}"
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
    if result.get("rounds"):
        return _rounds(result["rounds"])
    if reranked := [row for row in result["differences"] if row["method"] == RERANKED]:
        return "a cross-encoder that ranks the first 30 labels of ezxmc anew adds, points: " + "; ".join(
            f"{_short(row['dataset'])}: "
            + ", ".join(_taken_away(row["metrics"][name], name) for name in ("P@1", "R@10"))
            for row in reranked
        )
    groups: dict[tuple[str, ...], list[Result]] = {}
    for row in result["differences"]:
        if row["method"] not in NO_RIVALS:
            groups.setdefault(tuple(row[name] for name in ("dataset", "labels", "teacher", "student")), []).append(row)
    if not groups:
        return f"no comparison with ezxmc; {result['notes'][0]}"
    closest = {key: min(rows, key=lambda row: row["metrics"]["nDCG@5"]["value"]) for key, rows in groups.items()}
    varying = [place for place in range(4) if place < 2 or len({key[place] for key in closest}) > 1]
    return "ezxmc minus the closest method, points: " + "; ".join(
        f"{', '.join(_short(key[place]) for place in varying)}: {row['method']}, "
        + ", ".join(f"{name} {with_interval(row['metrics'][name], '+.1f')}" for name in ("P@1", "R@10"))
        for key, row in closest.items()
    )


def _taken_away(measure: Result, name: str) -> str:
    """Of a difference, ezxmc minus another method, that of the other one minus ezxmc."""
    turned = {"value": -measure["value"], "low": -measure["high"], "high": -measure["low"]}
    return f"{name} {with_interval(turned, '+.1f')}"


def _rounds(rows: Sequence[Result]) -> str:
    """Of each way to say how many documents are judged: the encoder that ships."""
    return f"{rows[0]['dataset']}: " + "; ".join(
        f"{row['rounds']}: {row['pairs']:,} pairs, "
        + ", ".join(f"{name} {row['metrics'][name]['value']:.1f}" for name in ("P@1", "R@10"))
        for row in rows
        if row["chosen"]
    )


def _short(name: str) -> str:
    """A model of a package or directory by the package or the file."""
    return name.removeprefix("package:").split("/")[0]


def with_interval(measure: Mapping[str, float | None], form: str) -> str:
    """``56.3 (54.1 to 58.4)``; ``form``: of each number."""
    value, low, high = (measure[name] for name in ("value", "low", "high"))
    return f"{value:{form}}" if low is None else f"{value:{form}} ({low:{form}} to {high:{form}})"


def _student(result: Result) -> str:
    """A phrase a part that was measured."""
    found = []
    for name, what in (
        ("train_ratios", "trains {:.2f} times as fast as MultipleNegativesRankingLoss"),
        ("train_ratios_with_dropout", "{:.2f} times with dropout in both"),
    ):
        ratio = (result.get(name) or {}).get("st_mnrl")
        found += [] if ratio is None else [what.format(ratio)]
    for name, what in (
        ("encode_ratio", "encodes {:.2f} times as fast as SentenceTransformer.encode"),
        ("encode_ratio_float32", "{:.2f} times with both in float32"),
    ):
        found += [] if result.get(name) is None else [what.format(result[name])]
    for part, teacher in (("quality", ""), ("perfect", "with a simulated perfect teacher ")):
        means = {name: one for name, one in result.get(part, {}).items() if isinstance(one, dict)}
        found += [f"{teacher}P@1 " + ", ".join(f"{name} {one['P@1']:.1f}" for name, one in means.items())] * bool(means)
    if "scaling" in result:
        found.append(f"two workers {result['scaling']['ratio']:.2f} times as fast as one")
    return "; ".join(found)


def _teacher(result: Result) -> str:
    ratios = {name: one for name, one in result["ratios"].items() if name != "ezxmc" and one is not None}
    others = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in ratios.items())
    ours = result["pairs_per_s"]["ezxmc"]
    return f"{ours:.1f} pairs/s, {others}; {result['tokens_over_ideal']:.3f} times the tokens that are needed"


def _packed(result: Result) -> str:
    """The first work, and how near the scores are to float32's."""
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in result["pairs_per_s"].items())
    return (
        f"{result['model']}, {result['dtype']}, pairs/s: {rates}; {result['tokens_over_ideal_of_the_padded']:.3f} "
        "times the tokens that are needed, padding apart; |ΔP| at most 0.02 for "
        f"{result['share_within_tolerance']:.1%} of the pairs"
    )


def _ceiling(result: Result) -> str:
    cores = min(row["cores"] for row in result["rows"])
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in result["pairs_per_s"].items())
    return f"pairs/s of a model that costs nothing, {cores} core{'s' * (cores > 1)}: {rates}"


def _teacher_quality(result: Result) -> str:
    alone, *judged = result["rows"]
    low, high = (pick(row["AUC_alone"] for row in judged) for pick in (min, max))
    return f"AUC within a document: similarity {alone['AUC_alone']:.2f}, teacher {low:.2f} to {high:.2f} by calibration"


def _index(result: Result) -> str:
    """What auto does with the most labels, and the fastest other kind that finds as many."""
    labels = max(row["labels"] for row in result["rows"])
    rows = [row for row in result["rows"] if row["labels"] == labels and "error" not in row]
    auto = next(row for row in rows if row["kind"] == "auto")
    others = [row for row in rows if row is not auto and row["recall@400"] >= auto["recall@400"]]
    best = max(others, key=lambda row: row["queries_per_cpu_s_batch_1"], default=None)
    found = (
        f"{labels:,} labels: auto finds {auto['recall@400']:.3f} of the 400 nearest, "
        f"{auto['queries_per_cpu_s_batch_1']:.0f} queries a second of CPU, built in {auto['build_cpu_s']:.0f} of them"
    )
    return found + (f"; {best['kind']} {best['queries_per_cpu_s_batch_1']:.0f} queries" if best else "")


def _train(result: Result) -> str:
    first = ", ".join(f"{row['first_step_s']:.0f} s with {row['workers']} workers" for row in result["rows"])
    one = result["rows"][0]
    return (
        f"from a worker's start to the first step {first}; {one['files_before_first_step']} files are read for it; "
        f"checkpoints take {result['checkpoint_share']:.1%} of the time"
    )


def _serve(result: Result) -> str:
    """What 64 clients of one text get, of each server; and what was lost of all that `ezxmc serve` was asked."""
    same = [row for row in result["rows"] if (row["clients"], row["texts"], row["during"]) == (64, 1, "")]
    each = ", ".join(f"{row['server']} {row['requests_per_s']:.0f} (p99 {row['p99_ms']:,.0f} ms)" for row in same)
    return (
        f"requests/s of 64 clients: {each}; {result['lost']} of {result['requests']:,} requests lost, over a new "
        "export and a replica killed with -9"
    )


def _readouts(result: Result) -> str:
    """What the default's second question adds to the target, and what the best of the others does."""
    joined = {row["what orders the shortlist"]: row for row in result["rows"] if "AUC, difference" in row}
    name = "the same with the mean of likelihood"
    best = max((one for one in joined if one != name), key=lambda one: float(joined[one]["AUC, difference"].split()[0]))
    shown = [
        f"{one.removeprefix('the same with the mean of ')}: AUC {joined[one]['AUC, difference']}, "
        f"P@1 {joined[one]['P@1, difference']}"
        for one in (name, best)
    ]
    return f"{result['data']}, added to the target of yes_no: {shown[0]}; best other: {shown[1]}"


RULES: dict[str, Callable[[Result], str]] = {
    "tagging": _tagging,
    "ceiling": _ceiling,
    "demo": _demo,
    "engines": _engines,
    "encode": _encode,
    "gpu": _gpu,
    "index": _index,
    "judge": _judge,
    "kills": _kills,
    "packed": _packed,
    "quality": _quality,
    "readouts": _readouts,
    "serve": _serve,
    "student": _student,
    "teacher": _teacher,
    "teacher_quality": _teacher_quality,
    "train": _train,
}

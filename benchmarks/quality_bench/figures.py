"""The figures of benchmarks/quality.py: intervals, differences of methods on the same documents, budgets.

Comes in: rows (plain dicts that name dataset, labels, method, teacher, student, seed) and the values of each document.
Goes out: measures as ``{value, low, high}`` in percent with 95 % bootstrap intervals over documents, paired differences
between ``ezxmc`` and the other methods, the least budget of pairs that reaches ``lmtx``, and tables for RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ezxmc_ray.metrics import MEASURES, bootstrap_intervals

Row: TypeAlias = "dict[str, Any]"
#: float64 [documents] of each of MEASURES, percent.
Values: TypeAlias = "dict[str, np.ndarray]"

OURS = "ezxmc"
#: The same with a teacher that is read once.
ONCE = "ezxmc_once"
#: The same with a cross-encoder that ranks the first labels anew.
RERANKED = "ezxmc_reranked"
PUBLISHED = "lmtx"
#: The published recipe's student, ranking with the words as ezxmc does.
PUBLISHED_WORDS = "lmtx_words"
LMTX = (PUBLISHED, PUBLISHED_WORDS)
#: A larger encoder than the student's, untrained, with the words.
LARGER = "larger_words"
WITHOUT_LLM = ("untrained", "bm25", "tfidf", "words", LARGER, "title", "segments")
METHODS = (*WITHOUT_LLM, *LMTX, "icxml", "llm_rerank", "llm_fusion", ONCE, OURS, RERANKED)
#: What names a row.
IDENTITY = ("dataset", "labels", "method", "teacher", "student", "seed")
#: What names the mean over the seeds of a method, and its difference from ezxmc.
GROUP = tuple(name for name in IDENTITY if name != "seed")
#: What ezxmc and another method have in common when they are compared.
SAME = ("dataset", "labels", "student", "teacher")
#: Of which the least budget is sought that reaches the published recipe.
REACHED = ("P@1", "R@10")
#: Prompts asked in a run from which its rate is one.
MIN_PROMPTS = 1000
#: Of the bootstrap.
SEED = 0


def measures(values: Values) -> dict[str, Row]:
    """Mean and interval of each measure; ``low`` and ``high`` are None where there are too few documents."""
    intervals = bootstrap_intervals(values, SEED)
    return {name: _measure(float(values[name].mean()), intervals[name]) for name in MEASURES}


def mean_over_seeds(seeds: Sequence[Values]) -> Values:
    """Each document's mean over runs that differ in their seed."""
    return {name: np.mean([one[name] for one in seeds], axis=0) for name in MEASURES}


def difference(first: Values, second: Values) -> dict[str, Row]:
    """``first`` minus ``second``, points, with paired intervals: both hold the same documents in the same order."""
    return measures({name: first[name] - second[name] for name in MEASURES})


def in_order(rows: Iterable[Row]) -> list[Row]:
    """``rows`` by dataset, method and seed."""
    return sorted(rows, key=_place)


def _place(row: Row) -> tuple[Any, ...]:
    models = [row["student"] or "", row["teacher"] or ""]
    numbers = [-row.get("share", 0), row.get("cycles", 0), row.get("seed") or 0]
    return (row["dataset"], row["labels"], METHODS.index(row["method"]), *models, *numbers)


def _group(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in GROUP)


def compared(measured: Sequence[tuple[Row, Values]]) -> tuple[list[Row], list[Row]]:
    """Rows of the means over seeds, and rows of ezxmc's differences from every other method of its dataset.

    ``measured``: rows with the values of their documents. A method with a teacher is compared with ezxmc under the same
    teacher, one without with ezxmc under each.
    """
    groups: dict[tuple[Any, ...], list[tuple[Row, Values]]] = {}
    for row, values in measured:
        groups.setdefault(_group(row), []).append((row, values))
    found = [
        (
            {name: rows[0][0][name] for name in GROUP} | {"seeds": len(rows)},
            mean_over_seeds([values for _, values in rows]),
        )
        for rows in groups.values()
    ]
    means = [row | {"metrics": measures(values)} for row, values in found]
    return means, [
        _identity_of_difference(ours, other) | {"metrics": difference(ezxmc, values)}
        for ours, ezxmc in found
        if ours["method"] == OURS
        for other, values in found
        if other["method"] != OURS and _comparable(ours, other)
    ]


def at_equal_shares(measured: Sequence[tuple[Row, Values]]) -> list[Row]:
    """As the differences of :func:`compared`, of ezxmc from the recipe at each share of documents that both judged.

    ``measured``: rows of the part budget with the values of their documents. The result names the ``share``, and by
    ``pairs`` the mean pairs of both.
    """
    found: list[Row] = []
    for share in dict.fromkeys(row["share"] for row, _ in measured):
        rows = [(row, values) for row, values in measured if row["share"] == share]
        for one in compared(rows)[1]:
            pairs = [_mean_pairs(rows, row) for row in (one | {"method": OURS}, one)]
            found.append(one | {"share": share, "pairs": pairs})
    return found


def _mean_pairs(rows: Sequence[tuple[Row, Values]], one: Row) -> float:
    return float(np.mean([row["pairs"] for row, _ in rows if _group(row) == _group(one)]))


def _comparable(ours: Row, other: Row) -> bool:
    same = [name for name in SAME if not (other["method"] == LARGER and name == "student")]
    return all(other[name] in (ours[name], None) for name in same)


def _identity_of_difference(ours: Row, other: Row) -> Row:
    return {name: ours[name] for name in SAME} | {"method": other["method"], "seeds": [ours["seeds"], other["seeds"]]}


def at_one_rate(*parts: Sequence[Row]) -> list[list[Row]]:
    """The rows of ``parts``, with ``teacher_seconds`` at one rate for each teacher: the fastest of a row.

    A teacher that is read twice has a rate of its own: its other prompts take another time.

    Judging beside other work is slower, and then it is not the method that is. Rows in which little was asked, or less
    than half of what they need, set no rate: a document of which few labels are asked costs as much for itself.
    Where no row sets one, it is the fastest rate of a verdict store, by which a row's own seconds came.
    """
    rates: dict[tuple[Any, ...], float] = {}
    stores: dict[tuple[Any, ...], float] = {}
    for row in (row for rows in parts for row in rows):
        prompts = _sum(row, "pairs_asked", "priors_asked", "second_asked")
        if prompts >= max(MIN_PROMPTS, _prompts(row) / 2) and row.get("seconds_asked"):
            _note_rate(rates, row, prompts / row["seconds_asked"])
        if row.get("teacher_seconds"):
            _note_rate(stores, row, _prompts(row) / row["teacher_seconds"])
    rates = stores | rates

    def priced(row: Row) -> Row:
        if not row.get("pairs") or _judge(row) not in rates:
            return row
        return row | {"teacher_seconds": _prompts(row) / rates[_judge(row)]}

    return [list(map(priced, rows)) for rows in parts]


def _note_rate(rates: dict[tuple[Any, ...], float], row: Row, rate: float) -> None:
    rates[_judge(row)] = max(rates.get(_judge(row), 0.0), rate)


def _prompts(row: Row) -> int:
    """What a row needs judged: pairs, a second time where they are asked so, and labels beside no document."""
    return _sum(row, "pairs", "priors", "second")


def _sum(row: Row, *names: str) -> int:
    return sum(int(row.get(name) or 0) for name in names)


def _judge(row: Row) -> tuple[Any, ...]:
    return (*(row[name] for name in ("dataset", "labels", "teacher")), bool(row.get("second")))


def reached(budget: Sequence[Row]) -> list[Row]:
    """For each measure of REACHED the least pairs with which ezxmc is as good as the published recipe.

    As the recipe with all documents, and as the recipe with the share (``lmtx_share``) that it is best with.
    ``budget``: rows of both methods with ``share`` (1: all), ``pairs`` and ``priors``. ``pairs`` None: no budget that
    was tried.
    """
    found: list[Row] = []
    for key in dict.fromkeys(tuple(row[name] for name in SAME) for row in budget):
        rows = [row for row in budget if tuple(row[name] for name in SAME) == key]
        points = {method: _points([row for row in rows if row["method"] == method]) for method in (OURS, PUBLISHED)}
        if 1.0 not in points[PUBLISHED]:
            continue
        published = points[PUBLISHED]
        for name in REACHED:
            best = max(published, key=lambda share: published[share][name])
            for share in dict.fromkeys((1.0, best)):
                found.append(dict(zip(SAME, key, strict=True)) | _least(points[OURS], published[share], name, share))
    return found


def _least(points: Mapping[float, Mapping[str, float]], recipe: Mapping[str, float], name: str, share: float) -> Row:
    """The cheapest of ``points`` that has at least the measure ``name`` of ``recipe``."""
    enough = [one for one in points.values() if one[name] >= recipe[name]]
    least = min(enough, key=lambda one: one["pairs"], default=None)
    row = {"measure": name, "lmtx": recipe[name], "lmtx_share": share, "lmtx_pairs": recipe["pairs"]}
    if least is None:
        return row | {"pairs": None, "priors": None, "share": None}
    return row | {"pairs": least["pairs"], "priors": least["priors"], "share": least["pairs"] / recipe["pairs"]}


def _points(rows: Sequence[Row]) -> dict[float, Mapping[str, float]]:
    """By share of the budget the means over seeds of pairs, priors and measures."""
    shares = dict.fromkeys(row["share"] for row in rows)
    by_share = {share: [row for row in rows if row["share"] == share] for share in shares}
    return {
        share: {cost: float(np.mean([row.get(cost) or 0 for row in some])) for cost in ("pairs", "priors")}
        | {name: float(np.mean([row["metrics"][name]["value"] for row in some])) for name in MEASURES}
        for share, some in by_share.items()
    }


def _measure(value: float, interval: tuple[float, float] | None) -> Row:
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high}

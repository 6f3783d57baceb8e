"""The parts of benchmarks/quality.py that need no model and no Ray: figures, tables, rankings by shared words."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import quality
from common.data import Files
from common.headlines import with_interval
from ezxmc_ray.config import load_config
from ezxmc_ray.metrics import MEASURES
from make_results import section
from quality_bench.bench import ROUNDS, Bench
from quality_bench.figures import (
    at_equal_shares,
    at_one_rate,
    compared,
    difference,
    in_order,
    measures,
    reached,
)
from quality_bench.lexical import bm25, highest, tfidf
from quality_bench.tables import tables

PARTS = ("means", "differences", "cycles", "budget", "reached", "equal_shares")
LABELS = ["graph theory", "rice", "theory of music", "graph drawing"]


def values(*numbers: float) -> dict[str, np.ndarray]:
    return {name: np.array(numbers, np.float64) for name in MEASURES}


def row(method: str, seed: int | None = 0, teacher: str | None = "t", **more: Any) -> dict[str, Any]:
    names = {"dataset": "d", "labels": "l", "method": method, "teacher": teacher, "student": "s", "seed": seed}
    return names | {"metrics": measures(values(*[50.0] * 20))} | more


def test_a_measure_has_its_mean_and_an_interval_around_it_and_none_with_few_documents() -> None:
    found = measures(values(*[0.0, 100.0] * 10))["P@1"]
    assert found["value"] == 50.0
    assert 20 < found["low"] < 40 and 60 < found["high"] < 80
    assert measures(values(0.0, 100.0))["P@1"] == {"value": 50.0, "low": None, "high": None}


def test_a_difference_is_paired() -> None:
    draw = np.random.default_rng(0).uniform(0, 90, 50)
    found = difference(values(*(draw + 1.0)), values(*draw))["P@1"]
    assert found["low"] == pytest.approx(1.0) and found["high"] == pytest.approx(1.0)


def test_rows_are_in_the_order_of_methods_and_seeds() -> None:
    rows = [row("ezxmc", 1), row("ezxmc", teacher="u"), row("ezxmc"), row("bm25", None, None), row("untrained", None)]
    found = [(one["method"], one["teacher"], one["seed"]) for one in in_order(rows)]
    assert found == [
        ("untrained", "t", None),
        ("bm25", None, None),
        ("ezxmc", "t", 0),
        ("ezxmc", "t", 1),
        ("ezxmc", "u", 0),
    ]


def test_ezxmc_is_compared_seed_by_seed_averaged_with_what_shares_its_teacher_and_student() -> None:
    measured = [
        (row("ezxmc"), values(*[60.0, 40.0] * 10)),
        (row("ezxmc", 1), values(*[40.0, 60.0] * 10)),
        (row("lmtx"), values(*[45.0] * 20)),
        (row("lmtx", teacher="u"), values(*[1.0] * 20)),
        (row("bm25", None, None) | {"student": None}, values(*[20.0] * 20)),
        (row("untrained", None, None) | {"student": "other"}, values(*[30.0] * 20)),
        (row("larger_words", None, None) | {"student": "large"}, values(*[40.0] * 20)),
    ]
    means, differences = compared(measured)
    assert [(one["method"], one["seeds"], one["metrics"]["P@1"]["value"]) for one in means] == [
        ("ezxmc", 2, 50.0),
        ("lmtx", 1, 45.0),
        ("lmtx", 1, 1.0),
        ("bm25", 1, 20.0),
        ("untrained", 1, 30.0),
        ("larger_words", 1, 40.0),
    ]
    less = {"lmtx": 5.0, "bm25": 30.0, "larger_words": 10.0}
    shown = {one["method"]: one["metrics"]["R@10"] for one in differences}
    assert shown == {name: {"value": v, "low": v, "high": v} for name, v in less.items()}
    assert differences[0]["seeds"] == [2, 1]


def budget(method: str, share: float, pairs: int, precision: float, recall: float, seed: int = 0) -> dict[str, Any]:
    metrics = {name: {"value": 0.0} for name in MEASURES} | {"P@1": {"value": precision}, "R@10": {"value": recall}}
    return row(method, seed, share=share, pairs=pairs) | {"metrics": metrics}


def test_the_least_budget_that_reaches_the_published_recipe_is_a_mean_over_seeds() -> None:
    rows = [
        budget("lmtx", 1.0, 900, 50.0, 60.0),
        budget("lmtx", 0.1, 90, 70.0, 70.0),
        budget("ezxmc", 1.0, 1000, 55.0, 59.0),
        budget("ezxmc", 0.3, 300, 51.0, 58.0),
        budget("ezxmc", 0.1, 90, 52.0, 50.0),
        budget("ezxmc", 0.1, 110, 47.0, 50.0, seed=1),
    ]
    precision, best, recall, best_recall = reached(rows)
    assert (precision["measure"], precision["pairs"], precision["share"]) == ("P@1", 300.0, pytest.approx(1 / 3))
    assert (best["lmtx_share"], best["lmtx"], best["lmtx_pairs"], best["pairs"]) == (0.1, 70.0, 90.0, None)
    assert (recall["measure"], recall["pairs"], recall["share"]) == ("R@10", None, None)
    assert (best_recall["lmtx_share"], best_recall["pairs"]) == (0.1, None)
    assert [one["lmtx_share"] for one in reached([rows[0], *rows[2:]])] == [1.0, 1.0]
    assert reached(rows[1:]) == []


def test_methods_are_compared_at_the_same_share_where_both_were_measured() -> None:
    measured = [
        (row("ezxmc", share=0.5, pairs=100), values(*[60.0] * 20)),
        (row("ezxmc", 1, share=0.5, pairs=110), values(*[50.0] * 20)),
        (row("lmtx", share=0.5, pairs=120), values(*[45.0] * 20)),
        (row("ezxmc", share=0.1, pairs=20), values(*[50.0] * 20)),
        (row("lmtx", share=1.0, pairs=300), values(*[70.0] * 20)),
    ]
    (found,) = at_equal_shares(measured)
    assert (found["method"], found["share"], found["seeds"], found["pairs"]) == ("lmtx", 0.5, [2, 1], [105.0, 120.0])
    assert found["metrics"]["P@1"] == {"value": 10.0, "low": 10.0, "high": 10.0}


def test_seconds_are_at_the_rate_of_the_fastest_run_of_some_length() -> None:
    rows = [
        row("lmtx", pairs=4000, priors=0, pairs_asked=2000, seconds_asked=200.0, teacher_seconds=1.0),
        row("ezxmc", pairs=3000, priors=1000, pairs_asked=1000, priors_asked=1000, seconds_asked=100.0),
        row("ezxmc", 1, pairs=3000, priors=1000, pairs_asked=900, priors_asked=0, seconds_asked=1.0),
        row("ezxmc", 2, pairs=3000, priors=1000, pairs_asked=1900, priors_asked=0, seconds_asked=1.0),
        row("lmtx", teacher="u", pairs=100, pairs_asked=0, seconds_asked=0.0, teacher_seconds=7.0),
        row("ezxmc", teacher="u", pairs=100, priors=100, pairs_asked=1, seconds_asked=1.0, teacher_seconds=20.0),
        row("bm25", None, None),
    ]
    shown, (share,) = at_one_rate(rows, [row("lmtx", pairs=100, priors=None)])
    assert [one.get("teacher_seconds") for one in shown] == [200.0, 200.0, 200.0, 200.0, 7.0, 14.0, None]
    assert share["teacher_seconds"] == 5.0
    again = [row("lmtx", pairs=4000, priors=0, pairs_asked=0, seconds_asked=0.0, teacher_seconds=999.0)]
    assert at_one_rate(again)[0][0]["teacher_seconds"] == pytest.approx(999.0)


def test_a_teacher_that_is_read_twice_has_a_rate_of_its_own() -> None:
    rows = [
        row("lmtx", pairs=4000, priors=0, pairs_asked=4000, seconds_asked=400.0),
        row("ezxmc", pairs=3000, priors=1000, second=3000, pairs_asked=3000, second_asked=3000, seconds_asked=300.0),
    ]
    assert [one["teacher_seconds"] for one in at_one_rate(rows)[0]] == [400.0, 350.0]


def test_what_a_share_costs_has_the_pairs_that_are_asked_twice() -> None:
    measured = row("ezxmc", cycles=1, yes_threshold=None, pairs=3000, priors=1000, second=3000, pairs_asked=3000)
    measured |= {"priors_asked": 1000, "second_asked": 3000}
    measured |= {"seconds_asked": 70.0, "teacher_seconds": 70.0, "train_seconds": 9.0}
    given = SimpleNamespace(methods=["ezxmc"], shares=[], seeds=1)
    bench: Any = SimpleNamespace(given=given, identity=lambda *of: {}, measured=lambda *of: measured)
    rows = list(quality.budget(bench))
    assert rows == [measured | {"share": 1.0}]
    assert at_one_rate([measured], rows)[1][0]["teacher_seconds"] == 70.0


def test_highest_breaks_ties_by_number_and_leaves_out_what_scores_nothing() -> None:
    scores = np.array([[0.0, 2.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(highest(scores, 3), [[2, 1, 3], [-1, -1, -1]])
    np.testing.assert_array_equal(highest(scores, 5), [[2, 1, 3, -1, -1], [-1, -1, -1, -1, -1]])


def test_tfidf_ranks_by_the_cosine_of_sublinear_weights() -> None:
    corpus = [*LABELS, "graph graph rice"]
    found = tfidf(LABELS, corpus, ["graph graph rice", "zebra"], 4)
    idf = {
        word: 1 + math.log((1 + 5) / (1 + df))
        for word, df in (("graph", 3), ("rice", 2), ("theory", 2), ("drawing", 1))
    }
    document = {"graph": (1 + math.log(2)) * idf["graph"], "rice": idf["rice"]}

    def cosine(label: str) -> float:
        weights = {word: idf[word] for word in label.split()}
        return sum(document.get(word, 0.0) * weight for word, weight in weights.items()) / math.hypot(*weights.values())

    order = sorted((0, 1, 3), key=lambda number: -cosine(LABELS[number]))
    np.testing.assert_array_equal(found, [[*order, -1], [-1] * 4])


def test_bm25_is_the_formula_of_lucene() -> None:
    pytest.importorskip("bm25s")
    found = bm25(LABELS, ["Theory of graphs, graph theory, theory", "!", "zebra"], 4)
    words = [[word for word in label.split() if word != "of"] for label in LABELS]
    average = sum(map(len, words)) / len(words)

    def score(label: list[str]) -> float:
        total = 0.0
        for word in ("theory", "graphs", "graph", "theory", "theory"):
            containing = sum(word in other for other in words)
            norm = 1.5 * (1 - 0.75 + 0.75 * len(label) / average)
            total += (
                math.log(1 + (4 - containing + 0.5) / (containing + 0.5))
                * label.count(word)
                / (label.count(word) + norm)
            )
        return total

    scores = [score(label) for label in words]
    order = [number for number in np.argsort(-np.array(scores), kind="stable") if scores[number] > 0]
    assert order == [0, 2, 3]
    np.testing.assert_array_equal(found, [[*order, -1], [-1] * 4, [-1] * 4])


def test_the_page_has_a_table_for_each_part_that_was_measured() -> None:
    rows = [
        row("bm25", None, None),
        row("ezxmc", chosen="cycle_0", pairs=12000, second=8000, pairs_asked=3000, teacher_seconds=61.4, prompt="own"),
    ]
    means, differences = compared([(one, values(*[50.0] * 20)) for one in rows])
    parts: dict[str, Any] = {"means": means, "differences": differences, "cycles": [], "budget": [], "reached": []}
    rows_of_half = [one | {"share": 0.5, "pairs": 7} for one in (row("ezxmc"), row("lmtx"))]
    parts["equal_shares"] = at_equal_shares([(one, values(*[50.0] * 20)) for one in rows_of_half])
    found = tables(parts | {"rows": rows})
    assert [one["title"].partition(":")[0] for one in found] == ["d, l"] * 3
    about = {"name": "q", "title": "Quality", "command": "c", "machine": "m", "date": "x"}
    page = section(about | {"tables": found, "notes": ["n"]})
    assert "| 0.50 | 7 and 7 | lmtx | t | s | 1 and 1 | +0.0 (+0.0 to +0.0) |" in page
    assert "| ezxmc | t | s | 0 | own |  |  | cycle_0 | 12,000 |  | 8,000 | 3,000 | 61 |  | 50.0 (50.0 to" in page
    assert "| bm25 | t | s | 1 and 1 | +0.0 (+0.0 to +0.0) |" in page
    assert page.count("### ") == 3 and page.endswith("- n\n")


def test_rounds_are_runs_of_their_own_and_show_how_far_each_encoder_leads() -> None:
    config = load_config(None, [])
    given = SimpleNamespace(cycles=1, runs=Path("/r"), name="q")
    bench = Bench(given, config, Files(Path("d/documents.jsonl"), Path("l.jsonl"), None, Path("d"), "test"), {})  # type: ignore[arg-type]
    named = [row("ezxmc") | {"rounds": name} for name in ROUNDS]
    configs = [bench.configure(one) for one in (row("ezxmc"), *named)]
    assert len({one.run for one in configs}) == 1 + len(ROUNDS)
    assert [one.curriculum.pair_budget for one in configs] == [0, 0, 0, "auto"]
    assert [one.shortlist.documents_per_cycle for one in configs] == [None, 100, None, None]

    lead = {"difference": 1.26, "standard_error": 0.54}
    facts = {"encoder": "cycle_0", "pairs": 1200, "teacher_ndcg": 90.0, "lead": lead, "chosen": "yes"}
    [found] = tables({"rows": [], **{part: [] for part in PARTS}, "rounds": [named[0] | facts]})
    assert found["title"].startswith("d, l: documents judged")
    shown = {"documents judged": "100 documents", "lead": "1.3 ± 0.5", "pairs": 1200, "ships": "yes", "seed": "0"}
    assert shown.items() <= found["rows"][0].items()


def test_a_measure_without_an_interval_is_shown_alone() -> None:
    assert with_interval({"value": 1.25, "low": None, "high": None}, ".1f") == "1.2"
    assert with_interval({"value": 1.0, "low": -1.0, "high": 3.0}, "+.1f") == "+1.0 (-1.0 to +3.0)"

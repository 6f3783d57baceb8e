"""Measures against scikit-learn and against slow loops that follow the definitions word for word."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import ndcg_score, roc_auc_score

from ezxmc_ray import metrics

LABELS = 40


def random_case(seed: int, documents: int = 60, depth: int = 12) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ranked labels of different lengths (padded), and gold of 0 to 15 labels: none, and more than k, included."""
    generator = np.random.default_rng(seed)
    ranked = np.full((documents, depth), -1, np.int32)
    gold = []
    for row in range(documents):
        length = generator.integers(0, depth + 1)
        ranked[row, :length] = generator.permutation(LABELS)[:length]
        gold.append(np.sort(generator.permutation(LABELS)[: generator.integers(0, 16)]))
    return ranked, gold


def slow_values(ranked: np.ndarray, gold: list[np.ndarray], k: int) -> tuple[list[float], list[float], list[float]]:
    precision, recall, ndcg = [], [], []
    for row, wanted in zip(ranked.tolist(), (set(g.tolist()) for g in gold), strict=True):
        top = [label for label in row[:k] if label >= 0]
        hits = sum(label in wanted for label in top)
        gain = sum(1 / math.log(rank + 1) for rank, label in enumerate(top, 1) if label in wanted)
        ideal = sum(1 / math.log(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
        precision.append(100 * hits / k if wanted else math.nan)
        recall.append(100 * hits / len(wanted) if wanted else math.nan)
        ndcg.append(100 * gain / ideal if wanted else math.nan)
    return precision, recall, ndcg


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 5, 12, 100])
def test_values_equal_slow_loops(seed: int, k: int) -> None:
    ranked, gold = random_case(seed)
    measures = (metrics.precision_at_k, metrics.recall_at_k, metrics.ndcg_at_k)
    for measure, expected in zip(measures, slow_values(ranked, gold, k), strict=True):
        np.testing.assert_allclose(measure(ranked, gold, k), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_ndcg_equals_scikit_learn(k: int) -> None:
    generator = np.random.default_rng(k)
    scores = generator.permuted(np.tile(np.arange(LABELS), (50, 1)), axis=1)
    truth = generator.random((50, LABELS)) < 0.2
    truth[:, 0] |= ~truth.any(axis=1)
    ranked = np.argsort(-scores, axis=1).astype(np.int32)
    ours = metrics.ndcg_at_k(ranked, [np.flatnonzero(row) for row in truth], k).mean()
    assert ours == pytest.approx(100 * ndcg_score(truth, scores, k=k), abs=1e-9)


def test_evaluate_has_exactly_the_reports_keys_and_leaves_out_documents_without_gold() -> None:
    ranked, gold = random_case(7)
    result = metrics.evaluate(ranked, gold)
    assert list(result) == ["P@1", "P@3", "P@5", "nDCG@5", "R@10", "R@100", "documents"]
    assert result["documents"] == sum(len(labels) > 0 for labels in gold) < len(gold)
    assert result["P@5"] == pytest.approx(np.nanmean(slow_values(ranked, gold, 5)[0]), abs=1e-9)
    assert result["R@100"] == pytest.approx(np.nanmean(slow_values(ranked, gold, 100)[1]), abs=1e-9)


def test_evaluate_by_hand() -> None:
    ranked = np.array([[4, 2, 9], [1, -1, -1], [3, 5, 6]], np.int32)
    gold = [np.array([2, 9]), np.array([1, 2, 3]), np.array([], np.int64)]
    result = metrics.evaluate(ranked, gold)
    assert (result["P@1"], result["documents"]) == (50.0, 2)
    assert result["P@3"] == pytest.approx(50.0)  # (2/3 + 1/3) / 2
    assert result["R@10"] == pytest.approx(100 * (1 + 1 / 3) / 2)


def test_means_of_two_shards_are_those_of_all_documents() -> None:
    ranked, gold = random_case(3)
    parts = [metrics.per_document(ranked[:20], gold[:20]), metrics.per_document(ranked[20:], gold[20:])]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert metrics.means(joined) == metrics.evaluate(ranked, gold)


@pytest.mark.parametrize("documents", [0, 3])
@pytest.mark.filterwarnings("error")
def test_without_any_gold_there_are_no_means_and_no_documents(documents: int) -> None:
    result = metrics.evaluate(np.full((documents, 4), -1, np.int32), [np.array([], np.int32)] * documents)
    assert result.pop("documents") == 0
    assert all(math.isnan(value) for value in result.values())


def test_padding_is_never_a_hit_and_large_label_numbers_do_not_overflow() -> None:
    top = np.iinfo(np.int32).max
    ranked = np.array([[top, -1]] * 3000, np.int32)
    gold = [np.array([top], np.int32)] * 1500 + [np.array([top - 1], np.int32)] * 1500
    assert metrics.evaluate(ranked, gold)["P@1"] == 50.0


@pytest.mark.parametrize("distinct", [2, 4, 1000])
def test_auc_equals_scikit_learn_with_ties(distinct: int) -> None:
    generator = np.random.default_rng(distinct)
    scores = [generator.integers(0, distinct, size).astype(np.float32) for size in generator.integers(1, 12, 80)]
    is_gold = [generator.random(len(score)) < 0.4 for score in scores]
    both = [0 < gold.sum() < len(gold) for gold in is_gold]
    expected = [roc_auc_score(g, s) if use else math.nan for s, g, use in zip(scores, is_gold, both, strict=True)]
    np.testing.assert_allclose(metrics.auc_per_document(scores, is_gold), expected, rtol=0, atol=1e-9)
    assert 0 < sum(both) < len(both)


def test_auc_needs_a_gold_label_and_another_one() -> None:
    only_gold, none_gold = np.array([True, True]), np.array([False, False])
    values = metrics.auc_per_document([np.ones(2), np.ones(2), np.zeros(0)], [only_gold, none_gold, np.zeros(0, bool)])
    assert np.isnan(values).tolist() == [True, True, True]
    assert len(metrics.auc_per_document([], [])) == 0


def test_precision_at_1_counts_equal_scores_by_their_chance() -> None:
    scores = [np.array([1.0, 3.0, 2.0]), np.array([5.0, 5.0, 5.0, 0.0]), np.zeros(0)]
    is_gold = [np.array([False, True, False]), np.array([True, False, False, True]), np.zeros(0, bool)]
    np.testing.assert_allclose(metrics.precision_at_1_of_scores(scores, is_gold), [100.0, 100 / 3, math.nan])


def test_precision_of_the_highest_is_the_mean_over_all_orders_of_equal_scores() -> None:
    scores = np.array([3, 1, 2, 2, 2, 0], np.float32)
    is_gold = np.array([False, True, True, False, True, False])
    for count in range(1, 7):
        orders = [
            order
            for order in itertools.permutations(range(6))
            if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
        ]
        expected = np.mean([is_gold[list(order[:count])].mean() for order in orders])
        assert metrics.precision_of_highest(scores, is_gold, count) == pytest.approx(expected, abs=1e-12)


def test_bins_are_equal_in_size_and_in_rising_order() -> None:
    # Neighbours in float32: the middle of two of them is not a float32.
    values = np.random.default_rng(0).permutation(np.float32(1) + np.arange(100) * np.float32(2**-23))
    groups = metrics.equal_count_bins(values, 10)
    assert [len(group) for group in groups] == [10] * 10
    np.testing.assert_array_equal(np.concatenate([np.sort(values[group]) for group in groups]), np.sort(values))


@pytest.mark.parametrize("size", [1, 7, 10, 23])
def test_bins_hold_every_value_once_and_differ_by_one_at_most(size: int) -> None:
    groups = metrics.equal_count_bins(np.random.default_rng(size).normal(size=size), 10)
    assert sorted(np.concatenate(groups).tolist()) == list(range(size))
    assert len(groups) == min(size, 10)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_equal_values_are_in_one_bin() -> None:
    assert [group.tolist() for group in metrics.equal_count_bins(np.full(30, 0.1, np.float32), 10)] == [[*range(30)]]
    assert [len(group) for group in metrics.equal_count_bins(np.array([0.0] * 35 + [1.0] * 5), 10)] == [35, 5]
    assert metrics.equal_count_bins(np.zeros(0), 10) == []


def test_calibration_error_by_hand() -> None:
    probability, is_gold = np.array([0.1, 0.3, 0.8, 1.0]), np.array([False, True, True, True])
    # Two bins of two pairs: |0.2 - 0.5| and |0.9 - 1.0|.
    assert metrics.expected_calibration_error(probability, is_gold, 2) == pytest.approx(0.2)
    assert metrics.expected_calibration_error(np.array([0.75] * 4), is_gold, 10) == pytest.approx(0.0)
    assert metrics.expected_calibration_error(np.array([1.0]), np.array([False]), 10) == 1.0


def test_bootstrap_intervals_of_shares_are_those_of_the_binomial_distribution() -> None:
    hits = np.array([1.0] * 12 + [0.0] * 28)
    low, high = metrics.bootstrap_intervals({"hits": hits}, 0)["hits"] or (0.0, 0.0)
    expected = scipy.stats.binom(40, 0.3).ppf([0.025, 0.975]) / 40
    assert (low, high) == pytest.approx(expected, abs=1 / 40 + 1e-9)


def test_bootstrap_intervals_are_paired_and_equal_a_slow_loop() -> None:
    generator = np.random.default_rng(1)
    hard = generator.random(25)
    first, second = hard + generator.normal(0.05, 0.02, 25), hard
    found = metrics.bootstrap_intervals({"first": first, "second": second, "difference": first - second}, 3)
    draw, means = random.Random(7), {"first": [], "second": [], "difference": []}
    for _ in range(6000):
        documents = [draw.randrange(25) for _ in range(25)]
        one, other = sum(first[d] for d in documents) / 25, sum(second[d] for d in documents) / 25
        for name, value in (("first", one), ("second", other), ("difference", one - other)):
            means[name].append(value)
    for name, values in means.items():
        expected = statistics.quantiles(values, n=40)
        width = expected[-1] - expected[0]
        assert found[name] == pytest.approx((expected[0], expected[-1]), abs=0.08 * width)
    widths = {name: ends[1] - ends[0] for name, ends in found.items() if ends}
    assert widths["difference"] < 0.2 * widths["first"]


def test_bootstrap_intervals_are_seeded_and_need_ten_documents() -> None:
    values = {"a": np.random.default_rng(2).random(10)}
    assert metrics.bootstrap_intervals(values, 4) == metrics.bootstrap_intervals(values, 4)
    assert metrics.bootstrap_intervals(values, 4) != metrics.bootstrap_intervals(values, 5)
    assert metrics.bootstrap_intervals({"a": np.ones(10)}, 0) == {"a": (1.0, 1.0)}
    assert metrics.bootstrap_intervals({"a": np.ones(9), "b": np.ones(9)}, 0) == {"a": None, "b": None}
    assert metrics.bootstrap_intervals({"a": np.ones(0)}, 0) == {"a": None}


def test_histogram_counts_every_value_once() -> None:
    result = metrics.histogram(np.array([-5.0, 0.0, 0.1, 0.5, 1.0, 7.0]), np.array([0.0, 0.25, 0.5, 1.0]))
    assert result == {"edges": [0.0, 0.25, 0.5, 1.0], "counts": [3, 0, 3]}

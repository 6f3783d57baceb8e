"""Measures of scores against scikit-learn and against slow loops that follow the definitions word for word."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ezxmc_ray import metrics


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
    # Neighbors in float32: the middle of two of them is not a float32.
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

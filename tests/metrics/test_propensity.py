"""PSP@k and PSnDCG@k against slow float64 loops written from the published definitions, and against scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import dcg_score

from ezxmc_ray import metrics
from tests.metrics.cases import LABELS, random_case, random_counts


def slow_inverse_propensity(count: int, documents: int, a: float, b: float) -> float:
    """1 / p_l, p_l = 1 / (1 + C e^(-A ln(N_l + B))) with C = (ln N - 1) (B + 1)^A, word for word."""
    c = (math.log(documents) - 1) * (b + 1) ** a
    return 1 / (1 / (1 + c * math.exp(-a * math.log(count + b))))


@pytest.mark.parametrize(("a", "b"), [(0.55, 1.5), (0.5, 0.4), (0.6, 2.6)])
@pytest.mark.parametrize("documents", [3, 60, 1_500_000])
def test_inverse_propensities_follow_the_formula(a: float, b: float, documents: int) -> None:
    counts = [0, 1, 2, 7, 50]
    expected = [slow_inverse_propensity(count, documents, a, b) for count in counts]
    found = metrics.inverse_propensities(np.array(counts), documents, a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (np.diff(found) < 0).all()


def test_the_constants_are_the_repositorys_unless_given() -> None:
    counts = np.arange(5)
    np.testing.assert_array_equal(
        metrics.inverse_propensities(counts, 100), metrics.inverse_propensities(counts, 100, 0.55, 1.5)
    )


@pytest.mark.parametrize("documents", [0, 1, 2])
def test_on_two_documents_or_fewer_every_hit_counts_one(documents: int) -> None:
    assert metrics.inverse_propensities(np.array([0, 1]), documents).tolist() == [1.0, 1.0]


def slow_psp(ranked: np.ndarray, gold: list[np.ndarray], inverse: np.ndarray, k: int) -> float:
    """100 x sum of gains / sum of best gains."""
    gained = best = 0.0
    for row, wanted in zip(ranked.tolist(), (set(one.tolist()) for one in gold), strict=True):
        gained += sum(inverse[label] for label in row[:k] if label in wanted) / k
        best += sum(sorted((inverse[label] for label in wanted), reverse=True)[:k]) / k
    return 100 * gained / best


def slow_psndcg(ranked: np.ndarray, gold: list[np.ndarray], inverse: np.ndarray, k: int) -> float:
    """100 x sum of DCG / sum of best DCG, each divided by the ideal DCG of gains 0 and 1 before they are summed."""
    gained = best = 0.0
    for row, wanted in zip(ranked.tolist(), (set(one.tolist()) for one in gold), strict=True):
        if not wanted:
            continue
        plain = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
        weights = [inverse[label] if label in wanted else 0.0 for label in row[:k]]
        order = sorted((inverse[label] for label in wanted), reverse=True)[:k]
        gained += sum(weight / math.log2(rank + 1) for rank, weight in enumerate(weights, 1)) / plain
        best += sum(weight / math.log2(rank + 1) for rank, weight in enumerate(order, 1)) / plain
    return 100 * gained / best


def value(gains: tuple[np.ndarray, np.ndarray]) -> float:
    return float(100 * gains[0].sum() / gains[1].sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 5, 12, 100])
def test_values_equal_slow_loops(seed: int, k: int) -> None:
    ranked, gold = random_case(seed)
    inverse = metrics.inverse_propensities(random_counts(seed), 300)
    psp = value(metrics.propensity_precision_at_k(ranked, gold, inverse, k))
    psndcg = value(metrics.propensity_ndcg_at_k(ranked, gold, inverse, k))
    assert psp == pytest.approx(slow_psp(ranked, gold, inverse, k), abs=1e-9)
    assert psndcg == pytest.approx(slow_psndcg(ranked, gold, inverse, k), abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_psndcg_equals_scikit_learns_dcg_with_the_weights_as_gains(k: int) -> None:
    generator = np.random.default_rng(k)
    inverse = metrics.inverse_propensities(random_counts(k), 300)
    scores = generator.permuted(np.tile(np.arange(LABELS), (50, 1)), axis=1)
    truth = generator.random((50, LABELS)) < 0.1
    truth[:, 0] |= ~truth.any(axis=1)
    gained = best = 0.0
    for row, wanted in zip(scores, truth, strict=True):
        plain = dcg_score([wanted * 1.0], [wanted * 1.0], k=k)
        gained += dcg_score([inverse * wanted], [row], k=k) / plain
        best += dcg_score([inverse * wanted], [inverse * wanted], k=k) / plain
    ranked = np.argsort(-scores, axis=1).astype(np.int32)
    found = value(metrics.propensity_ndcg_at_k(ranked, [np.flatnonzero(row) for row in truth], inverse, k))
    assert found == pytest.approx(100 * gained / best, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_no_order_of_the_labels_gains_more_than_the_best(k: int) -> None:
    inverse = np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    gold = [np.array([0, 2, 3])]
    for measure in (metrics.propensity_precision_at_k, metrics.propensity_ndcg_at_k):
        orders = [np.array([order], np.int32) for order in itertools.permutations(range(5))]
        gains = [measure(order, gold, inverse, k)[0][0] for order in orders]
        assert max(gains) == pytest.approx(measure(orders[0], gold, inverse, k)[1][0], abs=1e-12)


def test_psp_by_hand_and_that_a_document_without_gold_gains_nothing() -> None:
    inverse = np.array([4.0, 1.0, 2.0])
    ranked, gold = np.array([[1, 2], [0, -1], [2, 1]], np.int32), [np.array([0, 1]), np.array([]), np.array([2])]
    gained, best = metrics.propensity_precision_at_k(ranked, gold, inverse, 2)
    np.testing.assert_allclose(gained, [1 / 2, 0, 2 / 2])
    np.testing.assert_allclose(best, [(4 + 1) / 2, 0, 2 / 2])
    gained, best = metrics.propensity_ndcg_at_k(ranked, gold, inverse, 2)
    second = 1 / math.log2(3)
    np.testing.assert_allclose(gained, [1 / (1 + second), 0, 2])
    np.testing.assert_allclose(best, [(4 + second) / (1 + second), 0, 2])


@pytest.mark.parametrize("k", [1, 5, 12])
def test_with_equal_propensities_psp_counts_hits_as_precision_does(k: int) -> None:
    ranked, gold = random_case(1)
    gained, best = metrics.propensity_precision_at_k(ranked, gold, np.ones(LABELS), k)
    np.testing.assert_allclose(100 * gained[best > 0], metrics.precision_at_k(ranked, gold, k)[best > 0])
    gained, best = metrics.propensity_ndcg_at_k(ranked, gold, np.ones(LABELS), k)
    np.testing.assert_allclose(100 * gained[best > 0], metrics.ndcg_at_k(ranked, gold, k)[best > 0])
    np.testing.assert_allclose(best[best > 0], 1)

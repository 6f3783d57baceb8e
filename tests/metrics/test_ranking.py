"""Ranking measures against scikit-learn and against slow loops that follow the definitions word for word."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from ezxmc_ray import metrics
from ezxmc_ray.config import DEEPEST_RANK
from tests.metrics.cases import LABELS, random_case


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


def test_the_least_depth_of_a_configuration_is_the_deepest_rank_that_is_measured() -> None:
    assert max(rank for _, rank in metrics.MEASURES.values()) == DEEPEST_RANK

from __future__ import annotations

import math

import numpy as np
import pytest

from ezxmc_ray.student.targets import TargetScale, TargetSums, scale_of, sums_of, target_scores


def test_sums_of_shards_add_up_to_the_scale_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    verdict = random.normal(-3, 2, 1000).astype(np.float32)
    similarity = random.normal(0.4, 0.1, 1000).astype(np.float32)
    verdict[::7] = np.nan
    parts = [sums_of(verdict[a:b], similarity[a:b]) for a, b in [(0, 100), (100, 100), (100, 640), (640, 1000)]]
    scale = scale_of(sum(parts, TargetSums()))
    judged = np.isfinite(verdict)
    assert sum(part.pairs for part in parts) == judged.sum()
    assert scale.verdict_mean == pytest.approx(verdict[judged].astype(np.float64).mean())
    assert scale.verdict_std == pytest.approx(verdict[judged].astype(np.float64).std())
    assert scale.similarity_mean == pytest.approx(similarity[judged].astype(np.float64).mean())
    assert scale.similarity_std == pytest.approx(similarity[judged].astype(np.float64).std())


def test_a_target_is_standardised_and_missing_where_nothing_was_judged() -> None:
    scale = TargetScale(0.5, 0.25, 0.4, 0.1)
    verdict = np.array([[1.0, np.nan], [0.5, 0.0]], dtype=np.float32)
    similarity = np.array([[0.5, 0.3], [np.nan, 0.6]], dtype=np.float32)
    np.testing.assert_allclose(target_scores(verdict, similarity, "verdict", scale), [[2, np.nan], [0, -2]], atol=1e-6)
    np.testing.assert_allclose(
        target_scores(verdict, similarity, "similarity", scale), [[1, np.nan], [np.nan, 2]], atol=1e-5
    )
    fusion = target_scores(verdict, similarity, "fusion", scale)
    np.testing.assert_allclose(fusion, [[3 / math.sqrt(2), np.nan], [np.nan, 0]], atol=1e-5)
    assert fusion.dtype == np.float32


@pytest.mark.parametrize("verdict", [[], [0.1, 0.1, 0.1], [0.0, 0.0], [np.nan]])
def test_verdicts_that_do_not_differ_teach_nothing_and_break_nothing(verdict: list[float]) -> None:
    values = np.array(verdict, dtype=np.float32)
    scale = scale_of(sums_of(values, np.full(len(values), 0.3, dtype=np.float32)))
    found = target_scores(values, np.full(len(values), 0.3, dtype=np.float32), "fusion", scale)
    np.testing.assert_allclose(found[np.isfinite(values)], 0, atol=1e-6)

"""Least scores and chances, held against plain loops and against a world whose chances are known."""

from __future__ import annotations

import numpy as np
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics.thresholds import (
    ERROR_BINS,
    FOLDS,
    MAX_POINTS,
    MIN_PAIRS,
    PRECISIONS,
    LeastScores,
    ProbabilityCurve,
    fit_min_score,
    fit_probability,
    precision_thresholds,
    probability_error,
    threshold_of_precision,
)


def test_the_least_score_is_the_best_f1_by_a_plain_loop() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        similarity = rng.integers(0, 12, 40).astype(np.float32) / 12
        yes = rng.random(40) < similarity
        best = {
            float(t): 2 * (yes & (similarity >= t)).sum() / ((similarity >= t).sum() + yes.sum())
            for t in np.unique(similarity)
        }
        highest = max(t for t, f1 in best.items() if f1 == max(best.values()))
        assert fit_min_score(similarity, yes) == highest


def test_with_no_yes_at_all_only_the_most_similar_stays() -> None:
    assert fit_min_score([0.25, 0.75, 0.5], [False, False, False]) == 0.75


def test_a_threshold_of_a_precision_is_the_lowest_that_has_it_by_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        similarity = (rng.integers(0, 30, 200) / 30).astype(np.float32)
        yes = rng.random(200) < similarity**2
        found = precision_thresholds(similarity, yes)
        for wanted, threshold in zip(PRECISIONS, found, strict=True):
            above = [similarity >= least for least in np.unique(similarity)]
            lowest = [
                float(least)
                for least, kept in zip(np.unique(similarity), above, strict=True)
                if kept.sum() >= MIN_PAIRS and yes[kept].mean() >= wanted
            ]
            assert threshold == (min(lowest) if lowest else None)
            assert threshold_of_precision(found, wanted) == threshold
        assert threshold_of_precision([*range(99)], 0.99) == 98
        assert threshold_of_precision(found, 0.505) == found[PRECISIONS.index(0.51)]
        assert found[0] == 0.0


def test_one_lucky_pair_is_no_precision() -> None:
    similarity = np.linspace(1, 0, 100, dtype=np.float32)
    yes = np.zeros(100, bool)
    yes[0] = True
    assert precision_thresholds(similarity, yes)[PRECISIONS.index(0.06)] is None
    assert precision_thresholds(similarity, yes)[PRECISIONS.index(0.05)] == similarity[MIN_PAIRS - 1]


def test_the_curve_finds_the_chances_of_a_world_that_is_known() -> None:
    rng = np.random.default_rng(6)
    similarity = rng.random(20_000).astype(np.float32)
    yes = rng.random(20_000) < similarity**2
    curve = fit_probability(similarity, yes)
    assert curve is not None
    at = np.linspace(0.05, 0.95, 19)
    assert np.abs(curve(at) - at**2).max() < 0.06
    assert (np.diff(curve(np.linspace(-1, 2, 500))) >= 0).all()
    assert 0 < curve(-5.0) < 0.03 and 0.9 < curve(5.0) < 1
    error = probability_error(similarity, yes)
    assert error is not None and error < 0.02
    assert ProbabilityCurve.of({"scores": list(curve.scores), "probabilities": list(curve.probabilities)}) == curve


def test_a_similarity_that_says_nothing_gives_everyone_the_same_chance() -> None:
    rng = np.random.default_rng(7)
    similarity, yes = rng.random(5_000), rng.random(5_000) < 0.3
    curve = fit_probability(similarity, yes)
    assert curve is not None and np.abs(curve([0.2, 0.5, 0.8]) - 0.3).max() < 0.06


def test_where_hundreds_say_the_same_the_chance_is_near_it() -> None:
    similarity = np.linspace(0, 1, 2000)
    curve = fit_probability(similarity, similarity > 0.9)
    assert curve is not None
    assert curve(0.3) < 0.002 and curve(0.97) > 0.99
    for yes, chance in ((True, 41 / 42), (False, 1 / 42)):  # a pair of each kind is added
        always = fit_probability(np.arange(40), np.full(40, yes))
        assert always is not None and always.probabilities == pytest.approx([chance, chance])


@pytest.mark.parametrize("pairs", [1, MIN_PAIRS, 2 * MIN_PAIRS - 1])
def test_of_too_few_pairs_no_chance_is_told(pairs: int) -> None:
    assert fit_probability(np.arange(pairs), np.arange(pairs) > 0) is None
    assert probability_error(np.arange(pairs), np.arange(pairs) > 0) is None
    assert ProbabilityCurve.of(None) is None


def test_equal_similarities_are_one_point() -> None:
    curve = fit_probability(np.repeat([0.1, 0.5], 60), np.repeat([False, True], 60))
    assert curve is not None and set(np.round(curve.scores, 9)) == {0.1, 0.5}
    assert curve.probabilities[0] < 0.1 and curve.probabilities[-1] > 0.9


def test_a_point_is_of_so_many_pairs_and_there_are_so_many_points() -> None:
    rng = np.random.default_rng(8)
    for pairs, points in ((2 * MIN_PAIRS, 2), (10 * MIN_PAIRS + MIN_PAIRS - 1, 10), (9_000, MAX_POINTS)):
        similarity = rng.random(pairs)
        curve = fit_probability(similarity, rng.random(pairs) < similarity)
        assert curve is not None and len(curve.scores) == points
        parts = np.array_split(np.sort(similarity), points)
        np.testing.assert_allclose(curve.scores, [part.mean() for part in parts])
        assert list(curve.probabilities) == sorted(curve.probabilities)


def test_the_error_of_the_curve_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(9)
    similarity = rng.random(403)
    yes = rng.random(403) < similarity**2
    gaps = [0.0] * ERROR_BINS
    for part in np.array_split(np.arange(403), FOLDS):
        others = np.setdiff1d(np.arange(403), part)
        curve = fit_probability(similarity[others], yes[others])
        assert curve is not None
        for pair in part:
            chance = float(curve(similarity[pair]))
            gaps[min(int(chance * ERROR_BINS), ERROR_BINS - 1)] += chance - float(yes[pair])
    assert probability_error(similarity, yes) == pytest.approx(sum(map(abs, gaps)) / 403)


def test_what_is_given_goes_before_what_was_fitted() -> None:
    fitted = LeastScores.of(
        {"min_score": 0.25, "precision_thresholds": [None if n > 80 else n / 100 for n in range(1, 100)]}
    )
    assert fitted.choose(None, None) == 0.25 and fitted.choose(0.7, None) == fitted.choose(0.7, 0.3) == 0.7
    assert fitted.choose(0.0, None) == 0.0 and fitted.choose(None, 0.3) == 0.3
    for least in (fitted, LeastScores.of({"min_score": 0.25})):  # of an older version, which fitted no others
        with pytest.raises(UserError, match=r"say yes to 90% of the labels: set predict\.precision lower, or null"):
            least.choose(None, 0.9)


def test_of_no_pair_nothing_is_fitted() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        fit_min_score([], [])

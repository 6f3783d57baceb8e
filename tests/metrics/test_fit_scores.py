"""What a manifest says of scores: the three fits together, or that everything is kept."""

from __future__ import annotations

import numpy as np
import pytest

from ezxmc_ray.metrics.thresholds import (
    MIN_PAIRS,
    LeastScores,
    ProbabilityCurve,
    fit_min_score,
    fit_probability,
    fit_scores,
    precision_thresholds,
    probability_error,
)


def test_all_that_is_fitted_goes_through_a_manifest() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=2000).astype(np.float32) * 40
    yes = draw.random(2000) < 1 / (1 + np.exp(-scores / 20))
    found = fit_scores(scores, yes)
    assert found["min_score"] == fit_min_score(scores, yes)
    assert found["precision_thresholds"] == precision_thresholds(scores, yes)
    assert found["probability_error"] == probability_error(scores, yes)
    curve = ProbabilityCurve.of(found["probability"])
    assert curve == fit_probability(scores, yes) and curve is not None
    least = LeastScores.of(found)
    assert least.choose(None, None) == found["min_score"] < least.choose(None, 0.9)


@pytest.mark.parametrize("pairs", [0, 1, 500])
def test_without_a_yes_everything_is_kept(pairs: int) -> None:
    found = fit_scores(np.zeros(pairs, np.float32), np.zeros(pairs, bool))
    assert found == {"min_score": -1.0, "precision_thresholds": None, "probability": None, "probability_error": None}


def test_of_few_pairs_a_least_score_and_no_chances() -> None:
    scores = np.arange(MIN_PAIRS, dtype=np.float32)
    found = fit_scores(scores, scores > 10)
    assert found["min_score"] == 11 and found["probability"] is found["probability_error"] is None

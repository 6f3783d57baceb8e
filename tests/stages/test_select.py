"""The comparison of encoders by the teacher's judgement: scores, standard errors, and the newest one's lead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ezxmc_ray.cycles import stops
from ezxmc_ray.stages.select import ADDED_UP, summarise, with_asked


def test_scores_and_leads_are_means_with_their_standard_errors() -> None:
    table = np.random.default_rng(0).uniform(0, 1, (40, 4))
    table[:, 2] += 0.3  # the best one before the newest
    found = summarise(table)
    for number, score in enumerate(found["scores"]):
        over_start = table[:, number] - table[:, 0]
        assert score["score"] == pytest.approx(100 * table[:, number].mean())
        assert score["standard_error"] == pytest.approx(100 * table[:, number].std(ddof=1) / np.sqrt(40))
        assert score["difference"] == pytest.approx(100 * over_start.mean())
        assert score["difference_standard_error"] == pytest.approx(100 * over_start.std(ddof=1) / np.sqrt(40))
    lead = table[:, 3] - table[:, 2]
    assert found["lead"] == {
        "over": "cycle_1",
        "difference": pytest.approx(100 * lead.mean()),
        "standard_error": pytest.approx(100 * lead.std(ddof=1) / np.sqrt(40)),
        "documents": 40,
    }


def test_noise_between_equally_good_encoders_seldom_stops_the_cycles() -> None:
    draw = np.random.default_rng(1)
    leads = [summarise(draw.uniform(0, 1, (60, 2)))["lead"] for _ in range(1000)]
    assert np.mean([stops(lead, -1.0) for lead in leads]) == pytest.approx(0.16, abs=0.03)
    assert np.mean([stops(lead, 1.0) for lead in leads]) == pytest.approx(0.84, abs=0.03)


def test_nothing_held_out_compares_nothing_and_stops_nothing() -> None:
    found = summarise(np.zeros((0, 3)))
    assert found["documents"] == 0 and [one["score"] for one in found["scores"]] == [0.0] * 3
    assert not stops(found["lead"], 1.0)


def counts(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(ADDED_UP, 0) | values


def test_a_cycle_judged_in_two_parts_counts_both() -> None:
    asked = counts(pairs_asked=40, prior_pairs_asked=5, engine_seconds=9.0)
    details = counts(pairs_asked=150, prior_pairs_asked=5, engine_seconds=31.0) | {"pairs_held": 50, "pairs": 200}
    whole = with_asked(details, asked)
    assert (whole["pairs"], whole["pairs_asked"], whole["pairs_held"]) == (200, 190, 10)
    assert whole["engine_pairs_per_s"] == pytest.approx(200 / 40)

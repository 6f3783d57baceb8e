"""The estimate of a run: its pairs add up, and keep to the budget."""

from __future__ import annotations

from typing import Any

import pytest

from ezxmc_ray.config import Config, load_config
from ezxmc_ray.estimate import Amounts, estimate

AMOUNTS = Amounts(documents=600, train=500, held_out=50, test=100, labels=80, document_tokens=100.0)


def rows(config: Config, done: dict[str, bool] | None = None) -> dict[str, dict[str, Any]]:
    return {row["step"]: row for row in estimate(config, AMOUNTS, {}, done or {}, config.curriculum.cycles)}


def test_the_stop_rule_adds_a_step_and_no_pair() -> None:
    config = load_config(None, ["curriculum.cycles=2"])
    found = rows(config)
    assert found["cycle 1 select"]["pairs"] == 50 * 10
    assert found["cycle 1 judge"]["pairs"] == 450 * 10
    config.curriculum.least_lead = None
    without = rows(config)
    assert "cycle 1 select" not in without
    assert without["cycle 1 judge"]["pairs"] == 500 * 10
    total, other = (sum(row["pairs"] or 0 for row in one.values()) for one in (found, without))
    assert total == other == 10 * (500 + 500 + 50)


@pytest.mark.parametrize("least_lead", ["null", "1"])
def test_the_pairs_of_all_steps_keep_to_the_budget(least_lead: str) -> None:
    settings = ["curriculum.cycles=3", "curriculum.pair_budget=5000", f"curriculum.least_lead={least_lead}"]
    found = rows(load_config(None, settings))
    assert 5000 - 30 < sum(row["pairs"] or 0 for row in found.values()) <= 5000
    assert found["cycle 0 train"]["documents"] == (500 - 50 * 4) // 3


def test_what_is_done_takes_no_time() -> None:
    found = rows(load_config(None, ["curriculum.cycles=2"]), {"cycle 1 select": True})
    assert found["cycle 1 select"]["seconds"] == 0
    assert found["cycle 1 judge"]["seconds"] > 0


def test_later_cycles_embed_twice_and_learn_from_the_documents_before() -> None:
    settings = ["curriculum.cycles=3", "shortlist.documents_per_cycle=225"]
    found = rows(load_config(None, settings))
    taught = [found[f"cycle {cycle} train"]["documents"] for cycle in range(3)]
    assert taught == [225, 338, 394]  # 450 * (1 - 0.5, 0.25, 0.125)
    alone = rows(load_config(None, [*settings, "student.past_verdicts=false"]))
    assert {alone[f"cycle {cycle} train"]["documents"] for cycle in range(3)} == {225}
    assert found["cycle 1 shortlist"]["documents"] == found["cycle 0 shortlist"]["documents"] == 275
    assert found["cycle 1 shortlist"]["seconds"] == 2 * found["cycle 0 shortlist"]["seconds"]

"""The estimate of a run: its pairs add up, and keep to the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray import estimate as module
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.cycles import planned_cycles
from ezxmc_ray.errors import UserError
from ezxmc_ray.estimate import (
    FAST_RATES,
    PAIR_ENCODING,
    SLOW_RATES,
    START_SECONDS,
    Amounts,
    estimate,
    reference_rates,
)

AMOUNTS = Amounts(documents=600, train=500, held_out=50, test=100, labels=80, document_tokens=100.0)


def rows(
    config: Config,
    done: dict[str, bool] | None = None,
    amounts: Amounts = AMOUNTS,
    label_priors: bool = True,
    questions: int = 1,
) -> dict[str, dict[str, Any]]:
    found = estimate(config, amounts, FAST_RATES, done or {}, planned_cycles(config), label_priors, questions)
    return {row["step"]: row for row in found}


def test_the_stop_rule_adds_a_step_and_no_pair() -> None:
    config = load_config(None, ["curriculum.cycles=2", "shortlist.documents_per_cycle=0"])
    found = rows(config)
    assert found["cycle 1 select"]["pairs"] == 50 * 10
    assert found["cycle 1 judge"]["pairs"] == 450 * 10
    config.curriculum.min_lead = None
    without = rows(config)
    assert "cycle 1 select" not in without
    assert without["cycle 1 judge"]["pairs"] == 500 * 10
    total, other = (sum(row["pairs"] or 0 for row in one.values()) for one in (found, without))
    assert total == other == 10 * (500 + 500 + 50)


@pytest.mark.parametrize("min_lead", ["null", "1"])
def test_the_pairs_of_all_steps_keep_to_the_budget(min_lead: str) -> None:
    settings = ["curriculum.cycles=3", "curriculum.pair_budget=5000", f"curriculum.min_lead={min_lead}"]
    found = rows(load_config(None, settings))
    assert 5000 - 30 < sum(row["pairs"] or 0 for row in found.values()) <= 5000
    assert found["cycle 0 train"]["documents"] == (500 - 50 * 4) // 3


def test_an_automatic_budget_is_what_it_may_come_to() -> None:
    found = rows(load_config(None, ["curriculum.pair_budget=auto"]))
    assert [found[f"cycle {cycle} judge"]["pairs"] for cycle in range(4)] == [1500, 2000, 4000, 4500]
    assert [found[f"cycle {cycle} train"]["documents"] for cycle in range(3)] == [100, 256, 428]
    assert "cycle 7 select" in found and "cycle 9 judge" not in found


def test_a_budget_that_is_too_small_is_refused_where_nothing_is_trained_too() -> None:
    with pytest.raises(UserError, match="give so many at least"):
        rows(load_config(None, ["curriculum.cycles=0", "curriculum.pair_budget=10"]))


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
    later, first = (found[f"cycle {cycle} shortlist"]["seconds"] - START_SECONDS["shortlist"] for cycle in (1, 0))
    assert found["cycle 1 select"]["labels"] == 80 and found["cycle 1 shortlist"]["labels"] is None
    assert later == pytest.approx(2 * 275 / 90) and first == pytest.approx((275 + 80 * 0.1) / 90)


def test_with_many_labels_their_encoding_is_what_a_shortlist_costs() -> None:
    many = Amounts(100, 80, 8, 20, 27_754, 100.0)
    few = Amounts(100, 80, 8, 20, 50, 100.0)
    config = load_config(None, [])
    more, less = (rows(config, amounts=one)["cycle 0 shortlist"]["seconds"] for one in (many, few))
    assert more - less == pytest.approx((27_754 - 50) * 0.1 / 90)


def test_alternatives_are_encoded_and_indexed_and_are_no_labels() -> None:
    config = load_config(None, ["curriculum.cycles=2"])
    found, plain = rows(config, amounts=replace(AMOUNTS, alternatives=900)), rows(config)
    more = {step: found[step]["seconds"] - row["seconds"] for step, row in plain.items()}
    encoding = ["cycle 0 shortlist", "cycle 1 select", "cycle 2 shortlist", "index"]
    assert [step for step, seconds in more.items() if seconds] == encoding
    assert more["cycle 0 shortlist"] == pytest.approx(900 * 0.1 / 90)
    counted = ("labels", "pairs", "label priors")
    assert all(found[step][name] == row[name] for step, row in plain.items() for name in counted)


def test_what_is_asked_beside_the_pairs_is_counted() -> None:
    """80 documents and 27,754 labels asked 732 priors beside their 800 pairs."""
    amounts = Amounts(89, 80, 8, 9, 27_754, 100.0)
    alone = load_config(None, [])
    assert 732 <= rows(alone, amounts=amounts)["cycle 0 judge"]["label priors"] <= 800
    without = rows(alone, amounts=amounts, label_priors=False)["cycle 0 judge"]
    assert (without["pairs"], without["label priors"]) == (800, 0)
    both = rows(alone, amounts=amounts)["cycle 0 judge"]
    assert both["seconds"] > without["seconds"] and both["tokens"] > without["tokens"]


def test_a_second_read_out_asks_every_pair_again_by_engines_of_its_own() -> None:
    once, twice = (rows(load_config(None, []), label_priors=False, questions=count) for count in (1, 2))
    for step in ("cycle 0 judge", "cycle 1 judge"):
        pairs, (first, second) = once[step]["pairs"], (once[step], twice[step])
        assert pairs == second["pairs"] > 0 and second["tokens"] == 2 * first["tokens"]
        assert second["seconds"] - first["seconds"] == pytest.approx(
            START_SECONDS["judge"] + pairs / FAST_RATES["judge"]
        )
    assert {step: row["seconds"] for step, row in once.items() if "judge" not in step} == {
        step: row["seconds"] for step, row in twice.items() if "judge" not in step
    }


def test_few_labels_have_few_priors_in_all_cycles_together() -> None:
    found = rows(load_config(None, ["curriculum.cycles=3"]))
    assert sum(row["label priors"] or 0 for row in found.values()) == 80


def test_every_step_has_seconds_and_the_teachers_starts_are_in_them() -> None:
    found = rows(load_config(None, ["curriculum.cycles=2"]))
    ending = ["select", "index", "predict", "evaluate", "report"]
    assert list(found)[-5:] == ending and all(row["seconds"] > 0 for row in found.values())
    assert found["cycle 1 judge"]["seconds"] > START_SECONDS["judge"]


def test_the_rates_are_those_of_this_kind_of_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_FLAGS", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags: avx2 avx512f avx512_bf16")
    assert reference_rates()[0] == FAST_RATES
    (tmp_path / "cpuinfo").write_text("flags: avx2")
    rates, machine = reference_rates()
    assert rates == SLOW_RATES and "AVX2" in machine


def test_a_cross_encoder_costs_a_training_and_the_pairs_of_every_document_and_nothing_else() -> None:
    settings = ["curriculum.cycles=2", "shortlist.documents_per_cycle=225"]
    plain, found = rows(load_config(None, settings)), rows(load_config(None, [*settings, "predict.rerank=30"]))
    assert list(found)[-6:] == ["select", "cross_encoder", "index", "predict", "evaluate", "report"]
    assert {step for step, row in plain.items() if found[step] != row} == {"predict", "evaluate"}
    learned = found["cross_encoder"]
    assert learned["documents"] == round(4 * 337.5) == 4 * found["cycle 1 train"]["documents"] - 2
    assert (learned["labels"], learned["pairs"], learned["tokens"]) == (None, None, None)
    pair = PAIR_ENCODING / FAST_RATES["predict"]
    starts = START_SECONDS["cross_encoder"] + START_SECONDS["predict"]
    assert learned["seconds"] == pytest.approx(1350 / FAST_RATES["cross_encoder"] + 50 * 10 * pair + starts)
    more = {step: found[step]["seconds"] - plain[step]["seconds"] for step in ("predict", "evaluate")}
    assert more["predict"] == pytest.approx(600 * 30 * pair)
    assert more["evaluate"] == pytest.approx(100 / FAST_RATES["evaluate"] + 100 * 30 * pair)
    assert (plain["evaluate"]["documents"], found["evaluate"]["documents"]) == (300, 400)


def test_no_more_pairs_are_ranked_anew_than_there_are_labels() -> None:
    few, all_of_them = (
        rows(load_config(None, [f"predict.rerank={first}"]), amounts=replace(AMOUNTS, labels=8)) for first in (30, 8)
    )
    assert few == all_of_them


@pytest.mark.parametrize(("rates", "pairs_per_s"), [(FAST_RATES, 75), (SLOW_RATES, 35)])
def test_a_cross_encoder_reads_so_many_pairs_a_second(rates: dict[str, float], pairs_per_s: float) -> None:
    assert rates["predict"] / PAIR_ENCODING == pytest.approx(pairs_per_s, rel=0.12)


def test_what_is_done_of_a_cross_encoder_takes_no_time() -> None:
    found = rows(load_config(None, ["predict.rerank=30"]), {"cross_encoder": True, "predict": True})
    assert found["cross_encoder"]["seconds"] == found["predict"]["seconds"] == 0 < found["evaluate"]["seconds"]

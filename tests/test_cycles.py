"""The stop rule and the budget of pairs, by numbers alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ezxmc_ray.config import load_config
from ezxmc_ray.cycles import (
    check_counts,
    compares,
    documents_per_cycle,
    halves_held_out,
    least_lead,
    planned_cycles,
    stops,
    stops_by_held_out,
)
from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics import MIN_DOCUMENTS


def lead(difference: float, standard_error: float, documents: int = 150) -> dict[str, Any]:
    return {"difference": difference, "standard_error": standard_error, "documents": documents}


@pytest.mark.parametrize(
    ("difference", "min_lead", "stopped"),
    [
        (-0.6, -1.0, True),  # worse beyond noise
        (-0.4, -1.0, False),  # worse, but noise may be why
        (0.1, -1.0, False),
        (0.0, 0.0, True),
        (0.1, 0.0, False),
        (0.4, 1.0, True),  # better, but noise may be why
        (0.6, 1.0, False),
        (-9.0, None, False),
    ],
)
def test_the_stop_rule_measures_the_lead_in_standard_errors(
    difference: float, min_lead: float | None, stopped: bool
) -> None:
    assert stops(lead(difference, 0.5), min_lead) is stopped


@pytest.mark.parametrize(
    ("knobs", "held_out", "halved"),
    [
        ([], 500, False),
        (["student.validate_every_steps=5"], 500, False),
        (["student.validate_every_steps=5", "student.patience=3"], 39, False),
        (["student.validate_every_steps=5", "student.patience=3"], 40, True),
        (["student.validate_every_steps=5", "student.patience=3", "shortlist.held_out_documents=39"], 500, False),
        (["student.validate_every_steps=5", "student.patience=3", "curriculum.cycles=0"], 500, False),
    ],
)
def test_held_out_documents_are_halved_where_trainings_choose_by_them(
    knobs: list[str], held_out: int, halved: bool
) -> None:
    config, asked = load_config(None, knobs), []

    def count() -> int:
        asked.append(held_out)
        return held_out

    assert halves_held_out(config, count) is halved
    assert len(asked) == stops_by_held_out(config)  # it is read from a manifest, where it matters and once


def test_encoders_that_order_everything_alike_stop_the_cycles_and_few_documents_never_do() -> None:
    assert stops(lead(0.0, 0.0), -1.0)
    assert stops(lead(-9.0, 0.5, MIN_DOCUMENTS), -1.0)
    assert not stops(lead(-9.0, 0.5, MIN_DOCUMENTS - 1), -1.0)


def test_the_rule_is_asked_before_every_cycle_that_trains_but_the_first() -> None:
    config = load_config(None, ["curriculum.cycles=3"])
    assert [cycle for cycle in range(4) if compares(config, cycle)] == [1, 2]
    config.curriculum.min_lead = None
    assert not any(compares(config, cycle) for cycle in range(4))


@pytest.mark.parametrize(("cycles", "size", "held_out"), [*itertools.product((1, 3), (5, 10), (0, 20))])
def test_a_budget_is_used_up_to_less_than_a_document_a_cycle(cycles: int, size: int, held_out: int) -> None:
    budget = 7777
    config = load_config(
        None, [f"curriculum.cycles={cycles}", f"shortlist.size={size}", f"curriculum.pair_budget={budget}"]
    )
    documents = documents_per_cycle(config, 100_000, held_out, 500, 0)
    pairs = size * (held_out * (cycles + 1) + documents * cycles)
    assert budget - size * cycles < pairs <= budget


def test_without_a_budget_and_beyond_what_is_there_documents_are_as_configured() -> None:
    config = load_config(None, [])
    assert documents_per_cycle(config, 100, 10, 500, 0) == 90
    assert documents_per_cycle(config, 100_000, 10, 500, 0) == 300
    config.shortlist.documents_per_cycle = 0
    assert documents_per_cycle(config, 100_000, 10, 500, 0) == 99_990
    config.shortlist.documents_per_cycle = 60
    assert documents_per_cycle(config, 100, 10, 500, 0) == 60
    config.curriculum.pair_budget = 10_000
    assert documents_per_cycle(config, 100, 10, 500, 0) == 60
    # Two labels cannot make ten pairs a document.
    config.curriculum.pair_budget = 2 * (2 * 10 + 50)
    assert documents_per_cycle(config, 100, 10, 2, 0) == 50


def test_an_automatic_budget_doubles_the_documents_and_wants_a_lead_from_the_second_student_on() -> None:
    config = load_config(None, ["curriculum.pair_budget=auto", "curriculum.min_lead=null"])
    assert planned_cycles(config) == 8
    drawn = [documents_per_cycle(config, 10_000, 1_000, 500, cycle) for cycle in range(8)]
    assert drawn == [100, 200, 400, 800, 1600, 3200, 6400, 9000]
    assert [cycle for cycle in range(9) if compares(config, cycle)] == [1, 2, 3, 4, 5, 6, 7]
    assert [least_lead(config, cycle) for cycle in (1, 2, 7)] == [-1, 1, 1]


def test_an_automatic_budget_takes_the_cycles_and_the_first_documents_that_are_asked_for() -> None:
    settings = ["curriculum.pair_budget=auto", "curriculum.cycles=3", "shortlist.documents_per_cycle=50"]
    config = load_config(None, settings)
    assert planned_cycles(config) == 3
    assert [documents_per_cycle(config, 10_000, 1_000, 500, cycle) for cycle in range(3)] == [50, 100, 200]
    assert documents_per_cycle(config, 10_000, 1_000, 500, 1_999) == 9_000
    config.shortlist.documents_per_cycle = 0
    assert documents_per_cycle(config, 10_000, 1_000, 500, 0) == 9_000


@pytest.mark.parametrize(("held_out", "settings"), [(9, []), (100, ["shortlist.held_out_documents=9"])])
def test_an_automatic_budget_wants_documents_to_compare_students_by(held_out: int, settings: list[str]) -> None:
    config = load_config(None, ["curriculum.pair_budget=auto", *settings])
    with pytest.raises(UserError, match=r"there are 9, of 10 that it takes: set prepare\.held_out_share"):
        documents_per_cycle(config, 1_000, held_out, 500, 0)


def test_a_budget_below_a_batch_a_cycle_names_the_least_one() -> None:
    config = load_config(None, ["curriculum.cycles=2", "curriculum.pair_budget=100"])
    with pytest.raises(UserError, match=r"pair_budget is 100, but .* have 1,260 pairs: give so many"):
        documents_per_cycle(config, 500, 10, 500, 0)
    config.curriculum.pair_budget = 1260  # 10 labels * (10 documents * 3 encoders + 48 documents * 2 cycles)
    assert documents_per_cycle(config, 500, 10, 500, 0) == 48


@pytest.mark.parametrize(
    ("train", "held_out", "knobs", "sentence"),
    [
        (20, 19, [], "^Of 20 train documents 19 are held out, and a training takes 2 others at least: bring more docu"),
        (1, 0, [], "^Of 1 train documents 0 are held out, and a training takes 2 others at least"),
        (
            20,
            9,
            ["shortlist.documents_per_cycle=1"],
            r"^shortlist\.documents_per_cycle is 1, and a training takes 2 doc",
        ),
        (
            20,
            0,
            ["student.validate_every_steps=5"],
            r"^student\.validate_every_steps is 5, but none of 20 train docume",
        ),
        (20, 9, ["curriculum.pair_budget=auto"], r"^curriculum\.pair_budget=auto compares students by held-out"),
    ],
)
def test_documents_that_no_training_can_do_with_are_refused_by_their_counts(
    train: int, held_out: int, knobs: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        check_counts(load_config(None, knobs), train, held_out, 50)


@pytest.mark.parametrize(
    ("train", "held_out", "knobs"),
    [
        (20, 18, []),
        (20, 19, ["curriculum.cycles=0"]),
        (20, 19, ["student.batch_size=1"]),  # whose steps have one document each
        (20, 0, ["curriculum.cycles=0", "student.validate_every_steps=5"]),
        (20, 9, ["shortlist.documents_per_cycle=2"]),
    ],
)
def test_documents_that_are_enough_are_not_refused(train: int, held_out: int, knobs: list[str]) -> None:
    check_counts(load_config(None, knobs), train, held_out, 50)


@pytest.mark.parametrize(
    ("train", "held_out", "knobs"),
    [
        (1, 0, []),
        (20, 19, []),
        (20, 0, ["student.validate_every_steps=5"]),
        (20, 9, ["shortlist.documents_per_cycle=1"]),
    ],
)
def test_what_only_a_training_needs_is_asked_of_commands_that_train(
    train: int, held_out: int, knobs: list[str]
) -> None:
    config = load_config(None, knobs)
    check_counts(config, train, held_out, 50, trains=False)
    with pytest.raises(UserError):
        check_counts(config, train, held_out, 50)
    with pytest.raises(UserError, match="give so many at least"):
        check_counts(load_config(None, [*knobs, "curriculum.pair_budget=5"]), 20, 9, 50, trains=False)

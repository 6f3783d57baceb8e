"""Documents that are too few to learn from, once they have been counted, replace nothing of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ezxmc_ray.config import Config, CurriculumConfig, PrepareConfig
from ezxmc_ray.errors import UserError

LABELS = [{"id": "a", "text": "Apples"}, {"id": "b", "text": "Bees"}]


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        (
            {"held_out_share": 0.97},
            r"^Of 14 train documents 13 are held out, and a training takes 2 others at least: b",
        ),
        ({"pair_budget": 5}, r"^curriculum\.pair_budget is 5, but .*: give so many at least, or set "),
    ],
)
def test_counts_that_no_cycle_can_have_leave_a_finished_run_as_it_was(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any], knobs: dict[str, Any], sentence: str
) -> None:
    documents = write_jsonl("d.jsonl", [{"id": str(number), "text": f"text {number}"} for number in range(16)])
    config = Config(prepare=PrepareConfig(documents=[documents], labels=[write_jsonl("l.jsonl", LABELS)]))
    _, storage = sequential_prepare(config, counted=True)
    before = {name: storage.read_bytes(name) for name in storage.list(recursive=True) if name != "rejected.parquet"}
    budget = CurriculumConfig(pair_budget=knobs.pop("pair_budget", 0))
    changed = replace(config, prepare=replace(config.prepare, **knobs), curriculum=budget)
    with pytest.raises(UserError, match=sentence):
        sequential_prepare(changed, counted=True)
    after = {name: storage.read_bytes(name) for name in storage.list(recursive=True) if name != "rejected.parquet"}
    assert after == before


def test_a_pilot_of_one_document_is_prepared_where_nothing_is_trained(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    documents = write_jsonl("d.jsonl", [{"id": "1", "text": "one text"}])
    labels = write_jsonl("l.jsonl", LABELS)
    config = Config(prepare=PrepareConfig(documents=[documents], labels=[labels], test_share=0, held_out_share=0))
    with pytest.raises(UserError, match=r"^Of 1 train documents 0 are held out, and a training takes 2 others"):
        sequential_prepare(config, counted=True)
    (rows, _, details), _ = sequential_prepare(config, counted=True, trains=False)
    assert rows == details["train"] == 1

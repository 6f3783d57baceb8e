from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.student.batches import BatchPlan, global_batch_size, scaled_learning_rate

SHARDS = [5, 0, 17, 9, 1, 12, 8, 3]  # 55 rows


@pytest.mark.parametrize("window_shards", [1, 3, 8, 100])
def test_an_epoch_has_every_row_once(window_shards: int) -> None:
    plan = BatchPlan(SHARDS, batch_size=6, seed=3, window_shards=window_shards)
    batches = list(plan.epoch(0))
    assert [len(batch) for batch in batches] == [6] * 9  # 54 rows; the 55th would be a batch of one
    assert plan.steps_per_epoch == 9 and plan.dropped_rows == 1
    rows = Counter(row for batch in batches for row in batch)
    everything = {(shard, row) for shard, count in enumerate(SHARDS) for row in range(count)}
    assert set(rows.values()) == {1} and len(everything - set(rows)) == 1 and set(rows) <= everything


def test_the_last_batch_is_kept_from_two_rows_on() -> None:
    assert [len(batch) for batch in BatchPlan([8], 6, 0).epoch(0)] == [6, 2]
    assert BatchPlan([8], 6, 0).steps_per_epoch == 2 and BatchPlan([8], 6, 0).dropped_rows == 0
    assert [len(batch) for batch in BatchPlan([12], 6, 0).epoch(0)] == [6, 6]
    assert [len(batch) for batch in BatchPlan([3], 48, 0).epoch(0)] == [3]


def test_the_order_follows_from_seed_and_epoch() -> None:
    plan = BatchPlan(SHARDS, 6, seed=3, window_shards=3)
    assert list(plan.epoch(1)) == list(BatchPlan(SHARDS, 6, seed=3, window_shards=3).epoch(1))
    assert list(plan.epoch(0)) != list(plan.epoch(1))
    assert list(plan.epoch(0)) != list(BatchPlan(SHARDS, 6, seed=4, window_shards=3).epoch(0))


def test_a_window_is_used_up_before_the_next_begins() -> None:
    rows = [row for batch in BatchPlan([10] * 6, 5, seed=1, window_shards=2).epoch(0) for row in batch]
    windows = [{shard for shard, _ in rows[start : start + 20]} for start in (0, 20, 40)]
    assert [len(window) for window in windows] == [2, 2, 2] and set.union(*windows) == set(range(6))
    assert len({shard for shard, _ in rows[:5]}) == 2  # shuffled over the window's shards


def test_steps_go_on_over_epochs_and_from_any_step() -> None:
    plan = BatchPlan(SHARDS, 6, seed=3, window_shards=3)
    whole = list(plan.batches(0, 24))
    assert whole == [*plan.epoch(0), *plan.epoch(1), *list(plan.epoch(2))[:6]]
    for start in (0, 4, 9, 13, 23, 24):
        assert list(plan.batches(start, 24)) == whole[start:]


def test_fractions_of_an_epoch_are_steps() -> None:
    plan = BatchPlan(SHARDS, 6, seed=3)
    assert [plan.total_steps(epochs) for epochs in (1, 0.5, 2.0, 1.34, 0.001)] == [9, 4, 18, 12, 1]


def test_too_few_documents_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^There are 1 judged train documents, too few to train the student: .*\.$"):
        BatchPlan([1, 0], 6, seed=0).total_steps(1)


@pytest.mark.parametrize(
    ("workers", "examples", "knobs", "documents"),
    [
        (1, 50, {}, 48),  # one worker: as configured, whatever the examples
        (1, 9_000_000, {}, 48),
        (64, 1_500, {}, 48),  # few documents: the steps of one worker
        (64, 900_000, {}, 900),  # a thousand steps
        (64, 900_000, {"epochs": 2.0}, 1_800),
        (64, 9_000_000, {}, 64 * 48),
        (64, 9_000_000, {"max_batch_size": 48}, 48),
        (2, 100, {"max_batch_size": 80}, 80),
        (2, 100, {"max_batch_size": 4_096}, 96),
        (1, 100, {"max_batch_size": 10}, 10),
    ],
)
def test_a_step_grows_with_the_workers_where_there_are_documents_for_it(
    workers: int, examples: int, knobs: dict[str, Any], documents: int
) -> None:
    assert global_batch_size(StudentConfig(**knobs), workers, examples) == documents


def test_the_learning_rate_follows_the_square_root_of_the_batch() -> None:
    config = StudentConfig(batch_size=48, learning_rate=1e-4)
    assert [scaled_learning_rate(config, size) for size in (48, 192, 12)] == pytest.approx([1e-4, 2e-4, 5e-5])
    assert scaled_learning_rate(replace(config, learning_rate_scaling="none"), 192) == 1e-4

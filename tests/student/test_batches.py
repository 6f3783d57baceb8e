from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.student.batches import BatchPlan, Part, Row, global_batch_size, lanes_of, scaled_learning_rate

SHARDS = [5, 0, 17, 9, 1, 12, 8, 3]  # 55 rows
EVERY_ROW = Counter((shard, row) for shard, count in enumerate(SHARDS) for row in range(count))


def epoch(plan: BatchPlan, number: int) -> list[list[Row]]:
    """The global batches of an epoch."""
    steps = plan.steps_per_epoch
    return [part.rows for part in plan.parts(number * steps, (number + 1) * steps)]


def plain_batches(rows_of_shards: Sequence[int], batch_size: int, seed: int, window: int, epoch: int) -> Iterator[Any]:
    """The slow reference of one lane: row by row, all shards of a window shuffled together."""
    order = np.random.default_rng([seed, epoch]).permutation(len(rows_of_shards)).tolist()
    rows: list[Row] = []
    for start in range(0, len(order), window):
        known = [(shard, row) for shard in order[start : start + window] for row in range(rows_of_shards[shard])]
        drawn = np.random.default_rng([seed, epoch, start + 1]).permutation(len(known))
        rows += [known[place] for place in drawn]
    batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    return (batch for batch in batches if len(batch) > 1)


@pytest.mark.parametrize("window_shards", [1, 3, 8, 100])
@pytest.mark.parametrize("seed", [3, 2**40])
def test_one_lane_is_the_plain_order(window_shards: int, seed: int) -> None:
    plan = BatchPlan(SHARDS, 6, seed, window_shards=window_shards)
    for number in (0, 1):
        assert epoch(plan, number) == list(plain_batches(SHARDS, 6, seed, window_shards, number))
    assert [len(batch) for batch in epoch(plan, 0)] == [6] * 9  # 54 rows; the 55th would be a batch of one
    assert plan.steps_per_epoch == 9 and plan.dropped_rows == 1


@pytest.mark.parametrize("lanes", [2, 3, 5])
def test_an_epoch_of_lanes_has_every_row_once(lanes: int) -> None:
    plan = BatchPlan(SHARDS, 2 * lanes, seed=3, lanes=lanes)
    for number in (0, 1):
        batches = epoch(plan, number)
        assert [len(batch) for batch in batches] == [2 * lanes] * (55 // (2 * lanes)) + [55 % (2 * lanes)] * (
            55 % (2 * lanes) > 1
        )
        found = Counter(row for batch in batches for row in batch)
        assert found <= EVERY_ROW and (EVERY_ROW - found).total() == plan.dropped_rows
    assert epoch(plan, 0) != epoch(plan, 1)


def test_a_worker_a_lane_reads_its_own_shards_of_an_epoch() -> None:
    plan = BatchPlan([10] * 24, 8, seed=1, lanes=4)
    shards = [{shard for part in plan.parts(0, 30, rank, 4) for shard, _ in part.rows} for rank in range(4)]
    assert [len(one) for one in shards] == [6] * 4 and set.union(*shards) == set(range(24))
    # In windows of two, of which it has to hold two: that of the rows, and the next one.
    parts = list(plan.parts(0, 30, 2, 4))
    assert [len(part.shards) for part in parts] == [4] * 20 + [2] * 10
    assert all({shard for shard, _ in part.rows} <= set(part.shards[:2]) for part in parts)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 6, 12])
@pytest.mark.parametrize("lanes", [1, 3])
def test_the_workers_parts_are_the_global_batch_however_many_they_are(lanes: int, world: int) -> None:
    plan = BatchPlan(SHARDS, 6, seed=3, lanes=lanes)
    whole = list(plan.parts(4, 20))
    workers = [list(plan.parts(4, 20, rank, world)) for rank in range(world)]
    for step, parts in enumerate(zip(*workers, strict=True)):
        assert [row for part in parts if part.place == 0 for row in part.rows] == whole[step].rows
        taken = [len(part.rows[part.place :: part.sharing]) for part in parts]
        assert sum(taken) == len(whole[step].rows) and max(taken) - min(taken) <= 1
        for part in parts:
            assert {shard for shard, _ in part.rows} <= set(part.shards)
            assert part.documents == len(whole[step].rows)
    sharing = {part.sharing for parts in workers for part in parts}
    assert sharing == {world // lanes if world % lanes == 0 else 1}


def test_the_last_batch_is_kept_from_two_rows_on() -> None:
    assert [len(batch) for batch in epoch(BatchPlan([8], 6, 0), 0)] == [6, 2]
    assert BatchPlan([8], 6, 0).steps_per_epoch == 2 and BatchPlan([8], 6, 0).dropped_rows == 0
    assert [len(batch) for batch in epoch(BatchPlan([12], 6, 0), 0)] == [6, 6]
    assert [len(batch) for batch in epoch(BatchPlan([3], 48, 0), 0)] == [3]


@pytest.mark.parametrize("lanes", [1, 3])
def test_the_order_follows_from_seed_and_epoch(lanes: int) -> None:
    plan = BatchPlan(SHARDS, 6, seed=3, lanes=lanes)
    assert epoch(plan, 1) == epoch(BatchPlan(SHARDS, 6, seed=3, lanes=lanes), 1)
    assert epoch(plan, 0) != epoch(plan, 1)
    assert epoch(plan, 0) != epoch(BatchPlan(SHARDS, 6, seed=4, lanes=lanes), 0)


def test_a_window_is_used_up_before_the_next_begins() -> None:
    rows = [row for batch in epoch(BatchPlan([10] * 6, 5, seed=1, window_shards=2), 0) for row in batch]
    windows = [{shard for shard, _ in rows[start : start + 20]} for start in (0, 20, 40)]
    assert [len(window) for window in windows] == [2, 2, 2] and set.union(*windows) == set(range(6))
    assert len({shard for shard, _ in rows[:5]}) == 2  # shuffled over the window's shards


@pytest.mark.parametrize("lanes", [1, 2])
def test_steps_go_on_over_epochs_and_from_any_step(lanes: int) -> None:
    def rows(parts: Iterator[Part]) -> list[list[Row]]:
        return [part.rows for part in parts]

    plan = BatchPlan(SHARDS, 6, seed=3, lanes=lanes, window_shards=3)
    whole = rows(plan.parts(0, 24))
    assert whole == [*epoch(plan, 0), *epoch(plan, 1), *epoch(plan, 2)[:6]]
    for start in (0, 4, 9, 13, 23, 24):
        assert rows(plan.parts(start, 24)) == whole[start:]


def test_fractions_of_an_epoch_are_steps() -> None:
    plan = BatchPlan(SHARDS, 6, seed=3)
    assert [plan.total_steps(epochs) for epochs in (1, 0.5, 2.0, 1.34, 0.001)] == [9, 4, 18, 12, 1]


def test_too_few_documents_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^There are 1 judged train documents, too few to train the student: .*\.$"):
        BatchPlan([1, 0], 6, seed=0).total_steps(1)


@pytest.mark.parametrize(
    ("workers", "examples", "knobs", "documents", "lanes"),
    [
        (1, 50, {}, 48, 1),  # one worker: as configured, whatever the examples
        (1, 9_000_000, {}, 48, 1),
        (64, 1_500, {}, 48, 1),  # few documents: the steps of one worker
        (64, 900_000, {}, 900, 18),  # a thousand steps
        (64, 930_000, {}, 912, 19),  # of a multiple of the lanes
        (64, 900_000, {"epochs": 2.0}, 1_776, 37),
        (64, 9_000_000, {}, 64 * 48, 64),
        (64, 9_000_000, {"max_batch_size": 48}, 48, 1),
        (2, 100, {"max_batch_size": 80}, 80, 1),
        (2, 100, {"max_batch_size": 4_096}, 96, 2),
        (1, 100, {"max_batch_size": 10}, 10, 1),
    ],
)
def test_a_step_grows_with_the_workers_where_there_are_documents_for_it(
    workers: int, examples: int, knobs: dict[str, Any], documents: int, lanes: int
) -> None:
    config = StudentConfig(**knobs)
    assert global_batch_size(config, workers, examples) == documents
    assert lanes_of(config, documents) == lanes and documents % lanes == 0


def test_the_learning_rate_follows_the_square_root_of_the_batch() -> None:
    config = StudentConfig(batch_size=48, learning_rate=1e-4)
    assert [scaled_learning_rate(config, size) for size in (48, 192, 12)] == pytest.approx([1e-4, 2e-4, 5e-5])
    assert scaled_learning_rate(replace(config, learning_rate_scaling="none"), 192) == 1e-4

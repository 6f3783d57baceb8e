"""The batch plan: how many documents a step has, and which rows of which example shard train in which step, by seed.

Comes in: usable rows a shard, batch size, seed. Goes out: the global batches of every epoch; a worker takes its slice
of each. Shards are shuffled and taken in windows, rows are shuffled inside a window, so that a worker holds few
shards at a time while neighbors in a shard do not stay together. Being replayable is what resuming needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.errors import UserError

Row = tuple[int, int]  # number of the shard, row among its usable rows

#: A batch of fewer documents has no in-batch negatives to speak of.
MIN_ROWS = 2
#: Steps that a training keeps where its batch grows with the workers: few documents would be learned in a few steps.
MIN_STEPS = 1000
#: Documents that a worker is worth its part in the averaging for.
MIN_WORKER_DOCUMENTS = 8


def global_batch_size(config: StudentConfig, workers: int, examples: int) -> int:
    """Documents of a step over all ``workers``, for an epoch of so many ``examples``.

    ``student.batch_size`` a worker, ``student.max_batch_size`` together at most. Where that is null: so many at most
    that the training has MIN_STEPS steps, but ``student.batch_size`` at least. So few documents are learned in the
    steps of one worker by however many, and one worker alone always has ``student.batch_size`` documents a step.
    """
    most = config.max_batch_size or max(config.batch_size, int(examples * config.epochs) // MIN_STEPS)
    return min(config.batch_size * workers, most)


def scaled_learning_rate(config: StudentConfig, batch_size: int) -> float:
    """The peak learning rate of steps of ``batch_size`` documents, from that of ``student.batch_size``.

    With Adam it follows the square root of the batch (Malladi et al., "On the SDEs and Scaling Rules for Adaptive
    Gradient Algorithms", arXiv 2205.10287).
    """
    if config.learning_rate_scaling == "none":
        return config.learning_rate
    return config.learning_rate * math.sqrt(batch_size / config.batch_size)


class BatchPlan:
    """Global batches of ``batch_size`` rows over shards with ``rows_of_shards`` usable rows.

    The last batch of an epoch is smaller; with fewer than two rows it is dropped: ``dropped_rows`` an epoch.
    """

    def __init__(self, rows_of_shards: Sequence[int], batch_size: int, seed: int, window_shards: int = 8) -> None:
        self.rows_of_shards = list(rows_of_shards)
        self.batch_size = batch_size
        self.seed = seed
        self.window_shards = window_shards
        full, rest = divmod(sum(self.rows_of_shards), batch_size)
        self.dropped_rows = rest if rest < MIN_ROWS else 0
        self.steps_per_epoch = full + int(rest >= MIN_ROWS)

    def total_steps(self, epochs: float) -> int:
        """Steps of ``epochs`` passes (a fraction is fine), at least one. UserError if there is nothing to train on."""
        if self.steps_per_epoch == 0:
            raise UserError(
                f"There are {sum(self.rows_of_shards)} judged train documents, too few to train the student: bring "
                "more documents, or lower prepare.test_share and prepare.held_out_share."
            )
        return max(1, round(epochs * self.steps_per_epoch))

    def epoch(self, epoch: int) -> Iterator[list[Row]]:
        """The global batches of an epoch, in order."""
        batch: list[Row] = []
        for row in self._rows(epoch):
            batch.append(row)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if len(batch) >= MIN_ROWS:
            yield batch

    def batches(self, start: int, stop: int) -> Iterator[list[Row]]:
        """The global batches of steps ``start`` to ``stop`` - 1, counted over all epochs from 0."""
        step = start
        while step < stop:
            epoch, skipped = divmod(step, self.steps_per_epoch)
            for number, batch in enumerate(self.epoch(epoch)):
                if number >= skipped and step < stop:
                    yield batch
                    step += 1

    def _rows(self, epoch: int) -> Iterator[Row]:
        """All rows of an epoch, in training order."""
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows_of_shards))
        for start in range(0, len(shards), self.window_shards):
            window = [int(shard) for shard in shards[start : start + self.window_shards]]
            rows = [(shard, row) for shard in window for row in range(self.rows_of_shards[shard])]
            for place in np.random.default_rng([self.seed, epoch, start + 1]).permutation(len(rows)):
                yield rows[place]

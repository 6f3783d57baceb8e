"""The batch plan: which rows of which example shard train in which step, by seed, whatever the number of workers.

Comes in: usable rows a shard, batch size, seed. Goes out: the global batches of every epoch; a worker takes its slice
of each. Shards are shuffled and taken in windows, rows are shuffled inside a window, so that a worker holds few
shards at a time while neighbors in a shard do not stay together. Being replayable is what resuming needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ezxmc_ray.errors import UserError

Row = tuple[int, int]  # number of the shard, row among its usable rows

#: A batch of fewer documents has no in-batch negatives to speak of.
MIN_ROWS = 2


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

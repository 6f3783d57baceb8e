"""The batch plan: how many documents a step has, and which rows of which example shard train in which step, by seed.

Comes in: usable rows a shard, size of the global batch, seed. Goes out: the global batches of every epoch, and of each
the part of one worker. The plan knows nothing of the workers that there are: it can be taken up at any step by any
number of them. An epoch's shards are shuffled, laid end to end and cut into *lanes* of as many rows. Every global batch
takes as many rows of each lane, so a worker of as many as there are lanes reads the shards of its own lane only. Inside
a lane shards are taken in windows and rows are shuffled inside a window, so that a worker holds few shards at a time
while neighbors in a shard do not stay together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.cycles import MIN_LEARNED
from ezxmc_ray.errors import UserError

Row = tuple[int, int]  # number of the shard, row among its usable rows

#: Steps that a training keeps where its batch grows with the workers: few documents would be learned in a few steps.
MIN_STEPS = 1000
#: Documents that a worker is worth its part in the averaging for.
MIN_WORKER_DOCUMENTS = 8
#: Shards of a window, of all lanes together, and of one lane at least.
WINDOW_SHARDS, MIN_WINDOW_SHARDS = 8, 2


def global_batch_size(config: StudentConfig, workers: int, examples: int) -> int:
    """Documents of a step over all ``workers``, for an epoch of so many ``examples``.

    ``student.batch_size`` a worker, ``student.max_batch_size`` together at most. Where that is null: so many at most
    that the training has MIN_STEPS steps, but ``student.batch_size`` at least. So few documents are learned in the
    steps of one worker by however many, and one worker alone always has ``student.batch_size`` documents a step. A few
    fewer where that makes a multiple of :func:`lanes_of`.
    """
    most = config.max_batch_size or max(config.batch_size, int(examples * config.epochs) // MIN_STEPS)
    documents = min(config.batch_size * workers, most)
    lanes = lanes_of(config, documents)
    return documents // lanes * lanes


def lanes_of(config: StudentConfig, batch_size: int) -> int:
    """Lanes of a training with steps of ``batch_size`` documents: one for each ``student.batch_size`` of them."""
    return max(1, batch_size // config.batch_size)


def scaled_learning_rate(config: StudentConfig, batch_size: int) -> float:
    """The peak learning rate of steps of ``batch_size`` documents, from that of ``student.batch_size``.

    With Adam it follows the square root of the batch (Malladi et al., "On the SDEs and Scaling Rules for Adaptive
    Gradient Algorithms", arXiv 2205.10287).
    """
    if config.learning_rate_scaling == "none":
        return config.learning_rate
    return config.learning_rate * math.sqrt(batch_size / config.batch_size)


@dataclass(frozen=True)
class Part:
    """What one worker reads of a global batch of ``documents``.

    ``rows``: of the worker, and of those of its lane where several share one: ``sharing`` of them, of which it is
    number ``place``, and each of which takes its documents. ``shards``: those that these rows and the ones to come are
    in, in the order in which they are needed.
    """

    rows: list[Row]
    documents: int
    shards: list[int]
    place: int = 0
    sharing: int = 1


class BatchPlan:
    """Global batches of ``batch_size`` rows, a multiple of ``lanes``, over shards with ``rows_of_shards`` usable rows.

    The last batch of an epoch is smaller; with fewer than two rows it is dropped: ``dropped_rows`` an epoch.
    ``window_shards``: of a lane; None: its share of WINDOW_SHARDS, MIN_WINDOW_SHARDS at least.
    """

    def __init__(
        self,
        rows_of_shards: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        lanes: int = 1,
        window_shards: int | None = None,
    ) -> None:
        self.rows_of_shards = np.array(rows_of_shards, np.int64)
        self.rows = int(self.rows_of_shards.sum())
        self.batch_size, self.seed, self.lanes = batch_size, seed, lanes
        self.window_shards = window_shards or max(MIN_WINDOW_SHARDS, WINDOW_SHARDS // lanes)
        self.full_steps, rest = divmod(self.rows, batch_size)
        self.dropped_rows = rest if rest < MIN_LEARNED else 0
        self.steps_per_epoch = self.full_steps + int(rest >= MIN_LEARNED)

    def total_steps(self, epochs: float) -> int:
        """Steps of ``epochs`` passes (a fraction is fine), at least one. UserError if there is nothing to train on."""
        if self.steps_per_epoch == 0:
            raise UserError(
                f"There are {self.rows} judged train documents, too few to train the student: bring "
                "more documents, or lower prepare.test_share and prepare.held_out_share."
            )
        return max(1, round(epochs * self.steps_per_epoch))

    def parts(self, start: int, stop: int, rank: int = 0, world: int = 1) -> Iterator[Part]:
        """Of the steps ``start`` to ``stop`` - 1, counted over all epochs from 0, the part of worker ``rank``.

        Where ``world`` is a multiple of the lanes, as many workers share each lane. Else every worker has rows of its
        own: as many as any other or one more, so it may have none, or some of two lanes.
        """
        epoch = -1
        for step in range(start, stop):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                lanes = self._lanes_of(epoch)
            yield self._part(lanes, step % self.steps_per_epoch, rank, world)

    def _part(self, lanes: list[_Lane], step: int, rank: int, world: int) -> Part:
        size = self.batch_size // self.lanes
        spans = [(step * size, min((step + 1) * size, lane.rows)) for lane in lanes]
        documents = sum(last - first for first, last in spans)
        sharing = world // self.lanes if world % self.lanes == 0 else 1
        group, groups = rank // sharing, world // sharing
        begin, end = group * documents // groups, (group + 1) * documents // groups
        rows: list[Row] = []
        shards: list[int] = []
        before = 0  # rows of the lanes before
        for lane, (first, last) in zip(lanes, spans, strict=True):
            start, stop = first + max(begin - before, 0), min(first + end - before, last)
            if start < stop:
                rows += lane.read(start, stop)
                shards += lane.shards(start, stop)
            before += last - first
        return Part(rows, documents, list(dict.fromkeys(shards)), rank % sharing, sharing)

    def _lanes_of(self, epoch: int) -> list[_Lane]:
        """The lanes of an epoch; each has its rows of all full batches, and a share of the smaller one."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows_of_shards))
        bounds = np.concatenate([[0], np.cumsum(self.rows_of_shards[order])])
        rest = self.rows - self.full_steps * self.batch_size
        full = self.full_steps * (self.batch_size // self.lanes)
        found: list[_Lane] = []
        first = 0
        for number in range(self.lanes):
            rows = full + (number + 1) * rest // self.lanes - number * rest // self.lanes
            # Shards without a usable row stand in the windows too: with one lane, the order is that of all shards.
            start = 0 if number == 0 else int(np.searchsorted(bounds, first, "right")) - 1
            stop = len(order) if number == self.lanes - 1 else int(np.searchsorted(bounds, first + rows, "left"))
            windows = np.append(np.arange(start, stop, self.window_shards), stop)
            found.append(_Lane([self.seed, epoch], number, order, bounds, windows, first, rows))
            first += rows
        return found


@dataclass
class _Lane:
    """A part of an epoch: ``rows`` rows from ``first`` on of all shards laid end to end in their shuffled ``order``.

    ``bounds`` int64 [shards + 1]: the first row of each place in that order; ``windows`` int64 [w + 1]: the places
    where the windows begin, and where the last one ends.
    """

    seed: list[int]
    number: int
    order: np.ndarray
    bounds: np.ndarray
    windows: np.ndarray
    first: int
    rows: int

    def __post_init__(self) -> None:
        #: Rows of this lane before each window.
        self._starts = np.clip(self.bounds[self.windows] - self.first, 0, self.rows)
        self._shuffled: tuple[int, list[Row]] = -1, []

    def read(self, start: int, stop: int) -> list[Row]:
        """The rows ``start`` to ``stop`` - 1 of the lane, in training order; ``start`` < ``stop``."""
        found: list[Row] = []
        for window in range(self._window(start), self._window(stop - 1) + 1):
            before = int(self._starts[window])
            found += self._window_rows(window)[max(0, start - before) : max(0, stop - before)]
        return found

    def shards(self, start: int, stop: int) -> list[int]:
        """The shards of the windows of the rows ``start`` to ``stop`` - 1, and of the window after them."""
        first, last = self._window(start), min(self._window(stop - 1) + 2, len(self.windows) - 1)
        places = np.arange(self.windows[first], self.windows[last])
        return [int(shard) for shard in self.order[places[np.diff(self.bounds)[places] > 0]]]

    def _window(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, "right")) - 1

    def _window_rows(self, window: int) -> list[Row]:
        if self._shuffled[0] != window:
            first, last = self._starts[window], self._starts[window + 1]
            # Two lanes may begin a window with the same shard.
            seed = [*self.seed, int(self.windows[window]) + 1, *([self.number] if self.number else [])]
            rows = self.first + first + np.random.default_rng(seed).permutation(int(last - first))
            places = np.searchsorted(self.bounds, rows, "right") - 1
            shards = self.order[places].tolist()
            self._shuffled = window, list(zip(shards, (rows - self.bounds[places]).tolist(), strict=True))
        return self._shuffled[1]

"""Macro recall and precision by label frequency: are only frequent labels found, or rare ones too?

Comes in: rankings, gold labels, and how many documents each label is gold for. Goes out: for each label its recall and
precision; their mean over a bin of labels lets a rare label weigh as much as a frequent one.

Labels are binned by how the gold assignments add up, the most frequent label first: ``head`` are the most frequent
labels, up to where they hold a third of all assignments, ``torso`` those up to two thirds, ``tail`` the others,
``never seen`` those that are gold for no counted document. Labels of the same frequency are in the same bin (that of
the share that more frequent ones hold), so the thirds are approximate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ezxmc_ray.metrics.bootstrap import Interval, bootstrap_intervals
from ezxmc_ray.metrics.ranking import Gold, Values, flat_gold, gold_sizes, hits

BINS = ("head", "torso", "tail", "never seen")
#: Ranks within which a label counts as found, and within which it counts as proposed.
RECALL_RANKS, PRECISION_RANKS = 10, 5
BIN_MEASURES = (f"macro-R@{RECALL_RANKS}", f"macro-P@{PRECISION_RANKS}")


def bin_of_labels(counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number of each label's bin in BINS, int64 [labels]; ``counts``: int [labels], documents that it is gold for."""
    frequencies, place, times = np.unique(counts, return_inverse=True, return_counts=True)
    held = frequencies.astype(np.int64) * times
    held_by_more_frequent = held.sum() - np.cumsum(held)
    third = 3 * held_by_more_frequent // max(int(held.sum()), 1)
    return np.where(frequencies > 0, third, BINS.index("never seen"))[place]


@dataclass(frozen=True)
class LabelMeasures:
    """How well each label is tagged that is gold for a ranked document: ``labels``, int64 [m], in rising order.

    ``recall``: float64 [m], the share of the documents it is gold for that have it among their first RECALL_RANKS.
    ``precision``: float64 [m], the share of the documents that have it among their first PRECISION_RANKS for which it
    is gold; 0 where no document has. Both in percent.
    """

    labels: npt.NDArray[np.int64]
    recall: Values
    precision: Values


@dataclass(frozen=True)
class LabelTallies:
    """What :class:`LabelMeasures` are made of, in numbers that add up over shards.

    ``labels``: int32 [m], rising, each that is gold for a document or among its first PRECISION_RANKS. ``counts``:
    int32 [4, m], the documents that it is gold for, those of them that have it among their first RECALL_RANKS, those
    that have it among their first PRECISION_RANKS, and those of these that it is gold for.
    """

    labels: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]

    def __add__(self, other: LabelTallies) -> LabelTallies:
        """Of the documents of both."""
        labels = np.union1d(self.labels, other.labels)
        counts = np.zeros((4, len(labels)), np.int32)
        for one in (self, other):
            counts[:, np.searchsorted(labels, one.labels)] += one.counts
        return LabelTallies(labels, counts)

    def measures(self) -> LabelMeasures:
        """Recall and precision of the labels that are gold for a document."""
        known = self.counts[0] > 0
        gold, found, proposed, right = self.counts[:, known]
        precision = 100.0 * right / np.maximum(proposed, 1)
        return LabelMeasures(self.labels[known].astype(np.int64), 100.0 * found / gold, precision)


def tally_labels(ranked: npt.NDArray[Any], gold: Gold) -> LabelTallies:
    """Counts label by label; ``ranked`` and ``gold`` as precision_at_k."""
    document, label = np.repeat(np.arange(len(gold)), gold_sizes(gold)), flat_gold(gold)
    found = (ranked[document, :RECALL_RANKS] == label[:, None]).any(axis=1)
    first = ranked[:, :PRECISION_RANKS]
    kinds = (label, label[found], first[first >= 0], first[hits(first, gold)])
    labels = np.unique(np.concatenate(kinds[::2]))
    counts = [np.bincount(np.searchsorted(labels, one), minlength=len(labels)) for one in kinds]
    return LabelTallies(labels.astype(np.int32), np.stack(counts).astype(np.int32))


def macro_by_bin(measured: LabelMeasures, bins: npt.NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    """For each of BINS its BIN_MEASURES, each ``value`` (None for a bin without gold) and 95 % ``interval``.

    ``bins``: int64 [labels], of bin_of_labels. The interval is of a mean over labels, so labels are what the bootstrap
    draws: with documents drawn, labels of one document would drop out of a third of the samples and bend it upwards.
    """
    return [_means(measured, bins[measured.labels] == number, seed) for number in range(len(BINS))]


def _means(measured: LabelMeasures, inside: npt.NDArray[np.bool_], seed: int) -> dict[str, Any]:
    values = dict(zip(BIN_MEASURES, (measured.recall[inside], measured.precision[inside]), strict=True))
    intervals: dict[str, Interval] = bootstrap_intervals(values, seed)
    return {
        name: {"value": float(one.mean()) if len(one) else None, "interval": intervals[name]}
        for name, one in values.items()
    }

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


def measure_labels(ranked: npt.NDArray[Any], gold: Gold) -> LabelMeasures:
    """Recall and precision label by label; ``ranked`` and ``gold`` as precision_at_k."""
    document, label = np.repeat(np.arange(len(gold)), gold_sizes(gold)), flat_gold(gold)
    known, number = np.unique(label, return_inverse=True)
    found = (ranked[document, :RECALL_RANKS] == label[:, None]).any(axis=1)
    first = ranked[:, :PRECISION_RANKS]
    takes_part, right = np.isin(first, known), hits(first, gold)
    proposed = np.bincount(np.searchsorted(known, first[takes_part]), minlength=len(known))
    proposed_rightly = np.bincount(np.searchsorted(known, first[right]), minlength=len(known))
    recall = 100.0 * np.bincount(number, found, minlength=len(known)) / np.bincount(number, minlength=len(known))
    return LabelMeasures(known, recall, 100.0 * proposed_rightly / np.maximum(proposed, 1))


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

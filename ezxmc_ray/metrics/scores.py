"""Measures of scores: within a document's shortlist, over all pairs, and of probabilities against what happens.

Comes in: scores and whether their pairs are gold. Goes out: one value a document (float64; NaN where the measure is
not defined for it), or one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ezxmc_ray.metrics.ranking import Values


def auc_per_document(scores: Sequence[npt.NDArray[Any]], is_gold: Sequence[npt.NDArray[np.bool_]]) -> Values:
    """How well scores order a document's labels: P(a gold one scores above another one), ties count half.

    ``scores``: n float arrays; ``is_gold``: n bool arrays of the same lengths. Returns float64 [n], 0 to 1; NaN for a
    document that has no gold label or no other one.
    """
    values = np.full(len(scores), np.nan)
    for number, (score, gold) in enumerate(zip(scores, is_gold, strict=True)):
        above, below = score[gold], score[~gold]
        if len(above) and len(below):
            difference = above[:, None] - below[None, :]
            values[number] = np.mean((difference > 0) + 0.5 * (difference == 0))
    return values


def precision_at_1_of_scores(scores: Sequence[npt.NDArray[Any]], is_gold: Sequence[npt.NDArray[np.bool_]]) -> Values:
    """Whether the label with the highest score is a gold one, in percent; of equal ones, the share that is gold.

    Arguments as auc_per_document. Returns float64 [n], NaN for a document without labels.
    """
    values = np.full(len(scores), np.nan)
    for number, (score, gold) in enumerate(zip(scores, is_gold, strict=True)):
        if len(score):
            values[number] = 100.0 * gold[score == score.max()].mean()
    return values


def precision_of_highest(scores: npt.NDArray[Any], is_gold: npt.NDArray[np.bool_], count: int) -> float:
    """Share of gold (0 to 1) among the ``count`` highest of ``scores`` (float [n]; 1 <= count <= n).

    Where equal scores stand on both sides of the cut, each of them counts by its chance of being drawn.
    """
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, equal = scores > least, scores == least
    return float((is_gold[above].sum() + (count - above.sum()) * is_gold[equal].mean()) / count)


def equal_count_bins(values: npt.NDArray[Any], bins: int) -> list[npt.NDArray[np.int64]]:
    """Positions of ``values`` (float [n]) in up to ``bins`` groups of rising value and as equal size as ties allow.

    Equal values are never parted, so that fewer distinct values give fewer groups; none is empty.
    """
    if not len(values):
        return []
    exact = values.astype(np.float64)  # in which the middle of two float32 neighbors is neither of them
    cuts = np.unique(np.quantile(exact, np.arange(1, bins) / bins))
    group = np.searchsorted(cuts, exact, side="right")
    return [np.flatnonzero(group == number) for number in np.unique(group)]


def expected_calibration_error(probability: npt.NDArray[Any], is_gold: npt.NDArray[np.bool_], bins: int) -> float:
    """How far probabilities are from what happens: the mean of |mean probability - share of gold| over bins, by size.

    ``probability``: float [n], n > 0; ``is_gold``: bool [n]. Source: Guo et al., arXiv 1706.04599, with the
    bins of equal_count_bins in place of equally wide ones.
    """
    gaps = [
        len(group) * abs(probability[group].mean(dtype=np.float64) - is_gold[group].mean())
        for group in equal_count_bins(probability, bins)
    ]
    return float(sum(gaps) / len(probability))

"""Measures of ranked labels against gold labels, and of scores within a document's shortlist.

Comes in: ranked label numbers (or scores) and gold labels of the same documents. Goes out: one value a document
(float64; NaN where the measure is not defined for it), their means, and bootstrap intervals of the means. P@k and
nDCG@k are defined as in the Extreme Classification Repository (manikvarma.org/downloads/XC/XMLRepository.html); all
ranking measures are in percent. Documents without gold labels are left out of every mean; ``documents`` says how many
are in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Gold = Sequence[npt.NDArray[Any]]


def precision_at_k(ranked: npt.NDArray[Any], gold: Gold, k: int) -> Values:
    """Gold labels among the first ``k``, divided by ``k`` (also where fewer than ``k`` labels are ranked), in percent.

    ``ranked``: int32 [n, depth], label numbers in falling score, no repeats, padded with -1.
    ``gold``: n integer arrays, label numbers without repeats. Returns float64 [n], NaN for a document without gold.
    """
    return _percent(_hits(ranked, gold)[:, :k].sum(axis=1), np.where(_sizes(gold) > 0, k, 0))


def recall_at_k(ranked: npt.NDArray[Any], gold: Gold, k: int) -> Values:
    """Share of a document's gold labels that are among the first ``k``, in percent; arguments as precision_at_k."""
    return _percent(_hits(ranked, gold)[:, :k].sum(axis=1), _sizes(gold))


def ndcg_at_k(ranked: npt.NDArray[Any], gold: Gold, k: int) -> Values:
    """DCG@k with gains 0 and 1 over that of the ideal order, which has min(k, |gold|) hits, in percent; as above."""
    hits = _hits(ranked, gold)[:, :k]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    return _percent(hits @ discounts[: hits.shape[1]], ideal[np.minimum(_sizes(gold), k)])


#: Every measure of the report, in its order.
MEASURES: dict[str, tuple[Callable[[npt.NDArray[Any], Gold, int], Values], int]] = {
    "P@1": (precision_at_k, 1),
    "P@3": (precision_at_k, 3),
    "P@5": (precision_at_k, 5),
    "nDCG@5": (ndcg_at_k, 5),
    "R@10": (recall_at_k, 10),
    "R@100": (recall_at_k, 100),
}


def per_document(ranked: npt.NDArray[Any], gold: Gold) -> dict[str, Values]:
    """Every measure as float64 [n], percent, NaN for a document without gold; for means over shards and intervals."""
    return {name: measure(ranked, gold, k) for name, (measure, k) in MEASURES.items()}


def means(values: dict[str, Values]) -> dict[str, float | int]:
    """The mean of each measure over the documents that have gold (NaN if there is none), and their number."""
    known = {name: array[~np.isnan(array)] for name, array in values.items()}
    result: dict[str, float | int] = {
        name: float(array.mean()) if len(array) else math.nan for name, array in known.items()
    }
    return result | {"documents": len(known["P@1"])}


def evaluate(ranked: npt.NDArray[Any], gold: Gold) -> dict[str, float | int]:
    """``P@1 P@3 P@5 nDCG@5 R@10 R@100`` in percent, and ``documents``: how many have gold and are in the means.

    ``ranked``: int32 [n, depth], padded with -1; ``gold``: n integer arrays. Without any gold the measures are NaN.
    """
    return means(per_document(ranked, gold))


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
    exact = values.astype(np.float64)  # in which the middle of two float32 neighbours is neither of them
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


#: A bootstrap interval of the mean of fewer values is much too narrow to be shown.
LEAST_DOCUMENTS = 10
RESAMPLES = 2000


def bootstrap_intervals(values: dict[str, Values], seed: int) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of the means of ``values`` by the percentile bootstrap over documents (Efron 1979).

    ``values``: float64 [n] each, without NaN, document for document. All are drawn together, so a difference of two of
    them gets its paired interval. None for each where n is under LEAST_DOCUMENTS.
    """
    table = np.stack(list(values.values()), axis=1)
    documents = len(table)
    if documents < LEAST_DOCUMENTS:
        return dict.fromkeys(values)
    generator = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, len(values)))
    for row in means:
        times_drawn = np.bincount(generator.integers(documents, size=documents), minlength=documents)
        row[:] = times_drawn.astype(np.float64) @ table / documents
    low, high = np.percentile(means, (2.5, 97.5), axis=0).tolist()
    return dict(zip(values, zip(low, high, strict=True), strict=True))


def histogram(values: npt.NDArray[Any], edges: npt.NDArray[Any]) -> dict[str, list[Any]]:
    """Counts of ``values`` (float [n]) between consecutive ``edges`` (float [bins + 1]), as plain lists.

    What lies outside counts in the first or the last bin, so that the counts of several shards add up to all values.
    """
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _sizes(gold: Gold) -> npt.NDArray[np.int64]:
    return np.fromiter((len(labels) for labels in gold), np.int64, len(gold))


def _hits(ranked: npt.NDArray[Any], gold: Gold) -> npt.NDArray[np.bool_]:
    """bool [n, depth]: whether the ranked label is one of its document's gold labels.

    One membership test for all documents: (document, label) pairs become the numbers document * width + label.
    """
    flat = np.concatenate([np.zeros(0, np.int64), *(np.asarray(labels, np.int64) for labels in gold)])
    width = 1 + max(int(flat.max(initial=0)), int(ranked.max(initial=0)))
    first = np.arange(len(gold), dtype=np.int64)[:, None] * width
    pairs = np.repeat(first[:, 0], _sizes(gold)) + flat
    return np.isin(ranked + first, pairs) & (ranked >= 0)


def _percent(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Values:
    result = np.full(len(whole), np.nan)
    np.divide(100.0 * part, whole, out=result, where=whole > 0)
    return result

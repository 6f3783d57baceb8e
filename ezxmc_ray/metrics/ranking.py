"""Ranking measures: P@k, R@k and nDCG@k of every document, in percent.

Comes in: ranked label numbers and gold labels of the same documents. Goes out: one value a document (float64; NaN for
a document without gold labels), and their means. P@k and nDCG@k are defined as in the Extreme Classification Repository
(manikvarma.org/downloads/XC/XMLRepository.html).
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
    return _percent(hits(ranked[:, :k], gold).sum(axis=1), np.where(gold_sizes(gold) > 0, k, 0))


def recall_at_k(ranked: npt.NDArray[Any], gold: Gold, k: int) -> Values:
    """Share of a document's gold labels that are among the first ``k``, in percent; arguments as precision_at_k."""
    return _percent(hits(ranked[:, :k], gold).sum(axis=1), gold_sizes(gold))


def ndcg_at_k(ranked: npt.NDArray[Any], gold: Gold, k: int) -> Values:
    """DCG@k with gains 0 and 1 over that of the ideal order, which has min(k, |gold|) hits, in percent; as above."""
    found = hits(ranked[:, :k], gold)
    return _percent(found @ discounts(found.shape[1]), ideal_dcg(gold, k))


#: Every measure of the report's main table, in its order.
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


def hits(ranked: npt.NDArray[Any], gold: Gold) -> npt.NDArray[np.bool_]:
    """bool [n, depth]: whether the ranked label is one of its document's gold labels.

    One membership test for all documents: (document, label) pairs become the numbers document * width + label.
    """
    flat = flat_gold(gold)
    width = 1 + max(int(flat.max(initial=0)), int(ranked.max(initial=0)))
    first = np.arange(len(gold), dtype=np.int64)[:, None] * width
    pairs = np.repeat(first[:, 0], gold_sizes(gold)) + flat
    return np.isin(ranked + first, pairs) & (ranked >= 0)


def gold_sizes(gold: Gold) -> npt.NDArray[np.int64]:
    """Gold labels of each document, int64 [n]."""
    return np.fromiter((len(labels) for labels in gold), np.int64, len(gold))


def flat_gold(gold: Gold) -> npt.NDArray[np.int64]:
    """The gold labels of all documents, one document after the other."""
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(labels, np.int64) for labels in gold)])


def discounts(ranks: int) -> Values:
    """What a hit at rank 1, 2, … counts in a DCG: 1 / log2(rank + 1), float64 [ranks]."""
    return 1 / np.log2(np.arange(2, ranks + 2))


def ideal_dcg(gold: Gold, k: int) -> Values:
    """The DCG@k, gains 0 and 1, of an order that has a document's gold labels first: float64 [n], 0 without gold."""
    ideal = np.concatenate([[0.0], np.cumsum(discounts(k))])
    return np.asarray(ideal[np.minimum(gold_sizes(gold), k)])


def _percent(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Values:
    result = np.full(len(whole), np.nan)
    np.divide(100.0 * part, whole, out=result, where=whole > 0)
    return result

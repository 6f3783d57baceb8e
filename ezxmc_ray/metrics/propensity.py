"""Propensity-scored measures, PSP@k and PSnDCG@k: a hit counts the more, the rarer its label is.

Source: Jain, Prabhu and Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing
Label Applications", KDD 2016. A label l that is gold for N_l of N documents is thought to be written down where it
applies with the propensity

    p_l = 1 / (1 + C exp(-A ln(N_l + B))),   C = (ln N - 1) (B + 1)^A,

so that a hit counts 1 / p_l. Which documents N and N_l are counted on is the caller's matter: there are no train labels
in zero-shot tagging, see label_counts in evaluation/rankings.py.

Of the definitions in use this one is taken, that of the Extreme Classification Repository's scripts (pyxclib): a value
is 100 x the sum over documents of what the ranking gains, divided by the sum over documents of what the best ranking
would have gained, which has the gold labels in falling 1 / p_l. So it is no mean of one value a document. A document's
PSP gain is sum(hits / p_l) / k; its PSnDCG gain is the DCG of the hits / p_l, divided by the plain ideal DCG of min(k,
|gold|) hits. (The Repository's page divides by the ideal DCG of k hits instead; the two differ where documents have
fewer than k gold labels.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ezxmc_ray.metrics.ranking import Gold, Values, discounts, flat_gold, gold_sizes, hits, ideal_dcg

Gains = tuple[Values, Values]


def inverse_propensities(counts: npt.NDArray[Any], documents: int, a: float = 0.55, b: float = 1.5) -> Values:
    """1 / p_l for every label, float64 [labels].

    ``counts``: int [labels], the documents that a label is gold for, of ``documents`` in all. ``a`` and ``b``: the
    Repository has 0.5 and 0.4 for Wikipedia, 0.6 and 2.6 for Amazon, 0.55 and 1.5 for everything else. On one or two
    documents the model's C is negative; 0 is taken then, so that every hit counts 1.
    """
    c = max(0.0, np.log(max(documents, 1)) - 1) * (b + 1) ** a
    return 1 + c * (np.asarray(counts, np.float64) + b) ** -a


def propensity_precision_at_k(ranked: npt.NDArray[Any], gold: Gold, inverse: Values, k: int) -> Gains:
    """What the ranking and the best ranking gain for PSP@k: float64 [n] each, 0 for a document without gold.

    ``ranked`` and ``gold`` as precision_at_k; ``inverse``: float64 [labels], of inverse_propensities.
    """
    return _gains(ranked, gold, inverse, k).sum(axis=1) / k, _best_gains(gold, inverse, k).sum(axis=1) / k


def propensity_ndcg_at_k(ranked: npt.NDArray[Any], gold: Gold, inverse: Values, k: int) -> Gains:
    """What the ranking and the best ranking gain for PSnDCG@k; as propensity_precision_at_k."""
    gains, whole = _gains(ranked, gold, inverse, k), ideal_dcg(gold, k)
    whole[whole == 0] = 1
    found, best = gains @ discounts(gains.shape[1]), _best_gains(gold, inverse, k) @ discounts(k)
    return found / whole, best / whole


#: Every propensity-scored measure of the report, in its order.
PROPENSITY_MEASURES: dict[str, tuple[Callable[[npt.NDArray[Any], Gold, Values, int], Gains], int]] = {
    "PSP@1": (propensity_precision_at_k, 1),
    "PSP@3": (propensity_precision_at_k, 3),
    "PSP@5": (propensity_precision_at_k, 5),
    "PSnDCG@3": (propensity_ndcg_at_k, 3),
    "PSnDCG@5": (propensity_ndcg_at_k, 5),
}


def _gains(ranked: npt.NDArray[Any], gold: Gold, inverse: Values, k: int) -> Values:
    """1 / p_l at the ranks of hits, 0 elsewhere: float64 [n, min(k, depth)]."""
    first = ranked[:, :k]
    return np.where(hits(first, gold), inverse[first], 0.0)


def _best_gains(gold: Gold, inverse: Values, k: int) -> Values:
    """The ``k`` highest 1 / p_l of each document's gold labels in falling order, padded with 0: float64 [n, k]."""
    sizes = gold_sizes(gold)
    document = np.repeat(np.arange(len(gold)), sizes)
    weights = inverse[flat_gold(gold)]
    order = np.lexsort((-weights, document))
    rank = np.arange(len(weights)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    best = np.zeros((len(gold), k))
    best[document[rank < k], rank[rank < k]] = weights[order][rank < k]
    return best

"""Which pairs of a batch are positives, which are negatives, and which are neither.

Comes in: what the teacher said of a batch's pairs, the targets made of it, and how common the labels are. Goes out:
masks over the pairs, bool [b, m], and weights of the labels. A label that a document was not judged with is a negative
of it (*in-batch*), and it may well be a right one, a common label most of all: the masks and weights here keep the
student from unlearning those.
"""

from __future__ import annotations

import math

import numpy as np

from ezxmc_ray.student.targets import TargetScale

#: A few labels of one document each would else be most of what a batch of common labels pushes away.
MAX_WEIGHT = 10.0


def positives(verdict: np.ndarray, yes_threshold: float) -> np.ndarray:
    """Pairs that the teacher says yes to: verdict (float [b, m], NaN: not judged) at or above the threshold."""
    return np.nan_to_num(verdict, nan=-np.inf) >= yes_threshold


def doubtful(verdict: np.ndarray, target: np.ndarray, yes_threshold: float, scale: TargetScale) -> np.ndarray:
    """Pairs that the teacher says no to, and that are no hard negatives all the same; bool [b, m].

    The fused score calls them right: their ``target`` (float [b, m], standardized, NaN: not judged) is as far above
    its mean as the threshold is above the verdict's.
    """
    no = np.isfinite(verdict) & ~positives(verdict, yes_threshold)
    cut = (yes_threshold - scale.verdict_mean) / scale.verdict_std
    return no & (np.nan_to_num(target, nan=-math.inf) >= cut)


def in_batch_weights(counts: np.ndarray, trained: int, documents: int) -> np.ndarray:
    """How much a label counts where it is an in-batch negative: the less, the more batches it is in.

    A document meets a label that is not in its shortlist in every batch that has another document with that label. So
    without weights a label is pushed away as often as it is common, and what many documents are about is unlearned.
    A weight is the inverse of the probability of meeting, at most MAX_WEIGHT times the batch's median one, scaled to a
    mean of 1 over the batch: then all labels count about alike over an epoch, and a batch's negatives together about as
    before. Where all labels are as rare, all weights are 1, as they are where every document is in every batch.

    Paper: correction of the sampling bias of in-batch negatives (Yi et al., RecSys 2019, "logQ"; doi
    10.1145/3298689.3346996), there by the inverse alone, which lets the negatives of a batch outweigh the document's
    own shortlist. The probability is that of documents drawn at random, as the larger of two bounds, one exact for a
    label of one document, the other for a batch of two (within 5 % in a training of 20 documents, 2 % of 100 and more;
    where like documents lie together, a batch has more of them than that).

    Args:
        counts: integer [m], at least 1: how many documents of the training have the label in their shortlists.
        trained: documents of the training.
        documents: of the global batch.

    Returns:
        float64 [m], above 0, with a mean of 1.
    """
    others = trained - 1
    if documents < 2 or others < 1:
        return np.ones(len(counts))
    with np.errstate(divide="ignore"):  # log(0): a label of all other documents, or a batch of all; met for certain
        missed_by_others = (documents - 1) * np.log1p(-np.minimum(counts / others, 1.0))
        missed_by_batch = counts * np.log1p(-min((documents - 1) / others, 1.0))
    weights = 1.0 / -np.expm1(np.minimum(missed_by_others, missed_by_batch))
    weights = np.minimum(weights, MAX_WEIGHT * np.median(weights))
    return weights / weights.mean()

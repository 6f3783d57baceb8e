"""Which pairs of a batch are positives, which are negatives, and which are neither.

Comes in: what the teacher said of a batch's pairs, the targets made of it, the student's own scores, and how common the
labels are. Goes out: masks over the pairs, bool [b, m], and weights of the labels. A label that a document was not
judged with is a negative of it (*in-batch*), and it may well be a right one, a common label most of all: the masks and
weights here keep the student from unlearning those.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ezxmc_ray.student.targets import TargetScale


def positives(verdict: np.ndarray, yes_threshold: float) -> np.ndarray:
    """Pairs that the teacher says yes to: verdict (float [b, m], NaN: not judged) at or above the threshold."""
    return np.nan_to_num(verdict, nan=-np.inf) >= yes_threshold


def doubtful(
    verdict: np.ndarray, target: np.ndarray, yes_threshold: float, margin: float, scale: TargetScale
) -> np.ndarray:
    """Pairs that the teacher says no to, and that are no hard negatives all the same; bool [b, m].

    ``margin``: standard deviations of the verdict by which a confident no is below the threshold; a lesser no is
    doubtful. So is one whose ``target`` (float [b, m], standardised, NaN: not judged) is as far above its mean as the
    threshold is above the verdict's: the fused score calls it right.
    """
    no = np.isfinite(verdict) & ~positives(verdict, yes_threshold)
    unsure = np.nan_to_num(verdict, nan=-np.inf) > yes_threshold - margin * scale.verdict_std
    cut = (yes_threshold - scale.verdict_mean) / scale.verdict_std
    return no & (unsure | (np.nan_to_num(target, nan=-math.inf) >= cut))


def likely_false_negatives(scores: Tensor, target: Tensor, ratio: float) -> Tensor:
    """In-batch labels that are probably right: those that score at least ``ratio`` times the document's best label.

    Paper: NV-Retriever (arXiv 2407.15831), positive-aware mining, "TopK-PercPos", here with the student's own scores
    in place of another model's, and for in-batch labels.

    Args:
        scores: float [b, m], cosine similarities; no gradients flow through the mask.
        target: float [b, m], NaN where a label was not judged; the best label is the one with the highest target.
        ratio: of the best label's score; the paper's best one is 0.95.

    Returns:
        bool [b, m], never True for a judged label, nor in the row of a document without one.
    """
    judged = torch.isfinite(target)
    best = target.masked_fill(~judged, -torch.inf).argmax(dim=1, keepdim=True)
    least = ratio * scores.detach().gather(1, best)
    return ~judged & (scores.detach() >= least) & judged.any(dim=1, keepdim=True)


def in_batch_weights(label_shares: np.ndarray, documents: int) -> np.ndarray:
    """How much a label counts where it is an in-batch negative: the less, the more batches it is in.

    A document meets a label that it was not judged with in every batch that has another document with that label. So
    without weights a label is pushed away as often as it is common, and what many documents are about is unlearned.
    A weight is the inverse of the probability of meeting, scaled to a mean of 1 over the batch: then all labels count
    alike over an epoch, and a batch's negatives together as before. Where all labels are as rare, all weights are 1.

    Paper: correction of the sampling bias of in-batch negatives (Yi et al., RecSys 2019, "logQ"; doi
    10.1145/3298689.3346996), self-normalised as in importance sampling, since the inverse alone would let a label that
    is in one of a million shortlists outweigh all others of its batch.

    Args:
        label_shares: float64 [m], above 0 to 1: share of the training's documents that have the label in their
            shortlists.
        documents: of the global batch, at least 2.

    Returns:
        float64 [m], above 0, with a mean of 1.
    """
    with np.errstate(divide="ignore"):  # a label of all documents: log(0), and it is met for certain
        met = -np.expm1((documents - 1) * np.log1p(-label_shares))
    weights: np.ndarray = 1.0 / met
    return weights / weights.mean()

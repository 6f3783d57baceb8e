"""Which pairs of a batch are positives, which are negatives, and which are neither.

Comes in: what the teacher said of a batch's pairs, the targets made of it, and the student's own scores. Goes out:
masks over the pairs, bool [b, m]. A label that a document was not judged with is a negative of it (*in-batch*), and it
may well be a right one: the masks here keep the student from unlearning those.
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

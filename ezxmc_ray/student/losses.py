"""Losses of the student: plain functions of cosine similarities and of what the teacher said, mean over documents.

Comes in: ``scores``, float [b, m], the cosine similarities between the b documents of a batch and the m distinct
labels of all their shortlists, and what is known about these pairs. Goes out: a scalar with gradients. A document's
labels that it was not judged with are *in-batch negatives*; ``masked`` takes pairs out altogether (labels that are
known to be right or must not be proposed). All gradients are finite, also for a document that has nothing to learn
from; such a document is not counted in the mean, and a batch of only such documents costs 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Constants of LMTX (arXiv 2406.09288).
LMTX_MARGIN = 0.3
LMTX_HARDEST = 10
LMTX_NEGATIVE_TEMPERATURE = 0.1


def listwise_loss(
    scores: Tensor, target: Tensor, temperature: float, target_temperature: float, masked: Tensor | None = None
) -> Tensor:
    """Cross-entropy between the target's distribution over the shortlist and the student's over the whole batch.

    Paper: ListNet's top-one cross-entropy (Cao et al., ICML 2007), with the targets of a teacher as in RocketQAv2's
    listwise distillation (arXiv 2110.07367) and in-batch negatives as in InfoNCE.

    Args:
        scores: float [b, m], cosine similarities.
        target: float [b, m], standardized target where a label was judged, NaN where it was not.
        temperature: of the student's softmax, over all m labels that are not masked.
        target_temperature: of the target's softmax, over the judged labels; the others have no mass.
        masked: bool [b, m], pairs that are taken out of both; None: none.

    Returns:
        Scalar: mean over the documents with at least one judged label that is not masked.
    """
    masked = _no_mask(scores, masked)
    judged = torch.isfinite(target) & ~masked
    learns = judged.any(dim=1)
    if not bool(learns.any()):
        return scores.sum() * 0.0
    judged, masked = judged[learns], masked[learns]
    goal = torch.softmax((target[learns] / target_temperature).masked_fill(~judged, -torch.inf), dim=1)
    logits = (scores[learns] / temperature).masked_fill(masked, -torch.inf)
    log_probability = torch.log_softmax(logits, dim=1).masked_fill(~judged, 0.0)
    return -(goal * log_probability).sum(dim=1).mean()


def lmtx_loss(scores: Tensor, positive: Tensor, masked: Tensor | None = None) -> Tensor:
    """The published hinge loss: every positive above the ten hardest negatives by a margin of 0.3.

    Paper: LMTX (arXiv 2406.09288). For a document with positives P and its ten most similar negatives
    N, ``mean over p in P of sum over n in N of w_n * max(0, s_n - s_p + 0.3)`` with ``w = softmax(s_N / 0.1)``,
    through which gradients flow. Differences from the published code: all positives of a document instead of one
    drawn at random (the same in expectation), the weights also cover negatives that already keep the margin, and
    the weighted sum is not divided by ten.

    Args:
        scores: float [b, m], cosine similarities.
        positive: bool [b, m], labels that the teacher accepts; they are never negatives.
        masked: bool [b, m], pairs that are neither positives nor negatives; None: none.

    Returns:
        Scalar: mean over the documents with at least one positive (0 for one without a negative).
    """
    scores, positive, masked = _with_a_positive(scores, positive, masked)
    if not len(scores):
        return scores.sum() * 0.0
    candidates = scores.masked_fill(positive | masked, -torch.inf)
    hardest, _ = torch.topk(candidates, min(LMTX_HARDEST, scores.shape[1]), dim=1)
    there = torch.isfinite(hardest)
    hardest = hardest.masked_fill(~there, 0.0)
    # A finite stand-in for minus infinity: a row without any negative would be NaN in softmax.
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax((hardest / LMTX_NEGATIVE_TEMPERATURE).masked_fill(~there, lowest), dim=1) * there
    hinge = torch.relu(hardest[:, None, :] - scores[:, :, None] + LMTX_MARGIN)
    by_label = (hinge * weights[:, None, :]).sum(dim=2)
    return ((by_label * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def bce_loss(
    scores: Tensor,
    target_probability: Tensor,
    judged: Tensor,
    temperature: float,
    bias: Tensor | float = 0.0,
    masked: Tensor | None = None,
) -> Tensor:
    """Graded binary cross-entropy: each pair by itself, in-batch negatives with probability 0.

    Paper: BiXSE (arXiv 2508.06781), after SigLIP (arXiv 2303.15343): the logit of a pair is ``score / temperature +
    bias``, its target the graded relevance as a probability; a negative bias counters that most pairs are negatives.

    Args:
        scores: float [b, m], cosine similarities.
        target_probability: float [b, m], 0 to 1 where judged; elsewhere anything (NaN too).
        judged: bool [b, m], pairs that the teacher judged.
        temperature: divides the cosine similarities.
        bias: added to the logits; a scalar tensor may be learned.
        masked: bool [b, m], pairs that are left out; None: none.

    Returns:
        Scalar: the sum over a document's pairs, mean over the documents with at least one judged pair.
    """
    masked = _no_mask(scores, masked)
    judged = judged & ~masked
    learns = judged.any(dim=1)
    if not bool(learns.any()):
        return scores.sum() * 0.0
    goal = torch.where(judged, target_probability, torch.zeros_like(target_probability))
    pairs = functional.binary_cross_entropy_with_logits(scores / temperature + bias, goal, reduction="none")
    return pairs.masked_fill(masked, 0.0).sum(dim=1)[learns].mean()


def infonce_loss(scores: Tensor, positive: Tensor, temperature: float, masked: Tensor | None = None) -> Tensor:
    """Contrastive loss with several positives: each by itself against all negatives of its document.

    Paper: InfoNCE (arXiv 1807.03748); with several positives the outer sum of supervised contrastive learning
    (arXiv 2004.11362, equation 2), whose other positives are left out of the denominator here, since one right label
    takes nothing from another. For a document with positives P and negatives N:
    ``mean over p in P of -log(e(s_p) / (e(s_p) + sum over n in N of e(s_n)))`` with ``e(s) = exp(s / temperature)``.

    Args:
        scores: float [b, m], cosine similarities.
        positive: bool [b, m], labels that are right; all others that are not masked are negatives.
        temperature: divides the cosine similarities.
        masked: bool [b, m], pairs that are neither positives nor negatives; None: none.

    Returns:
        Scalar: mean over the documents with at least one positive (0 for one without a negative).
    """
    scores, positive, masked = _with_a_positive(scores, positive, masked)
    if not len(scores):
        return scores.sum() * 0.0
    logits = scores / temperature
    # A finite stand-in for minus infinity: a row without any negative would be NaN in the gradient of logsumexp.
    lowest = torch.finfo(scores.dtype).min
    negatives = torch.logsumexp(logits.masked_fill(positive | masked, lowest), dim=1, keepdim=True)
    by_label = torch.logaddexp(logits, negatives) - logits
    return ((by_label * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def _with_a_positive(scores: Tensor, positive: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, positives that are not masked, and mask, of the documents that have such a positive."""
    masked = _no_mask(scores, masked)
    positive = positive & ~masked
    learns = positive.any(dim=1)
    return scores[learns], positive[learns], masked[learns]


def _no_mask(scores: Tensor, masked: Tensor | None) -> Tensor:
    return torch.zeros_like(scores, dtype=torch.bool) if masked is None else masked

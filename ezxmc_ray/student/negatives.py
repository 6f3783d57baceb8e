"""Which pairs of a batch are positives, which are negatives, and which are neither.

Comes in: what the teacher said of a batch's pairs, the targets made of it, the labels' texts, and how common the labels
are. Goes out: masks over the pairs, bool [b, m], and weights of the labels. A label that a document was not judged with
is a negative of it (*in-batch*), and it may well be a right one, a common label most of all, or one that is called what
a right one is: the masks and weights here keep the student from unlearning those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ezxmc_ray.documents.values import compared
from ezxmc_ray.student.targets import TargetScale

#: A few labels of one document each would else be most of what a batch of common labels pushes away.
MAX_WEIGHT = 10.0


def positives(verdict: np.ndarray, yes_threshold: float) -> np.ndarray:
    """Pairs that the teacher says yes to: verdict (float [b, m], NaN: not judged) at or above the threshold."""
    return np.nan_to_num(verdict, nan=-np.inf) >= yes_threshold


@dataclass(frozen=True)
class Namesakes:
    """Which of p labels are called alike: two of the same text, and two of which one's text is the other's alternative.

    A common alternative alone does not make two labels alike: "Mercury" may be one of the planet and of the metal.
    Texts are the same as values.compared has them. ``text``: int [p], the number of each label's own text.
    ``alternative``, ``alternative_of``: int [r], numbers of texts that are an alternative, and of which label (its
    place from 0 to p - 1); those that are the own text of none of the p labels are left out.
    """

    text: np.ndarray
    alternative: np.ndarray
    alternative_of: np.ndarray

    @classmethod
    def among(cls, texts: Sequence[str], counts: np.ndarray) -> Namesakes:
        """Of labels with ``texts``, label after label, each one's own first; ``counts``: int [p], how many each has."""
        first = np.cumsum(counts) - counts
        names = [compared(text) for text in texts]
        numbers: dict[str, int] = {}
        own = [numbers.setdefault(names[row], len(numbers)) for row in first]
        others = np.setdiff1d(np.arange(len(names)), first)
        found = np.array([numbers.get(names[row], -1) for row in others], np.int64)
        of = np.repeat(np.arange(len(counts)), counts)[others]
        return cls(np.array(own, np.int64), found[found >= 0], of[found >= 0])

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Whether each of the p labels is one of ``labels`` (places) or called alike; bool [p]."""
        there, own = np.zeros(len(self.text), bool), np.zeros(len(self.text), bool)
        there[labels] = True
        own[self.text[labels]] = True  # by number of the text, of which there are p at most
        names = own.copy()
        names[self.alternative[there[self.alternative_of]]] = True
        alike: np.ndarray = names[self.text]
        alike[self.alternative_of[own[self.alternative]]] = True
        return alike


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

"""The first labels of a document, ranked anew by a cross-encoder beside their similarity.

Comes in: documents, and labels of each with their similarity, falling. Goes out: the same in a new order, with new
scores. Score = similarity + ``per_score`` * (the cross-encoder's score - its mean over the document's first ``anchor``
labels of all). So it is on the similarity's scale, a label has the same score whichever others are asked about, and
documents remain comparable, which they are not by the cross-encoder's own scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ezxmc_ray.encoder.pairs import PairNetwork

#: A spread of scores below which a cross-encoder says the same of all labels, but for rounding.
MIN_SPREAD = 1e-4


@dataclass(frozen=True)
class RerankScale:
    """``per_score``: what a unit of the cross-encoder's score adds to the similarity; ``anchor``: first
    labels of a document, by similarity, whose mean score counts as 0."""

    per_score: float
    anchor: int

    def fuse(self, similarity: np.ndarray, score: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
        """The new scores of labels of one document, float32 [k]; ``first``: the cross-encoder's scores of the
        document's first labels of all, float [anchor or more]; None: those that are given are the first."""
        if not len(score):
            return similarity
        zero = (score if first is None else first)[: self.anchor].mean()
        fused: np.ndarray = similarity + self.per_score * (score - zero)
        return fused.astype(np.float32)


def fit_scale(lists: Sequence[tuple[np.ndarray, np.ndarray]], weight: float, anchor: int) -> RerankScale:
    """The scale by which the cross-encoder counts ``weight`` times what the similarity does.

    ``lists``: of documents the similarity and the cross-encoder's score of their labels, float [k] each. Both count by
    how far they lie apart within a document (standard deviation, over all documents).
    """
    similarity, score = (_spread([one[kind] for one in lists]) for kind in (0, 1))
    return RerankScale(weight * similarity / score if score > MIN_SPREAD else 0.0, anchor)


def _spread(lists: Sequence[np.ndarray]) -> float:
    apart = [one.astype(np.float64) - one.mean(dtype=np.float64) for one in lists if len(one)]
    return float(np.concatenate(apart).std()) if apart else 0.0


@dataclass(frozen=True)
class Reordered:
    """``scores`` float32 and ``labels`` int32 [q, k], scores falling; ``similarity`` float32 [q, k]: of the same
    labels. ``truncated``: documents that the cross-encoder cut."""

    scores: np.ndarray
    labels: np.ndarray
    similarity: np.ndarray
    truncated: int


class Reranker:
    """A cross-encoder for the labels of a run; ``label_texts``: their preferred texts, by label number."""

    def __init__(self, network: PairNetwork, label_texts: pa.StringArray, scale: RerankScale) -> None:
        self.network, self.scale, self._label_texts = network, scale, label_texts

    def depth(self, first: int) -> int:
        """Labels of a document that are read where the ``first`` ones are ranked anew."""
        return max(first, self.scale.anchor)

    def rerank(
        self,
        titles: Sequence[str],
        texts: Sequence[str],
        similarity: np.ndarray,
        labels: np.ndarray,
        first: int,
        anchors: np.ndarray | None = None,
    ) -> Reordered:
        """The ``first`` labels of each document in their new order, ties by label number; then the others as they were.

        ``similarity`` float32 and ``labels`` int32 [q, k], falling, -inf and below 0 where there is none, of
        :meth:`depth` labels at least if there are so many. ``anchors``: int32 [q, a], the first labels of each document
        where ``labels`` are not the first of all; None: they are. A label that is not ranked anew has the score of the
        last that is, if its similarity is above that. Errors: UserError as PairNetwork.read.
        """
        read = [row[row >= 0] for row in labels[:, : first if anchors is not None else self.depth(first)]]
        of_all = [row[row >= 0] for row in anchors] if anchors is not None else [row[:0] for row in labels]
        asked = [np.concatenate(both) for both in zip(read, of_all, strict=True)]
        texts_of = [self._label_texts.take(pa.array(one, pa.int32())).to_pylist() for one in asked]
        scores, order = similarity.copy(), np.tile(np.arange(labels.shape[1]), (len(labels), 1))
        scored, truncated = self.network.read(titles, texts, texts_of)
        for row, found in enumerate(scored):
            count = min(first, len(read[row]))
            zero = found if anchors is None else found[len(read[row]) :]
            fused = self.scale.fuse(similarity[row, :count], found[:count], zero)
            order[row, :count] = np.lexsort((labels[row, :count], -fused))
            scores[row, :count] = fused[order[row, :count]]
        # What follows must not lead again.
        scores = np.minimum.accumulate(scores, axis=1)
        in_order = [np.take_along_axis(one, order, axis=1) for one in (labels, similarity)]
        return Reordered(scores, in_order[0], in_order[1], truncated)

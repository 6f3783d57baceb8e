"""The labels that fit a document best: near by the encoder, and named by the document's words.

Comes in: documents with their vectors. Goes out: scores and label numbers. One scoring serves the shortlists of every
cycle, the predictions and the measures: similarity = cosine + lexical.weight * share of the label's words that the
document names. The encoder proposes lexical.candidates labels by its cosine; among these the similarity decides, so
that the cost does not grow with the label set. Of a label with several texts cosine and share are the highest of any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.index.label_texts import LabelTexts, best_of
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.search import NO_LABEL, ShardedIndex


class HybridSearcher:
    """An index over label vectors, and the words of the same labels."""

    def __init__(self, index: ShardedIndex, lexical: LexicalTable | None, config: LexicalConfig) -> None:
        """``lexical``: of the same labels as ``index``; None: the encoder alone decides."""
        self.index, self.lexical, self.config = index, lexical, config

    def search(
        self,
        vectors: np.ndarray,
        titles: Sequence[str | None],
        texts: Sequence[str],
        k: int,
        excluded: Sequence[Sequence[int]] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` labels of highest similarity of each document.

        Args:
            vectors: float32 or float16 [q, d], unit rows, of the documents with these ``titles`` and ``texts``.
            titles: of the documents; empty or None: there is none.
            texts: of the documents.
            k: labels a document.
            excluded: for each document the labels that it must not get; the next best come instead.

        Returns:
            (similarity float32 [q, k], labels int32 [q, k]), falling, ties by label number; -inf and -1 at the end
            where there are fewer.
        """
        if self.lexical is None:
            return self.index.search(vectors, k, excluded)
        cosine, labels = self.index.search(vectors, max(k, self.config.candidates), excluded)
        return self._best(cosine, labels, titles, texts, k)

    def search_among(
        self, vectors: np.ndarray, titles: Sequence[str | None], texts: Sequence[str], k: int, among: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` of the labels ``among`` (rising label numbers, int32 [m]) of highest similarity of each document.

        The encoder proposes among them as it does among all. The rest as in :meth:`search`.
        """
        fetch = k if self.lexical is None else max(k, self.config.candidates)
        cosine, labels = self.index.search_among(vectors, fetch, among)
        if self.lexical is None:
            return cosine, labels
        return self._best(cosine, labels, titles, texts, k)

    def _best(
        self, cosine: np.ndarray, labels: np.ndarray, titles: Sequence[str | None], texts: Sequence[str], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` of highest similarity of the ``labels`` that were proposed."""
        assert self.lexical is not None
        similarity = fuse_scores(cosine, self.lexical, self.config, titles, texts, labels)
        order = np.lexsort((labels, -similarity), axis=1)[:, :k]
        return np.take_along_axis(similarity, order, axis=1), np.take_along_axis(labels, order, axis=1)


class PairScorer:
    """The similarity of labels that are given, by one encoder: as :class:`HybridSearcher` scores what it finds."""

    def __init__(
        self,
        label_vectors: np.ndarray,
        lexical: LexicalTable | None,
        config: LexicalConfig,
        texts: LabelTexts | None = None,
    ) -> None:
        """``label_vectors``: float32 or float16 [n, d], unit rows, by label number, or as ``texts`` says; ``lexical``:
        of the same labels."""
        self.label_vectors, self.lexical, self.config, self.texts = label_vectors, lexical, config, texts

    def __call__(
        self, vectors: np.ndarray, titles: Sequence[str | None], texts: Sequence[str], labels: np.ndarray
    ) -> np.ndarray:
        """Float32 in the shape of ``labels`` (int32 [q, k]); -inf where there is none. As HybridSearcher.search."""
        cosine = np.full(labels.shape, -np.inf, np.float32)
        for row, (vector, numbers) in enumerate(zip(vectors, labels, strict=True)):
            there = numbers != NO_LABEL
            if self.texts is None:
                cosine[row, there] = self._cosine(numbers[there], vector)
            else:
                rows, counts = self.texts.rows_of(numbers[there])
                cosine[row, there] = best_of(self._cosine(rows, vector), counts)
        return cosine if self.lexical is None else fuse_scores(cosine, self.lexical, self.config, titles, texts, labels)

    def _cosine(self, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return self.label_vectors[rows].astype(np.float32) @ vector.astype(np.float32)


def fuse_scores(
    cosine: np.ndarray,
    lexical: LexicalTable,
    config: LexicalConfig,
    titles: Sequence[str | None],
    texts: Sequence[str],
    labels: np.ndarray,
) -> np.ndarray:
    """The similarity, float32 in the shape of ``cosine`` and ``labels`` ([q, k])."""
    shares = lexical.shares(titles, texts, labels)
    return (cosine + np.float32(config.weight) * shares).astype(np.float32)

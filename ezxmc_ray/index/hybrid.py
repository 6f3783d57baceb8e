"""The labels that fit a document best: near by the encoder, and named by the document's words.

Comes in: documents with their vectors. Goes out: scores and label numbers. One scoring serves the shortlists of every
cycle, the predictions and the measures: similarity = cosine + lexical.weight * (share of the label's words that the
document names + lexical.name_bonus * how much its whole name stands there). Two propose labels, lexical.candidates each
at most: the encoder, by its cosine, and the document, by what it names. Among these the similarity decides, so that the
cost does not grow with the label set. Of a label with several texts cosine, share and name are the highest of any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.index.label_texts import LabelTexts, best_of
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.names import Named
from ezxmc_ray.index.search import NO_LABEL, ShardedIndex

#: Documents that are searched at once among all labels: hundreds are proposed to each, and held with their scores.
BATCH_DOCUMENTS = 512


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
        assert len(vectors) == len(titles) == len(texts)
        found = []
        for start in range(0, max(1, len(texts)), BATCH_DOCUMENTS):
            some = slice(start, start + BATCH_DOCUMENTS)
            banned = None if excluded is None else excluded[some]
            found.append(self._search(vectors[some], titles[some], texts[some], k, banned))
        scores, labels = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(labels)

    def _search(
        self,
        vectors: np.ndarray,
        titles: Sequence[str | None],
        texts: Sequence[str],
        k: int,
        excluded: Sequence[Sequence[int]] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`search`, of some documents by encoder and words."""
        assert self.lexical is not None
        cosine, labels = self.index.search(vectors, max(k, self.config.candidates), excluded)
        named = find_names(self.lexical, self.config, titles, texts)
        if named is not None:
            added = named.without(labels, excluded, self.config.candidates, removed=self.index.removed)
            scores = self.index.scores(vectors, added)
            added[np.isneginf(scores)] = NO_LABEL  # of an index that cannot tell
            cosine, labels = np.concatenate([cosine, scores], axis=1), np.concatenate([labels, added], axis=1)
        return self._best(cosine, labels, titles, texts, k, named)

    def search_among(
        self, vectors: np.ndarray, titles: Sequence[str | None], texts: Sequence[str], k: int, among: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` of the labels ``among`` (rising label numbers, int32 [m]) of highest similarity of each document.

        None of them is removed. Encoder and document propose among them as they do among all. The rest as in
        :meth:`search`.
        """
        if self.lexical is None:
            return self.index.search_among(vectors, k, among)
        cosine, labels = self.index.search_among(vectors, max(k, self.config.candidates), among)
        named = find_names(self.lexical, self.config, titles, texts)
        if named is not None:
            added = named.without(labels, None, self.config.candidates, among)
            cosine = np.concatenate([cosine, self.index.scores(vectors, added)], axis=1)
            labels = np.concatenate([labels, added], axis=1)
        return self._best(cosine, labels, titles, texts, k, named)

    def _best(
        self,
        cosine: np.ndarray,
        labels: np.ndarray,
        titles: Sequence[str | None],
        texts: Sequence[str],
        k: int,
        named: Named | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` of highest similarity of the ``labels`` that were proposed."""
        assert self.lexical is not None
        similarity = fuse_scores(cosine, self.lexical, self.config, titles, texts, labels, named)
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
        if self.lexical is None:
            return cosine
        named = find_names(self.lexical, self.config, titles, texts)
        return fuse_scores(cosine, self.lexical, self.config, titles, texts, labels, named)

    def _cosine(self, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return self.label_vectors[rows].astype(np.float32) @ vector.astype(np.float32)


def find_names(
    lexical: LexicalTable, config: LexicalConfig, titles: Sequence[str | None], texts: Sequence[str]
) -> Named | None:
    """The labels whose names stand in the documents; None: names do not count."""
    return lexical.names.find(titles, texts) if config.name_bonus else None


def fuse_scores(
    cosine: np.ndarray,
    lexical: LexicalTable,
    config: LexicalConfig,
    titles: Sequence[str | None],
    texts: Sequence[str],
    labels: np.ndarray,
    named: Named | None,
) -> np.ndarray:
    """The similarity, float32 in the shape of ``cosine`` and ``labels`` ([q, k]); ``named``: by the same documents."""
    shares = lexical.shares(titles, texts, labels)
    return (cosine + added_by_words(config, shares, None if named is None else named.of(labels))).astype(np.float32)


def added_by_words(config: LexicalConfig, shares: np.ndarray, names: np.ndarray | None) -> np.ndarray:
    """What is added to the cosine: float32 in the shape of ``shares`` and ``names`` (None: names do not count)."""
    words = shares if names is None else shares + np.float32(config.name_bonus) * names
    added: np.ndarray = np.float32(config.weight) * words
    return added

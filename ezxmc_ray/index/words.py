"""How many of a label's words a document names: what the encoder's cosine does not see well.

Comes in: the texts of all labels; documents and, for each, the numbers of some labels. Goes out: shares from 0 to 1.
Names, products and terms of art are rare in what an encoder was trained on, yet stand in the document letter by letter.
Exact words have been used beside vectors for as long as there are vectors; Gao et al., "Complement Lexical Retrieval
Model with Semantic Residual Embeddings", 2021 (arXiv 2004.13969), explain why it helps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

#: Letters of a word that count, so that most inflected forms are one word, in any language that puts them at the end.
STEM = 5
#: Documents that are compared at once.
BATCH_DOCUMENTS = 512

_WORD = re.compile(r"\w\w+")


def word_stems(text: str) -> list[str]:
    """The first :data:`STEM` letters of every word of two letters or more, in lower case."""
    return [word[:STEM] for word in _WORD.findall(text.casefold())]


class LabelWords:
    """The words of all labels, each with its weight in its label.

    A word weighs as in BM25, by its rarity among the labels: ln(1 + (n - f + 0.5) / (f + 0.5)) for a word that f of
    the n labels have. The weights of a label add up to 1.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """``labels``: their texts, by label number."""
        self._counter = CountVectorizer(binary=True, analyzer=word_stems, dtype=np.float32)
        self._weights: csr_matrix | None = None
        if any(map(word_stems, labels)):  # no vectorizer without a word
            found = csr_matrix(self._counter.fit_transform(labels))
            frequency = np.bincount(found.indices, minlength=found.shape[1])
            rarity = np.log1p((len(labels) - frequency + 0.5) / (frequency + 0.5))
            weights = csr_matrix((rarity[found.indices], found.indices, found.indptr), found.shape)
            totals = np.maximum(weights.sum(axis=1).A1, np.finfo(np.float64).tiny)
            weights.data /= np.repeat(totals, np.diff(weights.indptr))
            self._weights = weights

    def shares(self, titles: Sequence[str | None], texts: Sequence[str], labels: np.ndarray) -> np.ndarray:
        """The weight of each label's words that its document names: float32 in the shape of ``labels``, 0 to 1.

        Half of it counts in the title, half in title and text together; without a title all of it in the text.
        ``labels``: int32 [documents, m] label numbers; negative ones (no label) get 0.
        """
        shares = np.zeros(labels.shape, np.float32)
        if self._weights is None:
            return shares
        for start in range(0, len(labels), BATCH_DOCUMENTS):
            batch = slice(start, start + BATCH_DOCUMENTS)
            heads = [title or text for title, text in zip(titles[batch], texts[batch], strict=True)]
            whole = [f"{title or ''}\n{text}" for title, text in zip(titles[batch], texts[batch], strict=True)]
            shares[batch] = (self._named(heads, labels[batch]) + self._named(whole, labels[batch])) / 2
        return shares

    def _named(self, texts: list[str], labels: np.ndarray) -> np.ndarray:
        """The weight of each label's words that ``texts`` hold, float64 in the shape of ``labels``."""
        weights = self._weights
        assert weights is not None
        held = csr_matrix(self._counter.transform(texts))
        words = weights.shape[1]
        held_keys = np.sort(np.repeat(np.arange(len(texts)), np.diff(held.indptr)) * words + held.indices)
        document, column = np.nonzero(labels >= 0)
        label = labels[document, column]
        lengths = weights.indptr[label + 1] - weights.indptr[label]
        # Every word of every pair: where it stands among all words of all labels.
        pair = np.repeat(np.arange(len(label)), lengths)
        place = np.arange(len(pair)) + np.repeat(weights.indptr[label] - np.cumsum(lengths) + lengths, lengths)
        wanted_keys = document[pair] * words + weights.indices[place]
        found = np.searchsorted(held_keys, wanted_keys)
        is_held = np.append(held_keys, -1)[found] == wanted_keys
        named = np.zeros(labels.shape)
        named[document, column] = np.bincount(pair, weights.data[place] * is_held, len(label))
        return named

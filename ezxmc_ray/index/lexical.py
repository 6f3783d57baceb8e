"""How many of a label's words a document names: what the encoder's cosine does not see well.

Comes in: the texts of all labels; documents and, for each, the numbers of some labels. Goes out: shares from 0 to 1.
Names, products and terms of art are rare in what an encoder was trained on, yet stand in the document letter by letter.
Exact words have been used beside vectors for as long as there are vectors; Gao et al., "Complement Lexical Retrieval
Model with Semantic Residual Embeddings", 2021 (arXiv 2004.13969), explain why it helps.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice

import numpy as np
import regex
from scipy.sparse import csr_matrix

#: Letters of a word that count, so that most inflected forms are one word, in any language that puts them at the end.
STEM = 5
#: Words of a document that are looked at. A long text has almost any word in it, which says nothing about its topic.
DOCUMENT_WORDS = 256
#: Documents that are compared at once.
BATCH_DOCUMENTS = 512

_WORD = regex.compile(r"[\w\p{M}]{2,}")  # with marks: vowel signs are letters of a word


def word_stems(text: str, most: int | None = None) -> list[str]:
    """The first :data:`STEM` letters of every word of two letters or more, in lower case; of the first ``most`` words.

    However a letter with an accent is encoded, it is the same (Unicode's NFKC).
    """
    words = _WORD.finditer(unicodedata.normalize("NFKC", text).casefold())
    return [word[0][:STEM] for word in islice(words, most)]


class LexicalTable:
    """The words of all labels, each with its weight in its label.

    A word weighs as in BM25, by its rarity among the labels: ln(1 + (n - f + 0.5) / (f + 0.5)) for a word that f of
    the n labels have. The weights of a label add up to 1.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """``labels``: their texts, by label number."""
        from sklearn.feature_extraction.text import CountVectorizer  # takes over a second

        self._counter = CountVectorizer(binary=True, analyzer=list, dtype=np.float32)  # of lists of stems
        self._weights: csr_matrix | None = None
        stems = list(map(word_stems, labels))
        if any(stems):  # no vectorizer without a word
            found = csr_matrix(self._counter.fit_transform(stems))
            frequency = np.bincount(found.indices, minlength=found.shape[1])
            rarity = np.log1p((len(labels) - frequency + 0.5) / (frequency + 0.5))
            weights = csr_matrix((rarity[found.indices], found.indices, found.indptr), found.shape)
            totals = np.maximum(weights.sum(axis=1).A1, np.finfo(np.float64).tiny)
            weights.data /= np.repeat(totals, np.diff(weights.indptr))
            self._weights = weights

    def shares(self, titles: Sequence[str | None], texts: Sequence[str], labels: np.ndarray) -> np.ndarray:
        """The weight of each label's words that its document names: float32 in the shape of ``labels``, 0 to 1.

        Half of it counts in the title, half in the first :data:`DOCUMENT_WORDS` words of title and text together;
        without a title all of it there. ``labels``: int32 [documents, m] label numbers; negative ones (none) get 0.
        """
        shares = np.zeros(labels.shape, np.float32)
        if self._weights is None:
            return shares
        for start in range(0, len(labels), BATCH_DOCUMENTS):
            batch = slice(start, start + BATCH_DOCUMENTS)
            heads = [word_stems(title or "", DOCUMENT_WORDS) for title in titles[batch]]
            whole = [
                [*head, *word_stems(text, DOCUMENT_WORDS - len(head))]
                for head, text in zip(heads, texts[batch], strict=True)
            ]
            heads = [head or words for head, words in zip(heads, whole, strict=True)]
            shares[batch] = (self._named(heads, labels[batch]) + self._named(whole, labels[batch])) / 2
        return shares

    def _named(self, stems: list[list[str]], labels: np.ndarray) -> np.ndarray:
        """The weight of each label's words among a document's ``stems``, float64 in the shape of ``labels``."""
        weights = self._weights
        assert weights is not None
        held = csr_matrix(self._counter.transform(stems))
        words = weights.shape[1]
        held_keys = np.sort(np.repeat(np.arange(len(stems)), np.diff(held.indptr)) * words + held.indices)
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

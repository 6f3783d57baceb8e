"""How many of a label's words a document names: what the encoder's cosine does not see well.

Comes in: the texts of all labels; documents and, for each, the numbers of some labels. Goes out: shares from 0 to 1.
The table of the labels' words is a handful of arrays, which a run holds as files that all processes of a machine map.
Names, products and terms of art are rare in what an encoder was trained on, yet stand in the document letter by letter.
Exact words have been used beside vectors for as long as there are vectors; Gao et al., "Complement Lexical Retrieval
Model with Semantic Residual Embeddings", 2021 (arXiv 2004.13969), explain why it helps.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

#: Letters of a word that count, so that most inflected forms are one word, in any language that puts them at the end.
STEM = 5
#: Words of a document that are looked at. A long text has almost any word in it, which says nothing about its topic.
DOCUMENT_WORDS = 256
#: Documents that are compared at once, and labels whose texts are read at once.
BATCH_DOCUMENTS = 512
BATCH_LABELS = 65_536

#: Soft hyphens, marks of direction, byte order marks and the like; joiners of letters have a meaning.
_INVISIBLE = regex.compile(r"[\p{Cf}--[\u200c\u200d]]", regex.V1)
_WORD = regex.compile(r"[\w\p{M}]{2,}")  # with marks: vowel signs are letters of a word


def word_stems(text: str, most: int | None = None) -> list[str]:
    """The first :data:`STEM` letters of every word of two letters or more, in lower case; of the first ``most`` words.

    However a letter with an accent is encoded, it is the same (Unicode's NFKC); signs that nobody sees part no word.
    """
    return [word[0][:STEM] for word in islice(_WORD.finditer(_compared(text)), most)]


def _compared(text: str) -> str:
    if text.isascii():
        return text.casefold()
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()


@dataclass(frozen=True)
class LexicalArrays:
    """The words of n labels: v different ones, w in all.

    ``letters``: of the different words in UTF-8, one after the other, uint8; ``ends``: where they lie, int32 [v + 1].
    ``starts``: where each label's words begin, int64 [n + 1]. ``words``: of label after label, numbers of different
    words, int32 [w]; ``weights``: of the same, float64 [w].
    """

    letters: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    words: np.ndarray
    weights: np.ndarray

    @property
    def different(self) -> pa.Array:
        """The different words, string [v]."""
        return pa.StringArray.from_buffers(len(self.ends) - 1, pa.py_buffer(self.ends), pa.py_buffer(self.letters))


def lexical_arrays(batches: Iterable[Sequence[str]]) -> LexicalArrays:
    """The table of the labels whose texts are in ``batches``, by label number.

    A word weighs as in BM25, by its rarity among the labels: ln(1 + (n - f + 0.5) / (f + 0.5)) for a word that f of
    the n labels have. The weights of a label add up to 1.
    """
    counts, read = [np.zeros(0, np.int64)], [pa.array([], pa.string())]
    for texts in batches:
        words = [_WORD.findall(_compared(text)) for text in texts]
        counts.append(np.fromiter(map(len, words), np.int64, len(words)))
        read.append(pc.utf8_slice_codeunits(pa.array(chain.from_iterable(words), pa.string()), 0, STEM))
    per_label = np.concatenate(counts)
    labels = len(per_label)
    # Numbered as they appear: a label's weights are added up in this order.
    found = pa.chunked_array(read).dictionary_encode().combine_chunks()
    stems = found.dictionary
    keys = np.repeat(np.arange(labels), per_label) * len(stems) + found.indices.to_numpy()
    label, word = np.divmod(np.unique(keys), max(1, len(stems)))
    frequency = np.bincount(word, minlength=len(stems))
    weights = np.log1p((labels - frequency + 0.5) / (frequency + 0.5))[word]
    totals = np.maximum(np.bincount(label, weights, labels), np.finfo(np.float64).tiny)
    starts = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=labels))])
    letters, ends = _utf8(stems)
    return LexicalArrays(letters, ends, starts.astype(np.int64), word.astype(np.int32), weights / totals[label])


def _utf8(words: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Letters and ends of :class:`LexicalArrays`."""
    ends = np.concatenate([[0], np.cumsum(pc.binary_length(words).to_numpy())]).astype(np.int32)
    return np.frombuffer("".join(words.to_pylist()).encode(), np.uint8), ends


class LexicalTable:
    """The words of all labels, each with its weight in its label."""

    def __init__(self, arrays: LexicalArrays) -> None:
        """``arrays``: in memory, or mapped from files."""
        self.arrays, self._different = arrays, arrays.different

    @classmethod
    def from_texts(cls, labels: Sequence[str]) -> LexicalTable:
        """Of labels with these texts, by label number."""
        return cls(lexical_arrays(labels[at : at + BATCH_LABELS] for at in range(0, len(labels), BATCH_LABELS)))

    def shares(self, titles: Sequence[str | None], texts: Sequence[str], labels: np.ndarray) -> np.ndarray:
        """The weight of each label's words that its document names: float32 in the shape of ``labels``, 0 to 1.

        Half of it counts in the title, half in the first :data:`DOCUMENT_WORDS` words of title and text together;
        without a title all of it there. ``labels``: int32 [documents, m] label numbers; negative ones (none) get 0.
        """
        shares = np.zeros(labels.shape, np.float32)
        if not len(self._different):
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
        table = self.arrays
        held_keys = self._held(stems)
        document, column = np.nonzero(labels >= 0)
        label = labels[document, column]
        lengths = table.starts[label + 1] - table.starts[label]
        # Every word of every pair: where it stands among all words of all labels.
        pair = np.repeat(np.arange(len(label)), lengths)
        place = np.arange(len(pair)) + np.repeat(table.starts[label] - np.cumsum(lengths) + lengths, lengths)
        wanted_keys = document[pair] * len(self._different) + table.words[place]
        found = np.searchsorted(held_keys, wanted_keys)
        is_held = np.append(held_keys, -1)[found] == wanted_keys
        named = np.zeros(labels.shape)
        named[document, column] = np.bincount(pair, table.weights[place] * is_held, len(label))
        return named

    def _held(self, stems: list[list[str]]) -> np.ndarray:
        """What each document has of the labels' words: document * v + number of the word, int64, rising."""
        words = pc.index_in(pa.array(chain.from_iterable(stems), pa.string()), value_set=self._different)
        words = words.fill_null(-1).to_numpy()
        documents = np.repeat(np.arange(len(stems)), list(map(len, stems)))
        known = words >= 0
        return np.unique(documents[known] * len(self._different) + words[known])

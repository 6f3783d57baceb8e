"""How many of a label's words a document names: what the encoder's cosine does not see well.

Comes in: the texts of all labels; documents and, for each, the numbers of some labels. Goes out: shares from 0 to 1.
The table of the labels' words is a handful of arrays, which a run holds as files that all processes of a machine map.
Of a label with several texts the one counts whose words are named most. Names that stand as they are: names.py.
Names, products and terms of art are rare in what an encoder was trained on, yet stand in the document letter by letter.
Exact words have been used beside vectors for as long as there are vectors; Gao et al., "Complement Lexical Retrieval
Model with Semantic Residual Embeddings", 2021 (arXiv 2004.13969), explain why it helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray.index.label_texts import LabelTexts, best_of
from ezxmc_ray.index.language import NONE
from ezxmc_ray.index.names import NameTable, name_arrays
from ezxmc_ray.index.words import DOCUMENT_WORDS, STEM, words_of

#: Documents that are compared at once, and labels whose texts are read at once.
BATCH_DOCUMENTS = 512
BATCH_LABELS = 65_536


def word_stems(text: str, most: int | None = None) -> list[str]:
    """The first :data:`STEM` letters of the first ``most`` words (words.words_of), in lower case.

    However a letter with an accent is encoded, it is the same (Unicode's NFKC); signs that nobody sees part no word.
    """
    return [word[:STEM] for word in words_of(text, most)]


@dataclass(frozen=True)
class LexicalArrays:
    """The words of n labels (of n texts, where labels have several): v different ones, w in all.

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


def lexical_arrays(
    batches: Iterable[Sequence[str]], label_texts: LabelTexts | None = None, others: Sequence[OtherLabels] = ()
) -> LexicalArrays:
    """The table of the labels whose texts are in ``batches``, by label number, or as ``label_texts`` says.

    A word weighs as in BM25, by its rarity among the labels: ln(1 + (n - f + 0.5) / (f + 0.5)) for a word that f of
    the n labels have, in whichever text. The weights of a text add up to 1. ``others``: labels that count among the n
    as well, of which the words stand in tables of their own.
    """
    counts, read = [np.zeros(0, np.int64)], [pa.array([], pa.string())]
    for texts in batches:
        words = list(map(words_of, texts))
        counts.append(np.fromiter(map(len, words), np.int64, len(words)))
        read.append(pc.utf8_slice_codeunits(pa.array(chain.from_iterable(words), pa.string()), 0, STEM))
    per_text = np.concatenate(counts)
    rows = len(per_text)
    # Numbered as they appear: a label's weights are added up in this order.
    found = pa.chunked_array(read).dictionary_encode().combine_chunks()
    stems = found.dictionary
    keys = np.repeat(np.arange(rows), per_text) * len(stems) + found.indices.to_numpy()
    row, word = np.divmod(np.unique(keys), max(1, len(stems)))
    labels, frequency = rows, np.bincount(word, minlength=len(stems))
    if label_texts is not None:
        labels = label_texts.labels
        frequency = _frequency(label_texts.label_of_row[row].astype(np.int64), word, len(stems))
    for other in others:
        labels += other.labels
        frequency += other.table.frequency(stems, other.removed)
    weights = np.log1p((labels - frequency + 0.5) / (frequency + 0.5))[word]
    totals = np.maximum(np.bincount(row, weights, rows), np.finfo(np.float64).tiny)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
    letters, ends = _utf8(stems)
    return LexicalArrays(letters, ends, starts.astype(np.int64), word.astype(np.int32), weights / totals[row])


@dataclass(frozen=True)
class OtherLabels:
    """The labels of ``table``, but those that are ``removed`` (bool, by label number; None: none is)."""

    table: LexicalTable
    removed: np.ndarray | None = None

    @property
    def labels(self) -> int:
        """How many there are."""
        return self.table.labels - (0 if self.removed is None else int(self.removed.sum()))


class WordNumbers:
    """Finds words among the different ones of a table: their bytes in order, put so once and not for every document."""

    def __init__(self, arrays: LexicalArrays) -> None:
        lengths = np.diff(arrays.ends)
        padded = np.zeros((len(lengths), max(1, int(lengths.max(initial=0)))), np.uint8)
        place = np.arange(len(arrays.letters)) - np.repeat(arrays.ends[:-1], lengths)
        padded[np.repeat(np.arange(len(lengths)), lengths), place] = arrays.letters
        words = padded.view(f"S{padded.shape[1]}")[:, 0]
        order = np.argsort(words)
        # And behind them one that is no word.
        self._words, self._numbers = (
            np.append(words[order], words.dtype.type(b"")),
            np.append(order, -1).astype(np.int32),
        )

    def of(self, words: Sequence[str]) -> np.ndarray:
        """The number of each of ``words``, -1 where the table has not got it: int64 [m]."""
        different = sorted(set(words))  # most are met again and again; in order they are found faster
        letters = [word.encode() for word in different]
        wanted = np.array(letters, self._words.dtype)  # cut where they are longer than any
        place = np.searchsorted(self._words[:-1], wanted)
        is_there = np.fromiter(map(len, letters), np.int64, len(letters)) <= self._words.itemsize
        numbers = np.where(is_there & (self._words[place] == wanted), self._numbers[place], -1)
        number_of = dict(zip(different, numbers.tolist(), strict=True))
        return np.fromiter(map(number_of.__getitem__, words), np.int64, len(words))


def _frequency(labels: np.ndarray, words: np.ndarray, different: int) -> np.ndarray:
    """How many labels have each of the ``different`` words; ``labels`` and ``words``: pairs, int64 [w], some twice."""
    return np.bincount(np.unique(labels * different + words) % max(1, different), minlength=different)


def _utf8(words: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Letters and ends of :class:`LexicalArrays`."""
    ends = np.concatenate([[0], np.cumsum(pc.binary_length(words).to_numpy())]).astype(np.int32)
    return np.frombuffer("".join(words.to_pylist()).encode(), np.uint8), ends


class LexicalTable:
    """The words of all labels, each with its weight in its label, and their names."""

    def __init__(self, arrays: LexicalArrays, names: NameTable, label_texts: LabelTexts | None = None) -> None:
        """``arrays``: in memory, or mapped from files; by label number, or as ``label_texts`` says. ``names``: of the
        same labels."""
        self.arrays, self._different, self._label_texts = arrays, arrays.different, label_texts
        self.names = names

    @classmethod
    def from_texts(
        cls, labels: Sequence[str], label_texts: LabelTexts | None = None, language: str = NONE
    ) -> LexicalTable:
        """Of labels with these texts, by label number, or as ``label_texts`` says; ``language``: of their names."""
        batches = [labels[at : at + BATCH_LABELS] for at in range(0, len(labels), BATCH_LABELS)]
        names = NameTable(name_arrays(batches, language, label_texts), language)
        return cls(lexical_arrays(batches, label_texts), names, label_texts)

    def shares(self, titles: Sequence[str | None], texts: Sequence[str], labels: np.ndarray) -> np.ndarray:
        """The weight of each label's words that its document names: float32 in the shape of ``labels``, 0 to 1.

        Half of it counts in the title, half in the first :data:`DOCUMENT_WORDS` words of title and text together;
        without a title all of it there. Of several texts of a label the highest share counts. ``labels``: int32
        [documents, m] label numbers; negative ones (none) get 0.
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
            shares[batch] = self._shares(list(map(len, heads)), whole, labels[batch])
        return shares

    def frequency(self, stems: pa.Array, removed: np.ndarray | None = None) -> np.ndarray:
        """How many labels have each of ``stems`` (string [m], none twice), but those ``removed`` (bool, by label
        number): int64 [m]."""
        numbers = pc.index_in(stems, value_set=self._different).fill_null(-1).to_numpy()
        place = np.full(len(self._different), -1)
        place[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
        wanted = place[self.arrays.words]
        at = np.flatnonzero(wanted >= 0)
        label = np.searchsorted(self.arrays.starts, at, side="right") - 1
        if self._label_texts is not None:
            label = self._label_texts.label_of_row[label].astype(np.int64)
        if removed is not None:
            at, label = at[~removed[label]], label[~removed[label]]
        return _frequency(label, wanted[at], len(stems))

    def named(self, title: str | None, text: str, labels: Sequence[int]) -> list[list[str]]:
        """The words of a document that each of ``labels`` (label numbers) has too: why its share is what it is.

        As they are compared, in lower case, but whole; in the order of the document, none twice by what counts of it.
        Of several texts of a label those of the one that :meth:`shares` takes.
        """
        words = words_of(title or "", DOCUMENT_WORDS)
        head = len(words)
        words += words_of(text, DOCUMENT_WORDS - head)
        whole = [word[:STEM] for word in words]
        first = {stem: word for stem, word in zip(reversed(whole), reversed(words), strict=True)}
        stems = [stem for stem in dict.fromkeys(whole) if len(self._different)]
        numbers = self._numbers.of(stems).tolist()
        known = {number: first[stem] for stem, number in zip(stems, numbers, strict=True) if number >= 0}
        named = []
        for label in labels:
            row = self._best_text(label, head, whole)
            of_label = set(self.arrays.words[self.arrays.starts[row] : self.arrays.starts[row + 1]].tolist())
            named.append([word for number, word in known.items() if number in of_label])
        return named

    @cached_property
    def _numbers(self) -> WordNumbers:
        return WordNumbers(self.arrays)

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return self._label_texts.labels if self._label_texts is not None else len(self.arrays.starts) - 1

    def _best_text(self, label: int, head: int, whole: list[str]) -> int:
        """The row of the label's text whose words the document names most."""
        if self._label_texts is None:
            return label
        rows, _ = self._label_texts.rows_of(np.array([label]))
        return int(rows[np.argmax(self._named([head], [whole], np.zeros(len(rows), np.int64), rows))])

    def _shares(self, heads: list[int], whole: list[list[str]], labels: np.ndarray) -> np.ndarray:
        """As :meth:`shares`; ``whole``: the stems of each document, of which so many (``heads``) are its title's."""
        document, column = np.nonzero(labels >= 0)
        rows, counts = labels[document, column], None
        of = document
        if self._label_texts is not None:
            rows, counts = self._label_texts.rows_of(rows)
            of = np.repeat(document, counts)
        found = self._named(heads, whole, of, rows)
        shares = np.zeros(labels.shape)
        shares[document, column] = found if counts is None else best_of(found, counts)
        return shares

    def _named(self, heads: list[int], whole: list[list[str]], document: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The share of text number ``row`` in ``document``: both int [p], float64 [p]; the others as in _shares."""
        numbers = self._numbers.of(list(chain.from_iterable(whole)))
        lengths = np.array(list(map(len, whole)), np.int64)
        of = np.repeat(np.arange(len(whole)), lengths)
        in_head = np.arange(len(of)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < np.array(heads)[of]
        in_head |= np.array(heads)[of] == 0
        known = numbers >= 0
        # What documents have of the labels' words: document * v + number of the word, rising.
        keys = of * len(self._different) + numbers
        everywhere, in_titles = np.unique(keys[known]), np.unique(keys[known & in_head])
        return (self._weight_among(in_titles, document, row) + self._weight_among(everywhere, document, row)) / 2

    def _weight_among(self, held_keys: np.ndarray, document: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The weight of the words of text number ``row`` that ``document`` has, by ``held_keys``: float64 [p]."""
        table = self.arrays
        lengths = table.starts[row + 1] - table.starts[row]
        # Every word of every pair: where it stands among all words of all texts.
        pair = np.repeat(np.arange(len(row)), lengths)
        place = np.arange(len(pair)) + np.repeat(table.starts[row] - np.cumsum(lengths) + lengths, lengths)
        wanted_keys = document[pair] * len(self._different) + table.words[place]
        found = np.searchsorted(held_keys, wanted_keys)
        is_held = np.append(held_keys, -1)[found] == wanted_keys
        return np.bincount(pair, table.weights[place] * is_held, len(row))

"""Which labels a document names as they stand: all words of the name one after the other, inflected or not.

Comes in: the texts of all labels; documents. Goes out: for each document the labels that its title or its text names.
A label's names are its texts, and of a text with a colon ("Field: Astronomy") what stands behind it. A name is held as
the 64-bit hash of its words' stems. A document's runs of words are hashed the same way and looked up, so that a search
costs as much for a million labels as for a thousand. That two different names have one hash has a chance of 10^-7 with
a million labels, that a document's run meets a name by its hash alone of 10^-10 a document.
Looking up whole names of a vocabulary is how Annif's MLLM and Maui find candidates (Medelyan, 2009).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import regex

from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.language import NONE, stemmer
from ezxmc_ray.index.words import DOCUMENT_WORDS, is_unspaced, tokens

#: Words of a name at most, or letters where all are of a script without blanks; a longer one is not looked for.
MAX_WORDS, MAX_LETTERS = 12, 40
#: A name has two letters at least.
MIN_LETTERS = 2
#: Documents that are compared at once; words whose hashes are kept, and of how many letters at most: a longer one is no
#: word, and may be as long as its document.
BATCH_DOCUMENTS = 512
KEPT_WORDS, KEPT_LETTERS = 1 << 20, 64
#: Places of the filter for each name at least; names that are put into it at once.
FILTER_PLACES, BATCH_NAMES = 8, 1 << 20

_COLON = regex.compile(r":\s")
_MASK = (1 << 64) - 1
#: More than there are label numbers.
_LABELS = 1 << 31
#: A run's hash is that of its words but the last times this, plus that of the last: an odd number of no other meaning.
_FACTOR = 0x9E3779B97F4A7C15
#: Stands between title and text and between documents; no word.
_GAP = 0x5851F42D4C957F2D
#: From the number of a bit to that of its byte, and to its place there; the value of each.
_BYTE, _IN_BYTE, _BIT = np.uint64(3), np.uint64(7), np.left_shift(1, np.arange(8)).astype(np.uint8)


@dataclass(frozen=True)
class NameArrays:
    """The names of all labels, m in all: ``hashes``, uint64 [m], rising, and whose they are, ``named`` (label numbers,
    int32 [m]). ``lengths``: of how many words names are, int64, rising."""

    hashes: np.ndarray
    named: np.ndarray
    lengths: np.ndarray


class WordHashes:
    """From words to the hashes of their stems, which are the same on every machine."""

    def __init__(self, language: str) -> None:
        self._stem = stemmer(language)
        self._known: dict[str, int] = {}

    def of(self, words: Sequence[str]) -> list[int]:
        """A number of 64 bits for each word."""
        known = self._known
        if len(known) > KEPT_WORDS:
            known = self._known = {}
        return [known[word] if word in known else self._hash(word) for word in words]

    def _hash(self, word: str) -> int:
        number = int.from_bytes(hashlib.blake2b(self._stem(word).encode(), digest_size=8).digest(), "little")
        if len(word) <= KEPT_LETTERS:
            self._known[word] = number
        return number


def label_names(text: str) -> list[list[str]]:
    """The words of each name that a label has by one of its texts: of the whole text, and of what follows a colon."""
    parts = [text]
    if colon := _COLON.search(text):
        parts.append(text[colon.end() :])
    names = [tokens(part, MAX_LETTERS + 1) for part in parts]
    return [name for name in names if _is_short(name) and sum(map(len, name)) >= MIN_LETTERS]


def _is_short(name: list[str]) -> bool:
    return len(name) <= MAX_WORDS or (len(name) <= MAX_LETTERS and all(map(is_unspaced, name)))


def name_arrays(
    batches: Iterable[Sequence[str]], language: str = NONE, label_texts: LabelTexts | None = None
) -> NameArrays:
    """The names of the labels whose texts are in ``batches``, by label number, or as ``label_texts`` says; their words'
    stems are those of ``language``."""
    words, hashes, rows, lengths, row = WordHashes(language), [], [], set(), 0
    for texts in batches:
        for text in texts:
            for name in label_names(text):
                total = 0
                for one in words.of(name):
                    total = (total * _FACTOR + one) & _MASK
                hashes.append(total)
                rows.append(row)
                lengths.add(len(name))
            row += 1
    labels = np.array(rows, np.int32)
    if label_texts is not None:
        labels = label_texts.label_of_row[labels]
    names = np.array(hashes, np.uint64)
    order = np.lexsort((labels, names))
    names, labels = names[order], labels[order]
    first = np.ones(len(names), bool)
    first[1:] = (names[1:] != names[:-1]) | (labels[1:] != labels[:-1])
    return NameArrays(names[first], labels[first], np.array(sorted(lengths), np.int64))


@dataclass(frozen=True)
class Named:
    """The labels that q documents name: document after document ``labels`` (int32 [m], rising in each), how much each
    is named (``strength``, float32 [m]: 1 in the title, 0.5 in the text alone, 1 there without a title), and where the
    documents begin (``starts``, int64 [q + 1])."""

    starts: np.ndarray
    labels: np.ndarray
    strength: np.ndarray

    def of(self, labels: np.ndarray) -> np.ndarray:
        """How much each of ``labels`` (int32 [q, k]) is named by its document: float32 [q, k], 0 to 1."""
        place, is_there = self._places(labels, np.arange(len(labels))[:, None])
        strength = np.zeros(labels.shape, np.float32)
        strength[is_there] = self.strength[place[is_there]]
        return strength

    def without(
        self,
        labels: np.ndarray,
        excluded: Sequence[Sequence[int]] | None,
        most: int,
        among: np.ndarray | None = None,
        removed: np.ndarray | None = None,
    ) -> np.ndarray:
        """The named labels that are not among ``labels`` (int32 [q, k]) nor ``excluded``: int32 [q, m], -1 behind.

        Of each document ``most`` at most: those in its title first, then by label number. ``among``: of these alone;
        ``removed``: none of those (bool, by label number).
        """
        is_new = np.ones(len(self.labels), bool) if among is None else np.isin(self.labels, among)
        if removed is not None:
            is_new &= ~removed[self.labels]
        place, is_there = self._places(labels, np.arange(len(labels))[:, None])
        is_new[place[is_there]] = False
        banned = [np.asarray(row, np.int64) for row in excluded or ()]
        if banned:
            rows = np.repeat(np.arange(len(banned)), list(map(len, banned)))
            place, is_there = self._places(np.concatenate(banned), rows)
            is_new[place[is_there]] = False
        document, new, strength = self._documents[is_new], self.labels[is_new], self.strength[is_new]
        order = np.lexsort((new, -strength, document))
        document, new = document[order], new[order]
        counts = np.bincount(document, minlength=len(labels))
        place = np.arange(len(new)) - np.repeat(np.cumsum(counts) - counts, counts)
        padded = np.full((len(labels), min(most, int(counts.max(initial=0)))), -1, np.int32)
        kept = place < most
        padded[document[kept], place[kept]] = new[kept]
        return padded

    def _places(self, labels: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each of ``labels`` is among those that its document names, and whether it is: int64, bool."""
        held = self._documents * _LABELS + self.labels
        wanted = documents * _LABELS + labels
        place = np.searchsorted(held, wanted)
        return place, np.append(held, -2)[place] == wanted

    @property
    def _documents(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


class NameTable:
    """Finds the labels that documents name."""

    def __init__(self, arrays: NameArrays, language: str = NONE) -> None:
        """``arrays``: in memory, or mapped from files; of names whose words have the stems of ``language``."""
        self.arrays, self.language, self._words = arrays, language, WordHashes(language)
        # Nearly all runs of words are no name: the first bits of a hash say so without a search.
        bits = max(8, (FILTER_PLACES * len(arrays.hashes)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._may_be = np.zeros(1 << (bits - 3), np.uint8)  # a bit a place
        for start in range(0, len(arrays.hashes), BATCH_NAMES):
            place = arrays.hashes[start : start + BATCH_NAMES] >> self._shift
            np.bitwise_or.at(self._may_be, place >> _BYTE, _BIT[place & _IN_BYTE])

    def find(self, titles: Sequence[str | None], texts: Sequence[str]) -> Named:
        """The labels that each document names in its title, or in the first words of its text, DOCUMENT_WORDS with
        those of the title."""
        parts = [
            self._find(titles[start : start + BATCH_DOCUMENTS], texts[start : start + BATCH_DOCUMENTS])
            for start in range(0, len(texts), BATCH_DOCUMENTS)
        ]
        counts = np.concatenate([np.zeros(1, np.int64), *(part[0] for part in parts)])
        labels = np.concatenate([np.zeros(0, np.int32), *(part[1] for part in parts)])
        strength = np.concatenate([np.zeros(0, np.float32), *(part[2] for part in parts)])
        return Named(np.cumsum(counts), labels, strength)

    def _find(self, titles: Sequence[str | None], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some documents: how many labels each names, int64 [q]; labels and strength as :class:`Named` has them."""
        hashes, lengths, has_title = array("Q"), [], []
        for title, text in zip(titles, texts, strict=True):
            head = tokens(title or "", DOCUMENT_WORDS)
            for words in (head, tokens(text, DOCUMENT_WORDS - len(head))):
                hashes.extend(self._words.of(words))
                hashes.append(_GAP)
                lengths.append(len(words) + 1)
            has_title.append(bool(head))
        at, labels = self._look_up(np.frombuffer(hashes, np.uint64))
        part = np.repeat(np.arange(len(lengths)), lengths)[at]
        document, in_title = part // 2, part % 2 == 0
        in_title |= ~np.array(has_title, bool)[document]
        # Each label once a document, by its strongest place.
        order = np.lexsort((~in_title, labels, document))
        document, labels, in_title = document[order], labels[order], in_title[order]
        first = np.ones(len(labels), bool)
        first[1:] = (document[1:] != document[:-1]) | (labels[1:] != labels[:-1])
        counts = np.bincount(document[first], minlength=len(texts))
        return counts, labels[first], np.where(in_title[first], 1, 0.5).astype(np.float32)

    def _look_up(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in ``words`` (hashes, uint64 [w]) a name begins, and whose it is: int64 [m], int32 [m]."""
        names, lengths = self.arrays.hashes, set(self.arrays.lengths.tolist())
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.int32))]
        runs = np.zeros(len(words) + 1, np.uint64)
        for length in range(1, max(lengths, default=0) + 1):
            runs = runs[: len(words) - length + 1] * np.uint64(_FACTOR) + words[length - 1 :]
            if length not in lengths:
                continue
            place = runs >> self._shift
            at = np.flatnonzero(self._may_be[place >> _BYTE] & _BIT[place & _IN_BYTE])
            begin = np.searchsorted(names, runs[at])
            counts = np.searchsorted(names, runs[at], side="right") - begin
            offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            found.append((np.repeat(at, counts), self.arrays.named[np.repeat(begin, counts) + offset]))
        starts, labels = zip(*found, strict=True)
        return np.concatenate(starts), np.concatenate(labels)

"""What a word is, for all that compares the words of labels and documents.

Comes in: a text. Goes out: its words in lower case, however its letters are encoded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

import regex

#: Letters of a word that count, so that most inflected forms are one word, in any language that puts them at the end.
STEM = 5
#: Words of a document that are looked at. A long text has almost any word in it, which says nothing about its topic.
DOCUMENT_WORDS = 256

#: Soft hyphens, marks of direction, byte order marks and the like; joiners of letters have a meaning.
_INVISIBLE = regex.compile(r"[\p{Cf}--[\u200c\u200d]]", regex.V1)
#: Of two letters or more, with marks: vowel signs are letters of a word.
_WORD = regex.compile(r"[\w\p{M}]{2,}")
#: Of any length.
_TOKEN_ASCII = re.compile(r"\w+", re.ASCII)
#: Scripts without blanks between words; U+30FC lengthens a vowel of Japanese.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]\p{{M}}*", regex.V1)
_SPACED = rf"[[\w\p{{M}}]--[{_UNSPACED}]]"
_TOKEN = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|{_SPACED}+", regex.V1)
_RUN = regex.compile(rf"(?:[{_UNSPACED}]\p{{M}}*)+|{_SPACED}{{2,}}", regex.V1)
#: What nothing before it is composed with: a text may be normalised in parts that begin so.
_PARTS = regex.compile(rf"[\x00-\x7f\p{{P}}\p{{Z}}[[{_UNSPACED}]--\p{{M}}]]", regex.V1)
#: Letters of a text's first part for each word that is wanted, and how many times as long the next beginning is.
LETTERS, GROWTH = 16, 4


class Match(Protocol):
    """A match of ``re`` or of ``regex``."""

    def __getitem__(self, group: int, /) -> str: ...

    def end(self) -> int:
        """Where it ends."""


def compared(text: str) -> str:
    """``text`` as it is compared: in lower case, letters with accents in one form (Unicode's NFKC), without signs that
    nobody sees. Turkish's i with a dot and without are one: which of them a capital I is depends on the language."""
    if text.isascii():
        return text.casefold()
    folded = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return folded.replace("i\u0307", "i").replace("\u0131", "i")


def words_of(text: str, most: int | None = None) -> list[str]:
    """The first ``most`` words of two letters or more.

    Where a script has no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) each two letters that
    stand side by side are one, as most search engines have it.
    """
    for folded, is_all in _beginnings(text, most):
        found = _first(_WORD.finditer(folded), most)
        # Of a long text only what is before the last of these words is looked at once more.
        end = found[-1][1] if most and len(found) == most else len(folded)
        if not folded.isascii() and _UNSPACED_LETTER.search(folded, 0, end):
            found = list(islice(_pairs_and_words(folded), most))
        if is_all or _are_whole(found, most, folded):
            return [word for word, _ in found]
    return []


def _pairs_and_words(folded: str) -> Iterator[tuple[str, int]]:
    """The words of a text in which some script has no blanks, and where each ends."""
    for found in _RUN.finditer(folded):
        letters = _UNSPACED_LETTER.finditer(folded, found.start(), found.end())
        before = next(letters, None)
        after = next(letters, None) if before else None
        if before is None or after is None:
            yield found[0], found.end()
            continue
        for letter in chain([after], letters):
            yield before[0] + letter[0], letter.end()
            before = letter


def is_unspaced(token: str) -> bool:
    """Whether one of :func:`tokens` is a letter of a script without blanks."""
    return _UNSPACED_LETTER.fullmatch(token) is not None


def tokens(text: str, most: int | None = None) -> list[str]:
    """The first ``most`` words of ``text``, of whatever length, one after the other as they stand; in a script without
    blanks each letter."""
    for folded, is_all in _beginnings(text, most):
        found = _first((_TOKEN_ASCII if folded.isascii() else _TOKEN).finditer(folded), most)
        if is_all or _are_whole(found, most, folded):
            return [word for word, _ in found]
    return []


def _beginnings(text: str, most: int | None) -> Iterator[tuple[str, bool]]:
    """Ever longer beginnings of ``text`` as it is compared, and whether one is all of it: of a long text only so much
    is normalised as has the first ``most`` words. None: all at once."""
    folded, done, wanted = "", 0, len(text) if most is None else most * LETTERS
    while done < len(text):
        part = _PARTS.search(text, wanted) if wanted < len(text) else None
        stop = part.start() if part else len(text)
        folded += compared(text[done:stop])
        yield folded, stop == len(text)
        done, wanted = stop, GROWTH * stop


def _first(found: Iterable[Match], most: int | None) -> list[tuple[str, int]]:
    """The first ``most`` of what a pattern finds, and where each ends."""
    return [(one[0], one.end()) for one in islice(found, most)]


def _are_whole(found: Sequence[tuple[str, int]], most: int | None, folded: str) -> bool:
    """Whether the ``most`` words ``found`` in a beginning are those of the whole text: what follows parts no letter
    from the last of them, nor adds one."""
    return len(found) == most and (not found or found[-1][1] < len(folded))

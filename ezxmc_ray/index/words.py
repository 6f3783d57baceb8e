"""What a word is, for all that compares the words of labels and documents.

Comes in: a text. Goes out: its words in lower case, however its letters are encoded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice, pairwise

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
    text = compared(text)
    found = list(islice(_WORD.finditer(text), most))
    # Of a long text only what is before the last of these words is looked at once more.
    end = found[-1].end() if most and len(found) == most else len(text)
    if text.isascii() or not _UNSPACED_LETTER.search(text, 0, end):
        return [one[0] for one in found]
    return list(islice(_pairs_and_words(text), most))


def _pairs_and_words(text: str) -> Iterator[str]:
    for found in _RUN.finditer(text):
        letters = _UNSPACED_LETTER.findall(found[0])
        if not letters:
            yield found[0]
        elif len(letters) == 1:
            yield letters[0]
        else:
            yield from map("".join, pairwise(letters))


def is_unspaced(token: str) -> bool:
    """Whether one of :func:`tokens` is a letter of a script without blanks."""
    return _UNSPACED_LETTER.fullmatch(token) is not None


def tokens(text: str, most: int | None = None) -> list[str]:
    """The first ``most`` words of ``text``, of whatever length, one after the other as they stand; in a script without
    blanks each letter."""
    text = compared(text)
    found = _TOKEN_ASCII.finditer(text) if text.isascii() else _TOKEN.finditer(text)
    return [one[0] for one in islice(found, most)]

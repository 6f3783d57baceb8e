"""The first words of a text: of a long one only its beginning is normalised, and they are those of the whole."""

from __future__ import annotations

import sys
import unicodedata

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ezxmc_ray.index import words
from ezxmc_ray.index.words import DOCUMENT_WORDS, compared, tokens, words_of

#: What grows, shrinks, vanishes or is composed with what stands before it when texts are compared; and scripts without
#: blanks, with their marks.
ODD = (
    *(
        "ﷺ",
        "ﬁ",
        "ß",
        "İ",
        "I",
        "i",
        "\u0307",
        "ı",
        "\u00ad",
        "\u200d",
        "\u200b",
        "\u2060",
        "e",
        "\u0301",
        "\u0327",
        "Å",
    ),
    *(
        "\u1100",
        "\u1161",
        "\u11a8",
        "\u3131",
        "\u314f",
        "가",
        "ﾊ",
        "ﾞ",
        "か",
        "\u3099",
        "ー",
        "漢",
        "〇",
        "\u302a",
        "字",
    ),
    *(
        "ก",
        "\u0e31",
        "ำ",
        "က",
        "\u1031",
        "ខ",
        "\u17d2",
        "ກ",
        "क",
        "\u094d",
        "\u09c7",
        "\u09be",
        "\U00016d67",
        "\U00016d63",
    ),
    *(
        "½",
        "㎏",
        "㈱",
        "…",
        "\u037e",
        "\u203e",
        "\u00a0",
        "\u3000",
        "。",
        "‿",
        "_",
        " ",
        "\n",
        ".",
        "a",
        "B",
        "7",
        "ab",
    ),
    *("\ud800", "\U00016ff0", "Ǆ", "\u0345", "ΐ", "ς", "Σ"),
)
TEXTS = st.one_of(st.lists(st.sampled_from(ODD), max_size=80).map("".join), st.text(max_size=40))


@settings(max_examples=1000, deadline=None)
@given(text=TEXTS, most=st.integers(0, 9), letters=st.sampled_from((1, 2, 16)))
def test_the_first_words_are_those_of_the_whole_text(text: str, most: int, letters: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "LETTERS", letters)
        assert words_of(text, most) == words_of(text)[:most]
        assert tokens(text, most) == tokens(text)[:most]


def test_a_text_is_parted_only_before_what_is_composed_with_nothing_before_it() -> None:
    letters = [chr(one) for one in range(sys.maxunicode + 1)]
    composed = [unicodedata.decomposition(letter).split() for letter in letters]
    seconds = {chr(int(one[1], 16)) for one in composed if len(one) == 2 and not one[0].startswith("<")}
    seconds |= set(map(chr, [*range(0x1160, 0x1200), *range(0xD7B0, 0xD800)]))  # of Korean syllables, by rule
    parts = words._PARTS.findall("".join(letters))
    assert len(parts) > 90_000  # most of them Chinese
    first = {unicodedata.normalize("NFKD", letter)[0] for letter in parts}
    assert not first & seconds and not any(map(unicodedata.combining, first))
    assert "\u0307" not in {compared(letter)[:1] for letter in parts}  # which goes with an i before it


@pytest.mark.parametrize(
    "piece", ["Café déjà vu, naïve. ", "plain words of ASCII ", "機械学習の入門書。", "漢字", "ไทยไม่มีช่องว่าง"]
)
def test_of_a_huge_text_the_beginning_alone_is_normalised(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, read = piece * (1_000_000 // len(piece)), list[int]()

    def counted(part: str) -> str:
        read.append(len(part))
        return compared(part)

    expected = [find(text[:20_000], DOCUMENT_WORDS) for find in (words_of, tokens)]
    monkeypatch.setattr(words, "compared", counted)
    assert [find(text, DOCUMENT_WORDS) for find in (words_of, tokens)] == expected
    assert sum(read) < 2 * 20_000

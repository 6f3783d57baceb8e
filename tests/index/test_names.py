"""Which labels a document names, against a slow loop over words."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ezxmc_ray.index import names as module
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.language import stemmer
from ezxmc_ray.index.names import (
    KEPT_LETTERS,
    MAX_LETTERS,
    MAX_WORDS,
    NameTable,
    WordHashes,
    label_names,
    name_arrays,
)
from ezxmc_ray.index.words import DOCUMENT_WORDS, tokens


def table_of(labels: list[str], language: str = "none", label_texts: LabelTexts | None = None) -> NameTable:
    return NameTable(name_arrays([labels[:2], [], labels[2:]], language, label_texts), language)


def named_by(labels: list[str], text: str, title: str = "", language: str = "none") -> dict[str, float]:
    found = table_of(labels, language).find([title], [text])
    return {labels[label]: float(much) for label, much in zip(found.labels, found.strength, strict=True)}


def slowly(labels: list[str], language: str, title: str | None, text: str) -> dict[int, float]:
    """The definition, run of words by run of words."""
    stem = stemmer(language)

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        stems = list(map(stem, words))
        return {tuple(stems[i:j]) for i in range(len(stems)) for j in range(i + 1, min(len(stems), i + MAX_WORDS) + 1)}

    head = tokens(title or "", DOCUMENT_WORDS)
    heads, bodies = runs(head), runs(tokens(text, DOCUMENT_WORDS - len(head)))
    strength = {}
    for number, label in enumerate(labels):
        wanted = {tuple(map(stem, name)) for name in label_names(label)}
        if wanted & heads or (wanted & bodies and not head):
            strength[number] = 1.0
        elif wanted & bodies:
            strength[number] = 0.5
    return strength


@pytest.mark.parametrize("language", ["none", "english"])
def test_what_is_named_is_what_a_slow_loop_finds(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(module, "KEPT_WORDS", 5)
    monkeypatch.setattr(module, "BATCH_NAMES", 11)
    draw = random.Random(3)
    words = [
        "tool",
        "tools",
        "of",
        "history",
        "histories",
        "a",
        "C",
        "naïve",
        "Bayes",
        "機械学習",
        "学習",
        "x-ray",
        ":",
    ]
    labels = [" ".join(draw.choices(words, k=draw.randrange(5))) for _ in range(150)] + ["tool " * MAX_WORDS] * 2
    labels += ["tool " * (MAX_WORDS + 1), "History of tools: a tool"]
    texts = [" ".join(draw.choices(words, k=draw.choice([0, 4, 30, DOCUMENT_WORDS + 20]))) for _ in range(40)]
    titles = [draw.choice(["", None, " ".join(draw.choices(words, k=5))]) for _ in texts]
    titles[-1] = " ".join(draw.choices(words, k=DOCUMENT_WORDS + 20))
    found = table_of(labels, language).find(titles, texts)
    everything = np.tile(np.arange(len(labels), dtype=np.int32), (len(texts), 1))
    everything[:, -1] = -1
    strength, total = found.of(everything), 0
    for row, (title, text) in enumerate(zip(titles, texts, strict=True)):
        expected = slowly(labels, language, title, text)
        start, stop = found.starts[row : row + 2]
        assert (
            dict(zip(found.labels[start:stop].tolist(), found.strength[start:stop].tolist(), strict=True)) == expected
        )
        assert found.labels[start:stop].tolist() == sorted(expected)
        assert strength[row, :-1].tolist() == [expected.get(label, 0.0) for label in range(len(labels) - 1)]
        assert strength[row, -1] == 0
        total += len(expected)
    assert len(texts) < total < len(texts) * len(labels) / 2


def test_most_runs_of_words_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter has a bit for each name, of eight places a name at least, and lets a run of eight through."""
    table = table_of([f"name {number}" for number in range(3000)])
    filled = np.unpackbits(table._may_be)
    assert 2500 < filled.sum() <= 3000 and len(filled) >= 8 * 3000
    searched: list[int] = []
    plain = np.searchsorted
    monkeypatch.setattr(np, "searchsorted", lambda a, v, **how: searched.append(np.size(v)) or plain(a, v, **how))
    runs = np.random.default_rng(0).integers(0, 1 << 64, 8000, np.uint64)
    assert not len(table._look_up(runs)[0])
    assert 0 < sum(searched) < 2 * len(table.arrays.lengths) * len(runs) / 7


def test_named_labels_that_are_not_among_others() -> None:
    titles = ["", None, "art", "Tools"]
    found = table_of(["tools", "history", "art", "music"]).find(
        titles, ["history of tools", "music", "none", "art, history"]
    )
    others = np.array([[1, -1], [0, 2], [2, 1], [1, 1]], np.int32)
    assert found.without(others, None, 9).tolist() == [[0, -1], [3, -1], [-1, -1], [0, 2]]
    assert found.without(others, [[0], [], [3], []], 9).tolist() == [[-1, -1], [3, -1], [-1, -1], [0, 2]]
    assert found.without(np.zeros((4, 0), np.int32), None, 1).tolist() == [[0], [3], [2], [0]]
    assert found.without(np.zeros((4, 0), np.int32), [[], [], [], [0]], 1)[3].tolist() == [1]


def test_a_label_is_named_by_any_of_its_texts() -> None:
    texts = LabelTexts(np.array([0, 0, 2, 2]))  # three labels, the second with two alternatives
    found = table_of(["oceans", "bees", "art", "honey bees", "bee"], "english", texts).find(
        [""], ["A bee and the ocean"]
    )
    assert found.labels.tolist() == [0, 1]


def test_names_of_a_label() -> None:
    assert label_names("Field: Astronomy") == [["field", "astronomy"], ["astronomy"]]
    assert label_names("Vitamin C") == [["vitamin", "c"]]
    assert label_names("12:30 train") == [["12", "30", "train"]]
    assert label_names("C") == label_names("") == label_names("水") == []  # stand in nearly every text
    assert label_names("機械学習") == [["機", "械", "学", "習"]]
    assert label_names(" ".join(map(str, range(MAX_WORDS + 1)))) == label_names("水" * (MAX_LETTERS + 1)) == []
    assert len(label_names("水" * MAX_LETTERS)) == 1 and label_names("水" * MAX_WORDS + " ab") == []


def test_words_are_compared_by_their_stems_and_in_their_order() -> None:
    labels = ["Social networks", "sisters", "Vitamin C", "network"]
    text = "The siblings' social network and vitamin D; a network of social vitamins C"
    assert named_by(labels, text, language="english") == {"Social networks": 1.0, "network": 1.0, "Vitamin C": 1.0}
    assert named_by(labels, "An analysis of artists", "") == {}
    assert named_by(["sisterhood"], "sisters") == {"sisterhood": 1.0}  # the first letters, where no language is known
    assert named_by(["sisterhood"], "sisters", language="english") == {}
    assert named_by(labels, text, "Networks", "english")["network"] == 1.0
    assert named_by(labels, text, "A title", "english")["network"] == 0.5


def test_title_and_text_are_no_run_of_words() -> None:
    assert named_by(["machine learning"], "learning", "machine") == {}


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("機械学習", "最近の機械学習の研究"),
        ("ภาษาไทย", "เรียนภาษาไทยวันนี้"),
        ("東京", "東京都の歴史"),
        ("データ ベース", "大きなデータベース"),
        ("วิทยาการคอมพิวเตอร์", "ภาควิชาวิทยาการคอมพิวเตอร์และอื่นๆ"),
        ("コンピュータグラフィックス", "最近のコンピュータグラフィックスの研究"),
    ],
)
def test_names_stand_in_scripts_without_blanks(label: str, text: str) -> None:
    assert named_by([label, "水族館"], text) == {label: 1.0}


def test_a_word_as_long_as_a_document_is_not_kept() -> None:
    words, long = WordHashes("none"), "x" * (KEPT_LETTERS + 1)
    assert words.of([long, "tool", long[:5]]) == words.of([long, "tool", long])  # by its stem it is found all the same
    assert words._known.keys() == {"tool", long[:5]}


def test_no_names_and_no_documents() -> None:
    assert table_of(["C", "+"]).find(["C"], ["C +"]).of(np.array([[0, -1]], np.int32)).tolist() == [[0, 0]]
    nothing = table_of(["tools"]).find([], [])
    assert nothing.starts.tolist() == [0] and nothing.without(np.zeros((0, 3), np.int32), None, 9).shape[0] == 0

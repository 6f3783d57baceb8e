"""Why a text got a label: beside a slow plain reference, and as the searcher scored it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.parts import PartedSearcher
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.index.words import DOCUMENT_WORDS, STEM
from ezxmc_ray.tagging.why import Why, why

WORDS = ["edit", "editor", "editing", "colour", "colours", "text", "texts", "format", "formatting", "of", "the", "mail"]


def sentences(draw: random.Random, count: int, most: int) -> list[str]:
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, most))) for _ in range(count)]


def named_by_hand(title: str, text: str, label: str) -> list[str]:
    """The first word of the document of each stem that the label has too."""
    document = f"{title} {text}".split()[:DOCUMENT_WORDS]
    stems = {word[:STEM] for word in label.split()}
    found: dict[str, str] = {}
    for word in document:
        if word[:STEM] in stems:
            found.setdefault(word[:STEM], word)
    return list(found.values())


@pytest.mark.parametrize("seed", range(5))
def test_words_are_those_that_both_have(seed: int) -> None:
    draw = random.Random(seed)
    labels = [*sentences(draw, 20, 5), "zebra"]
    table = LexicalTable.from_texts(labels)
    for title, text in zip(sentences(draw, 20, 4), sentences(draw, 20, 400), strict=True):
        named = table.named(title, text, range(len(labels)))
        assert named == [named_by_hand(title, text, label) for label in labels]
        shares = table.shares([title], [text], np.arange(len(labels), dtype=np.int32)[None])[0]
        assert [bool(words) for words in named] == (shares > 0).tolist()


def test_of_several_texts_the_one_counts_that_is_named_most() -> None:
    texts = ["zebra crossing", "red mail", "mail server", "the editor"]  # two labels: 0 (0, 2, 3) and 1 (1)
    table = LexicalTable.from_texts(texts, LabelTexts(np.array([0, 2, 2])))
    document = "a zebra and the mail server"
    assert table.named("", document, [0, 1]) == [["mail", "server"], ["mail"]]
    assert table.named("", "zebra", [0, 1]) == [["zebra"], []]


def test_words_stand_as_they_are_compared() -> None:
    table = LexicalTable.from_texts(["Größe résumé", "ﬁles"])
    assert table.named("GRÖẞEN Re\u0301sume\u0301s", "files", [0, 1]) == [["grössen", "résumés"], ["files"]]


def test_no_label_has_words_where_none_has_any() -> None:
    assert LexicalTable.from_texts(["!", "?"]).named("a title", "a text", [0, 1]) == [[], []]


@pytest.mark.parametrize(("weight", "bonus"), [(0.0, 0.5), (0.2, 0.0), (0.2, 0.5)])
def test_score_is_cosine_and_what_words_and_names_add(weight: float, bonus: float) -> None:
    draw, generator = random.Random(0), np.random.default_rng(0)
    labels, texts, titles = sentences(draw, 30, 4), sentences(draw, 6, 20), sentences(draw, 6, 4)
    vectors, documents = (generator.normal(size=(n, 8)).astype(np.float32) for n in (30, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    table = LexicalTable.from_texts(labels) if weight else None
    searcher = HybridSearcher(ShardedIndex.from_vectors(vectors), table, LexicalConfig(weight=weight, name_bonus=bonus))
    scores, numbers = searcher.search(documents, titles, texts, 5)
    met = False
    for row, title in enumerate(titles):
        whys = why(PartedSearcher([searcher]), title, texts[row], numbers[row].tolist(), scores[row].tolist())
        assert len(whys) == 5 and all(isinstance(one, Why) for one in whys)
        np.testing.assert_allclose([one.cosine for one in whys], vectors[numbers[row]] @ documents[row], atol=1e-6)
        added = [weight * (one.share + bonus * one.name) for one in whys]
        np.testing.assert_allclose([one.cosine for one in whys] + np.array(added), scores[row], atol=1e-6)
        met = met or any(one.name > 0 for one in whys)
        assert all(bool(one.words) == (one.share > 0) for one in whys)
    assert met == bool(weight and bonus)


def test_a_text_without_labels_needs_no_reason() -> None:
    searcher = HybridSearcher(
        ShardedIndex.from_vectors(np.eye(2, dtype=np.float32)), LexicalTable.from_texts(["a b", "c"]), LexicalConfig()
    )
    assert why(PartedSearcher([searcher]), "", "text", [], []) == []

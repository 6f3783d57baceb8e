"""Labels that came one after the other, some of them removed, searched as one: beside a slow plain reference."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.index.build import build_shard
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.lexical import LexicalTable, OtherLabels, lexical_arrays
from ezxmc_ray.index.parts import PartedSearcher
from ezxmc_ray.index.search import ShardedIndex
from tests.index.sharded import sharded_index
from tests.index.test_search import brute_force, coarse_rows

WORDS = ["salt", "lamp", "wheel", "bread", "iron", "cloud", "paint", "river", "wool"]


def texts_of(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(count)]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("shard_labels", [1000, 70])
def test_removed_labels_are_as_labels_that_nobody_may_get(share: float, shard_labels: int) -> None:
    vectors, queries = coarse_rows(200, 0), coarse_rows(30, 1)
    removed = np.random.default_rng(2).random(200) < share
    shards = sharded_index(vectors, shard_labels=shard_labels).shards
    for k in (1, 5, 150):
        found = ShardedIndex(shards, removed=removed).search(queries, k, [[7, 8]] * 30)
        gone = [*np.flatnonzero(removed).tolist(), 7, 8]
        for ours, expected in zip(found, brute_force(queries, vectors, k, [gone] * 30), strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_of_a_label_that_is_removed_no_text_is_found() -> None:
    vectors, queries = coarse_rows(200, 0), coarse_rows(30, 1)
    texts = LabelTexts(np.concatenate([np.zeros(1, np.int64), np.cumsum(np.full(50, 3))]))
    removed = np.arange(50) % 3 == 0
    found = ShardedIndex([build_shard(vectors, 0, "IDMap,Flat")], texts=texts, removed=removed).search(queries, 20)
    best = np.full((30, 50), -np.inf, np.float32)
    for row in range(200):
        label = texts.label_of_row[row]
        best[:, label] = np.maximum(best[:, label], queries @ vectors[row])
    best[:, removed] = -np.inf
    order = np.argsort(-best, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_array_equal(found[0], np.take_along_axis(best, order, axis=1))


def test_what_is_removed_does_not_come_back_by_its_name() -> None:
    vectors = np.eye(6, dtype=np.float32)
    table = LexicalTable.from_texts(["salt", "lamp", "wheel", "bread", "iron", "salt lamp"])
    searcher = HybridSearcher(
        ShardedIndex.from_vectors(vectors), table, LexicalConfig(weight=9.0, candidates=2, name_bonus=0.5)
    )
    assert searcher.search(vectors[2:3], ["salt lamp"], ["bread"], 2)[1].tolist() == [[0, 1]]
    searcher.index.removed = np.array([True, True, False, False, False, False])
    assert searcher.search(vectors[2:3], ["salt lamp"], ["bread"], 2)[1].tolist() == [[5, 3]]


@pytest.mark.parametrize("weight", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_parts_answer_as_one_set_of_the_same_labels(seed: int, weight: float) -> None:
    draw = np.random.default_rng(seed)
    sizes = [20, 1, 8, 3]
    config = LexicalConfig(weight=weight, candidates=50)
    vectors, texts, starts = coarse_rows(32, seed), texts_of(seed, 32), np.cumsum([0, *sizes])
    removed = draw.random(32) < 0.3
    removed[20] = True  # a part of which nothing is left
    whole = LexicalTable.from_texts(texts)
    parts = []
    for first, stop in itertools.pairwise(starts.tolist()):
        index = ShardedIndex.from_vectors(vectors[first:stop])
        index.removed = removed[first:stop]
        others = [OtherLabels(LexicalTable.from_texts([*texts[:first], *texts[stop:]]))]
        table = LexicalTable(
            lexical_arrays([texts[first:stop]], others=others), LexicalTable.from_texts(texts[first:stop]).names
        )
        parts.append(HybridSearcher(index, table if weight else None, config))
    one = HybridSearcher(ShardedIndex.from_vectors(vectors), whole if weight else None, config)
    one.index.removed = removed
    titles, bodies = texts_of(seed + 10, 12), texts_of(seed + 20, 12)
    queries = coarse_rows(12, seed + 30)
    excluded = [draw.choice(32, 4, replace=False).tolist() for _ in range(12)]
    among = np.sort(draw.choice(np.flatnonzero(~removed), 7, replace=False)).astype(np.int32)
    parted = PartedSearcher(parts)
    for k in (1, 6, 40):
        for call in (
            lambda searcher, k=k: searcher.search(queries, titles, bodies, k),
            lambda searcher, k=k: searcher.search(queries, titles, bodies, k, excluded),
            lambda searcher, k=k: searcher.search_among(queries, titles, bodies, k, among),
            lambda searcher, k=k: searcher.search_among(queries, titles, bodies, k, among[:0]),
        ):
            (scores, labels), (expected, numbers) = call(parted), call(one)
            np.testing.assert_allclose(scores[:, : expected.shape[1]], expected, atol=1e-6)
            assert np.isneginf(scores[:, expected.shape[1] :]).all()
            if not weight:  # no rounding that could swap labels of one score
                np.testing.assert_array_equal(labels[:, : numbers.shape[1]], numbers)


def test_one_part_answers_bit_for_bit_as_its_searcher() -> None:
    table = LexicalTable.from_texts(texts_of(0, 30))
    one = HybridSearcher(ShardedIndex.from_vectors(coarse_rows(30, 0)), table, LexicalConfig(weight=0.3))
    queries, texts = coarse_rows(9, 1), texts_of(1, 9)
    for ours, expected in zip(
        PartedSearcher([one]).search(queries, texts, texts, 5), one.search(queries, texts, texts, 5), strict=True
    ):
        assert ours.dtype == expected.dtype and ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_words_of_labels_that_come_weigh_as_in_a_table_of_all(seed: int) -> None:
    draw = random.Random(seed)
    counts = np.array([draw.choice([0, 0, 2]) for _ in range(30)])
    preferred, more = texts_of(seed, 30), texts_of(seed + 50, int(counts.sum()))
    before = LexicalTable.from_texts([*preferred, *more], LabelTexts(np.concatenate([[0], np.cumsum(counts)])))
    second, new = texts_of(seed + 60, 5), [*texts_of(seed + 70, 6), "quartz salt"]
    removed = np.array([draw.random() < 0.3 for _ in range(30)])
    alternatives = [more[counts[:n].sum() : counts[: n + 1].sum()] for n in range(30)]
    left = [n for n in range(30) if not removed[n]]
    all_counts = np.concatenate([[0], np.cumsum([*[counts[n] for n in left], *[0] * (5 + len(new))])])
    texts = [*[preferred[n] for n in left], *second, *new, *[text for n in left for text in alternatives[n]]]
    whole = LexicalTable.from_texts(texts, LabelTexts(all_counts))
    others = [OtherLabels(before, removed), OtherLabels(LexicalTable.from_texts(second))]
    arrays = lexical_arrays([new], others=others)
    ours = LexicalTable(arrays, LexicalTable.from_texts(new).names)
    documents = texts_of(seed + 80, 20)
    numbers = np.tile(np.arange(len(new), dtype=np.int32), (20, 1))
    expected = whole.shares([""] * 20, documents, numbers + np.int32(len(left) + 5))
    np.testing.assert_allclose(ours.shares([""] * 20, documents, numbers), expected, atol=1e-7)
    assert len(np.unique(expected)) > 3

"""Labels with several texts: each is found by its best one and answered once, exactly as a slow loop says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.hybrid import HybridSearcher, PairScorer
from ezxmc_ray.index.label_texts import LabelTexts, all_texts, read_label_texts
from ezxmc_ray.index.lexical import LexicalTable, word_stems
from ezxmc_ray.index.lexical_files import LexicalSource, open_lexical_table, write_lexical_files
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, LABELS_WITH_ALTERNATIVES
from tests.index.sharded import sharded_index

LABELS = 60


def made_texts(seed: int, most: int) -> LabelTexts:
    """Most labels have few alternatives or none, one of them ``most``."""
    counts = np.random.default_rng(seed).integers(0, 4, LABELS)
    counts[seed % LABELS] = most
    return LabelTexts(np.concatenate([[0], np.cumsum(counts)]))


def coarse_rows(rows: int, seed: int) -> np.ndarray:
    """Small whole numbers: inner products are exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, size=(rows, 6)).astype(np.float32)


def rows_of_label(texts: LabelTexts, label: int) -> list[int]:
    return [label, *range(LABELS + int(texts.starts[label]), LABELS + int(texts.starts[label + 1]))]


def brute_force(
    queries: np.ndarray, vectors: np.ndarray, texts: LabelTexts, k: int, excluded: list[list[int]]
) -> tuple[list[list[float]], list[list[int]]]:
    """For each query and label the best of its rows, one by one; then the labels in order."""
    scores, labels = [], []
    for query, banned in zip(queries, excluded, strict=True):
        best = {
            label: max(float(query @ vectors[row]) for row in rows_of_label(texts, label))
            for label in range(LABELS)
            if label not in banned
        }
        ranked = sorted(best, key=lambda label: (-best[label], label))[:k]
        missing = k - len(ranked)
        labels.append(ranked + [-1] * missing)
        scores.append([best[label] for label in ranked] + [-math.inf] * missing)
    return scores, labels


def test_rows_of_labels() -> None:
    texts = LabelTexts(np.array([0, 2, 2, 3]))
    assert (texts.labels, texts.rows) == (3, 6)
    assert texts.label_of_row.tolist() == [0, 1, 2, 0, 0, 2]
    rows, counts = texts.rows_of(np.array([2, 0, 1, 0]))
    assert rows.tolist() == [2, 5, 0, 3, 4, 1, 0, 3, 4]
    assert counts.tolist() == [2, 3, 1, 3]
    assert [one.tolist() for one in texts.rows_of(np.empty(0, int))] == [[], []]


@pytest.mark.parametrize("queries", [3, 40])  # faiss has two ways, for few queries and for many
@pytest.mark.parametrize(("factory", "shard_labels"), [("IDMap,Flat", 1000), ("IDMap,Flat", 30), ("IVF2,Flat", 90)])
@pytest.mark.parametrize("most", [1, 70])
def test_the_fold_is_exact(queries: int, factory: str, shard_labels: int, most: int) -> None:
    for seed in range(2):
        texts = made_texts(seed, most)
        vectors, asked = coarse_rows(texts.rows, seed), coarse_rows(queries, seed + 100)
        index = sharded_index(vectors, shard_labels, factory, texts=texts)
        assert index.labels == LABELS
        everything = brute_force(asked, vectors, texts, LABELS, [[]] * queries)[1]
        excluded = [row[: number % 4] for number, row in enumerate(everything)]
        excluded[0], excluded[2] = [], list(range(LABELS))
        for k in (1, 7, LABELS - 1, LABELS, LABELS + 9):
            scores, labels = index.search(asked, k, excluded)
            expected_scores, expected_labels = brute_force(asked, vectors, texts, k, excluded)
            assert labels.tolist() == expected_labels
            assert scores.tolist() == expected_scores
            assert scores.dtype == np.float32 and labels.dtype == np.int32


def test_labels_that_crowd_out_others_are_answered_once_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One label's 500 texts are nearer than any other label's one: all are met before the second label is."""
    monkeypatch.setattr("ezxmc_ray.index.search.MAX_ANSWERS", 64)
    texts = LabelTexts(np.array([0, 0, 500, 500, 500]))
    angles = np.concatenate([[1.0, 0.3, 0.9, 0.8], np.linspace(0.0, 0.2, 500)])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = sharded_index(vectors, shard_labels=170, texts=texts)
    query = np.array([[1.0, 0.0]] * 9, np.float32)
    assert index.search(query, 3)[1].tolist() == [[1, 3, 2]] * 9
    assert index.search(query, 3, [[1]] * 9)[1].tolist() == [[3, 2, 0]] * 9


def test_a_shard_full_of_one_labels_texts_is_asked_for_more() -> None:
    """Another shard has labels enough, but what this one holds behind these texts is nearer."""
    texts = LabelTexts(np.array([0, *[40] * 49, 41]))
    angles = np.concatenate([np.linspace(1.0, 1.5, 50), np.linspace(0.0, 0.1, 40), [0.2]])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = sharded_index(vectors, shard_labels=50, texts=texts)
    assert index.search(np.array([[1.0, 0.0]], np.float32), 3)[1].tolist() == [[0, 49, 1]]


WORDS = ["the", "history", "machines", "learning", "machine", "tools", "taxes", "tolls", "tides", "ocean", "sea"]


def made_label_texts(seed: int, count: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(0, 4))) for _ in range(count)]


def plain_share(title: str, text: str, rows: list[int], of_rows: list[set[str]], weights: dict[str, float]) -> float:
    """The best of a label's texts, whose words are in ``of_rows``: half in the title, half in all words."""
    head, whole = set(word_stems(title)), set(word_stems(f"{title} {text}"))
    best = 0.0
    for row in rows:
        total = sum(weights[word] for word in of_rows[row])
        named = [sum(weights[word] for word in of_rows[row] & part) for part in (head or whole, whole)]
        best = max(best, sum(named) / 2 / total if total else 0.0)
    return best


def test_the_share_of_a_label_is_that_of_its_best_text() -> None:
    label_texts = made_texts(5, 9)
    texts = made_label_texts(0, label_texts.rows)
    words = [set(word_stems(text)) for text in texts]
    of_labels = [set().union(*(words[row] for row in rows_of_label(label_texts, label))) for label in range(LABELS)]
    counts = {word: sum(word in one for one in of_labels) for word in set().union(*words)}
    weights = {word: math.log1p((LABELS - f + 0.5) / (f + 0.5)) for word, f in counts.items()}
    table = LexicalTable.from_texts(texts, label_texts)
    titles, documents = ["tides", "", "taxes of learning"], ["history of the ocean", "machine tools", ""]
    labels = np.tile(np.arange(-1, LABELS, dtype=np.int32), (3, 1))
    found = table.shares(titles, documents, labels)
    for row, (title, text) in enumerate(zip(titles, documents, strict=True)):
        expected = [plain_share(title, text, rows_of_label(label_texts, one), words, weights) for one in range(LABELS)]
        np.testing.assert_allclose(found[row], [0.0, *expected], atol=1e-6)
    assert len(np.unique(found)) > 9


def test_given_labels_are_as_similar_as_if_they_had_been_found() -> None:
    label_texts = made_texts(7, 30)
    vectors = np.random.default_rng(0).normal(size=(label_texts.rows + 5, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels, documents = vectors[:-5], vectors[-5:]
    texts, config = made_label_texts(1, label_texts.rows), LexicalConfig(weight=0.5, candidates=20)
    titles, bodies = [""] * 5, ["the history of machines", "ocean tides", "", "taxes", "sea"]
    table = LexicalTable.from_texts(texts, label_texts)
    searcher = HybridSearcher(ShardedIndex.from_vectors(labels, texts=label_texts), table, config)
    found, numbers = searcher.search(documents, titles, bodies, 10)
    given = PairScorer(labels, table, config, label_texts)(documents, titles, bodies, numbers)
    np.testing.assert_allclose(given, found, atol=1e-6)
    assert all(len(set(row)) == 10 for row in numbers.tolist())
    assert (np.diff(found, axis=1) <= 0).all()
    none = np.full((5, 2), -1, np.int32)
    assert np.isneginf(PairScorer(labels, table, config, label_texts)(documents, titles, bodies, none)).all()


def test_what_a_run_says_of_its_labels_texts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(UserError, match=r"labels\.parquet"):
        read_label_texts(storage)
    rows: list[dict[str, Any]] = [
        {"id": one, "text": one, "description": "", "content_hash": b"0" * 16} for one in ("sea", "bee")
    ]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    assert read_label_texts(storage) is None
    assert all_texts(storage).to_pylist() == ["sea", "bee"]
    rows = [{**row, "alternatives": others} for row, others in zip(rows, (["ocean", "brine"], []), strict=True)]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_WITH_ALTERNATIVES))
    label_texts = read_label_texts(storage)
    assert label_texts is not None and label_texts.starts.tolist() == [0, 2, 2]
    assert all_texts(storage).to_pylist() == ["sea", "bee", "ocean", "brine"]
    labels = np.array([[0, 1]], np.int32)
    in_memory = open_lexical_table(storage, "labels").shares([""], ["ocean of bees"], labels)
    write_lexical_files(storage, LexicalSource("labels"))
    mapped = open_lexical_table(storage, "labels").shares([""], ["ocean of bees"], labels)
    assert in_memory.tolist() == mapped.tolist() == [[1.0, 0.0]]

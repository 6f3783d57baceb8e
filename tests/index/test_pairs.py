"""Scores of given labels: those that a search of the same index finds them with."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.index import search as module
from ezxmc_ray.index.build import build_shard
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.pairs import pair_scores, scores_pairs
from ezxmc_ray.index.search import ShardedIndex
from tests.index.sharded import sharded_index


def unit_rows(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "factory",
    ["IDMap2,Flat", "IDMap,Flat", "SQ8", "HNSW8", "IVF4,SQ8", "IVF4,Flat", "IVF4,PQ8x4fs,Refine(SQ8)", "PQ8x4"],
)
def test_scores_are_those_of_a_search(tmp_path: Path, factory: str) -> None:
    built = build_shard(unit_rows(700, 0), 1000, factory, probes=4)
    faiss.write_index(built, str(tmp_path / "shard.faiss"))
    index = faiss.read_index(str(tmp_path / "shard.faiss"), faiss.IO_FLAG_MMAP_IFC)
    queries = unit_rows(5, 1)
    scores, labels = index.search(queries, 3)
    assert scores_pairs(index)
    for column in (2, 0):
        found = pair_scores(index, queries, labels[:, column].astype(np.int64), 1000)
        np.testing.assert_allclose(found, scores[:, column], atol=1e-5)


@pytest.mark.parametrize(
    "factory", ["IVF4,PQ8x4fs", "PQ8x4fs", "PCA8,Flat", "PCA8,IVF4,Flat", "RaBitQ", "IVF4,FlatDedup"]
)
def test_kinds_that_give_no_vector_they_score_by_are_left_alone(factory: str) -> None:
    index = build_shard(unit_rows(700, 0), 0, factory)
    assert not scores_pairs(index)
    unknown = pair_scores(index, unit_rows(2, 1), np.array([3, 4]), 0)
    assert np.isneginf(unknown).all() and unknown.dtype == np.float32
    with pytest.raises(UserError, match=r"set index\.factory=auto"):
        ShardedIndex([index]).search_among(unit_rows(2, 1), 1, np.array([3, 4]))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_labels_of_all_shards_and_texts(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", 7)
    texts = LabelTexts(np.concatenate([[0], np.cumsum(np.arange(30) % 3)]))
    vectors, queries = unit_rows(texts.rows, 2).astype(dtype), unit_rows(4, 3)
    index = sharded_index(vectors, shard_labels=25, texts=texts)
    labels = np.array([[29, -1, 0], [-1, -1, -1], [4, 5, 28], [11, 11, 2]], np.int32)
    found = index.scores(queries, labels)
    for row, numbers in enumerate(labels):
        for column, label in enumerate(numbers):
            rows = np.flatnonzero(texts.label_of_row == label)
            expected = max((float(vectors[one].astype(np.float32) @ queries[row]) for one in rows), default=-np.inf)
            assert found[row, column] == pytest.approx(expected, abs=1e-6)
    assert index.scores(queries, np.empty((4, 0), np.int32)).shape == (4, 0)

from __future__ import annotations

import hashlib
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import EXACT_FACTORY, ShardInfo, build_shard, save_shard
from ezxmc_ray.index.search import ShardedIndex, load_shard
from ezxmc_ray.storage import Storage
from tests.index.sharded import sharded_index


def coarse_rows(rows: int, seed: int) -> np.ndarray:
    """Small whole numbers: inner products are exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, size=(rows, 6)).astype(np.float32)


def brute_force(
    queries: np.ndarray, vectors: np.ndarray, k: int, excluded: list[list[int]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    labels = np.full((len(queries), k), -1, dtype=np.int32)
    for row, query in enumerate(queries):
        ranked = sorted((-float(query @ vector), label) for label, vector in enumerate(vectors))
        allowed = [pair for pair in ranked if excluded is None or pair[1] not in excluded[row]][:k]
        scores[row, : len(allowed)] = [-score for score, _ in allowed]
        labels[row, : len(allowed)] = [label for _, label in allowed]
    return scores, labels


@pytest.mark.parametrize("shard_labels", [1000, 70])
@pytest.mark.parametrize("queries", [3, 40])  # faiss has two ways, for few queries and for many
def test_search_is_brute_force_with_ties_by_label_number(shard_labels: int, queries: int) -> None:
    vectors, asked = coarse_rows(200, 0), coarse_rows(queries, 1)
    index = sharded_index(vectors, shard_labels=shard_labels)
    assert len(index.shards) == (1 if shard_labels == 1000 else 3) and index.labels == 200
    for k in (1, 7, 150):
        scores, labels = index.search(asked, k)
        expected_scores, expected_labels = brute_force(asked, vectors, k)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(scores, expected_scores)
        assert scores.dtype == np.float32 and labels.dtype == np.int32


@pytest.mark.parametrize("shard_labels", [1000, 70])
def test_excluded_labels_are_replaced_by_the_next(shard_labels: int) -> None:
    vectors, queries = coarse_rows(200, 0), coarse_rows(30, 1)
    _, nearest = brute_force(queries, vectors, 12)
    excluded = [[*row[: number % 5].tolist(), 199] for number, row in enumerate(nearest)]
    excluded[4], excluded[7] = [], list(range(200))
    scores, labels = sharded_index(vectors, shard_labels=shard_labels).search(queries, 5, excluded)
    expected_scores, expected_labels = brute_force(queries, vectors, 5, excluded)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(scores, expected_scores)
    assert labels[7].tolist() == [-1] * 5 and np.isneginf(scores[7]).all()


def test_identical_labels_come_in_the_order_of_their_numbers() -> None:
    vectors = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (500, 1))
    _, labels = sharded_index(vectors, shard_labels=300).search(vectors[:2], 4, [[0, 2], []])
    assert labels.tolist() == [[1, 3, 4, 5], [0, 1, 2, 3]]


def test_a_long_tie_is_searched_few_queries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezxmc_ray.index.search.MAX_ANSWERS", 64)
    vectors, queries = np.repeat(coarse_rows(3, 0), 100, axis=0), coarse_rows(20, 1)
    index = sharded_index(vectors, shard_labels=170)
    widths: list[tuple[int, int]] = []
    once = index._search_once

    def spied(asked: np.ndarray, k: int, fetch: int, banned: list[np.ndarray]) -> object:
        widths.append((len(asked), fetch))
        return once(asked, k, fetch, banned)

    monkeypatch.setattr(index, "_search_once", spied)
    scores, labels = index.search(queries, 5)
    expected_scores, expected_labels = brute_force(queries, vectors, 5)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(scores, expected_scores)
    assert max(fetch for _, fetch in widths) > 64
    assert all(asked == 1 or asked * fetch * 2 <= 64 for asked, fetch in widths)


def test_an_index_that_visits_fewer_labels_than_are_asked_for_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shard = build_shard(vectors, 0, "IVF100,Flat", 1)
    index = ShardedIndex([shard])
    asked: list[int] = []
    once = index._search_once
    monkeypatch.setattr(index, "_search_once", lambda *all: asked.append(all[2]) or once(*all))
    scores, labels = index.search(vectors[:20], 200)
    assert asked == [201] and (labels[:, -1] == -1).any() and np.isneginf(scores[labels == -1]).all()
    assert (labels[:, 0] == np.arange(20)).all()


def test_fewer_labels_than_asked_for_are_padded() -> None:
    index = ShardedIndex.from_vectors(np.eye(3, dtype=np.float32))
    scores, labels = index.search(np.eye(3, dtype=np.float32)[:1], 5, [[1]])
    assert labels.tolist() == [[0, 2, -1, -1, -1]]
    assert scores.tolist() == [[1.0, 0.0, -np.inf, -np.inf, -np.inf]]
    none, nothing = index.search(np.empty((0, 3), dtype=np.float32), 5)
    assert none.shape == nothing.shape == (0, 5)
    assert ShardedIndex.from_vectors(np.empty((0, 3), np.float32)).search(np.eye(3, dtype=np.float32), 2)[1].max() == -1


@pytest.mark.parametrize("factory", [EXACT_FACTORY, "IDMap2,Flat"])  # the second: as older versions wrote it
def test_a_saved_index_answers_as_before(tmp_path: Path, factory: str) -> None:
    vectors, queries = coarse_rows(200, 0), coarse_rows(9, 1)
    shards = [(start, build_shard(vectors[start : start + 80], start, factory)) for start in (0, 80, 160)]
    infos = [save_shard(shard, tmp_path / "index" / f"shard-{start:03}.faiss", start) for start, shard in shards]
    storage = Storage(str(tmp_path))
    index = ShardedIndex.load(storage, "index", infos)
    np.testing.assert_array_equal(index.search(queries, 9)[1], brute_force(queries, vectors, 9)[1])
    damaged = tmp_path / "index" / infos[1].file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"^The index file .*shard-080\.faiss is not what was written .*\.$"):
        ShardedIndex.load(storage, "index", infos)
    damaged.unlink()
    with pytest.raises(UserError, match=r"^index/shard-080\.faiss of the run .* is not there or .*\.$"):
        ShardedIndex.load(storage, "index", infos)


@pytest.mark.parametrize("factory", [EXACT_FACTORY, "HNSW8", "IVF4,PQ2x4fs,Refine(SQ8)"])
def test_no_process_holds_a_table_from_ids_to_vectors(tmp_path: Path, factory: str) -> None:
    info = save_shard(build_shard(coarse_rows(300, 0), 40, factory), tmp_path / "index" / "shard.faiss", 40)
    loaded = load_shard(Storage(str(tmp_path)), "index", info)
    assert isinstance(loaded, faiss.IndexIDMap) and not isinstance(loaded, faiss.IndexIDMap2)


def test_a_file_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    content = b"no index"
    (tmp_path / "shard.faiss").write_bytes(content)
    info = ShardInfo("shard.faiss", 0, 1, hashlib.sha256(content).hexdigest(), len(content))
    with pytest.raises(UserError, match=r"^FAISS cannot read .*shard\.faiss \(.+\): remove it and run again\.$"):
        load_shard(Storage(str(tmp_path.parent)), tmp_path.name, info)


def test_faiss_and_torch_share_a_process() -> None:
    """Both bring an OpenMP of their own: alternating between them must neither hang nor change a result."""
    vectors, queries = coarse_rows(3000, 0), coarse_rows(64, 1)
    index = ShardedIndex.from_vectors(vectors)
    expected = index.search(queries, 10)
    for _ in range(5):
        product = torch.from_numpy(queries) @ torch.from_numpy(vectors).T
        scores, labels = index.search(queries, 10)
        np.testing.assert_array_equal(scores, product.topk(10, dim=1).values.numpy())
        np.testing.assert_array_equal(labels, expected[1])

"""Searching a sharded label index: every shard is asked, the answers are merged, and it is all the same as one index.

Comes in: query vectors, k, and for each query the labels that it must not get. Goes out: scores and label numbers in
falling score, ties by label number. The same code serves the shortlists of every cycle and the final predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.index.build import EXACT_FACTORY, ShardInfo, build_shard, checksum

NO_LABEL = -1

#: FAISS returns at most so many neighbors from a GPU.
GPU_MOST_NEIGHBOURS = 2048


class ShardedIndex:
    """FAISS indexes over disjoint labels, searched as one."""

    def __init__(self, shards: Sequence[faiss.Index]) -> None:
        self.shards = list(shards)
        self._gpu_shards = _on_gpus(self.shards)
        self.labels = sum(int(shard.ntotal) for shard in self.shards)

    @classmethod
    def from_vectors(
        cls,
        vectors: np.ndarray,
        factory: str = EXACT_FACTORY,
        probes: int = 32,
        shard_labels: int = 1_000_000,
    ) -> ShardedIndex:
        """Index ``vectors`` (floats [n, d], unit rows; the row is the label number) in memory; exact by default."""
        starts = range(0, len(vectors), shard_labels)
        return cls([build_shard(vectors[start : start + shard_labels], start, factory, probes) for start in starts])

    @classmethod
    def load(cls, directory: Path, shards: Sequence[ShardInfo]) -> ShardedIndex:
        """Load the files that the manifest lists. UserError for a file that is not there or not what was written."""
        return cls([_load_shard(directory / info.file, info) for info in shards])

    def search(
        self, queries: np.ndarray, k: int, excluded: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best labels of each query.

        Args:
            queries: float32 or float16 [q, d], unit rows.
            k: labels a query.
            excluded: for each query the labels that it must not get; the next best come instead.

        Returns:
            (scores float32 [q, k], labels int32 [q, k]) in falling score, ties by label number; -inf and -1 at the
            end where there are fewer.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        banned = [np.asarray(row, dtype=np.int64) for row in excluded] if excluded is not None else []
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        labels = np.full((len(queries), k), NO_LABEL, dtype=np.int32)
        rows = np.arange(len(queries))
        # One more than needed: if it scores like the k-th, a tie may go on beyond it, and more are asked for.
        fetch = k + 1 + max((len(row) for row in banned), default=0)
        while len(rows):
            chosen = [banned[row] for row in rows] if banned else []
            scores[rows], labels[rows], cut = self._search_once(queries[rows], k, fetch, chosen)
            rows, fetch = rows[cut], 2 * fetch
        return scores, labels

    def _search_once(
        self, queries: np.ndarray, k: int, fetch: int, banned: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Merge ``fetch`` answers of every shard; also bool [q]: a tie at the k-th place may have been cut."""
        answers = [self._ask(shard, queries, fetch) for shard in range(len(self.shards))]
        scores = np.concatenate([np.empty((len(queries), 0), np.float32), *(one[0] for one in answers)], axis=1)
        labels = np.concatenate([np.empty((len(queries), 0), np.int64), *(one[1] for one in answers)], axis=1)
        for row, numbers in enumerate(banned):
            labels[row, np.isin(labels[row], numbers)] = NO_LABEL
        scores = np.where(labels == NO_LABEL, -np.inf, scores).astype(np.float32)
        order = np.lexsort((labels, -scores), axis=1)[:, :k]
        top_scores = np.take_along_axis(scores, order, axis=1)
        top_labels = np.take_along_axis(labels, order, axis=1)
        cut = np.zeros(len(queries), dtype=bool)
        if top_scores.shape[1] == k > 0:
            for shard, (found, _) in zip(self.shards, answers, strict=True):
                if found.shape[1] == fetch < shard.ntotal:
                    cut |= (found[:, -1] == top_scores[:, -1]) & np.isfinite(found[:, -1])
        missing = ((0, 0), (0, k - top_scores.shape[1]))
        top_scores = np.pad(top_scores, missing, constant_values=-np.inf)
        return top_scores, np.pad(top_labels, missing, constant_values=NO_LABEL).astype(np.int32), cut

    def _ask(self, shard: int, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        fetch = min(fetch, self.shards[shard].ntotal)
        on_gpu = bool(self._gpu_shards) and fetch <= GPU_MOST_NEIGHBOURS
        index = self._gpu_shards[shard] if on_gpu else self.shards[shard]
        if not len(queries) or not fetch:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scores, labels = index.search(queries, fetch)
        return scores, labels


def measured_recall(index: ShardedIndex, queries: np.ndarray, vectors: np.ndarray, k: int) -> float:
    """Share of the exact ``k`` nearest labels that ``index`` finds, mean over ``queries`` ([q, d]), 0 to 1.

    ``vectors``: [n, d], all label vectors in order.
    """
    _, found = index.search(queries, k)
    _, exact = ShardedIndex.from_vectors(vectors).search(queries, k)
    wanted = exact != NO_LABEL
    hits = np.array([np.isin(row, other) for row, other in zip(exact, found, strict=True)])
    return float((hits & wanted).sum() / wanted.sum()) if wanted.any() else 1.0


def _load_shard(path: Path, info: ShardInfo) -> faiss.Index:
    if not path.is_file():
        raise UserError(f"The index file {path} is not there: remove {path.parent} and run again.")
    if checksum(path) != info.sha256:
        raise UserError(f"The index file {path} is not what was written (its checksum differs): remove it, run again.")
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise UserError(f"FAISS cannot read {path} ({one_line(error)}): remove it and run again.") from error


def _on_gpus(shards: list[faiss.Index]) -> list[faiss.Index]:
    """Copies of the shards on the GPUs that faiss sees, in turn; none where it sees none, or for types without one."""
    gpus = faiss.get_num_gpus()
    if not gpus:
        return []
    resources = [faiss.StandardGpuResources() for _ in range(gpus)]
    try:
        return [faiss.index_cpu_to_gpu(resources[i % gpus], i % gpus, shard) for i, shard in enumerate(shards)]
    except RuntimeError:  # HNSW and others live on the CPU only
        return []

"""Searching a sharded label index: every shard is asked, the answers are merged, and it is all the same as one index.

Comes in: query vectors, k, and for each query the labels that it must not get. Goes out: scores and label numbers in
falling score, ties by label number. The same code serves the shortlists of every cycle and the final predictions.
A label with several texts has a vector for each: its score is that of the nearest, and it is answered once. One that
was removed keeps its number and its vectors, and is never answered.
What is on a disk is mapped, so that the processes of a machine share it; on GPUs (gpu.py) it is held once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import faiss
import numpy as np

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.exact import ExactShard
from ezxmc_ray.index.gpu import TorchShard, max_neighbors, on_gpus
from ezxmc_ray.index.label_texts import LabelTexts, best_of
from ezxmc_ray.index.node_files import FileNote, checksum, node_file
from ezxmc_ray.index.pairs import pair_scores, vectors_of
from ezxmc_ray.storage import Storage

NO_LABEL = -1
#: Answers of all shards that are in memory at once, about 40 bytes each while they are put in order.
MAX_ANSWERS = 1 << 22
#: Answers that are asked for besides where some may be removed labels: whoever meets more of them asks again.
SPARE = 8
#: Pairs of query and label that are scored at once.
MAX_PAIRS = 1 << 15


class Shard(Protocol):
    """What finds labels among some: a FAISS index with label numbers as ids, or :class:`ExactShard`.

    Where labels have several texts, the numbers are rows of label_texts.LabelTexts.
    """

    ntotal: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and label numbers int64, [q, k], in falling score; -1 where there are fewer."""


class ShardedIndex:
    """Indexes over disjoint labels, searched as one."""

    def __init__(
        self,
        shards: Sequence[Shard],
        gpu_dtype: Any = None,
        texts: LabelTexts | None = None,
        removed: np.ndarray | None = None,
    ) -> None:
        """``gpu_dtype``: hold copies on this process's GPUs, if it has any, exact ones in this dtype; None: do not.
        ``texts``: whose the vectors are, by row; None: the row is the label number. ``removed``: by label number, bool
        [labels]; None: no label is.

        Errors: UserError where the GPUs have no room.
        """
        self.shards = list(shards)
        self._gpu_shards = on_gpus(self.shards, gpu_dtype) if gpu_dtype is not None else []
        if any(isinstance(shard, TorchShard) for shard in self._gpu_shards):
            self.shards = self._gpu_shards  # all of the labels, in parts of their own
        self._texts, self.removed = texts, removed
        self.labels = texts.labels if texts else sum(int(shard.ntotal) for shard in self.shards)
        gone = 0 if removed is None else int(removed.sum())
        self._removed_per_label = gone / max(1, self.labels - gone)

    @property
    def is_on_gpus(self) -> bool:
        """Whether GPUs search it."""
        return bool(self._gpu_shards)

    @classmethod
    def from_vectors(cls, vectors: np.ndarray, gpu_dtype: Any = None, texts: LabelTexts | None = None) -> ShardedIndex:
        """Search ``vectors`` (floats [n, d], unit rows; the row is the label number, or as ``texts`` says) exactly.

        They stay where they are.
        """
        return cls([ExactShard(vectors)] if len(vectors) else [], gpu_dtype, texts)

    @classmethod
    def load(
        cls,
        storage: Storage,
        folder: str,
        shards: Sequence[ShardInfo],
        gpu_dtype: Any = None,
        texts: LabelTexts | None = None,
        removed: np.ndarray | None = None,
    ) -> ShardedIndex:
        """Map the files that the manifest lists. UserError for a file that is not there or not what was written."""
        return cls([load_shard(storage, folder, info) for info in shards], gpu_dtype, texts, removed)

    def search(
        self, queries: np.ndarray, k: int, excluded: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best labels of each query.

        Args:
            queries: float32 or float16 [q, d], unit rows.
            k: labels a query.
            excluded: for each query the labels that it must not get; the next best come instead.

        Returns:
            (scores float32 [q, k], labels int32 [q, k]) in falling score, ties by label number, none twice; -inf and
            -1 at the end where there are fewer.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        banned = [np.asarray(row, dtype=np.int64) for row in excluded] if excluded is not None else []
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        labels = np.full((len(queries), k), NO_LABEL, dtype=np.int32)
        rows = np.arange(len(queries))
        # One more than needed: if it scores like the k-th, a tie may go on beyond it, and more are asked for.
        fetch = k + 1 + max((len(row) for row in banned), default=0)
        if self._texts:  # as many texts as so many labels have in the mean; where they have more, more are asked for
            fetch = math.ceil(fetch * self._texts.rows / self._texts.labels)
        if self.removed is not None:  # as many of those as there are in the mean, and some
            fetch += SPARE + math.ceil(fetch * self._removed_per_label)
        while len(rows):
            # Thousands of labels of one vector are one long tie: few queries at once then, so that memory is bounded.
            at_once = max(1, MAX_ANSWERS // (fetch * max(1, len(self.shards))))
            is_cut = np.zeros(len(rows), bool)
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                chosen = [banned[row] for row in part] if banned else []
                scores[part], labels[part], is_cut[start : start + at_once] = self._search_once(
                    queries[part], k, fetch, chosen
                )
            rows, fetch = rows[is_cut], 2 * fetch
        return scores, labels

    def search_among(self, queries: np.ndarray, k: int, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best of the labels ``among`` (rising label numbers, int32 [m], none removed) of each query, all of
        them compared.

        ``queries`` and what is returned: as in :meth:`search`.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        labels = np.full((len(queries), k), NO_LABEL, dtype=np.int32)
        rows, counts = self._texts.rows_of(among) if self._texts else (among, None)
        vectors = self._vectors_of(np.asarray(rows, np.int64)) if len(among) else np.zeros((0, queries.shape[1]))
        at_once = max(1, MAX_ANSWERS // max(1, len(rows)))
        for start in range(0, len(queries) if len(among) else 0, at_once):
            part = queries[start : start + at_once] @ vectors.T
            if counts is not None:
                part = np.maximum.reduceat(part, np.cumsum(counts) - counts, axis=1)
            order = np.argsort(-part, axis=1, kind="stable")[:, :k]
            stop = order.shape[1]
            scores[start : start + at_once, :stop] = np.take_along_axis(part, order, axis=1)
            labels[start : start + at_once, :stop] = among[order]
        return scores, labels

    def _vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """The vectors in these ``rows`` (int64 [m]) as near as the shards hold them: float32 [m, d]."""
        parts = [(here, vectors_of(shard, rows[here], first)) for shard, first, here in self._by_shard(rows)]
        vectors = np.empty((len(rows), parts[0][1].shape[1]), np.float32)
        for here, some in parts:
            vectors[here] = some
        return vectors

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[Shard, int, np.ndarray]]:
        """Each shard that has some of ``rows`` (int64 [m]), the row at which it begins, and their places among them."""
        stop = 0
        for shard in self.shards:  # in the order of their labels
            first, stop = stop, stop + int(shard.ntotal)
            here = np.flatnonzero((rows >= first) & (rows < stop))
            if len(here):
                yield shard, first, here

    def scores(self, queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The scores of labels that are given, as :meth:`search` would have them.

        ``queries``: as there; ``labels``: int32 [q, m], -1: none. Float32 [q, m]; -inf where there is no label, and
        where an index holds labels in a form from which no vector can be had.
        """
        scores = np.full(labels.shape, -np.inf, np.float32)
        query, column = np.nonzero(labels != NO_LABEL)
        rows, counts = labels[query, column].astype(np.int64), np.ones(len(query), np.int64)
        if self._texts:
            rows, counts = self._texts.rows_of(rows)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        of_row, found = np.repeat(query, counts), np.full(len(rows), -np.inf, np.float32)
        for shard, first, here in self._by_shard(rows):
            for part in np.array_split(here, math.ceil(len(here) / MAX_PAIRS)):
                found[part] = pair_scores(shard, queries[of_row[part]], rows[part], first)
        scores[query, column] = best_of(found, counts)
        return scores

    def _search_once(
        self, queries: np.ndarray, k: int, fetch: int, banned: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Merge ``fetch`` answers of every shard; also bool [q]: a label among the best k, or one that ties with the
        k-th, may have been cut."""
        answers = [self._ask(shard, queries, fetch) for shard in range(len(self.shards))]
        scores = np.concatenate([np.empty((len(queries), 0), np.float32), *(one[0] for one in answers)], axis=1)
        labels = np.concatenate([np.empty((len(queries), 0), np.int64), *(one[1] for one in answers)], axis=1)
        if self._texts:
            labels = np.where(labels == NO_LABEL, NO_LABEL, self._texts.label_of_row[labels])
        if self.removed is not None:
            labels = np.where(self.removed[labels], NO_LABEL, labels)
        for row, numbers in enumerate(banned):
            labels[row, np.isin(labels[row], numbers)] = NO_LABEL
        scores = np.where(labels == NO_LABEL, -np.inf, scores).astype(np.float32)
        order = np.lexsort((labels, -scores), axis=1)
        if self._texts:
            order = _without_repeats(scores, labels, order)
        order = order[:, :k]
        top_scores = np.take_along_axis(scores, order, axis=1)
        top_labels = np.take_along_axis(labels, order, axis=1)
        cut = np.zeros(len(queries), dtype=bool)
        if top_scores.shape[1] == k > 0:
            for shard, (found, numbers) in zip(self.shards, answers, strict=True):
                if found.shape[1] == fetch < shard.ntotal:
                    # No label at the end: what the shard visits has no more, however many are asked for.
                    cut |= (found[:, -1] >= top_scores[:, -1]) & (numbers[:, -1] != NO_LABEL)
        missing = ((0, 0), (0, k - top_scores.shape[1]))
        top_scores = np.pad(top_scores, missing, constant_values=-np.inf)
        return top_scores, np.pad(top_labels, missing, constant_values=NO_LABEL).astype(np.int32), cut

    def _ask(self, shard: int, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        fetch = min(fetch, self.shards[shard].ntotal)
        index = self.shards[shard]
        if self.is_on_gpus and fetch <= max_neighbors(self._gpu_shards[shard]):  # else the copy on the disk answers
            index = self._gpu_shards[shard]
        if not len(queries) or not fetch:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scores, labels = index.search(queries, fetch)
        return scores, labels


def _without_repeats(scores: np.ndarray, labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``order`` (of columns, int [q, m]) with what repeats a label before it at the end; that becomes no label, in
    place."""
    sorted_labels = np.take_along_axis(labels, order, axis=1)
    by_label = np.argsort(sorted_labels, axis=1, kind="stable")
    grouped = np.take_along_axis(sorted_labels, by_label, axis=1)
    repeats = np.zeros(labels.shape, bool)
    np.put_along_axis(repeats, by_label[:, 1:], grouped[:, 1:] == grouped[:, :-1], axis=1)
    again = np.zeros(labels.shape, bool)
    np.put_along_axis(again, order, repeats, axis=1)
    scores[again], labels[again] = -np.inf, NO_LABEL
    return np.take_along_axis(order, np.argsort(repeats, axis=1, kind="stable"), axis=1)


def load_shard(storage: Storage, folder: str, info: ShardInfo) -> faiss.Index:
    """The index in a file, mapped. UserError for a file that is not there or not what was written."""
    path = node_file(storage, FileNote(f"{folder}/{info.file}", info.bytes, info.sha256))
    if storage.is_local and checksum(path) != info.sha256:
        raise UserError(f"The index file {path} is not what was written (its checksum differs): remove it, run again.")
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"FAISS cannot read {path} ({one_line(error)}): remove it and run again.") from error

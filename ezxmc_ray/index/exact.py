"""Exact search over label vectors where they lie, mapped from a file or in memory: nothing is copied.

Comes in: the vectors of consecutive labels. Goes out: what an exact FAISS index over them would answer, by the same
code. Vectors in float16 become float32 a block at a time.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

#: Labels that are compared with queries at once: so many vectors in float16 are float32 then.
SEARCHED_AT_ONCE = 65_536


class ExactShard:
    """The labels ``first_label`` and following, whose vectors are ``vectors``: float32 or float16 [n, d], unit rows."""

    def __init__(self, vectors: np.ndarray, first_label: int = 0, owner: object = None) -> None:
        """``owner``: of the memory that ``vectors`` are in, where numpy does not know it."""
        self.vectors, self.first_label, self.owner = vectors, first_label, owner
        self.ntotal = len(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and label numbers int64, [q, k], in falling score. ``queries``: float32 [q, d]; k <= n."""
        if self.vectors.dtype == np.float32:
            scores, labels = faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
            return scores, labels + self.first_label
        best = faiss.ResultHeap(len(queries), k, keep_max=True)
        for start in range(0, self.ntotal, SEARCHED_AT_ONCE):
            block = self.vectors[start : start + SEARCHED_AT_ONCE].astype(np.float32)
            scores, labels = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, labels + start)
        best.finalize()
        return best.D, best.I + self.first_label

    def vectors_at(self, places: np.ndarray) -> np.ndarray:
        """The vectors in these ``places`` (int64 [m], from 0): float32 [m, d]."""
        return np.asarray(self.vectors[places], np.float32)


def as_exact(shard: Any) -> ExactShard | None:
    """An exact shard as such, of a FAISS index over consecutive labels too; None: it is of another kind."""
    if isinstance(shard, ExactShard):
        return shard
    index: Any = faiss.downcast_index(shard)
    flat = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else None
    if not isinstance(flat, faiss.IndexFlat):
        return None
    vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return ExactShard(vectors, int(index.id_map.at(0)) if flat.ntotal else 0, owner=shard)

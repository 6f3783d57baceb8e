"""Scores of single pairs of query and label by an index that was made for finding labels.

Comes in: a shard of any kind. Goes out: the inner products with the vectors that it holds, which are those that its
search scores by: exact ones, or what is left of them in fewer bits.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import faiss
import numpy as np

from ezxmc_ray.errors import UserError
from ezxmc_ray.index.exact import ExactShard
from ezxmc_ray.index.gpu import TorchShard

#: FAISS notes where a label's code lies when it is asked for the first time; threads take turns.
_making_maps = threading.Lock()
#: FAISS's kinds that give the vectors they score by. Of others (RaBitQ, fast scan without Refine, what is behind a
#: transform) some give none, some give others than they score by, and one ends the process.
_PLAIN = (faiss.IndexFlat, faiss.IndexRefine, faiss.IndexScalarQuantizer, faiss.IndexPQ, faiss.IndexHNSW)
_MAP = cast(Any, faiss).DirectMap
#: Codes that equal vectors share, which FAISS gives of no single label.
_SHARED_CODES = cast(Any, faiss).IndexIVFFlatDedup
_CELLS = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)


def scores_pairs(shard: Any) -> bool:
    """Whether :func:`pair_scores` knows the scores of labels of ``shard``."""
    if isinstance(shard, ExactShard | TorchShard):
        return True
    kind = faiss.downcast_index(shard)
    if isinstance(kind, faiss.IndexIDMap):
        return isinstance(faiss.downcast_index(kind.index), _PLAIN)
    return isinstance(kind, _CELLS) and not isinstance(kind, _SHARED_CODES)


def pair_scores(shard: Any, queries: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
    """The score of each of ``queries`` (float32 [m, d]) with its one of ``rows`` (int64 [m]) of a shard that begins at
    ``first``: float32 [m]. -inf where :func:`scores_pairs` says that it is not known."""
    if not len(rows) or not scores_pairs(shard):
        return np.full(len(rows), -np.inf, np.float32)
    different, places = np.unique(rows, return_inverse=True)
    scores: np.ndarray = np.einsum("md,md->m", vectors_of(shard, different, first)[places], queries)
    return scores


def vectors_of(shard: Any, rows: np.ndarray, first: int) -> np.ndarray:
    """The vectors of these ``rows`` (int64 [m]) of a shard that begins at ``first``, by which it scores them.

    Float32 [m, d]; of codes those of the finest kind that it has. Errors: UserError where it gives none.
    """
    if isinstance(shard, ExactShard | TorchShard):
        return shard.vectors_at(rows - first)
    if not scores_pairs(shard):
        raise UserError(
            "This kind of index gives no vectors of single labels: set index.factory=auto in the run, and make the "
            "index anew (`ezxmc run`; a bundle by `ezxmc export` then)."
        )
    kind: Any = faiss.downcast_index(shard)
    if isinstance(kind, faiss.IndexIDMap):
        return np.asarray(faiss.downcast_index(kind.index).reconstruct_batch(rows - first), np.float32)
    with _making_maps:
        if kind.direct_map.type == _MAP.NoMap:
            kind.set_direct_map_type(_MAP.Hashtable)
    return np.asarray(kind.reconstruct_batch(rows), np.float32)

"""An index of several small shards, of any kind, over vectors in memory: as a run has them in files."""

from __future__ import annotations

from typing import Any

import numpy as np

from ezxmc_ray.index.build import EXACT_FACTORY, build_shard
from ezxmc_ray.index.exact import ExactShard
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.search import Shard, ShardedIndex


def sharded_index(
    vectors: np.ndarray,
    shard_labels: int,
    factory: str = EXACT_FACTORY,
    gpu_dtype: Any = None,
    texts: LabelTexts | None = None,
) -> ShardedIndex:
    """Over ``vectors`` (floats [n, d], unit rows), ``shard_labels`` a shard; an IVF visits two cells."""
    shards: list[Shard] = []
    for start in range(0, len(vectors), shard_labels):
        part = vectors[start : start + shard_labels]
        exact = factory == EXACT_FACTORY
        shards.append(ExactShard(part, start) if exact else build_shard(part, start, factory, probes=2))
    return ShardedIndex(shards, gpu_dtype, texts)

"""Building one shard of the label index: the vectors of consecutive labels in a FAISS index with explicit ids.

Comes in: unit vectors of the labels ``first_label`` and following, and a FAISS factory string. Goes out: an index
whose ids are label numbers and whose metric is the inner product (cosine, for unit vectors), as a file that plain
``faiss.read_index`` loads, and the :class:`ShardInfo` that the index's manifest lists.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from ezxmc_ray.config import IndexConfig
from ezxmc_ray.errors import UserError, one_line

EXACT_FACTORY = "IDMap2,Flat"


@dataclass(frozen=True)
class ShardInfo:
    """One file of a saved index: its name, its labels ``first_label`` to ``first_label + labels - 1``, its bytes."""

    file: str
    first_label: int
    labels: int
    sha256: str
    bytes: int


def choose_factory(config: IndexConfig, labels: int, dimension: int) -> str:
    """The FAISS factory string for a label set of ``labels`` vectors of length ``dimension``.

    auto: exact up to ``exact_below`` labels, else cells (about 4 * sqrt(n) of a shard's n labels, FAISS's guideline)
    with 8 bits a component. Errors: UserError for a string that FAISS does not know or that does not fit the length.
    """
    if config.factory != "auto":
        _new_index(dimension, config.factory)
        return config.factory
    if labels <= config.exact_below:
        return EXACT_FACTORY
    return f"IVF{round(4 * math.sqrt(min(labels, config.shard_labels)))},SQ8"


def build_shard(vectors: np.ndarray, first_label: int, factory: str, probes: int = 32) -> faiss.Index:
    """An index of ``vectors`` (floats [n, d], unit rows), which belong to the labels from ``first_label`` on.

    ``probes``: cells visited a query, where the index has cells. Errors: UserError for an unknown factory string, and
    where there are too few labels to train such an index.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    index = _new_index(vectors.shape[1], factory)
    cells = faiss.try_extract_index_ivf(index)
    if cells is not None:
        cells.nprobe = min(probes, cells.nlist)
    elif not isinstance(index, faiss.IndexIDMap):  # of which IndexIDMap2 is one
        index = faiss.IndexIDMap2(index)
    if not index.is_trained:
        _train(index, vectors, factory)
    index.add_with_ids(vectors, np.arange(first_label, first_label + len(vectors), dtype=np.int64))
    return index


def save_shard(index: faiss.Index, path: Path, first_label: int) -> ShardInfo:
    """Write ``index`` beside ``path`` and rename it: a file that is memory-mapped elsewhere is never overwritten."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        faiss.write_index(index, str(temporary))
        info = ShardInfo(path.name, first_label, index.ntotal, checksum(temporary), temporary.stat().st_size)
        os.replace(temporary, path)
    except (RuntimeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error).rpartition("failed: ")[2]
        raise UserError(f"Cannot write {path} ({reason}): make room or set run=<another directory>.") from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return info


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new_index(dimension: int, factory: str) -> faiss.Index:
    try:
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(
            f"index.factory={factory} is not a FAISS factory string for vectors of length {dimension}: "
            "use auto, or one of FAISS's index factory, such as IVF1024,SQ8."
        ) from error


def _train(index: faiss.Index, vectors: np.ndarray, factory: str) -> None:
    try:
        index.train(vectors)
    except RuntimeError as error:
        raise UserError(
            f"{len(vectors)} labels a shard are too few to train index.factory={factory}: set index.factory=auto, "
            "or fewer cells."
        ) from error

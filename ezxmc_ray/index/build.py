"""Building one shard of the label index: the vectors of consecutive labels in a FAISS index with explicit ids.

Comes in: unit vectors of the labels ``first_label`` and following, block by block, and a FAISS factory string. Goes
out: an index whose ids are label numbers and whose metric is the inner product (cosine, for unit vectors), as a file
that plain ``faiss.read_index`` loads, and the :class:`ShardInfo` that the index's manifest lists.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ezxmc_ray.config import IndexConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.node_files import checksum
from ezxmc_ray.leftovers import temporary_name

AUTO = "auto"
#: Not IDMap2, which can find a vector by its id: nobody asks for that, and every process that reads the file holds a
#: hash table for it (40 MB a million labels).
EXACT_FACTORY = "IDMap,Flat"
#: Labels that a cell's centroid is trained on: FAISS takes 256, which takes four times as long and finds no more.
TRAINING_LABELS = 64
#: Labels that other kinds of index are trained on.
OTHER_TRAINING_LABELS = 65_536
#: Bytes that FAISS gives to a file at once.
WRITTEN_AT_ONCE = 1 << 20

#: Gives the vectors of a shard's labels anew, block by block: floats [m, d], unit rows.
Blocks = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class ShardInfo:
    """One file of a saved index: its name, its rows ``first_label`` to ``first_label + labels - 1``, its bytes.

    A row is a text of a label (index/label_texts.py).
    """

    file: str
    first_label: int
    labels: int
    sha256: str
    bytes: int


def is_exact(config: IndexConfig, labels: int, gpus: int) -> bool:
    """Whether auto searches so many labels exactly: few enough for a CPU, or on GPUs, which are fast at it."""
    return labels <= config.exact_below or (config.gpu and gpus > 0)


def auto_factory(cells: int, dimension: int) -> str:
    """The factory string of auto: cells, in them 4 bits for two components, and 8 bits a component to choose by.

    FAISS's fast scan compares 32 labels at once. What it lets through is ordered by the 8 bits.
    """
    return f"IVF{cells},PQ{dimension // 2 if dimension % 2 == 0 else dimension}x4fs,Refine(SQ8)"


def cells_to_compare(labels: int) -> list[int]:
    """Numbers of cells that auto chooses among, for a shard of so many labels; one cell: every label is compared."""
    root = math.sqrt(labels)
    return sorted({1, *(max(1, round(root * share)) for share in (0.5, 1))})


def check_factory(factory: str, dimension: int, labels: int | None = None) -> None:
    """UserError for a factory string that FAISS does not know or that does not fit vectors of length ``dimension``.

    So many ``labels`` a shard (None: not known) must be as many as there are cells, and centroids of a code. What else
    a kind of index needs is told when it is trained.
    """
    index = new_index(factory, dimension)
    if labels is not None and labels < _centroids(index):
        raise _too_few(labels, factory)


def _centroids(index: faiss.Index) -> int:
    """The most centroids that ``index`` groups labels by at once, or components of theirs; 0: it does not."""
    kind: Any = faiss.downcast_index(index)
    most = 0
    while kind is not None:
        quantizer = getattr(kind, "pq", None)
        most = max(most, getattr(kind, "nlist", 0), 0 if quantizer is None else quantizer.ksub)
        inside = (getattr(kind, name, None) for name in ("base_index", "storage", "index"))
        kind = next((faiss.downcast_index(one) for one in inside if one is not None), None)
    return int(most)


def build_shard(vectors: np.ndarray, first_label: int, factory: str, probes: int = 32) -> faiss.Index:
    """As :func:`build_from_blocks`, of ``vectors`` (floats [n, d], unit rows) that are in memory."""
    return build_from_blocks(lambda: [vectors], len(vectors), first_label, factory, probes)


def build_from_blocks(blocks: Blocks, labels: int, first_label: int, factory: str, probes: int = 32) -> faiss.Index:
    """An index of the vectors in ``blocks``, ``labels`` in all, which belong to the labels from ``first_label`` on.

    In memory are the index, a block, and the labels that it is trained on. ``probes``: cells visited a query, where the
    index has cells. Errors: UserError for an unknown factory string, and where there are too few labels to train such
    an index.
    """
    dimension = next(iter(blocks())).shape[1]
    index = new_index(factory, dimension)
    cells = faiss.try_extract_index_ivf(index)
    if cells is not None:
        cells.nprobe = min(probes, cells.nlist)
        cells.cp.max_points_per_centroid = TRAINING_LABELS
    if not index.is_trained:
        wanted = OTHER_TRAINING_LABELS if cells is None else max(OTHER_TRAINING_LABELS, TRAINING_LABELS * cells.nlist)
        train(index, sample_of(blocks(), labels, wanted), factory)
    takes_ids = cells is not None and not isinstance(index, faiss.IndexRefine)
    if not takes_ids and not isinstance(index, faiss.IndexIDMap):
        index = faiss.IndexIDMap(index)
    done = first_label
    for block in blocks():
        block = np.ascontiguousarray(block, dtype=np.float32)
        index.add_with_ids(block, np.arange(done, done + len(block), dtype=np.int64))
        done += len(block)
    return index


def sample_of(blocks: Iterable[np.ndarray], labels: int, wanted: int) -> np.ndarray:
    """``wanted`` of the ``labels`` vectors in ``blocks``, or all, always the same: float32 [m, d]."""
    if wanted >= labels:
        return np.concatenate([np.asarray(block, np.float32) for block in blocks])
    taken = np.zeros(labels, bool)
    taken[np.random.default_rng(0).choice(labels, wanted, replace=False)] = True
    parts, done = [], 0
    for block in blocks:
        parts.append(block[taken[done : done + len(block)]].astype(np.float32))
        done += len(block)
    return np.concatenate(parts)


def save_shard(index: faiss.Index, path: Path, first_label: int) -> ShardInfo:
    """Write ``index`` beside ``path`` and rename it: a file that is memory-mapped elsewhere is never overwritten."""
    temporary = Path(temporary_name(str(path)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:  # FAISS by itself leaves out what a full disk did not take at the end
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, WRITTEN_AT_ONCE))  # type: ignore[attr-defined]
        info = ShardInfo(path.name, first_label, index.ntotal, checksum(temporary), temporary.stat().st_size)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path} ({error.strerror}): the folder for temporary files must be writable and have room "
            "for it; TMPDIR names another one."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return info


def new_index(factory: str, dimension: int) -> faiss.Index:
    """An empty index. Errors: UserError as :func:`check_factory`."""
    try:
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(
            f"index.factory={factory} is not a FAISS factory string for vectors of length {dimension}: "
            "use auto, or one of FAISS's index factory, such as IVF1024,SQ8."
        ) from error


def train(index: faiss.Index, vectors: np.ndarray, factory: str) -> None:
    """Train ``index`` on ``vectors``, float32 [n, d]. Errors: UserError where they are too few."""
    try:
        index.train(vectors)
    except RuntimeError as error:
        raise _too_few(len(vectors), factory) from error


def _too_few(labels: int, factory: str) -> UserError:
    return UserError(
        f"{labels} labels a shard are too few to train index.factory={factory}: set index.factory=auto, or fewer cells."
    )

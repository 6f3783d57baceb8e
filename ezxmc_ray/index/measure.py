"""What an approximate index finds of the labels nearest to documents, and how auto chooses by it.

Comes in: vectors of real documents, which lie elsewhere than labels do, and their exactly nearest labels. Goes out: the
number of cells for a shard, an index that visits as many of them as it must, and the recall of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from ezxmc_ray.index.build import (
    TRAINING_LABELS,
    Blocks,
    auto_factory,
    build_from_blocks,
    cells_to_compare,
    sample_of,
)
from ezxmc_ray.index.exact import ExactShard

#: Labels that stand for a shard when its cells' sizes are estimated, or more where the cells are trained on more.
SAMPLE_LABELS = 65_536
#: For each label that the index may return, so many are ordered by 8 bits a component: one of these.
REFINED = (2.0, 4.0, 8.0, 16.0)
#: What a query spends on a centroid, and on a label that is refined, in labels that fast scan compares (measured at 384
#: components on one core: 6 ns a label, 0.1 us a centroid, 1 us a refined label).
CENTROID_COST, REFINING_COST = 16, 150


@dataclass(frozen=True)
class Nearest:
    """The exactly nearest labels of some documents. ``queries``: float32 [q, d]; ``labels``: int64 [q, k]."""

    queries: np.ndarray
    labels: np.ndarray

    def halves(self) -> tuple[Nearest, Nearest]:
        """Every other document, and the others; of one document twice the same."""
        others = slice(1 if len(self.queries) > 1 else 0, None, 2)
        return Nearest(self.queries[::2], self.labels[::2]), Nearest(self.queries[others], self.labels[others])

    def within(self, first: int, stop: int) -> np.ndarray:
        """Which of the nearest labels are among ``first`` to ``stop``, bool [q, k]."""
        return (self.labels >= first) & (self.labels < stop)


def nearest_labels(
    blocks: Iterable[np.ndarray], first: int, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 and numbers int64 of the ``k`` labels nearest to each query, [q, k], by exact search.

    ``blocks``: vectors of the labels from ``first`` on, [m, d] each, of which one is in memory at a time.
    """
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    for block in blocks:
        scores, labels = ExactShard(block, first).search(queries, min(k, len(block)))
        best.add_result(scores, labels)
        first += len(block)
    best.finalize()
    return best.D, best.I


def merge_nearest(parts: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> np.ndarray:
    """The ``k`` best labels, int64 [q, k], of what several :func:`nearest_labels` found."""
    best = faiss.ResultHeap(len(parts[0][0]), k, keep_max=True)
    for scores, labels in parts:
        best.add_result(scores, labels)
    best.finalize()
    return best.I


def recall_at(found: np.ndarray, exact: np.ndarray, k: int) -> float:
    """The share of the ``k`` exactly nearest labels that are among the first ``k`` found; both int [q, >= k]."""
    pairs = zip(exact[:, :k], found[:, :k], strict=True)
    return float(np.mean([np.isin(one, other).mean() for one, other in pairs]))


def choose_cells(
    blocks: Blocks, first: int, labels: int, nearest: Nearest, recall: float
) -> tuple[int, list[dict[str, float]]]:
    """Of the numbers in :func:`cells_to_compare` the one by which a search compares least, and what each would cost.

    A clustering is tried on the shard's own labels: how many cells a search must visit, in the order of their
    centroids, until it has met ``recall`` of the nearest labels, and how many labels lie in these.
    """
    wanted = np.unique(nearest.labels[nearest.within(first, first + labels)]) - first
    compared, tried = cells_to_compare(labels), []
    if not len(wanted):  # nothing to compare by
        return compared[-1], []
    rows = _rows(blocks(), wanted)
    sample = sample_of(blocks(), labels, max(SAMPLE_LABELS, TRAINING_LABELS * max(compared)))
    for cells in compared:
        quantizer = faiss.IndexFlatIP(sample.shape[1])
        clustering = faiss.Clustering(sample.shape[1], cells)
        clustering.niter, clustering.spherical, clustering.max_points_per_centroid = 10, True, TRAINING_LABELS
        clustering.train(sample, quantizer)
        cell_of = np.zeros(labels, np.int64)
        cell_of[wanted] = quantizer.search(rows, 1)[1][:, 0]
        sizes = np.bincount(quantizer.search(sample, 1)[1][:, 0], minlength=cells)
        reach = reach_of(quantizer.search(nearest.queries, cells)[1], cell_of, sizes, first, nearest)
        probes = reach.probes_for(recall)
        visited = float(reach.visited[probes - 1] / sizes.sum() * labels)
        tried.append({"cells": cells, "probes": probes, "labels_visited": visited})
    best = min(tried, key=lambda one: one["labels_visited"] + CENTROID_COST * one["cells"])
    return int(best["cells"]), tried


@dataclass(frozen=True)
class Reach:
    """What visiting 1, 2, … cells reaches: ``met``, the share of the nearest labels that lie in them, rising to 1;
    ``visited``, how many labels do in the mean. Both float64 [cells]."""

    met: np.ndarray
    visited: np.ndarray

    def probes_for(self, share: float) -> int:
        """How many cells must be visited to meet ``share`` of the nearest labels; all, if that does not."""
        return min(len(self.met), int(np.searchsorted(self.met, share)) + 1)


def reach_of(order: np.ndarray, cell_of: np.ndarray, sizes: np.ndarray, first: int, nearest: Nearest) -> Reach:
    """What the cells reach of the labels from ``first`` on, whose cells are ``cell_of`` (int64 [n]).

    ``order``: in which each query visits the cells, int64 [q, cells]; ``sizes``: labels a cell.
    """
    cells = order.shape[1]
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(cells)[None], axis=1)
    here = nearest.within(first, first + len(cell_of))
    query = np.nonzero(here)[0]
    met = np.cumsum(np.bincount(rank[query, cell_of[nearest.labels[here] - first]], minlength=cells))
    return Reach(met / met[-1], np.cumsum(sizes[order], axis=1).mean(axis=0))


def tune(index: Any, first: int, nearest: Nearest, recall: float) -> tuple[int, float, float]:
    """Set how many cells an auto ``index`` visits and how many labels it refines, so that it finds ``recall`` of its
    nearest labels for the least work.

    Returns both, the second by label that is returned, and the share found. It is less than wanted where visiting all
    and refining most does not reach it.
    """
    cells, refining = parts_of(index)
    k = nearest.labels.shape[1]
    if not nearest.within(first, first + index.ntotal).any():
        return int(cells.nprobe), float(refining.k_factor), 1.0
    cell_of = _cells_of(cells)
    order = cells.quantizer.search(nearest.queries, cells.nlist)[1]
    reach = reach_of(order, cell_of, np.bincount(cell_of, minlength=cells.nlist), first, nearest)
    tried = reach.probes_for((1 + recall) / 2)
    choices = [(np.inf, int(cells.nlist), REFINED[-1])]
    for refined in REFINED:
        kept = _found(index, first, nearest, tried, refined) / reach.met[tried - 1]  # by the codes
        if kept >= recall:
            probes = reach.probes_for(recall / kept)
            choices.append((reach.visited[probes - 1] + REFINING_COST * refined * k, probes, refined))
    # What the codes keep falls with the cells: the cheapest choice may not reach it however many are visited.
    for _, probes, refined in sorted(choices):
        while (found := _found(index, first, nearest, probes, refined)) < recall and probes < cells.nlist:
            probes = min(cells.nlist, probes + max(1, probes // 16))
        if found >= recall:
            break
    return probes, refined, found


def parts_of(index: faiss.IndexIDMap) -> tuple[Any, Any]:
    """What an auto index is made of: its cells (an IndexIVF), and what orders the labels that they let through."""
    refining: Any = faiss.downcast_index(index.index)
    return faiss.downcast_index(refining.base_index), refining


def _found(index: Any, first: int, nearest: Nearest, probes: int, refined: float) -> float:
    """The share of its nearest labels that ``index`` finds, which is set to so many probes and refined labels."""
    cells, refining = parts_of(index)
    cells.nprobe, refining.k_factor = probes, refined
    answers = index.search(nearest.queries, min(nearest.labels.shape[1], index.ntotal))[1]
    here = nearest.within(first, first + index.ntotal)
    hits = [np.isin(one[h], other).sum() for one, h, other in zip(nearest.labels, here, answers, strict=True)]
    return float(np.sum(hits) / here.sum())


def build_auto(
    blocks: Blocks, labels: int, first: int, cells: int, nearest: Nearest, recall: float
) -> tuple[faiss.Index, int, float, float]:
    """The index that auto makes of a shard, and what :func:`tune` says of it."""
    dimension = nearest.queries.shape[1]
    index = build_from_blocks(blocks, labels, first, auto_factory(cells, dimension))
    return index, *tune(index, first, nearest, recall)


def _cells_of(cells: Any) -> np.ndarray:
    """The cell of each label of a shard, int64 [n]."""
    found = np.zeros(cells.ntotal, np.int64)
    for cell in range(cells.nlist):
        size = cells.invlists.list_size(cell)
        if size:
            found[faiss.rev_swig_ptr(cells.invlists.get_ids(cell), size)] = cell
    return found


def _rows(blocks: Iterable[np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Rows ``wanted`` (rising) of all ``blocks``: float32 [w, d]."""
    parts, done = [], 0
    for block in blocks:
        low, high = np.searchsorted(wanted, [done, done + len(block)])
        parts.append(np.asarray(block[wanted[low:high] - done], np.float32))
        done += len(block)
    return np.concatenate(parts)

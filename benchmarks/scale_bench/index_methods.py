"""One kind of index over some label vectors, built, measured and asked: a process of its own.

    python -m scale_bench.index_methods KIND FOLDER LABELS LIMIT_S OUTPUT

``auto`` is what this project picks; the others stand beside it. A kind with a search depth (probes, ef, refined labels)
takes the least one with which it finds 0.97 of the 400 nearest labels of the tuning queries, or the last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from common.measures import memory

K, WANTED = 400, 0.97
RECALL_AT = (10, 100, 400)
#: Label numbers int [q, k] of queries float32 [q, d].
Search = Callable[[np.ndarray], np.ndarray]
#: Settings of a search, as faiss.ParameterSpace names them.
Depth = dict[str, int]


class Peak:
    """The most memory of its own (not of mapped files) that this process has, looked at 50 times a second."""

    def __init__(self) -> None:
        self.gib, self._ended = memory("RssAnon"), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.gib = max(self.gib, memory("RssAnon"))

    def end(self) -> float:
        """Stop looking; GiB."""
        self._ended.set()
        self._thread.join()
        return max(self.gib, memory("RssAnon"))


def auto(vectors: np.ndarray, tuning: np.ndarray, folder: Path) -> tuple[Search, dict[str, Any]]:
    """As the stage ``index`` does it, shard after shard in this process; the index is mapped from its file."""
    from ezxmc_ray.config import Config
    from ezxmc_ray.index.build import EXACT_FACTORY, ShardInfo, auto_factory, is_exact, save_shard
    from ezxmc_ray.index.exact import ExactShard
    from ezxmc_ray.index.measure import Nearest, build_auto, choose_cells, nearest_labels
    from ezxmc_ray.index.search import ShardedIndex
    from ezxmc_ray.stages.index import slices_of
    from ezxmc_ray.storage import Storage

    config, count = Config().index, len(vectors)
    if is_exact(config, count, 0):
        index = ShardedIndex([ExactShard(vectors)])
        return lambda queries: index.search(queries, K)[1], {"factory": EXACT_FACTORY}
    starts = range(0, count, 16_384)
    exact = nearest_labels((vectors[at : at + 16_384] for at in starts), 0, tuning, K)[1]
    nearest, tuned = Nearest(tuning, exact), []
    infos: list[ShardInfo] = []
    compared: list[dict[str, float]] = []
    for one in slices_of(count, config.shard_labels):
        mine = vectors[one.first : one.stop]
        blocks = lambda mine=mine: (mine[at : at + 16_384] for at in range(0, len(mine), 16_384))  # noqa: E731
        if not infos:
            cells, compared = choose_cells(blocks, one.first, len(mine), nearest, config.recall)
        built, *how = build_auto(blocks, len(mine), one.first, cells, nearest, config.recall)
        infos.append(save_shard(built, folder / f"shard-{one.number:03d}.faiss", one.first))
        tuned.append(how)
        del built
    loaded = ShardedIndex.load(Storage(str(folder.parent)), folder.name, infos)
    about = {"factory": auto_factory(cells, vectors.shape[1]), "probes, refined, recall": tuned, "compared": compared}
    return lambda queries: loaded.search(queries, K)[1], about


def by_factory(factory: str, depths: Sequence[Depth] = ({},)) -> Callable[..., tuple[Search, dict[str, Any]]]:
    """A FAISS index, trained on 65,536 labels or 64 a cell; ``depths``: settings of its search, from fast to slow."""

    def build(vectors: np.ndarray, tuning: np.ndarray, folder: Path) -> tuple[Search, dict[str, Any]]:
        count, dimension = vectors.shape
        root = count**0.5
        name = factory.format(cells_4=round(4 * root), cells_2=round(2 * root), quarter=dimension // 4)
        index: Any = faiss.index_factory(dimension, name, faiss.METRIC_INNER_PRODUCT)
        cells: Any = faiss.try_extract_index_ivf(index)
        wanted = 65_536 if cells is None else max(65_536, 64 * cells.nlist)
        sample = np.random.default_rng(0).permutation(count)[:wanted]
        if not index.is_trained:
            index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        for start in range(0, count, 65_536):
            index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
        search, depth = least_depth(index, depths, vectors, tuning)
        return search, {"factory": name, "depth": depth}

    return build


def least_depth(index: Any, depths: Sequence[Depth], vectors: np.ndarray, tuning: np.ndarray) -> tuple[Search, Depth]:
    """``index`` set to the first of ``depths`` that reaches WANTED, and which it is."""

    def search(queries: np.ndarray) -> np.ndarray:
        found: np.ndarray = index.search(queries, K)[1]
        return found

    exact = faiss.knn(tuning[:100], vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1] if len(depths) > 1 else None
    depth: Depth = {}
    for depth in depths:
        for key, value in depth.items():
            faiss.ParameterSpace().set_index_parameter(index, key, value)
        if exact is None or recall(search(tuning[:100]), exact, K) >= WANTED:
            break
    return search, depth


def hnswlib(vectors: np.ndarray, tuning: np.ndarray, folder: Path) -> tuple[Search, dict[str, Any]]:
    """M = 32, ef_construction = 100."""
    import hnswlib as library

    index = library.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=100, M=32)
    for start in range(0, len(vectors), 65_536):
        index.add_items(vectors[start : start + 65_536])
    exact = faiss.knn(tuning[:100], vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    for ef in (400, 800, 1600):
        index.set_ef(ef)
        if recall(index.knn_query(tuning[:100], k=K)[0], exact, K) >= WANTED:
            break
    index.save_index(str(folder / "index.bin"))
    return lambda queries: index.knn_query(queries, k=K)[0].astype(np.int64), {"ef": ef}


def autofaiss(vectors: np.ndarray, tuning: np.ndarray, folder: Path) -> tuple[Search, dict[str, Any]]:
    """Told what is wanted here: 20 ms a query, 2 GB for the index, 4 GB to build it."""
    from autofaiss import build_index

    index, about = build_index(
        np.asarray(vectors),
        index_path=str(folder / "knn.index"),
        index_infos_path=str(folder / "infos.json"),
        metric_type="ip",
        max_index_query_time_ms=20,
        max_index_memory_usage="2G",
        current_memory_available="4G",
    )
    return lambda queries: index.search(queries, K)[1], {"factory": about["index_key"], "depth": about["index_param"]}


_PROBES = [{"nprobe": probes} for probes in (64, 128, 256, 512, 1024)]
METHODS: dict[str, Callable[..., tuple[Search, dict[str, Any]]]] = {
    "auto": auto,
    "flat": by_factory("Flat"),
    "before": by_factory("IVF{cells_4},SQ8", [{"nprobe": 32}]),
    "sq8_flat": by_factory("SQ8"),
    "ivf_pq_fastscan_refine": by_factory(
        "IVF{cells_2},PQ{quarter}x4fs,Refine(SQ8)", [p | {"k_factor_rf": 4} for p in _PROBES]
    ),
    "hnsw32": by_factory("HNSW32", [{"efSearch": ef} for ef in (400, 800, 1600)]),
    "hnswlib": hnswlib,
    "autofaiss": autofaiss,
}
#: What is no part of this project's environment.
OTHERS = ("hnswlib", "autofaiss")


def recall(found: np.ndarray, exact: np.ndarray, k: int) -> float:
    """The share of the ``k`` exactly nearest that are among the first ``k`` found."""
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(exact[:, :k], found[:, :k], strict=True)]))


def measure(method: str, folder: Path, labels: int) -> dict[str, Any]:
    """The figures of one kind."""
    vectors = np.load(folder / f"labels-{labels}" / "vectors.npy", mmap_mode="r")
    tuning, queries = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("tuning", "queries"))
    exact = np.load(folder / f"nearest-{labels}.npy")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        peak, began, cpu = Peak(), time.monotonic(), time.process_time()
        search, about = METHODS[method](vectors, tuning, Path(scratch))
        done: dict[str, Any] = {
            "build_s": time.monotonic() - began,
            "build_cpu_s": time.process_time() - cpu,
            "peak_gib": peak.end(),
        }
        size = sum(path.stat().st_size for path in Path(scratch).iterdir())
        done |= {"index_gib": size / 2**30 if size else None}
        found = search(queries)
        done |= {f"recall@{k}": recall(found, exact, k) for k in RECALL_AT}
        began, cpu = time.monotonic(), time.process_time()
        for row in range(100):
            search(queries[row : row + 1])
        done |= {"queries_per_s_batch_1": 100 / (time.monotonic() - began)}
        done |= {"queries_per_cpu_s_batch_1": 100 / (time.process_time() - cpu)}
        batch = np.concatenate([queries, tuning, queries])[:1024]
        began = time.monotonic()
        search(batch)
        return {**done, "queries_per_s_batch_1024": len(batch) / (time.monotonic() - began), **about}


def main() -> None:
    """Measure the kind that the command line names; what fails or takes too long is written as ``error``."""
    method, folder, labels, limit_s, output = sys.argv[1:]
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    Path(output).write_text(json.dumps({"error": f"more than {int(limit_s):,} s"}))
    signal.alarm(int(limit_s))
    try:
        result = measure(method, Path(folder), int(labels))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    Path(f"{output}.tmp").write_text(json.dumps(result))
    os.replace(f"{output}.tmp", output)


if __name__ == "__main__":
    main()

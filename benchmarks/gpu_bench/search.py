"""Exact search among labels: a matrix product and top-k in PyTorch, FAISS's flat index, and the project's index.

Goes out: a row for each way, number of labels, queries and k; for lower precision the recall of the ten nearest.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_bench.device import device, free_memory, on_gpu, seconds_of
from gpu_bench.plan import Settings
from gpu_bench.report import Report

DIMENSION = 384
LABELS, TINY_LABELS = (1_000_000, 4_000_000), (20_000,)
QUERIES, TINY_QUERIES = (1024, 16384), (64,)
NEIGHBORS = (10, 400)
#: Vectors that are drawn at once; bytes of scores that are in memory at once; the fewest labels of a block.
PART, SCORE_BYTES, LEAST_BLOCK = 1 << 20, 2 << 30, 1 << 14
#: Queries by which recall is taken.
COMPARED = 256
#: What a FAISS must be able to do to be taken: torch is imported first, whose CUDA libraries it shares.
PROBE = """
import torch, faiss, numpy
vectors = numpy.ones((64, 8), "float32")
index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), 8)
index.add(vectors)
index.search(vectors, 2)
"""


def search_part(settings: Settings, report: Report) -> None:
    """All ways, the smaller set of labels first."""
    report.note(other_faiss_works=take_other_faiss(settings))
    counts = TINY_QUERIES if settings.tiny else QUERIES
    for labels in TINY_LABELS if settings.tiny else LABELS:
        vectors, queries = _unit(labels, 1), _unit(max(counts), 2)
        exact = _blocked(queries[:COMPARED], vectors, 10, PART)[1]
        dtypes = ("float32", "tf32", "bfloat16") if on_gpu() else ("float32",)
        for count, k, dtype in itertools.product(counts, NEIGHBORS, dtypes):
            work = partial(_in_torch, report, vectors, queries[:count], k, dtype, exact)
            report.attempt(f"PyTorch, matmul and topk, {dtype}", work)
        host, asked = vectors.cpu().numpy(), queries.cpu().numpy()
        del vectors, queries
        free_memory()
        report.attempt("faiss-gpu, Flat", partial(_in_faiss, report, host, asked, counts))
        for precision in (np.float32, np.float16) if on_gpu() else (np.float32,):
            work = partial(_in_project, report, host, asked, counts, precision)
            report.attempt(f"project's ShardedIndex, {np.dtype(precision)}", work)


def take_other_faiss(settings: Settings) -> bool | None:
    """Put the FAISS of the settings first, if it can search on a GPU, tried in a process of its own; None: no other.

    Processes that are started later find it too.
    """
    if settings.faiss is None:
        return None
    paths = os.pathsep.join([settings.faiss, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    tried = subprocess.run([sys.executable, "-c", PROBE], env=environment, check=False, timeout=60)
    if tried.returncode == 0:
        sys.path.insert(0, str(Path(settings.faiss)))
        os.environ["PYTHONPATH"] = paths
    return tried.returncode == 0


def _unit(count: int, seed: int) -> torch.Tensor:
    """float32 [count, d], rows of unit length, on the device."""
    generator = torch.Generator(device=device()).manual_seed(seed)
    made = torch.empty(count, DIMENSION, device=device())
    for start in range(0, count, PART):
        part = torch.randn(min(PART, count - start), DIMENSION, device=device(), generator=generator)
        made[start : start + len(part)] = torch.nn.functional.normalize(part, dim=-1)
    return made


@torch.inference_mode()
def _blocked(queries: torch.Tensor, labels: torch.Tensor, k: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores float32 and places int64, [q, k]: the best of each block of labels, merged with those before."""
    best = torch.empty(len(queries), 0, device=queries.device)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(labels), block):
        scores = queries @ labels[start : start + block].T
        top, place = scores.topk(min(k, scores.shape[1]), dim=1)
        best, where = torch.cat([best, top.float()], 1), torch.cat([where, place + start], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        where = where.gather(1, order)
    return best, where


def _in_torch(
    report: Report, labels: torch.Tensor, queries: torch.Tensor, k: int, dtype: str, exact: torch.Tensor
) -> None:
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    some, all_labels = queries.to(kind), labels.to(kind)
    block = max(LEAST_BLOCK, min(len(labels), SCORE_BYTES // (len(queries) * some.element_size())))
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        took = seconds_of(lambda: _blocked(some, all_labels, k, block), 2, 1)
        found = _blocked(some[:COMPARED], all_labels, 10, block)[1]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    same = float((found.unsqueeze(2) == exact[: len(found)].unsqueeze(1)).any(2).float().mean())
    _row(report, f"PyTorch, matmul and topk, {dtype}", len(labels), len(queries), k, took, recall_at_10=same)


def _in_faiss(report: Report, host: np.ndarray, asked: np.ndarray, counts: tuple[int, ...]) -> None:
    import faiss

    for what, index in _flat_indexes(faiss):
        index.add(host)
        for count, k in itertools.product(counts, NEIGHBORS):
            took = seconds_of(partial(index.search, asked[:count], k), 2, 1)
            _row(report, what, len(host), count, k, took)
        del index


def _flat_indexes(faiss: Any) -> Iterator[tuple[str, Any]]:
    """Name and empty index of each flat one; on a machine without a GPU, FAISS's on the CPU."""
    if not (hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus()):
        if not on_gpu():  # on one with a GPU this would take minutes
            yield "faiss on the CPU, Flat, float32", faiss.IndexFlatIP(DIMENSION)
        return
    resources = faiss.StandardGpuResources()
    for half in (False, True):
        options = faiss.GpuIndexFlatConfig()
        options.useFloat16 = half
        name = f"faiss-gpu, Flat, {'float16' if half else 'float32'}"
        yield name, faiss.GpuIndexFlatIP(resources, DIMENSION, options)


def _in_project(report: Report, host: np.ndarray, asked: np.ndarray, counts: tuple[int, ...], precision: Any) -> None:
    from ezxmc_ray.index.search import ShardedIndex

    index = ShardedIndex.from_vectors(host, gpu_dtype=precision if on_gpu() else None)
    where = "GPU" if index.is_on_gpus else "CPU"
    for count, k in itertools.product(counts if index.is_on_gpus else counts[:1], NEIGHBORS):
        took = seconds_of(partial(index.search, asked[:count], k), 2, 1)
        _row(report, f"project's ShardedIndex on the {where}, {np.dtype(precision)}", len(host), count, k, took)


def _row(report: Report, what: str, labels: int, queries: int, k: int, seconds: float, **more: Any) -> None:
    tflops = 2 * queries * labels * DIMENSION / seconds / 1e12
    about = {"labels": labels, "queries": queries, "k": k}
    report.row(what, **about, seconds=seconds, queries_per_s=queries / seconds, tflops=tflops, **more)

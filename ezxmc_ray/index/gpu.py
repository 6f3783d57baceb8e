"""Labels on this process's GPUs: exact search by PyTorch, other kinds of index by FAISS where it is built for GPUs.

Comes in: shards as the CPU searches them, mapped from files. Goes out: copies on the GPUs, in turn. The host keeps no
copy of its own: what is mapped may leave its memory. What a GPU has no room for is an error that says what to do; what
has no form for GPUs (HNSW, fast scan) is searched on CPUs, and who searches says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from ezxmc_ray.config import EncoderConfig, IndexConfig
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import is_out_of_memory, memory_errors
from ezxmc_ray.index.exact import SEARCHED_AT_ONCE, ExactShard, as_exact

#: FAISS returns at most so many neighbors from a GPU.
_MAX_NEIGHBORS = 2048
#: FAISS's words for an index that has no form for GPUs.
_NO_FORM = ("not implemented on GPU", "not supported on GPU")
#: What to do where labels fit, and then not the scores beside them and the encoder's activations.
_MAKE_ROOM = (
    "set encoder.batch_tokens lower, encoder.vector_dtype=float16, index.gpus_per_actor higher, or index.gpu=false to "
    "search on CPUs"
)


class TorchShard:
    """As :class:`ExactShard`, on a device of PyTorch's; ``dtype``: of the vectors there. It computes in float32."""

    def __init__(self, shard: ExactShard, device: str, dtype: Any) -> None:
        import torch  # seconds, for who searches on a GPU

        self.torch, self.device = torch, device
        self.first_label, self.ntotal = shard.first_label, shard.ntotal
        self.vectors = torch.empty(shard.vectors.shape, dtype=getattr(torch, np.dtype(dtype).name), device=device)
        for start in range(0, shard.ntotal, SEARCHED_AT_ONCE):
            block = np.array(shard.vectors[start : start + SEARCHED_AT_ONCE])  # a mapped one cannot be written to
            self.vectors[start : start + len(block)] = torch.from_numpy(block).to(device)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and label numbers int64, [q, k], in falling score. ``queries``: float32 [q, d]; k <= n.

        Errors: UserError where the scores find no room on the GPU.
        """
        torch = self.torch
        parts = [torch.from_numpy(part) for part in np.array_split(queries, _parts(len(queries)))]
        with memory_errors("when labels were searched on the GPU", _MAKE_ROOM):
            found = [self._search_some(part, k) for part in parts]
            scores, labels = (torch.cat(several).cpu().numpy() for several in zip(*found, strict=True))
        return scores, labels + self.first_label

    def vectors_at(self, places: np.ndarray) -> np.ndarray:
        """The vectors in these ``places`` (int64 [m], from 0): float32 [m, d]."""
        return np.asarray(self.vectors[self.torch.from_numpy(places).to(self.device)].float().cpu().numpy())

    def _search_some(self, queries: Any, k: int) -> tuple[Any, Any]:
        queries = queries.to(self.device)
        scores = queries.new_empty((len(queries), 0))
        labels = scores.long()
        with self.torch.inference_mode():
            for start in range(0, self.ntotal, SEARCHED_AT_ONCE):
                block = queries @ self.vectors[start : start + SEARCHED_AT_ONCE].float().T
                best = block.topk(min(k, block.shape[1]), sorted=False)
                scores, labels = (
                    self.torch.cat([scores, best.values], 1),
                    self.torch.cat([labels, best.indices + start], 1),
                )
                scores, places = scores.topk(min(k, scores.shape[1]))
                labels = labels.gather(1, places)
        return scores, labels


def gpu_dtype(encoder: EncoderConfig, index: IndexConfig) -> str | None:
    """What exact shards are on GPUs, as :class:`ShardedIndex` takes it; None: GPUs are not to be used."""
    return encoder.vector_dtype if index.gpu else None


def on_gpus(shards: Sequence[Any], dtype: Any = np.float32) -> list[Any]:
    """Copies of ``shards`` on this process's GPUs, in turn; none if there is no GPU, or no form for it.

    ``dtype``: of the vectors of exact shards there. Errors: UserError where a GPU has no room, or fails otherwise.
    """
    import torch

    exact = [as_exact(shard) for shard in shards]
    gpus = torch.cuda.device_count() if all(exact) else faiss.get_num_gpus()
    if not gpus:
        return []
    try:
        if all(exact):
            parts = divided([shard for shard in exact if shard], gpus)
            return [TorchShard(part, f"cuda:{i % gpus}", dtype) for i, part in enumerate(parts)]
        resources = [faiss.StandardGpuResources() for _ in range(gpus)]
        return [faiss.index_cpu_to_gpu(resources[i % gpus], i % gpus, shard) for i, shard in enumerate(shards)]
    except RuntimeError as error:  # PyTorch's for memory is one, too
        if any(words in str(error) for words in _NO_FORM):
            return []
        raise gpu_error(error, sum(shard.ntotal for shard in shards), all(exact), dtype) from error


def divided(shards: Sequence[ExactShard], gpus: int) -> list[ExactShard]:
    """The labels of ``shards`` in as many parts for each GPU, of about the same size, so that one holds its share."""
    parts = []
    for shard in shards:
        size = max(1, -(-shard.ntotal // gpus))
        for start in range(0, shard.ntotal, size):
            parts.append(ExactShard(shard.vectors[start : start + size], shard.first_label + start, shard.owner))
    return parts


def max_neighbors(shard: Any) -> int:
    """How many labels a copy of :func:`on_gpus` returns at most."""
    return int(shard.ntotal) if isinstance(shard, TorchShard) else _MAX_NEIGHBORS


def gpu_error(error: RuntimeError, labels: int, exact: bool, dtype: Any) -> UserError:
    """The sentence for what was raised when ``labels`` labels were copied to GPUs."""
    if not is_out_of_memory(error):
        return UserError(f"The labels cannot be copied to the GPU ({one_line(error)}): set index.gpu=false.")
    smaller = "encoder.vector_dtype=float16, which takes half, or " if exact and np.dtype(dtype).itemsize > 2 else ""
    return UserError(
        f"{labels:,} labels do not fit into the GPU's memory beside the encoder: set {smaller}"
        "index.gpus_per_actor higher, which divides them over GPUs of a node (`ezxmc serve`: --replica-gpus), or "
        "index.gpu=false to search on CPUs."
    )


def _parts(queries: int) -> int:
    """Into how many parts queries are divided: scores of a block of labels for 1,024 of them are a quarter of a GB."""
    return max(1, -(-queries // 1024))

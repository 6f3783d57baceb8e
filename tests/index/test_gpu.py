"""What searches on GPUs, as far as a CPU goes: PyTorch's search on the device cpu, and the sentences."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from ezxmc_ray.config import EncoderConfig, IndexConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.index import exact, gpu
from ezxmc_ray.index.build import build_shard
from ezxmc_ray.index.exact import ExactShard, as_exact
from ezxmc_ray.index.gpu import TorchShard, divided, gpu_dtype, gpu_error, on_gpus
from ezxmc_ray.index.search import ShardedIndex
from tests.index.sharded import sharded_index

#: First label, labels and GPU of the parts of five and of four labels on two GPUs.
SHARES = [(0, 3, 0), (3, 2, 1), (5, 2, 0), (7, 2, 1)]


def coarse_rows(rows: int, seed: int) -> np.ndarray:
    """Small whole numbers: exact in float16, inner products exact in float32, and many equal."""
    return np.random.default_rng(seed).integers(-2, 3, size=(rows, 6)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_torch_finds_what_faiss_finds(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SEARCHED_AT_ONCE", 64)
    monkeypatch.setattr(exact, "SEARCHED_AT_ONCE", 50)
    vectors, queries = coarse_rows(200, 0).astype(dtype), coarse_rows(1500, 1)
    slices = [(0, 70), (70, 200)]
    plain = ShardedIndex([ExactShard(vectors[start:stop], start) for start, stop in slices])
    on_torch = ShardedIndex(
        [TorchShard(ExactShard(vectors[start:stop], start), "cpu", dtype) for start, stop in slices]
    )
    excluded = [[number % 200] for number in range(len(queries))]
    for k in (1, 7, 190):
        for one, other in zip(plain.search(queries, k, excluded), on_torch.search(queries, k, excluded), strict=True):
            np.testing.assert_array_equal(one, other)
    parts = divided([ExactShard(vectors[start:stop], start) for start, stop in slices], 3)
    assert [(part.first_label, part.ntotal) for part in parts] == [
        *((0, 24), (24, 24), (48, 22)),
        *((70, 44), (114, 44), (158, 42)),
    ]
    over_three = ShardedIndex([TorchShard(part, "cpu", dtype) for part in parts])
    for one, other in zip(plain.search(queries, 90), over_three.search(queries, 90), strict=True):
        np.testing.assert_array_equal(one, other)
    given = np.random.default_rng(2).integers(-1, 200, size=(len(queries), 9)).astype(np.int32)
    for index in (on_torch, over_three):
        np.testing.assert_array_equal(index.scores(queries, given), plain.scores(queries, given))
    reference = ShardedIndex([build_shard(vectors.astype(np.float32), 0, "IDMap,Flat")])
    np.testing.assert_array_equal(plain.search(queries, 9)[1], reference.search(queries, 9)[1])


def test_an_exact_file_is_searched_like_its_vectors() -> None:
    vectors = coarse_rows(50, 0)
    found = as_exact(build_shard(vectors, 300, "IDMap,Flat"))
    assert found is not None and found.first_label == 300
    np.testing.assert_array_equal(found.vectors, vectors)
    assert as_exact(build_shard(vectors, 300, "HNSW8")) is None


def test_without_a_gpu_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert on_gpus([ExactShard(coarse_rows(3, 0))]) == on_gpus([build_shard(coarse_rows(9, 0), 0, "HNSW8")]) == []
    assert not ShardedIndex.from_vectors(coarse_rows(3, 0), gpu_dtype="float32").is_on_gpus


@pytest.mark.parametrize("gpus", [1, 3])
def test_labels_that_gpus_share_are_all_found(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated GPUs: CPUs hold the parts that they would hold, of which there are more than files."""
    monkeypatch.setattr(
        "ezxmc_ray.index.search.on_gpus",
        lambda shards, dtype: [TorchShard(part, "cpu", dtype) for part in divided(shards, gpus)],
    )
    vectors, queries = coarse_rows(200, 0), coarse_rows(9, 1)
    plain = sharded_index(vectors, shard_labels=120)
    shared = sharded_index(vectors, shard_labels=120, gpu_dtype="float32")
    assert shared.is_on_gpus and shared.labels == 200
    for k in (5, 90):
        for one, other in zip(plain.search(queries, k), shared.search(queries, k), strict=True):
            np.testing.assert_array_equal(one, other)


def test_every_gpu_gets_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated GPUs: what would be put where."""
    put: list[tuple[int, int, str, object]] = []
    monkeypatch.setattr(
        gpu, "TorchShard", lambda part, device, dtype: put.append((part.first_label, part.ntotal, device, dtype))
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    on_gpus([ExactShard(coarse_rows(5, 0), 0), ExactShard(coarse_rows(4, 0), 5)], "float16")
    assert put == [(first, count, f"cuda:{device}", "float16") for first, count, device in SHARES]
    for name, simulated in (
        ("get_num_gpus", lambda: 2),
        ("StandardGpuResources", lambda: "resources"),
        ("index_cpu_to_gpu", lambda *arguments: arguments),
    ):
        monkeypatch.setattr(faiss, name, simulated, raising=False)
    cells = [build_shard(coarse_rows(40, 0), 0, "IVF2,Flat") for _ in range(3)]
    assert on_gpus(cells) == [("resources", device, cells[i]) for i, device in enumerate((0, 1, 0))]


def test_gpus_are_used_as_configured() -> None:
    assert gpu_dtype(EncoderConfig(vector_dtype="float16"), IndexConfig()) == "float16"
    assert gpu_dtype(EncoderConfig(), IndexConfig(gpu=False)) is None


@pytest.mark.parametrize(
    ("raised", "dtype", "said"),
    [
        ("CUDA out of memory. Tried to allocate", "float32", "set encoder.vector_dtype=float16, which takes half, or"),
        ("CUDA out of memory. Tried to allocate", "float16", "set index.gpus_per_actor higher, which divides"),
        ("StandardGpuResources: alloc fail type FlatData dev 0", "float16", "do not fit into the GPU's memory"),
        ("Error: 'err == CUBLAS_STATUS_SUCCESS'", "float32", "cannot be copied to the GPU (Error: 'err =="),
    ],
)
def test_a_gpu_that_fails_is_a_sentence_and_no_search_on_cpus(
    raised: str, dtype: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated_failure(*_: object) -> None:
        raise RuntimeError(raised)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpu, "TorchShard", simulated_failure)
    with pytest.raises(UserError) as error:
        ShardedIndex.from_vectors(coarse_rows(2000, 0), gpu_dtype=dtype)
    assert said in str(error.value)
    assert said in str(gpu_error(RuntimeError(raised), 2000, True, dtype))


def test_what_has_no_form_for_gpus_is_searched_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulated_failure(*_: object) -> None:
        raise RuntimeError("This index type is not implemented on GPU.")

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", simulated_failure, raising=False)
    assert not ShardedIndex([build_shard(coarse_rows(90, 0), 0, "HNSW8")], "float32").is_on_gpus


def test_scores_without_room_on_the_gpu_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels fit; the scores of a block of them do not."""

    def fake_full_device(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    shard = TorchShard(ExactShard(coarse_rows(5, 0), 0), "cpu", np.float32)
    monkeypatch.setattr(shard, "_search_some", fake_full_device)
    with pytest.raises(UserError, match=r"^Memory ran out when labels were searched on the GPU: set encoder\.batch_to"):
        ShardedIndex([shard]).search(coarse_rows(2, 1), 3)

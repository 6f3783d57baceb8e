from __future__ import annotations

import hashlib
import resource
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from ezxmc_ray.config import IndexConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import (
    auto_factory,
    build_from_blocks,
    build_shard,
    cells_to_compare,
    check_factory,
    is_exact,
    sample_of,
    save_shard,
)


def unit_rows(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_few_labels_are_searched_exactly_and_so_are_all_on_gpus() -> None:
    config = IndexConfig(exact_below=10_000)
    assert is_exact(config, 10_000, gpus=0) and not is_exact(config, 10_001, gpus=0)
    assert is_exact(config, 10_001, gpus=1) and is_exact(config, 10_001, gpus=2)
    assert not is_exact(IndexConfig(exact_below=10_000, gpu=False), 10_001, gpus=2)


@pytest.mark.parametrize(("dimension", "codes"), [(384, "PQ192x4fs"), (33, "PQ33x4fs")])
def test_auto_compares_codes_in_one_cell_or_some(dimension: int, codes: str) -> None:
    assert cells_to_compare(10_000) == [1, 50, 100]
    assert auto_factory(50, dimension) == f"IVF50,{codes},Refine(SQ8)"
    check_factory(auto_factory(50, dimension), dimension)


@pytest.mark.parametrize("factory", ["Flaat", "IVF10,PQ7"])  # 384 components are no multiple of 7
def test_a_factory_string_that_does_not_fit_is_one_sentence(factory: str) -> None:
    with pytest.raises(UserError, match=rf"^index\.factory={factory} is not a FAISS factory string .* length 384: "):
        check_factory(factory, 384)


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("IVF8,Flat", 8),
        ("IVF17,PQ8x4", 17),
        ("IVF8,PQ8x4fs,RFlat", 16),
        ("PCA8,IVF8,PQ8x4", 16),
        ("IDMap,PQ8x4", 16),
        ("SQ8", 1),
    ],
)
def test_the_labels_that_an_index_takes_are_known_before_it_is_trained(factory: str, least: int) -> None:
    check_factory(factory, 16, least)
    build_shard(unit_rows(least, 16), 0, factory)
    if least > 1:
        with pytest.raises(UserError, match=rf"^{least - 1} labels a shard are too few .* index\.factory={factory}: "):
            check_factory(factory, 16, least - 1)


def test_a_sample_is_rows_of_the_blocks_and_always_the_same() -> None:
    vectors = unit_rows(1000, 4)
    blocks = [vectors[:300], vectors[300:301], vectors[301:]]
    taken = sample_of(blocks, 1000, 100)
    assert len(np.unique(taken, axis=0)) == 100 and taken.dtype == np.float32
    assert {row.tobytes() for row in taken} <= {row.tobytes() for row in vectors}
    np.testing.assert_array_equal(taken, sample_of([vectors.astype(np.float32)], 1000, 100))
    np.testing.assert_array_equal(sample_of(blocks, 1000, 1000), vectors)


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IVF4,SQ8", "IVF4,PQ8x4fs,Refine(SQ8)"])
def test_blocks_make_the_index_that_the_whole_makes(factory: str) -> None:
    vectors = unit_rows(300, 16)
    parts = build_from_blocks(lambda: [vectors[:7], vectors[7:260], vectors[260:]], 300, 40, factory)
    for one, other in zip(parts.search(vectors, 9), build_shard(vectors, 40, factory).search(vectors, 9), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("factory", ["IDMap,Flat", "Flat", "HNSW16", "IVF4,Flat", "IVF4,SQ8"])
def test_ids_are_label_numbers_whatever_the_kind(factory: str) -> None:
    vectors = unit_rows(300, 16)
    index = build_shard(vectors, 1000, factory, probes=4)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT and index.ntotal == 300
    _, labels = index.search(vectors[[5, 299]], 1)
    assert labels[:, 0].tolist() == [1005, 1299]


def test_the_probes_are_saved_with_the_index(tmp_path: Path) -> None:
    save_shard(build_shard(unit_rows(300, 16), 0, "IVF8,Flat", probes=5), tmp_path / "a.faiss", 0)
    index: Any = faiss.read_index(str(tmp_path / "a.faiss"))
    assert index.nprobe == 5
    few: Any = build_shard(unit_rows(300, 16), 0, "IVF8,Flat", probes=50)
    assert few.nprobe == 8


def test_too_few_labels_to_train_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^3 labels a shard are too few to train index\.factory=IVF8,Flat: .*\.$"):
        build_shard(unit_rows(3, 16), 0, "IVF8,Flat")


def test_a_saved_shard_is_a_plain_faiss_file(tmp_path: Path) -> None:
    vectors = unit_rows(50, 16)
    path = tmp_path / "run" / "index" / "shard-001.faiss"
    info = save_shard(build_shard(vectors, 100, "IDMap,Flat"), path, 100)
    assert [file.name for file in path.parent.iterdir()] == ["shard-001.faiss"]
    assert (info.file, info.first_label, info.labels) == ("shard-001.faiss", 100, 50)
    assert info.bytes == path.stat().st_size
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    index = faiss.read_index(str(path))
    assert index.search(vectors[:3], 1)[1][:, 0].tolist() == [100, 101, 102]
    inner: Any = faiss.downcast_index(index)
    np.testing.assert_array_equal(inner.index.reconstruct(49), vectors[49])


CANNOT_WRITE = (
    r"^Cannot write .*shard-000\.faiss \({}\): the folder for temporary files must be writable and have room for it; "
    r"TMPDIR names another one\.$"
)


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match=CANNOT_WRITE.format("File exists")):
        save_shard(build_shard(unit_rows(5, 4), 0, "Flat"), tmp_path / "file" / "shard-000.faiss", 0)


@pytest.mark.parametrize("missing", [1, 100, 3000])
def test_a_shard_whose_last_bytes_found_no_room_is_none(tmp_path: Path, missing: int) -> None:
    """FAISS's own file writer prints a sentence then, and goes on."""
    index, path = build_shard(unit_rows(50, 16), 0, "IDMap,Flat"), tmp_path / "shard-000.faiss"
    size = save_shard(index, path, 0).bytes
    path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, limits[1]))
    try:
        with pytest.raises(UserError, match=CANNOT_WRITE.format("File too large")):
            save_shard(index, path, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())

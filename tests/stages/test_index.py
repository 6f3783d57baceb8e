"""The stage index without a cluster: its tasks run in this process, and documents' vectors are made up."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.context import Context, Prepared
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.label_texts import LabelTexts
from ezxmc_ray.index.label_vectors import find_label_vectors, join_label_vectors
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.stages import index as stage
from ezxmc_ray.stages import shortlist
from ezxmc_ray.stages.index import Plan, Slice, build_one, index, slices_of
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest
from ezxmc_ray.tables import label_vectors_schema

LABELS, DIMENSION, CANDIDATES = 1500, 16, 30


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture
def vectors() -> np.ndarray:
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(12, DIMENSION))
    return unit(centers[draw.integers(0, 12, LABELS)] + 0.4 * draw.normal(size=(LABELS, DIMENSION)))


@pytest.fixture
def queries(vectors: np.ndarray) -> np.ndarray:
    return unit(vectors[::30] + 0.2 * np.random.default_rng(1).normal(size=(50, DIMENSION)))


@pytest.fixture
def storage(tmp_path: Path, vectors: np.ndarray) -> Storage:
    """A run whose encoder 1 is the student: label vectors in two slices, manifests of documents and student."""
    storage = Storage(str(tmp_path))
    for number, (first, stop) in enumerate([(0, 1000), (1000, LABELS)]):
        column = pa.FixedSizeListArray.from_arrays(vectors[first:stop].reshape(-1), DIMENSION)
        table = pa.table(
            [pa.array(np.arange(first, stop, dtype=np.int32)), column], label_vectors_schema(DIMENSION, "float32")
        )
        counts = {"labels": stop - first, "truncated": 2, "unreadable": 0, "unused_prompts": 1}
        storage.write_table(f"cycle-1/label_vectors/shard-{number:05d}.parquet", table, counts)
    known = Prepared(90, 80, 9, 10, LABELS, 1, [90], "documents", "labels", None)
    write_manifest(storage, layout.DOCUMENTS, Manifest("prepare", "", 90, 1.0, details=dataclasses.asdict(known)))
    write_manifest(storage, layout.STUDENT, Manifest("select", "", 9, 1.0, details={"encoder": 1}))
    return storage


@pytest.fixture
def run_index(storage: Storage, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``run_index(override, …)``: the stage; the details of its manifest."""
    for module in (stage, shortlist):
        monkeypatch.setattr(
            module, "run_tasks", lambda function, arguments, cpus=1: itertools.starmap(function, arguments)
        )
        monkeypatch.setattr(module, "run_task", lambda function, *arguments, cpus=1: function(*arguments))
    monkeypatch.setattr(stage, "run_with_encoder", lambda *_: queries)
    for name in ("cluster_gpus", "cluster_cpus", "node_cpus"):
        monkeypatch.setattr(stage, name, lambda: 0)

    def run(*overrides: str) -> dict[str, Any]:
        config = load_config(None, ["lexical.weight=0", f"lexical.candidates={CANDIDATES}", *overrides])
        done = index(Context(config, storage))
        assert done.rows == storage_labels(storage) and done.files == [
            f"index/{shard['file']}" for shard in done.details["shards"]
        ]
        return done.details

    return run


def storage_labels(storage: Storage) -> int:
    found = read_manifest(storage, layout.DOCUMENTS)
    return int(found.details["labels"]) if found else 0


def share_found(storage: Storage, details: dict[str, Any], vectors: np.ndarray, queries: np.ndarray, k: int) -> float:
    """Of the k exactly nearest labels, how many are among the first k that the saved index finds: a plain loop."""
    shards = [ShardInfo(**shard) for shard in details["shards"]]
    found = ShardedIndex.load(storage, layout.INDEX, shards).search(queries, CANDIDATES)[1][:, :k].tolist()
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :k].tolist()
    return float(np.mean([len(set(one) & set(other)) / k for one, other in zip(exact, found, strict=True)]))


def test_few_labels_make_an_exact_index(
    run_index: Any, storage: Storage, vectors: np.ndarray, queries: np.ndarray
) -> None:
    details = run_index("index.shard_labels=600")
    assert (details["factory"], details["recall"], len(details["shards"])) == ("IDMap,Flat", "exact", 3)
    assert share_found(storage, details, vectors, queries, 30) == 1.0
    saved = faiss.read_index(storage.path("index/shard-001.faiss"))
    assert saved.search(vectors[700:701], 1)[1].tolist() == [[700]]


@pytest.mark.parametrize("shard_labels", [600, 5000])
def test_auto_reaches_the_recall_that_it_tells(
    run_index: Any, storage: Storage, vectors: np.ndarray, queries: np.ndarray, shard_labels: int
) -> None:
    given = ["index.exact_below=100", f"index.shard_labels={shard_labels}", "index.recall=0.95"]
    details = run_index(*given)
    assert details["factory"].startswith("IVF") and details["factory"].endswith(",PQ8x4fs,Refine(SQ8)")
    assert set(details["recall"]) == {"at_10", f"at_{CANDIDATES}", "queries"} and details["recall"]["queries"] == 25
    for k in (10, CANDIDATES):
        told, chosen_by = (share_found(storage, details, vectors, queries[first::2], k) for first in (1, 0))
        assert details["recall"][f"at_{k}"] == pytest.approx(told)
    assert chosen_by >= 0.95 and told >= 0.93
    assert details["build_seconds"] > 0 and details["peak_gib"] > 0
    assert (
        len(details["probes"]) == len(details["refined"]) == len(details["shards"]) == (3 if shard_labels == 600 else 1)
    )
    assert {one["cells"] for one in details["compared"]} > {1}


@pytest.mark.parametrize(
    "overrides", [["index.exact_below=10"], ["index.factory=IDMap,Flat", "index.shard_labels=600"]]
)
def test_labels_with_several_texts_have_all_of_them_in_the_index(
    run_index: Any, storage: Storage, vectors: np.ndarray, queries: np.ndarray, overrides: list[str]
) -> None:
    """Every third vector is an alternative of a label; the index and its measures are of texts."""
    alternatives = LABELS // 3
    known = Prepared(90, 80, 9, 10, LABELS - alternatives, 1, [90], "documents", "labels", None, alternatives)
    write_manifest(storage, layout.DOCUMENTS, Manifest("prepare", "", 90, 1.0, details=dataclasses.asdict(known)))
    details = run_index(*overrides)
    shards = [ShardInfo(**shard) for shard in details["shards"]]
    assert sum(shard.labels for shard in shards) == LABELS
    owners = np.arange(alternatives) * 2
    texts = LabelTexts(np.searchsorted(owners, np.arange(LABELS - alternatives + 1)))
    assert texts.label_of_row[-3:].tolist() == owners[-3:].tolist()
    found = ShardedIndex.load(storage, layout.INDEX, shards, texts=texts).search(queries, 30)[1]
    best = np.full((len(queries), texts.labels), -np.inf)
    for row, label in enumerate(texts.label_of_row):
        best[:, label] = np.maximum(best[:, label], queries @ vectors[row])
    exact = np.argsort(-best, axis=1)[:, :30]
    assert all(len(set(row)) == 30 for row in found.tolist())
    shared = np.mean(
        [len(set(one) & set(other)) / 30 for one, other in zip(exact.tolist(), found.tolist(), strict=True)]
    )
    assert shared == 1.0 if "IDMap,Flat" in overrides[0] else shared > 0.95


def test_a_factory_that_is_given_is_measured_but_not_tuned(
    run_index: Any, storage: Storage, vectors: np.ndarray, queries: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    details = run_index("index.factory=IVF10,Flat", "index.probes=1")
    assert (details["factory"], details["probes"], details["compared"]) == ("IVF10,Flat", [1], [])
    assert details["recall"]["at_10"] == pytest.approx(share_found(storage, details, vectors, queries, 10))
    assert details["recall"]["at_10"] < 0.95 and "index.recall" not in capsys.readouterr().out


def test_a_recall_that_is_not_reached_is_said(run_index: Any, capsys: pytest.CaptureFixture[str]) -> None:
    details = run_index("index.exact_below=100", "index.recall=1.0", "encoder.dimensions=16")
    said = capsys.readouterr().out
    assert (details["recall"][f"at_{CANDIDATES}"] < 1) == ("less than index.recall=1.0" in said)


def test_a_shard_is_built_from_its_own_labels_vectors_alone(storage: Storage, vectors: np.ndarray) -> None:
    known = join_label_vectors(storage, "cycle-1/label_vectors")
    path = Path(storage.path(known.note.file))
    saved = np.lib.format.open_memmap(path, "r+")
    saved[:500], saved[1000:] = np.nan, np.nan
    saved.flush()
    built = build_one(storage, "cycle-1/label_vectors", Slice(1, 500, 1000), Plan("IVF8,SQ8", 8, 0.98))
    assert (built.info.first_label, built.info.labels) == (500, 500)
    found = ShardedIndex.load(storage, layout.INDEX, [built.info]).search(vectors[500:510], 1)
    assert found[1][:, 0].tolist() == list(range(500, 510))


def test_slices_are_of_equal_size() -> None:
    assert slices_of(10, 4) == [Slice(0, 0, 4), Slice(1, 4, 7), Slice(2, 7, 10)]
    assert [one.stop - one.first for one in slices_of(1_000_001, 1_000_000)] == [500_001, 500_000]
    sizes = [one.stop - one.first for one in slices_of(1_000_001, 1001)]
    assert min(sizes) == max(sizes) - 1 == 1000 and sum(sizes) == 1_000_001


def test_slices_of_an_older_run_are_joined_where_they_are_needed_and_stay(run_index: Any, storage: Storage) -> None:
    assert find_label_vectors(storage, "cycle-1/label_vectors") is None
    run_index()
    joined = find_label_vectors(storage, "cycle-1/label_vectors")
    assert joined is not None and joined.labels == LABELS
    assert joined.counts == {"truncated": 4, "unreadable": 0, "unused_prompts": 1}
    assert len(storage.list("cycle-1/label_vectors", ".parquet")) == 2

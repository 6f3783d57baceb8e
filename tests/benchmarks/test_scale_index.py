"""The parts of benchmarks/scale_bench/index.py that need no model: mixtures of labels, and the figures of a kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.headlines import headline
from common.publish import publish
from ezxmc_ray.storage import Storage
from scale_bench import index, index_methods
from scale_bench.index_inputs import Inputs, blocks_of, write_labels
from scale_bench.index_methods import K, measure


def unit_rows(rows: int, seed: int, dimension: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_mixtures_fill_a_label_set_up_and_are_unit_rows() -> None:
    real = unit_rows(300, 0)
    made = np.concatenate(list(blocks_of(real, 1001)))
    assert made.shape == (1001, 16) and made.dtype == np.float32
    np.testing.assert_array_equal(made[:300], real)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    assert len(np.unique(made, axis=0)) == 1001
    np.testing.assert_array_equal(np.concatenate(list(blocks_of(real, 200))), real[:200])


@pytest.mark.parametrize("method", ["auto", "flat", "sq8_flat"])
def test_a_kind_is_measured_by_other_documents_than_it_is_tuned_by(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, queries = unit_rows(900, 0), unit_rows(120, 1)
    write_labels(Storage(str(tmp_path)), "labels-900", iter([labels[:500], labels[500:]]), labels.shape)
    np.save(tmp_path / "queries.npy", queries)
    np.save(tmp_path / "tuning.npy", unit_rows(120, 2))
    np.save(tmp_path / "nearest-900.npy", np.argsort(-(queries @ labels.T), axis=1)[:, :K])
    monkeypatch.setattr("ezxmc_ray.index.build.is_exact", lambda *_: False)
    done = measure(method, tmp_path, 900)
    assert done["recall@400"] == 1.0 if method == "flat" else 0.95 < done["recall@400"] < 1.0
    assert done["build_s"] > 0 and done["queries_per_s_batch_1"] > 0 and done["queries_per_s_batch_1024"] > 0
    assert 0 < done["peak_gib"] < 50
    assert bool(done["index_gib"]) == (method == "auto")
    assert ("compared" in done) == (method == "auto")


def test_the_depth_is_the_least_that_reaches_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, tuning = unit_rows(2000, 0), unit_rows(100, 1)
    build = index_methods.by_factory("IVF20,Flat", [{"nprobe": probes} for probes in (1, 15, 20)])
    monkeypatch.setattr(index_methods, "WANTED", 0.9)
    assert build(labels, tuning, Path())[1] == {"factory": "IVF20,Flat", "depth": {"nprobe": 15}}
    monkeypatch.setattr(index_methods, "WANTED", 1.1)
    assert build(labels, tuning, Path())[1]["depth"] == {"nprobe": 20}


def test_the_headline_sets_auto_beside_the_fastest_that_finds_as_much() -> None:
    def row(kind: str, found: float, speed: float, labels: int = 9000) -> dict[str, object]:
        return {"labels": labels, "kind": kind, "recall@400": found, "queries_per_cpu_s_batch_1": speed} | {
            "build_cpu_s": 60.0
        }

    rows = [row("auto", 0.98, 200.0), row("flat", 1.0, 7.0), row("sq8", 0.99, 9.0), row("hnsw", 0.9, 900.0)]
    rows += [row("auto", 1.0, 1.0, labels=100), {"labels": 9000, "kind": "slow", "error": "more than 9 s"}]
    assert headline({"command": "python benchmarks/scale.py index --name n", "rows": rows}) == (
        "9,000 labels: auto finds 0.980 of the 400 nearest, 200 queries a second of CPU, built in 60 of them; "
        "sq8 9 queries"
    )


def test_what_is_added_joins_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are there stay, machine and date too; only what failed or was not asked for is measured."""
    asked: list[str] = []

    def run(module: str, words: list[str], output: Path, *_: Any) -> dict[str, Any]:
        asked.append(output.stem)
        return {"error": "more than 9 s"} if words[0] in failing else {"recall@400": len(asked) / 10}

    def call(*more: str) -> dict[str, Any]:
        asked.clear()
        assert index.main(["--name", "i", "--data", "d", "--runs", str(tmp_path / "ix"), *more]) == 0
        return dict(json.loads((tmp_path / "i.json").read_text()))

    monkeypatch.setattr(index, "publish", lambda *words: publish(*words, folder=tmp_path))
    monkeypatch.setattr(index, "RESULTS", tmp_path)
    monkeypatch.setattr(index, "run_module", run)
    monkeypatch.setattr(index, "make_inputs", lambda *_: Inputs({}, "what the labels are"))
    failing = ["hnsw32", "hnswlib"]
    before = call("--labels", "10,40", "--methods", "flat,hnsw32")
    assert [(row["labels"], row["kind"]) for row in before["rows"]] == [
        *((10, "flat"), (10, "hnsw32"), (40, "flat"), (40, "hnsw32"))
    ]
    (tmp_path / "i.json").write_text(json.dumps(before | {"machine": "another", "date": "2026-01-01"}))

    failing = ["hnswlib"]
    after = call("--labels", "40", "--methods", "hnsw32,hnswlib,flat", "--others", "python", "--add")
    assert asked == ["hnsw32-40", "hnswlib-40"]
    assert after["index"] == {
        "flat": before["index"]["flat"],
        "hnsw32": {"10": {"error": "more than 9 s"}, "40": {"recall@400": 0.1}},
        "hnswlib": {"40": {"error": "more than 9 s"}},
    }
    assert after["rows"] == [
        *before["rows"][:3],
        {"labels": 40, "kind": "hnsw32", "recall@400": 0.1},
        {"labels": 40, "kind": "hnswlib", "error": "more than 9 s"},
    ]
    assert {name: after[name] for name in ("machine", "date", "command", "actor")} == {
        **{name: before[name] for name in ("command", "actor")},
        **{"machine": "another", "date": "2026-01-01"},
    }
    assert after["notes"][:-1] == before["notes"]
    assert after["notes"][-1].startswith("Added at 40 labels: hnsw32 (")

"""A finished run directory as the stages leave it, made up: manifests, tables, no models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.config import Config, load_config
from ezxmc_ray.evaluation.audit import AuditPairs, audit_by_gold
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest

VERSIONS = {"ezxmc-ray": "0.1.0", "ray": "2.60.0"}
PREPARED: dict[str, Any] = {
    "documents": 3000,
    "train": 1500,
    "held_out": 150,
    "test": 1500,
    "labels": 8000,
    "duplicate_label_texts": 3,
    "rejected": 2,
    "rejected_by_reason": {"title and text are both empty": 1, "the id occurs twice": 1},
    "gold_documents": 3000,
    "shards": 4,
    "filtered_pairs": 0,
    "dropped_gold_labels": 4,
    "read": ["Read 3,000 documents", "Warning: no file has a column 'labels'; if '<b>Labels' is it, set it"],
}
MakeRun = Callable[..., tuple[Storage, Config]]


def change_details(storage: Storage, folder: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the manifest of ``folder`` anew, with what ``change`` makes of its details."""
    manifest = read_manifest(storage, folder)
    assert manifest is not None
    write_manifest(storage, folder, replace(manifest, details=change(manifest.details)))


def metrics(p1: float, documents: int = 1500) -> dict[str, Any]:
    return {
        "P@1": p1,
        "P@3": p1 - 20,
        "P@5": p1 - 26,
        "nDCG@5": p1 - 5,
        "R@10": p1 + 3,
        "R@100": p1 + 31,
        "documents": documents,
    }


def judged(seed: int, pairs: int, readout: str, model: str) -> dict[str, Any]:
    verdicts = np.random.default_rng(seed).beta(0.6, 1.6, pairs)
    counts, edges = np.histogram(verdicts, 20, (0, 1))
    return {
        "teacher": {
            "model": model,
            "key": "0123abcd",
            "readout": readout,
            "prompt": "generic",
            "dtype": "bfloat16",
            "calibration": "none",
        },
        "pairs": pairs,
        "pairs_asked": pairs - 1000,
        "pairs_held": 1000,
        "prior_pairs_asked": 0,
        "prompt_tokens": 250 * pairs,
        "computed_tokens": 55 * pairs,
        "truncated_documents": 31,
        "truncated_labels": 0,
        "engine_seconds": (pairs - 1000) / 13.3,
        "engine_pairs_per_s": 13.3,
        "engines": 2,
        "engine_start_seconds": 54.0,
        "map_seconds": pairs / 13.3 / 2,
        "busy_share": (pairs - 1000) / pairs,
        "yes_threshold": 0.5,
        "share_yes": float((verdicts > 0.5).mean()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def audited(readout: str) -> dict[str, Any]:
    """What evaluate says of a made-up teacher that knows more than the similarity: 120 documents of 10 labels."""
    draw = np.random.default_rng(5)
    similarity = -np.sort(-draw.uniform(0.2, 0.7, (120, 10)), axis=1).ravel().astype(np.float32)
    is_gold = draw.random(1200) < 0.6 * similarity - 0.1
    verdict = (2 * is_gold - 1.5 + 2 * similarity + draw.normal(0, 1.4, 1200)).astype(np.float32)
    pairs = AuditPairs(
        document=np.repeat(np.arange(120), 10),
        rank=np.tile(np.arange(10), 120),
        raw=1 / (1 + np.exp(-verdict)),
        verdict=verdict,
        similarity=similarity,
        fusion=verdict / 1.6 + similarity / 0.14,
        is_gold=is_gold,
    )
    return audit_by_gold(pairs, readout, 0.5, 0) | {
        "share_yes_by_rank": [0.5 - 0.04 * rank for rank in range(10)],
        "unjudged_pairs": 0,
    }


def loss_curve(seed: int, steps: int) -> list[dict[str, Any]]:
    noise = np.random.default_rng(seed).normal(0, 0.03, steps)
    values = 2.1 + 0.8 * np.exp(-np.arange(steps) / 20) + noise - 0.1 * seed
    return [{"step": n, "loss": float(v), "learning_rate": 5e-5} for n, v in enumerate(values)]


def run_stages(cycles: int, chosen: int | None, readout: str) -> dict[str, Manifest]:
    names = ["untrained", *(f"cycle_{n}" for n in range(cycles))]
    scores = [{"encoder": name, "score": 0.41 + 0.02 * n, "documents": 150} for n, name in enumerate(names)]
    return {
        "documents": Manifest("prepare", "f", 3000, 2.5, details=PREPARED, versions=VERSIONS),
        "student": Manifest(
            "select",
            "f",
            150,
            21.0,
            details={"chosen_cycle": chosen, "scores": scores, "min_score": 0.312, "documents": 150},
            versions=VERSIONS,
        ),
        "index": Manifest(
            "index",
            "f",
            8000,
            44.0,
            details={"factory": "Flat", "metric": "inner product", "recall": 1.0},
            versions=VERSIONS,
        ),
        "predictions": Manifest(
            "predict",
            "f",
            3000,
            190.0,
            details={
                "top_k": 10,
                "min_score": 0.312,
                "min_score_is": "fitted",
                "labels_per_document": 4.2,
                "documents_without_labels": 12,
            },
        ),
        "evaluation": Manifest(
            "evaluate",
            "f",
            1500,
            95.0,
            details={
                "metrics": {n: metrics(49.5 + 3 * i) for i, n in enumerate(names)},
                "documents": 1500,
                "teacher": audited(readout),
            },
        ),
    }


def cycle_stages(number: int, cycles: int, readout: str, model: str) -> dict[str, Manifest]:
    last = number == cycles
    shortlist = {"truncated_documents": 700, "truncated_labels": 0, "labels": 8000, "documents": 1500, "size": 10}
    train = {
        "steps": 80,
        "workers": 2,
        "loss_curve": loss_curve(number, 80),
        "documents_per_s": 14.2,
        "examples": 300 * (number + 1),
        "skipped_documents": 1,
        "loss": "listwise",
        "target": "fusion",
    }
    stages = {
        "shortlist": Manifest("shortlist", "f", 150 if last else 1500, 160.0, details=shortlist, versions=VERSIONS),
        "examples": Manifest(
            "judge",
            "f",
            1500 if last else 15000,
            95.0 if last else 1130.0,
            details=judged(number, 1500 if last else 15000, readout, model),
        ),
        "student": Manifest("train", "f", 1350, 260.0, details=train, versions=VERSIONS | {"torch": "2.13.0"}),
    }
    return {name: manifest for name, manifest in stages.items() if not (last and name == "student")}


def reranking(chosen: int | None) -> Manifest:
    """What the stage cross_encoder leaves behind."""
    details = {
        "documents": 1200,
        "steps": 300,
        "workers": 2,
        "batch_size": 4,
        "loss_curve": loss_curve(1, 60),
        "documents_per_s": 1.3,
        "training_seconds": 920.0,
        "truncated_readings": 88,
        "loss": "listwise",
        "target": "fusion",
        "per_score": 0.02,
        "anchor": 10,
        "min_score": 0.287,
        "held_out": {
            "documents": 150,
            "similarity": 61.25,
            "reranked": 63.5,
            "difference": 2.25,
            "standard_error": 0.75,
        },
        "student": "commit",
        "encoder": 0 if chosen is None else chosen + 1,
    }
    return Manifest("cross_encoder", "f", 1200, 980.0, details=details, versions=VERSIONS)


SCRIPT = "How a bank's <script>alert('x')</script> roof grows. "
SAMPLE = [
    {
        "id": "d1",
        "title": "Gardening for banks",
        "text": SCRIPT * 40,
        "predicted": ["banking", "horticulture", "roofs & eaves"],
        "scores": [0.71, 0.55, 0.4],
        "gold": ["horticulture", "green roofs"],
    },
    {
        "id": "d2",
        "title": "",
        "text": "Ein kurzer Text über <b>Sprache</b>",
        "predicted": [],
        "scores": [],
        "gold": [],
    },
    {"id": "d3", "title": "A third one", "text": "", "predicted": ["one"], "scores": [0.33], "gold": None},
]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run(cycles, chosen, readout, model, without, rerank)`` -> storage and configuration of such a run.

    ``rerank``: the first labels that a cross-encoder ranks anew; P@1 is then 5 points more than the chosen encoder's.
    """

    def make(
        cycles: int = 2,
        chosen: int | None = 1,
        readout: str = "yes_no",
        model: str = "Qwen/Qwen2.5-0.5B-Instruct",
        without: tuple[str, ...] = (),
        rerank: int = 0,
    ) -> tuple[Storage, Config]:
        storage = Storage(str(tmp_path / "runs" / "library"))
        manifests = run_stages(cycles, chosen, readout)
        for number in range(cycles + 1):
            stages = cycle_stages(number, cycles, readout, model)
            manifests |= {f"cycle-{number}/{name}": manifest for name, manifest in stages.items()}
        if rerank:
            manifests["cross_encoder"] = reranking(chosen)
            found = manifests["evaluation"].details["metrics"]
            found["reranked"] = metrics(5 + found["untrained" if chosen is None else f"cycle_{chosen}"]["P@1"])
        for folder, manifest in manifests.items():
            if folder not in without:
                write_manifest(storage, f"{folder}", manifest)
        if "evaluation" not in without:
            types = [
                ("id", pa.string()),
                ("title", pa.string()),
                ("text", pa.string()),
                ("predicted", pa.list_(pa.string())),
                ("scores", pa.list_(pa.float32())),
                ("gold", pa.list_(pa.string())),
            ]
            storage.write_table("evaluation/sample.parquet", pa.Table.from_pylist(SAMPLE, pa.schema(types)))
        overrides = [
            f"run={storage.root}",
            f"curriculum.cycles={cycles}",
            f"teacher.model={model}",
            f"teacher.readout={readout}",
            f"predict.rerank={rerank}",
        ]
        return storage, load_config(None, overrides)

    return make

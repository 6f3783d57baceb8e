"""A run as benchmarks/student.py makes it, small enough to be written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, GOLD_SCHEMA, LABELS_SCHEMA, content_hash

EXAMPLES_FOLDER = "cycle-0/examples"
SCALE = {"verdict_mean": 0.5, "verdict_std": 0.25, "similarity_mean": 0.8, "similarity_std": 0.1}
DETAILS = {"details": {"yes_threshold": 0.5, "scale": SCALE}}
VERDICTS = [[0.1, 0.9, 0.6], [0.2, 0.3], [0.7, 0.7]]


@pytest.fixture
def base(tmp_path: Path) -> str:
    """Three train documents with the verdicts above, the threshold 0.5, a held-out one and a test one."""
    storage = Storage(str(tmp_path / "base"))
    storage.write_table(
        "documents/shard-00000.parquet", pa.Table.from_pylist([document(i) for i in range(5)], DOCUMENTS_SCHEMA)
    )
    gold = pa.Table.from_pylist([{"labels": None}] * 4 + [{"labels": [2]}], GOLD_SCHEMA)
    storage.write_table("gold/shard-00000.parquet", gold)
    labels = [{"id": str(i), "text": f"label {i}", "description": "", "content_hash": bytes(16)} for i in range(4)]
    storage.write_table("labels.parquet", pa.Table.from_pylist(labels, LABELS_SCHEMA))
    rows = [example(row, verdict) for row, verdict in enumerate(VERDICTS)] + [example(3, [0.9], held_out=True)]
    storage.write_table(f"{EXAMPLES_FOLDER}/shard-00000.parquet", pa.Table.from_pylist(rows, EXAMPLES_SCHEMA))
    storage.write_json(f"{EXAMPLES_FOLDER}/manifest.json", DETAILS)
    return storage.root


def document(number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "title": f"title {number}",
        "text": f"text {number}",
        "split": "test" if number == 4 else "train",
        "held_out": number == 3,
        "content_hash": content_hash("", str(number)),
        "excluded": [],
    }


def example(row: int, verdict: list[float], held_out: bool = False) -> dict[str, Any]:
    places = list(range(len(verdict)))
    similarity = [0.9 - 0.1 * place for place in places]
    similarities = {"similarity": similarity, "base_similarity": similarity}
    lists = {"labels": places, **similarities, "raw": verdict, "verdict": verdict}
    return {"row": row, "held_out": held_out, **lists}

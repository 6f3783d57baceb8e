"""Runs with a verdict store (judged_run.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import starmap
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from ezxmc_ray.config import load_config, to_dict
from ezxmc_ray.context import Context
from ezxmc_ray.stages import prepare as prepare_stage
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import SHORTLIST_SCHEMA
from tests.verdicts.judged_run import LABELS, PAIRS, ROWS, Run


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """``make_run(texts, name="run")``: a run with these documents, ids d<text>; an existing one is prepared anew."""
    monkeypatch.setattr(prepare_stage, "run_tasks", starmap)
    monkeypatch.setattr(prepare_stage, "cluster_cpus", lambda: 2)
    monkeypatch.setattr(prepare_stage, "run_task", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(prepare_stage, "check_counts", lambda *counts: None)  # nothing is trained
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")  # enough to have a key
    labels = [{"id": f"L{n}", "text": f"label {n}"} for n in range(LABELS)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labels))

    def make(texts: list[str], name: str = "run") -> Run:
        ids = [f"d{text}" if text not in texts[:place] else f"again {place}" for place, text in enumerate(texts)]
        documents = [{"id": one, "text": text} for one, text in zip(ids, texts, strict=True)]
        (tmp_path / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
        config = load_config(
            None,
            [
                f"run={tmp_path / name}",
                f"prepare.documents=[{tmp_path / 'documents.jsonl'}]",
                f"prepare.labels=[{tmp_path / 'labels.jsonl'}]",
                f"prepare.shard_rows={ROWS}",
                f"teacher.model={teacher}",
            ],
        )
        storage = Storage(config.run)
        storage.write_bytes("config.yaml", yaml.safe_dump(to_dict(config)).encode())
        run = Run(Context(config, storage))
        done = prepare_stage.prepare(run.context)
        write_manifest(storage, "documents", Manifest("prepare", "f", done.rows, 1.0, done.files, done.details))
        for shard, count in enumerate(done.details["shard_rows"]):
            shortlist = {"labels": list(range(PAIRS)), "similarity": [0.0] * PAIRS}
            shortlists = [{"row": row, **shortlist} for row in range(count)]
            storage.write_shard("cycle-0/shortlist", shard, pa.Table.from_pylist(shortlists, SHORTLIST_SCHEMA))
        return run

    return make

"""benchmarks/scale_bench/train.py on a few documents: the stage's worker, simulated others, a simulated store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from common.headlines import headline
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.summary import OWN, read_label_documents, read_shard_counts
from scale_bench import train, train_actor
from scale_bench.judge import SHORTLIST
from tests.student.toy import save_tiny_bert

SHARDS, LABELS = 24, 60
TEXTS = [{"title": f"river {n}", "text": f"tax {n} and bridge {n}"} for n in range(40)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train, "SHARD_ROWS", 80)
    train.make_run(Storage(str(tmp_path)), SHARDS, LABELS, TEXTS, [f"label {n}" for n in range(12)])
    return tmp_path


def test_the_examples_of_every_shard_are_counted(run: Path) -> None:
    storage = Storage(str(run))
    counts = read_shard_counts(storage, 0, OWN)
    assert counts["rows"].tolist() == [60] * SHARDS and counts["held_out"].tolist() == [1] * SHARDS
    assert read_label_documents(storage, 0, OWN, LABELS).sum() == 60 * SHORTLIST * SHARDS
    assert len(storage.list("documents")) == SHARDS


@pytest.mark.usefixtures("one_thread")
def test_one_of_many_workers_reads_its_own_shards_and_takes_checkpoints(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"folder": str(run), "model": str(save_tiny_bert(run / "model", 0.0)), "labels": LABELS, "latency_ms": 0.1}
    told |= {"upload_mib_s": 1000, "workers": 8, "simulated": True, "steps": 2}
    (run / "told.json").write_text(json.dumps(told))
    monkeypatch.setattr(sys, "argv", ["train_actor", str(run / "told.json"), "0", str(run / "done.json")])
    lengths = ["encoder.max_document_tokens=16", "encoder.max_label_tokens=8", "student.max_document_tokens=16"]
    monkeypatch.setattr(train_actor, "KNOBS", ["student.checkpoint_every_s=0", *lengths])
    train_actor.main()
    done = json.loads((run / "done.json").read_text())
    # Of eight lanes with three shards each it has read the first window, of two, and maybe the next.
    assert 4 <= done["files_before_first_step"] <= done["files_in_all"] <= 6
    assert done["checkpoints"] == 1 and 0 < done["checkpoint_share"] < 1
    assert (run / train_actor.CHECKPOINTS / "1" / "state.pt").exists()
    rows = [{**done, "workers": workers} for workers in (8, 2)]
    result = {"command": "python benchmarks/scale.py train --name n", "rows": rows, "checkpoint_share": 0.0123}
    told_files = f"{done['files_before_first_step']} files are read for it"
    assert headline(result).endswith(f"2 workers; {told_files}; checkpoints take 1.2% of the time")

"""What the train stage refuses before a worker starts, on a run whose examples are made by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from common.run_files import summarize_examples
from ezxmc_ray.cluster import session
from ezxmc_ray.cluster.session import ray_cluster
from ezxmc_ray.config import ClusterConfig, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.train import check_training, count_workers
from ezxmc_ray.stages.train_worker import cpu_threads
from ezxmc_ray.step import Step
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, content_hash
from tests.student.toy import LABELS as LABEL_TEXTS
from tests.student.toy import TOPICS, save_tiny_bert

ROWS = 40
#: 5 steps an epoch.
SETTINGS = ["encoder.max_document_tokens=16", "student.max_document_tokens=16", "student.batch_size=8"]
SETTINGS += ["encoder.max_label_tokens=8", "student.checkpoint_every_s=0", "student.workers=1"]
SETTINGS += ["student.dropout=true"]  # so that its random numbers are tested too


@pytest.fixture(scope="module", autouse=True)
def joined(ray_head: Any) -> Iterator[None]:
    """The session's Ray of two CPUs."""
    with ray_cluster(ClusterConfig(address=ray_head.address)):
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("encoder"), 0.1)


def write_examples(storage: Storage, held_out: int) -> None:
    """Documents, labels and the judged examples of cycle 0; the first ``held_out`` documents are not trained on."""
    documents, examples = [], []
    for row in range(ROWS):
        text = f"{TOPICS[row % 10]} {TOPICS[row // 10]}"
        key, kept = content_hash("", text), row < held_out
        documents.append({"id": str(row), "title": "", "text": text, "split": "train", "held_out": kept})
        documents[-1] |= {"content_hash": key, "excluded": None}
        labels = [row % 10, (row + 3) % 10, (row + 5) % 10]
        similarity = [0.5, 0.4, 0.3]
        scores = {
            "similarity": similarity,
            "base_similarity": similarity,
            "raw": [1.0, 0.0, 0.0],
            "verdict": [1.0, 0.0, 0.0],
        }
        examples.append({"row": row, "held_out": kept, "labels": labels, **scores})
    storage.write_table("documents/shard-00000.parquet", pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
    storage.write_table("cycle-0/examples/shard-00000.parquet", pa.Table.from_pylist(examples, EXAMPLES_SCHEMA))
    rows = [
        {"id": text, "text": text, "description": "", "content_hash": content_hash("", text)} for text in LABEL_TEXTS
    ]
    storage.write_table("labels.parquet", pa.Table.from_pylist(rows, LABELS_SCHEMA))
    summarize_examples(storage, 0, [range(1)])
    scale = {"verdict_mean": 0.3, "verdict_std": 0.5, "similarity_mean": 0.4, "similarity_std": 0.1}
    details = {"scale": scale, "own_scale": scale, "yes_threshold": 0.5, "pairs_asked": 0}
    details |= {"teacher": {"readout": "yes_no"}}
    counts = {"documents": ROWS, "train": ROWS, "held_out": held_out, "test": 0, "labels": len(LABEL_TEXTS)}
    prints = dict.fromkeys(("document_fingerprint", "label_fingerprint", "gold_fingerprint"), "")
    prepared = counts | prints | {"shards": 1, "shard_rows": [ROWS]}
    write_manifest(storage, "documents", Manifest("prepare", "", ROWS, 0.0, [], prepared))
    write_manifest(storage, "cycle-0/examples", Manifest("judge", "", ROWS, 0.0, [], details))


def training(folder: Path, encoder: Path, *overrides: str, held_out: int = 0) -> tuple[RunPlan, Step]:
    """The step 'cycle 0 train' of a run with examples in ``folder``."""
    config = load_config(None, [f"run={folder}", f"encoder.model={encoder}", *SETTINGS, *overrides])
    work = RunPlan(config, Storage(config.run))
    write_examples(work.storage, held_out)
    return work, next(step for step in work.steps() if step.name == "cycle 0 train")


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        (["workers=3"], r"^The training is to have 3 workers \(student.workers\), but the Ray cluster has 2 CPUs, "),
        (
            ["workers=9", "min_workers=3"],
            r"^The training is to have 3 workers \(student.min_workers\), but .* 2 CPUs, ",
        ),
        (["workers=1", "min_workers=2"], "^student.min_workers is 2, more than the 1 workers that the training is to"),
        (["workers=0", "min_workers=3"], "^student.min_workers is 3, more than the 1 workers that the training is to"),
    ],
)
def test_workers_that_would_be_waited_for_without_end_are_refused(knobs: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_training(load_config(None, [f"student.{knob}" for knob in knobs]))


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [(["workers=0"], 1), (["workers=2"], 2), (["workers=9", "min_workers=1"], 9)],
)
def test_workers_that_there_is_room_for(knobs: list[str], expected: int) -> None:
    assert count_workers(load_config(None, [f"student.{knob}" for knob in knobs])) == expected


@pytest.mark.parametrize(("given", "expected"), [("", 1), ("4", 4), ("4,2", 4), (" 3 ", 3), ("0", 1), ("many", 1)])
def test_threads_are_what_openmp_would_take(given: str, expected: int) -> None:
    assert cpu_threads(given) == expected


def test_lengths_and_trackers_are_checked_before_a_worker_starts(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"encoder.model={encoder}", *SETTINGS]
    check_training(load_config(None, settings))
    with pytest.raises(UserError, match=r"^student\.max_document_tokens=33 is more than .* can read: set it to 32 at"):
        check_training(load_config(None, [*settings, "student.max_document_tokens=33"]))
    refused = pytest.raises(UserError, match=r"^student\.trackers has wandb, but wandb is not installed")
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))  # as where the driver alone has it
    sys.modules["wandb"].__spec__ = ModuleSpec("wandb", None)
    with refused:
        check_training(load_config(None, [*settings, "student.trackers=[wandb]"]))
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as where the nodes alone have it
    check_training(load_config(None, [*settings, "student.trackers=[tensorboard]"]))
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(session, "_joined", [ClusterConfig(address="local")])
    with refused:
        check_training(load_config(None, [*settings, "student.trackers=[wandb]"]))


def test_looks_without_held_out_documents_are_refused(encoder: Path, tmp_path: Path) -> None:
    work, step = training(tmp_path, encoder, "student.validate_every_steps=2", "student.patience=1")
    with pytest.raises(UserError, match=r"^student\.validate_every_steps is 2, but cycle 0 has no held-out documents"):
        work.execute(step)

"""One run of so many documents for growth.py: its inputs, and what its stages cost.

Comes in: documents and labels of a data set, recombined to as many as are wanted. Goes out: CPU seconds, requests and
files of ``prepare``, ``join_examples``, ``evaluate`` and ``report``, which are this project's own functions;
shortlists, verdicts and rankings in between are by chance, with the gold labels among them.

Run as a module with documents, shard rows, --data's path, labels, a scratch folder and the file for its answer.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from common.data import DOCUMENTS, read_rows
from ezxmc_ray import layout
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.context import Context
from ezxmc_ray.evaluation.rankings import measure_encoders
from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.page import write_report
from ezxmc_ray.stages import prepare as prepare_stage
from ezxmc_ray.stages.evaluate import AuditSettings, audit_teacher, write_sample
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    GOLD_SCHEMA,
    HASH,
    LABELS_SCHEMA,
    NO_DOCUMENT,
    PREDICTIONS_SCHEMA,
    RANKINGS_SCHEMA,
    SHORTLIST_SCHEMA,
    VERDICTS_SCHEMA,
)
from ezxmc_ray.verdicts.examples import make_examples
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore
from scale_bench.counted import REQUESTS, SimulatedObjectStore, TimedTasks

KEY, ENCODERS, SHORTLIST, DEPTH = "0" * 16, 2, 10, 100
DOCUMENTS_PER_FILE = 5000
LABELS = "labels.jsonl.gz"
STAGES = ("prepare", "join_examples", "evaluate", "report")


@dataclass
class Cost:
    """Of a stage: CPU seconds of its tasks and of the driver, requests of both, the files it left, and the most memory
    that the driver had until its end, MiB."""

    task_cpu_s: float
    driver_cpu_s: float
    requests: int
    files: int
    driver_mib: float


def recombined_labels(labels: Sequence[dict[str, Any]], count: int) -> list[dict[str, str]]:
    """``count`` labels: those of a data set, then the texts of two of them together."""
    draw = random.Random(0)
    found = [{"id": str(label["id"]), "text": label["text"]} for label in labels[:count]]
    for number in range(len(found), count):
        found.append({"id": f"more-{number}", "text": f"{draw.choice(labels)['text']} {draw.choice(labels)['text']}"})
    return found


def write_inputs(folder: Path, rows: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]], count: int) -> None:
    """``count`` documents in ``folder``: a title and the halves of two texts, of three documents of ``rows``."""
    draw = random.Random(count)
    folder.mkdir(parents=True)
    (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    for start in range(0, count, DOCUMENTS_PER_FILE):
        with (folder / f"documents-{start:09d}.jsonl").open("w") as file:
            for number in range(start, min(count, start + DOCUMENTS_PER_FILE)):
                title, first, second = (draw.choice(rows) for _ in range(3))
                text = f"{_half(first['text'], 0)} {_half(second['text'], 1)}"
                gold = draw.sample(labels, draw.randint(1, 4))
                one = {"id": f"d{number}", "title": title["title"], "text": text, "labels": [g["id"] for g in gold]}
                file.write(json.dumps(one) + "\n")


def _half(text: str, which: int) -> str:
    words = text.split(" ")
    middle = len(words) // 2
    return " ".join(words[middle:] if which else words[:middle])


class Growth:
    """A run in ``folder`` and what its stages cost; ``shard_rows``: documents a shard; ``tasks``: what runs them."""

    def __init__(self, folder: Path, shard_rows: int, tasks: Any) -> None:
        knobs = [
            f"prepare.documents=[{folder}/input/documents-*.jsonl]",
            f"prepare.labels=[{folder}/input/labels.jsonl]",
            f"prepare.shard_rows={shard_rows}",
            "teacher.readout=yes_no",
            f"run={folder}/run",
        ]
        self.config: Config = load_config(None, knobs)
        self.storage: Storage = SimulatedObjectStore(f"{folder}/run")
        self.context = Context(self.config, self.storage)
        self.tasks = tasks
        self.costs: dict[str, Cost] = {}

    def measure(self, stage: str, function: Any) -> Any:
        """Call ``function()``, whose tasks are self.tasks', as the work of ``stage``."""
        self.tasks.cpu_s, self.tasks.requests = 0.0, type(REQUESTS)()
        REQUESTS.clear()
        before, began = set(self.files()), time.process_time()
        result = function()
        driver_s, peak = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        requests = (self.tasks.requests + REQUESTS).total()
        files = len(set(self.files()) - before)
        self.costs[stage] = Cost(self.tasks.cpu_s, driver_s, requests, files, peak)
        return result

    def files(self) -> list[Path]:
        """All files of the run."""
        return [path for path in Path(self.storage.root).rglob("*") if path.is_file()]

    def prepare(self) -> None:
        """The stage prepare, and its manifest."""
        tasks = {"run_task": self.tasks.run_task, "run_tasks": self.tasks.run_tasks}
        with mock.patch.dict(vars(prepare_stage), tasks):
            done = self.measure("prepare", lambda: prepare_stage.prepare(self.context))
        self._note("prepare", layout.DOCUMENTS, done.rows, done.files, done.details)

    def join_examples(self) -> None:
        """Shortlists and verdicts by chance; then the examples of cycle 0, with label priors."""
        self.tasks.run_task(write_priors, self.storage)
        for shard in range(self.context.shards):
            self.tasks.run_task(write_judged, self.storage, shard)
        teacher = self.config.teacher
        given: Any = SimpleNamespace(storage=self.storage, shards=self.context.shards, teacher=teacher)
        arguments = (given, 0, KEY, "label_prior", self.tasks.run_tasks)
        done = self.measure("join_examples", lambda: make_examples(*arguments))
        asked = {"pairs_asked": done.rows, "teacher": {"readout": "yes_no", "model": "by chance", "key": KEY}}
        self._note("judge", layout.examples(0), done.rows, done.files, done.details | asked)

    def evaluate(self) -> None:
        """Rankings and predictions by chance; then all that the stage evaluate measures."""
        for shard in range(self.context.shards):
            self.tasks.run_task(write_rankings, self.storage, shard)
        details = self.measure("evaluate", self._evaluate)
        self._note("evaluate", layout.EVALUATION, self.context.prepared.test, [], details)

    def _evaluate(self) -> dict[str, Any]:
        storage, shards, run_tasks = self.storage, self.context.shards, self.tasks.run_tasks
        names = ["untrained", "cycle_0"]
        labels, settings = self.context.prepared.labels, self.config.evaluate
        measured = measure_encoders(storage, names, shards, labels, settings, 0, run_tasks)
        self.tasks.run_task(write_sample, storage, shards, self.config.report.documents, True, layout.EVALUATION_SAMPLE)
        audit = AuditSettings(self.context.judged(0), SHORTLIST, True, 0)
        return {**measured, "teacher": audit_teacher(storage, shards, audit, run_tasks)}

    def report(self) -> None:
        """The stage report, but for the model card, which wants a student."""
        self.measure("report", lambda: write_report(self.storage, build_report(self.storage, self.config)))

    def _note(self, stage: str, folder: str, rows: int, files: list[str], details: dict[str, Any]) -> None:
        write_manifest(self.storage, folder, Manifest(stage, "f", rows, 1.0, files, details))


def grow(folder: Path, shard_rows: int, tasks: Any = None, stages: Sequence[str] = STAGES) -> dict[str, Any]:
    """``stages``, in the order of STAGES, on the inputs in ``folder``; their costs, with documents and shards."""
    growth = Growth(folder, shard_rows, tasks or TimedTasks())
    try:
        for stage in stages:
            getattr(growth, stage)()
        known = growth.context.prepared
        costs = {name: asdict(cost) for name, cost in growth.costs.items()}
        return {"documents": known.documents, "shards": known.shards, "labels": known.labels, "stages": costs}
    finally:
        growth.tasks.close()


def write_priors(storage: Storage) -> None:
    """Task: a prior by chance of every label."""
    hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]
    VerdictStore(storage, KEY).append(PRIORS, _verdicts([NO_DOCUMENT] * len(hashes), hashes, 0))


def write_judged(storage: Storage, shard: int) -> None:
    """Task: shortlists by chance of a shard's train documents, and verdicts on them."""
    draw = np.random.default_rng([1, shard])
    label_hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]
    documents = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["split", "content_hash"])
    gold = storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"].to_pylist()
    rows = np.flatnonzero(documents["split"].to_numpy() == "train")
    labels = [_with_gold(draw, gold[row], SHORTLIST, len(label_hashes)) for row in rows]
    similarity = -np.sort(-draw.random((len(rows), SHORTLIST)), axis=1)
    columns = [rows, labels, similarity.tolist(), similarity.tolist()]
    _write(storage, layout.shortlist(0), shard, columns, SHORTLIST_SCHEMA)
    hashes = documents["content_hash"].take(np.repeat(rows, SHORTLIST))
    pairs = _verdicts(hashes, label_hashes.take(pa.array(np.concatenate(labels))), shard)
    VerdictStore(storage, KEY).append(layout.shard_name(shard), pairs)


def write_rankings(storage: Storage, shard: int) -> None:
    """Task: rankings by chance of a shard's test documents by every encoder, and predictions for all documents."""
    draw = np.random.default_rng([2, shard])
    count = len(storage.read_table(layout.LABELS, LABELS_SCHEMA, ["id"]))
    documents = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["id", "split"])
    gold = storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"].to_pylist()
    rows = np.flatnonzero(documents["split"].to_numpy() == "test")
    for encoder in range(ENCODERS):
        labels = [_with_gold(draw, gold[row], DEPTH, count) for row in rows]
        _write(storage, layout.ranking(encoder), shard, [rows, labels], RANKINGS_SCHEMA)
    some = [["a"]] * len(documents)
    columns = [documents["id"].to_pylist(), some, some, [[0.5]] * len(documents)]
    _write(storage, layout.PREDICTIONS, shard, columns, PREDICTIONS_SCHEMA)


def _with_gold(draw: np.random.Generator, gold: list[int], size: int, labels: int) -> np.ndarray:
    """``size`` different label numbers by chance, some of ``gold`` among them."""
    found = np.unique(np.concatenate([gold, draw.integers(labels, size=2 * size)]))
    return draw.permutation(found)[:size].astype(np.int32)


def _write(storage: Storage, folder: str, shard: int, columns: list[Any], schema: pa.Schema) -> None:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    storage.write_shard(folder, shard, pa.Table.from_arrays(arrays, schema=schema))


def _verdicts(documents: Any, labels: Any, seed: int) -> pa.Table:
    count = len(labels)
    if isinstance(documents, list):
        documents = pa.array(documents, HASH)
    raw = pa.array(np.random.default_rng([3, seed]).random(count), pa.float32())
    columns = [documents, labels, raw, pa.array(np.full(count, 9, np.int32)), pa.array(np.zeros(count, bool))]
    return pa.Table.from_arrays(columns, schema=VERDICTS_SCHEMA)


def main() -> None:
    """Make the inputs, run the stages, and write what they cost."""
    documents, shard_rows, data, labels, scratch, output = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=scratch, prefix="growth-") as folder:
        tasks = TimedTasks()  # whose process reads the data set: the memory of this one is to be a driver's
        tasks.run_task(_make_inputs, Path(folder) / "input", Path(data), int(labels), int(documents))
        tasks.close()
        result = grow(Path(folder), int(shard_rows))
    Path(output).write_text(json.dumps(result))


def _make_inputs(folder: Path, data: Path, labels: int, documents: int) -> None:
    rows = read_rows(data / DOCUMENTS, ("title", "text"))
    known = recombined_labels(read_rows(data / LABELS, ("id", "text")), labels)
    write_inputs(folder, rows, known, documents)


if __name__ == "__main__":
    main()

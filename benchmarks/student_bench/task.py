"""What the methods of benchmarks/student.py learn from: run directories with stored or simulated verdicts.

Comes in: the data (common.data) and a configuration. Goes out: a run in which the stage ``prepare`` has been done, and
the shortlists and examples of cycle 0 have been written from the verdicts given, not by asking an encoder or a teacher:

- the stage prepare makes the shards, as always;
- cycle-0/shortlist holds the labels that were judged (not those that this encoder would find), each with the
  similarity that the configured encoder, and the words, give the pair now, in falling similarity; its manifest says so;
- the verdicts are imported into the run's verdict store as ``ezxmc verdicts --import`` does, under the name of their
  teacher, and the join of the judge stage (stages.examples) makes cycle-0/examples of both.

So ``train`` finds what it finds in any run. A run that was made of the same content is used again. Each method runs in
a process of its own and is told what to do by a :class:`Job`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.data import Data, Row, Verdicts, simulated_verdicts
from common.run_files import summarize_examples
from ezxmc_ray import curriculum, layout
from ezxmc_ray.cluster.session import ray_cluster, run_tasks
from ezxmc_ray.config import Config, fingerprint, fingerprinted_settings, to_dict
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.hybrid import PairScorer
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.models import resolve_model, weights_fingerprint
from ezxmc_ray.stages.shortlist import lexical_table
from ezxmc_ray.step import Step
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, GOLD_SCHEMA, LABELS_SCHEMA, SHORTLIST_SCHEMA
from ezxmc_ray.verdicts.examples import Reading, example_groups, make_examples
from ezxmc_ray.verdicts.transfer import import_verdicts

EXAMPLES_FOLDER = "cycle-0/examples"
MADE, TEXTS = "made.json", "texts.json"
#: What is done before the clock starts.
WARM_UP_STEPS, WARM_UP_TEXTS = 2, 64


@dataclass(frozen=True)
class Job:
    """``config``: of the method (its ``run`` is a directory of its own); ``base``: the run with what it learns from.

    ``learning_rate``: of SentenceTransformers' trainer.
    """

    method: str
    base: str
    config: dict[str, Any]
    learning_rate: float = 0.0


@dataclass(frozen=True)
class Vectors:
    """Unit vectors float32 [n, d] of a run's train documents and [m, d] of its labels, with their ids in order.

    ``similarity``: of given labels, by these vectors and the words as lexical.weight has it.
    """

    document_ids: list[str]
    documents: np.ndarray
    label_ids: list[str]
    labels: np.ndarray
    similarity: PairScorer


def make_stored(config: Config, data: Data) -> dict[str, Any]:
    """The run ``config.run`` with the stored verdicts; returns facts about it."""
    train = [row for row in data.train if row["id"] in data.verdicts]
    if not train:
        raise UserError("There are no verdicts to learn from: name a file of them by --verdicts.")
    content = fingerprint(data.verdicts)
    return _make(config, train, data, "stored", content, lambda vectors: data.verdicts)


def make_perfect(config: Config, data: Data) -> dict[str, Any]:
    """The run ``config.run`` with simulated verdicts, the train documents' gold labels; returns facts about it."""
    known = {row["id"] for row in data.labels}
    gold = {row["id"]: [label for label in row["labels"] if label in known] for row in data.train}
    size = config.shortlist.size
    content = fingerprint([gold, size])
    return _make(
        config,
        data.train,
        data,
        "simulated",
        content,
        lambda vectors: simulated_verdicts(nearest_labels(vectors, size), gold),
    )


def nearest_labels(vectors: Vectors, size: int) -> dict[str, list[str]]:
    """By document id the ids of its ``size`` nearest labels, the nearest first."""
    _, found = ShardedIndex.from_vectors(vectors.labels).search(vectors.documents, min(size, len(vectors.labels)))
    shortlists = [[vectors.label_ids[number] for number in row] for row in found]
    return dict(zip(vectors.document_ids, shortlists, strict=True))


def _make(
    config: Config,
    train: list[Row],
    data: Data,
    teacher: str,
    content: str,
    verdicts_of: Callable[[Vectors], Verdicts],
) -> dict[str, Any]:
    storage = Storage(config.run)
    rows = [run_row(row, "train") for row in train] + [run_row(row, "test") for row in data.ranked]
    labels = hashlib.blake2b(Path(config.prepare.labels[0]).read_bytes()).hexdigest()
    settings = [fingerprinted_settings(config, "prepare") | {"documents": [], "labels": []}]
    settings += [fingerprinted_settings(config, name) for name in ("encoder", "lexical")]
    weights = weights_fingerprint(resolve_model(config.encoder.model))
    mark = fingerprint([rows, labels, settings, weights, teacher, content])
    made = storage.read_json(MADE) if storage.exists(MADE) else {}
    if made.get("mark") == mark:
        print(f"{config.run} is used again: it was made of the same documents, verdicts and settings", flush=True)
        return dict(made["facts"])
    storage.remove("")
    storage.write_bytes("documents.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    config.prepare.documents = [storage.path("documents.jsonl")]
    curriculum.run_stage(config, "prepare")
    work = RunPlan(config, storage)
    vectors = _embed(config, storage)
    verdicts = verdicts_of(vectors)
    steps = (
        ("shortlist", "cycle-0/shortlist", lambda: _write_shortlists(work.context, vectors, verdicts, teacher)),
        ("judge", EXAMPLES_FOLDER, lambda: _write_examples(work.context, vectors, verdicts, teacher)),
    )
    with ray_cluster(config.cluster):
        for stage, folder, run in steps:
            work.execute(Step(f"cycle 0 {stage}, {teacher}", stage, folder, lambda: [mark], run))
    facts = _facts(work.context, data)
    storage.write_json(MADE, {"mark": mark, "facts": facts})
    return facts


def run_row(row: Row, split: str) -> Row:
    """A row of the run's input; train documents come without their gold labels."""
    gold = {"labels": row["labels"]} if split == "test" else {}
    return {"id": row["id"], "title": row["title"], "text": row["text"], "split": split, **gold}


def _embed(config: Config, storage: Storage) -> Vectors:
    documents = pa.concat_tables(
        [storage.read_table(name, DOCUMENTS_SCHEMA) for name in storage.list("documents", ".parquet")]
    )
    documents = documents.filter(pc.equal(documents["split"], "train"))
    labels = storage.read_table("labels.parquet", LABELS_SCHEMA)
    encoder = Encoder.load(config.encoder.model, config.encoder)
    label_vectors = encoder.encode_labels(labels["text"].to_pylist()).vectors
    return Vectors(
        documents["id"].to_pylist(),
        encoder.encode_documents(documents["title"].to_pylist(), documents["text"].to_pylist()).vectors,
        labels["id"].to_pylist(),
        label_vectors,
        PairScorer(label_vectors, lexical_table(storage, config.lexical), config.lexical),
    )


def _write_shortlists(context: Context, vectors: Vectors, verdicts: Verdicts, teacher: str) -> StageResult:
    """cycle-0/shortlist of the judged labels; rows, files and details, as a stage returns them."""
    storage, files, documents = context.storage, [], 0
    numbers = {label: number for number, label in enumerate(vectors.label_ids)}
    places = {document: place for place, document in enumerate(vectors.document_ids)}
    for shard in range(context.shards):
        shown = storage.read_shard("documents", shard, DOCUMENTS_SCHEMA, ["id", "title", "text"]).to_pylist()
        rows = [row for row, document in enumerate(shown) if document["id"] in places]
        lists = []
        for document in (shown[row] for row in rows):
            judged = np.array([[numbers[label] for label in verdicts[document["id"]]]], np.int32)
            vector = vectors.documents[[places[document["id"]]]]
            similarity = vectors.similarity(vector, [document["title"]], [document["text"]], judged)
            lists.append(in_falling_similarity(judged[0], similarity[0]))
        columns = [pa.array(rows, pa.int32())]
        columns += [pa.array([one[part] for one in lists], SHORTLIST_SCHEMA.field(1 + part).type) for part in (0, 1)]
        columns.append(columns[-1])  # by the base encoder: the same, in cycle 0
        files.append(layout.shard_file("cycle-0/shortlist", shard))
        storage.write_table(files[-1], pa.Table.from_arrays(columns, schema=SHORTLIST_SCHEMA))
        documents += len(rows)
    return StageResult(documents, files, {"documents": documents, "labels_from": f"{teacher} verdicts"})


def in_falling_similarity(labels: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ordered as tables.SHORTLIST_SCHEMA wants it: falling similarity, ties by label number."""
    order = np.lexsort((labels, -similarity))
    return labels[order], similarity[order].astype(np.float32)


def _write_examples(context: Context, vectors: Vectors, verdicts: Verdicts, teacher: str) -> StageResult:
    """Import the verdicts and join them with the shortlists; rows, files and details, as a stage returns them."""
    pairs = [(one, label, score) for one in vectors.document_ids for label, score in verdicts[one].items()]
    names, types = ("document_id", "label_id", "raw"), (pa.string(), pa.string(), pa.float32())
    columns = [pa.array(column, kind) for column, kind in zip(zip(*pairs, strict=True), types, strict=True)]
    context.storage.write_table("verdicts.parquet", pa.Table.from_arrays(columns, names=names))
    imported = import_verdicts(context, context.storage.path("verdicts.parquet"), teacher)
    made = make_examples(context, 0, Reading(imported.key, "yes_no", "none"), run_tasks)
    about = {"key": imported.key, "readout": "yes_no", "calibration": "none"}
    return replace(made, details={"pairs": made.rows, "pairs_asked": 0, "teacher": about, **made.details})


def _facts(context: Context, data: Data) -> dict[str, Any]:
    """Counts for the notes."""
    known, judged = context.manifest(layout.DOCUMENTS).details, context.manifest(EXAMPLES_FOLDER)
    return {
        "train_documents": known["train"] - known["held_out"],
        "held_out_documents": known["held_out"],
        "ranked_documents": known["test"],
        "rejected_rows": known["rejected"],
        "repeated_documents": data.repeated,
        "labels": len(data.labels),
        "pairs": judged.rows,
        "share_yes": judged.details["share_yes"],
    }


def best_yes(verdicts: Sequence[float], threshold: float) -> list[int]:
    """The place of the highest verdict (the first of equal ones)."""
    return [int(np.argmax(verdicts))]


def all_yes(verdicts: Sequence[float], threshold: float) -> list[int]:
    """The places of all verdicts of at least ``threshold``."""
    return [place for place, verdict in enumerate(verdicts) if verdict >= threshold]


def whole_shortlist(verdicts: Sequence[float], threshold: float) -> list[int]:
    """Every place."""
    return list(range(len(verdicts)))


def derive(base: str, run: str, pick: Callable[[Sequence[float], float], list[int]], documents: int) -> None:
    """The run ``run``: the first ``documents`` train documents of ``base`` that have a yes, with the labels picked.

    Errors: UserError if there are fewer.
    """
    source, target = Storage(base), Storage(run)
    threshold = source.read_json(f"{EXAMPLES_FOLDER}/manifest.json")["details"]["yes_threshold"]
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(base, run, ignore=shutil.ignore_patterns("verdicts"))
    left = documents
    for name in source.list(EXAMPLES_FOLDER, ".parquet"):
        rows = [row for row in source.read_table(name, EXAMPLES_SCHEMA).to_pylist() if not row["held_out"]]
        rows = [row for row in rows if max(row["verdict"], default=-np.inf) >= threshold][:left]
        left -= len(rows)
        kept = [_picked(row, pick(row["verdict"], threshold)) for row in rows]
        target.write_table(name, pa.Table.from_pylist(kept, schema=EXAMPLES_SCHEMA))
    summarize_examples(target, 0, example_groups(len(source.list(EXAMPLES_FOLDER, ".parquet"))))
    if left:
        raise UserError(
            f"Only {documents - left} train documents have a yes, and {documents} are timed: lower --steps."
        )


def _picked(row: Row, places: list[int]) -> Row:
    lists = ("labels", "similarity", "base_similarity", "raw", "verdict")
    return row | {name: [row[name][place] for place in places] for name in lists}


def yes_labels(run: str) -> list[tuple[str, list[str]]]:
    """The texts of the train documents of ``run`` that have a yes, each with the texts of the labels that got one."""
    storage = Storage(run)
    threshold = storage.read_json(f"{EXAMPLES_FOLDER}/manifest.json")["details"]["yes_threshold"]
    texts = storage.read_table("labels.parquet", LABELS_SCHEMA, ["text"])["text"].to_pylist()
    found = []
    for name in storage.list(EXAMPLES_FOLDER, ".parquet"):
        documents = storage.read_table(name.replace(EXAMPLES_FOLDER, "documents"), DOCUMENTS_SCHEMA).to_pylist()
        for row in storage.read_table(name, EXAMPLES_SCHEMA).to_pylist():
            labels = [texts[row["labels"][place]] for place in all_yes(row["verdict"], threshold)]
            document = documents[row["row"]]
            if labels and not row["held_out"]:
                found.append((document_text(document["title"], document["text"]), labels))
    return found


def ranked_documents(run: str) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Titles, texts and gold label numbers (int32 [g] each) of the test documents of ``run``."""
    storage = Storage(run)
    rows: list[Row] = []
    gold: list[np.ndarray] = []
    for name in storage.list("documents", ".parquet"):
        documents = storage.read_table(name, DOCUMENTS_SCHEMA).to_pylist()
        truth = storage.read_table(name.replace("documents", "gold"), GOLD_SCHEMA)["labels"].to_pylist()
        wanted = [row for row, document in enumerate(documents) if document["split"] == "test"]
        rows += [documents[row] for row in wanted]
        gold += [np.array(truth[row], np.int32) for row in wanted]
    return [row["title"] for row in rows], [row["text"] for row in rows], gold


def write_texts(folder: str, rows: list[Row]) -> None:
    """For the methods that encode."""
    Storage(folder).write_json(TEXTS, [[row["title"] for row in rows], [row["text"] for row in rows]])


def texts_to_encode(folder: str) -> tuple[list[str], list[str]]:
    """The titles and texts that :func:`write_texts` wrote."""
    titles, texts = Storage(folder).read_json(TEXTS)
    return titles, texts


def time_encoding(encode: Callable[[slice], np.ndarray], run: str, started: float, dtype: str) -> dict[str, Any]:
    """Time ``encode`` over all texts, after a few; its vectors go into a file of ``run``. ``dtype``: torch's name."""
    encode(slice(WARM_UP_TEXTS))
    began = time.perf_counter()
    vectors = encode(slice(None))
    seconds = time.perf_counter() - began
    file = Path(run, "vectors.npy")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, vectors)
    return {
        "documents": len(vectors),
        "seconds": seconds,
        "start_seconds": began - started,
        "dtype": dtype.removeprefix("torch."),
        "vectors": str(file),
    }


def write_job(path: Path, job: Job) -> None:
    """For the method's process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vars(job)))


def read_job(path: str) -> Job:
    """What :func:`write_job` wrote."""
    return Job(**json.loads(Path(path).read_text()))


def section(config: Config) -> dict[str, Any]:
    """The settings that a result names."""
    encoder = {name: value for name, value in to_dict(config.encoder).items() if name != "model"}
    return {"student": to_dict(config.student), "encoder": encoder}

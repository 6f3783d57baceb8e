"""Stage ``evaluate``: measure every encoder on the test documents with gold, and the teacher on the judged ones.

    ezxmc evaluate conf.yaml

In: gold/, documents/, the encoders' label vectors, predictions/, examples. Out: evaluation/encoder-<c>/ (each encoder's
ranking of the test documents), evaluation/sample.parquet, and the metrics in the manifest. Nothing upstream reads gold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.metrics import auc_within_document
from ezxmc_ray.metrics import evaluate as measure
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.cluster import Item, encoder_pool, map_files, run_task
from ezxmc_ray.stages.context import DOCUMENTS, GOLD, LABELS, Context, encoder_name, shard_path
from ezxmc_ray.stages.shortlist import load_encoder, read_label_vectors
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale, target_scores
from ezxmc_ray.tables import DOCUMENTS as DOCUMENTS_SCHEMA
from ezxmc_ray.tables import EXAMPLES, PREDICTIONS
from ezxmc_ray.tables import GOLD as GOLD_SCHEMA
from ezxmc_ray.tables import LABELS as LABELS_SCHEMA

FOLDER = "evaluation"
RANKING = pa.schema([("row", pa.int32()), ("labels", pa.list_(pa.int32()))])
SAMPLE = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("predicted", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("gold", pa.list_(pa.string())),
    ]
)


def evaluate(context: Context) -> tuple[int, list[str], dict[str, Any]]:
    """Measure; returns rows (test documents ranked), files and details of the manifest. No gold: no metrics."""
    config, storage, shards = context.config, context.storage, context.shards
    known = context.documents.details
    encoders = config.curriculum.cycles + 1
    has_gold = known["gold_fingerprint"] is not None
    ranked = 0
    items: list[Item] = []
    metrics: dict[str, Any] = {}
    with StageProgress("evaluate", "documents", int(known["test"]) * encoders if has_gold else 0) as progress:
        for encoder in range(encoders if has_gold else 0):
            folder = f"{FOLDER}/encoder-{encoder}"
            items += [{"encoder": encoder, "shard": s, "file": shard_path(folder, s)} for s in range(shards)]
        folders = [context.encoder_folder(encoder) for encoder in range(encoders)]
        arguments = (storage, config.encoder, folders, config.evaluate.depth)
        for done in map_files(storage, items, RankWorker, arguments, encoder_pool()):
            ranked += done["documents"]
            progress.advance(done["documents"])
        for encoder in range(encoders if has_gold else 0):
            metrics[encoder_name(encoder)] = run_task(metrics_of, storage, encoder, shards)
    sample = f"{FOLDER}/sample.parquet"
    run_task(write_sample, storage, shards, config.report.documents, has_gold, sample)
    teacher = (
        run_task(audit_teacher, storage, shards, context.manifest("cycle-0/examples").details["scale"])
        if has_gold
        else None
    )
    details = {
        "metrics": metrics or None,
        "documents": next(iter(metrics.values()))["documents"] if metrics else 0,
        "depth": config.evaluate.depth,
        "teacher": teacher,
    }
    return ranked, [*(item["file"] for item in items), sample], details


class RankWorker:
    """Actor: ranks the labels for the test documents of a shard with one of the encoders, by exact search."""

    def __init__(self, storage: Storage, config: EncoderConfig, folders: list[str | None], depth: int) -> None:
        self.storage, self.config, self.folders, self.depth = storage, config, folders, depth
        self.number = -1

    def _use(self, number: int) -> None:
        """Load encoder ``number`` in place of the one before; items come in the encoders' order."""
        if number != self.number:
            self.encoder = load_encoder(self.storage, self.config, self.folders[number])
            self.index = ShardedIndex.from_vectors(read_label_vectors(self.storage, f"cycle-{number}/label_vectors"))
            self.number = number

    def __call__(self, item: Item) -> Item:
        """Do one item; returns its counts."""
        shard = int(item["shard"])
        self._use(int(item["encoder"]))
        documents = self.storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA)
        gold = self.storage.read_table(shard_path(GOLD, shard), GOLD_SCHEMA)["labels"]
        rows = np.flatnonzero(pc.and_(pc.equal(documents["split"], "test"), pc.is_valid(gold)).to_numpy()).astype(
            np.int32
        )
        wanted = documents.take(rows)
        encoded = self.encoder.encode_documents(wanted["title"].to_pylist(), wanted["text"].to_pylist())
        _, labels = self.index.search(encoded.vectors, self.depth, wanted["excluded"].to_pylist())
        table = pa.table(
            [pa.array(rows), pa.array([row[row >= 0] for row in labels], RANKING.field(1).type)], schema=RANKING
        )
        counts = {"documents": len(rows)}
        self.storage.write_table(item["file"], table, counts)
        return counts


def metrics_of(storage: Storage, encoder: int, shards: int) -> dict[str, float]:
    """Task: the metrics of one encoder's rankings against gold; a document's excluded labels do not count as gold."""
    ranked: list[list[int]] = []
    gold: list[np.ndarray] = []
    for shard in range(shards):
        table = storage.read_table(shard_path(f"{FOLDER}/encoder-{encoder}", shard), RANKING)
        truth = storage.read_table(shard_path(GOLD, shard), GOLD_SCHEMA)["labels"].take(table["row"]).to_pylist()
        excluded = (
            storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA, ["excluded"])["excluded"]
            .take(table["row"])
            .to_pylist()
        )
        ranked += table["labels"].to_pylist()
        gold += [
            np.array(sorted(set(one) - set(out)), dtype=np.int32) for one, out in zip(truth, excluded, strict=True)
        ]
    width = max((len(one) for one in ranked), default=1)
    padded = np.full((len(ranked), max(width, 1)), -1, dtype=np.int32)
    for row, labels in enumerate(ranked):
        padded[row, : len(labels)] = labels
    return dict(measure(padded, gold))


def audit_teacher(storage: Storage, shards: int, scale: dict[str, float]) -> dict[str, Any]:
    """Task: AUC within a document of verdict, similarity and fusion (mean over those with a gold and another label)."""
    scores: dict[str, list[np.ndarray]] = {"verdict": [], "similarity": [], "fusion": []}
    is_gold: list[np.ndarray] = []
    for shard in range(shards):
        examples = storage.read_table(shard_path("cycle-0/examples", shard), EXAMPLES)
        truth = storage.read_table(shard_path(GOLD, shard), GOLD_SCHEMA)["labels"].take(examples["row"]).to_pylist()
        for labels, similarity, verdict, gold in zip(
            examples["labels"], examples["similarity"], examples["verdict"], truth, strict=True
        ):
            if gold is None or not labels.values:
                continue
            values = {"verdict": verdict.values.to_numpy(), "similarity": similarity.values.to_numpy()}
            values["fusion"] = target_scores(values["verdict"], values["similarity"], "fusion", TargetScale(**scale))
            for name, value in values.items():
                scores[name].append(value)
            is_gold.append(np.isin(labels.values.to_numpy(), gold))
    auc, documents = auc_within_document(scores["verdict"], is_gold)
    return {
        "auc": auc,
        "similarity_auc": auc_within_document(scores["similarity"], is_gold)[0],
        "fusion_auc": auc_within_document(scores["fusion"], is_gold)[0],
        "documents": documents,
    }


def write_sample(storage: Storage, shards: int, wanted: int, has_gold: bool, target: str) -> None:
    """Task: the first ``wanted`` test documents with their predicted labels beside the gold ones."""
    texts = storage.read_table(LABELS, LABELS_SCHEMA, ["text"])["text"]
    rows: list[dict[str, Any]] = []
    for shard in range(shards):
        documents = storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA)
        picked = np.flatnonzero(pc.equal(documents["split"], "test").to_numpy())[: wanted - len(rows)]
        if not len(picked):
            continue
        predictions = storage.read_table(shard_path("predictions", shard), PREDICTIONS).take(picked).to_pylist()
        gold = (
            storage.read_table(shard_path(GOLD, shard), GOLD_SCHEMA)["labels"].take(picked).to_pylist()
            if has_gold
            else [None] * len(picked)
        )
        for document, prediction, labels in zip(documents.take(picked).to_pylist(), predictions, gold, strict=True):
            rows.append(
                {
                    "id": document["id"],
                    "title": document["title"],
                    "text": document["text"],
                    "predicted": prediction["label_texts"],
                    "scores": prediction["scores"],
                    "gold": None if labels is None else [texts[number].as_py() for number in labels],
                }
            )
    storage.write_table(target, pa.Table.from_pylist(rows, schema=SAMPLE))

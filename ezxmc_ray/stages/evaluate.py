"""Stage ``evaluate``: measure every encoder on the test documents with gold, and the teacher on the judged ones.

    ezxmc evaluate conf.yaml

In: gold/, documents/, the encoders' label vectors, predictions/, examples. Out: evaluation/encoder-<c>/ (each encoder's
ranking of the test documents), evaluation/sample.parquet, and the metrics in the manifest. Nothing upstream reads gold.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, watched
from ezxmc_ray.cluster.pools import HELD, Done, Times, WorkItem, encoder_pool, map_files
from ezxmc_ray.cluster.session import run_task
from ezxmc_ray.config import Config
from ezxmc_ray.context import Context, JudgedCycle, StageResult, encoder_name
from ezxmc_ray.evaluation.audit import (
    AuditPairs,
    audit_by_gold,
    count_by_rank,
    join,
    share_yes_by_rank,
)
from ezxmc_ray.evaluation.rankings import gold_of, measure_encoders
from ezxmc_ray.index.gpu import gpu_dtype
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.shortlist import exact_index, lexical_table, load_encoder, make_search_files
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale, target_scores
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    EXAMPLES_SCHEMA,
    GOLD_SCHEMA,
    LABELS_SCHEMA,
    PREDICTIONS_SCHEMA,
    RANKINGS_SCHEMA,
    flat,
    lengths,
)

_NO_LABELS = np.zeros(0, np.int32)
SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("predicted", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("gold", pa.list_(pa.string())),
    ]
)


def evaluate(context: Context) -> StageResult:
    """Measure; returns rows (test documents ranked), files and details of the manifest. No gold: no metrics."""
    config, storage, shards = context.config, context.storage, context.shards
    known = context.prepared
    encoders = context.cycles + 1
    has_gold = known.gold_fingerprint is not None
    ranked, times = 0, Times()
    items: list[WorkItem] = []
    measured: dict[str, Any] = {}
    with watched(StageProgress("evaluate", "documents", known.test * encoders if has_gold else 0)) as progress:
        for encoder in range(encoders if has_gold else 0):
            folder = layout.ranking(encoder)
            items += [{"encoder": encoder, "shard": s, "file": layout.shard_file(folder, s)} for s in range(shards)]
        folders = [context.encoder_folder(encoder) for encoder in range(encoders)]
        make_search_files(context, range(encoders if has_gold else 0))
        arguments = (storage, config, folders)
        for done in map_files(storage, items, RankWorker, arguments, encoder_pool(), times):
            ranked += done["documents"]
            progress.advance(done["documents"], HELD in done)
        if has_gold:
            names = [encoder_name(encoder) for encoder in range(encoders)]
            measured = run_task(measure_encoders, storage, names, shards, known.labels, config.evaluate, config.seed)
    sample = layout.EVALUATION_SAMPLE
    run_task(write_sample, storage, shards, config.report.documents, has_gold, sample)
    teacher = run_task(audit_teacher, storage, shards, context.judged(0), config.shortlist.size, has_gold, config.seed)
    details = {
        "metrics": None,
        **measured,
        "documents": measured["metrics"][encoder_name(0)]["documents"] if measured else 0,
        "depth": config.evaluate.depth,
        "student": context.manifest(layout.STUDENT).commit,
        "document_fingerprint": known.document_fingerprint,
        "gold_fingerprint": known.gold_fingerprint,
        "teacher": teacher,
        **vars(times),
    }
    return StageResult(ranked, [*(item["file"] for item in items), sample], details)


class RankWorker:
    """Actor: ranks the labels for the test documents of a shard with one of the encoders, by exact search."""

    def __init__(self, storage: Storage, config: Config, folders: list[str | None]) -> None:
        self.storage, self.config, self.folders = storage, config, folders
        self.lexical_table = lexical_table(storage, config.lexical)
        self.number = -1

    def _use(self, number: int) -> None:
        """Load encoder ``number`` in place of the one before; items come in the encoders' order."""
        if number != self.number:
            config = self.config
            self.encoder = load_encoder(self.storage, config.encoder, self.folders[number])
            index = exact_index(self.storage, number, gpu_dtype(config.encoder, config.index))
            self.searcher = HybridSearcher(index, self.lexical_table, config.lexical)
            self.number = number

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        shard = int(item["shard"])
        self._use(int(item["encoder"]))
        documents = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA)
        gold = self.storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"]
        rows = np.flatnonzero(pc.and_(pc.equal(documents["split"], "test"), pc.is_valid(gold)).to_numpy()).astype(
            np.int32
        )
        wanted = documents.take(rows)
        titles, texts, excluded = (wanted[name].to_pylist() for name in ("title", "text", "excluded"))
        self.encoder.on_part = partial(report_done, item["file"])
        encoded = self.encoder.encode_documents(titles, texts)
        _, labels = self.searcher.search(encoded.vectors, titles, texts, self.config.evaluate.depth, excluded)
        table = pa.table(
            [pa.array(rows), pa.array([row[row >= 0] for row in labels], RANKINGS_SCHEMA.field(1).type)],
            schema=RANKINGS_SCHEMA,
        )
        counts = {"documents": len(rows)}
        self.storage.write_table(item["file"], table, counts)
        return counts


def audit_teacher(
    storage: Storage, shards: int, judged: JudgedCycle, size: int, has_gold: bool, seed: int
) -> dict[str, Any]:
    """Task: the audit of the teacher on the pairs of cycle 0; keys in docs/report.md.

    ``judged``: of cycle 0. ``size``: labels a shortlist at most. Pairs whose verdict is not a
    finite number are left out and counted; without gold labels what needs them is measured over no document.
    """
    by_rank = np.zeros((2, size), np.int64)
    with_gold, unjudged = [], 0
    for shard in range(shards):
        examples = storage.read_shard(layout.examples(0), shard, EXAMPLES_SCHEMA)
        gold = gold_of(storage, shard, examples["row"]) if has_gold else [_NO_LABELS] * len(examples)
        pairs = audit_pairs(examples, gold, judged.scale, shard)
        finite = np.isfinite(pairs.verdict)
        unjudged += int((~finite).sum())
        by_rank += count_by_rank(pairs.take(finite), judged.yes_threshold, size)
        measurable = np.repeat([len(labels) > 0 for labels in gold], lengths(examples["labels"])).astype(bool)
        with_gold.append(pairs.take(finite & measurable))
    return {
        **audit_by_gold(join(with_gold), judged.readout, judged.yes_threshold, seed),
        "share_yes_by_rank": share_yes_by_rank(by_rank),
        "unjudged_pairs": unjudged,
    }


def audit_pairs(examples: pa.Table, gold: list[np.ndarray], scale: TargetScale, shard: int) -> AuditPairs:
    """The pairs of a shard's ``examples``; ``gold``: an integer array of label numbers for each of its rows."""
    counts = lengths(examples["labels"])
    starts = np.cumsum(counts) - counts
    verdict, similarity = flat(examples["verdict"]), flat(examples["similarity"])
    labels = np.split(flat(examples["labels"]), starts[1:])
    is_gold = [np.isin(one, wanted) for one, wanted in zip(labels, gold, strict=True)] if len(examples) else []
    return AuditPairs(
        document=np.repeat((shard << 32) + examples["row"].to_numpy().astype(np.int64), counts),
        rank=np.arange(counts.sum()) - np.repeat(starts, counts),
        raw=flat(examples["raw"]),
        verdict=verdict,
        similarity=similarity,
        fusion=target_scores(verdict, similarity, "fusion", scale),
        is_gold=np.concatenate([np.zeros(0, bool), *is_gold]),
    )


def write_sample(storage: Storage, shards: int, wanted: int, has_gold: bool, target: str) -> None:
    """Task: the first ``wanted`` test documents with their predicted labels beside the gold ones."""
    texts = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["text"])["text"]
    rows: list[dict[str, Any]] = []
    for shard in range(shards):
        documents = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA)
        picked = np.flatnonzero(pc.equal(documents["split"], "test").to_numpy())[: wanted - len(rows)]
        if not len(picked):
            continue
        predictions = storage.read_shard(layout.PREDICTIONS, shard, PREDICTIONS_SCHEMA).take(picked).to_pylist()
        gold = (
            storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"].take(picked).to_pylist()
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
    storage.write_table(target, pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA))

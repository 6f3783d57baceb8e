"""Stage ``evaluate``: measure every encoder on the test documents with gold, and the teacher on the judged ones.

    ezxmc evaluate conf.yaml

In: gold/, documents/, the encoders' label vectors, predictions/, examples. Out: evaluation/encoder-<c>/ (each encoder's
ranking of the test documents), evaluation/sample.parquet, and the metrics in the manifest. Nothing upstream reads gold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import HELD, Done, Times, WorkItem, encoder_pool, map_files
from ezxmc_ray.cluster.session import run_task, run_tasks
from ezxmc_ray.config import Config
from ezxmc_ray.context import RERANKED, Context, JudgedCycle, RunTasks, StageResult, encoder_name, shard_groups
from ezxmc_ray.encoder.reranker import Reranker
from ezxmc_ray.evaluation.audit import (
    AuditPairs,
    audit_by_gold,
    count_by_rank,
    join,
    share_yes_by_rank,
)
from ezxmc_ray.evaluation.rankings import gold_of, measure_encoders
from ezxmc_ray.hardware import release_memory
from ezxmc_ray.index.gpu import gpu_dtype
from ezxmc_ray.index.label_texts import all_texts
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.shortlist import exact_index, hybrid_searcher, lexical_table, load_encoder, make_search_files
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
    rows_of,
)
from ezxmc_ray.tagging.cross_encoder import CrossSettings, load_reranker
from ezxmc_ray.tagging.opening import cross_settings

if TYPE_CHECKING:
    from ezxmc_ray.encoder.encoder import Encoder
    from ezxmc_ray.index.hybrid import HybridSearcher

_NO_LABELS = np.zeros(0, np.int32)
#: Pairs that gold labels measure the teacher by, about; of more, the documents are drawn. At 10 labels a document an
#: AUC over so many has a standard error near 0.001.
MAX_AUDITED_PAIRS = 1_000_000
#: evaluation/sample.parquet: ``is_gold`` of each predicted label, ``is_predicted`` of each gold one: the same label,
#: not one of the same text. ``gold``: without the document's excluded labels; null where none are given.
SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("predicted", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("gold", pa.list_(pa.string())),
        ("is_gold", pa.list_(pa.bool_())),
        ("is_predicted", pa.list_(pa.bool_())),
    ]
)


def evaluate(context: Context) -> StageResult:
    """Measure; returns rows (test documents ranked), files and details of the manifest. No gold: no metrics."""
    config, storage, shards = context.config, context.storage, context.shards
    known = context.prepared
    encoders = context.cycles + 1
    names = [encoder_name(encoder) for encoder in range(encoders)]
    cross = cross_settings(context) if config.predict.rerank else None
    names += [RERANKED] if cross else []
    has_gold = known.gold_fingerprint is not None
    ranked, times = 0, Times()
    items: list[WorkItem] = []
    measured: dict[str, Any] = {}
    with watched(StageProgress("evaluate", "documents", known.test * len(names) if has_gold else 0)) as progress:
        for encoder in range(len(names) if has_gold else 0):
            folder = layout.ranking(encoder)
            items += [{"encoder": encoder, "shard": s, "file": layout.shard_file(folder, s)} for s in range(shards)]
        folders = [context.encoder_folder(encoder) for encoder in range(encoders)]
        make_search_files(context, range(encoders if has_gold else 0))
        how = (folders, int(context.manifest(layout.STUDENT).details["encoder"]), cross)
        arguments, pool = (storage, config, *how), encoder_pool(config.index.gpus_per_actor)
        for done in map_files(storage, items, RankWorker, arguments, pool, times):
            ranked += done["documents"]
            progress.advance(done["documents"], HELD in done)
        if has_gold:
            measured = measure_encoders(storage, names, shards, known.labels, config.evaluate, config.seed, run_tasks)
    sample = layout.EVALUATION_SAMPLE
    run_task(write_sample, storage, shards, config.report.documents, has_gold, sample)
    settings = AuditSettings(context.judged(0), config.shortlist.size, has_gold, config.seed)
    teacher = audit_teacher(storage, shards, settings, run_tasks)
    details = {
        "metrics": None,
        **measured,
        "documents": measured["metrics"][encoder_name(0)]["documents"] if measured else 0,
        "depth": config.evaluate.depth,
        "student": context.manifest(layout.STUDENT).commit,
        "document_fingerprint": known.document_fingerprint,
        "label_fingerprint": known.label_fingerprint,
        "gold_fingerprint": known.gold_fingerprint,
        "commits": commits_of(context),
        "teacher": teacher,
        **({"rerank": config.predict.rerank} if cross else {}),
        **vars(times),
    }
    return StageResult(ranked, [*(item["file"] for item in items), sample], details)


def commits_of(context: Context) -> dict[str, str]:
    """What stands behind the encoders, by folder: the commits of all cycles' examples and students."""
    cycles = context.cycles
    folders = [layout.examples(cycle) for cycle in range(cycles + 1)]
    folders += [layout.cycle_student(cycle) for cycle in range(cycles)]
    folders += [layout.CROSS_ENCODER] if context.config.predict.rerank else []
    return {folder: context.manifest(folder).commit for folder in folders}


class RankWorker:
    """Actor: ranks the labels for the test documents of a shard with one of the encoders, by exact search.

    ``folders``: of the encoders, by number. The number behind the last is that of the ``chosen`` encoder's ranking,
    whose first labels the cross-encoder ``cross`` ranks anew.
    """

    encoder: Encoder
    searcher: HybridSearcher

    def __init__(
        self, storage: Storage, config: Config, folders: list[str | None], chosen: int, cross: CrossSettings | None
    ) -> None:
        self.storage, self.config, self.folders = storage, config, folders
        self.chosen, self.cross = chosen, cross
        self.reranker: Reranker | None = None
        self.lexical_table = lexical_table(storage, config.lexical)
        self.number = -1

    def _use(self, number: int) -> None:
        """Load encoder ``number`` in place of the one before; items come in the encoders' order."""
        if number != self.number:
            config = self.config
            if self.number >= 0:  # there may be no room for two of each
                del self.encoder, self.searcher
                release_memory()
            self.encoder = load_encoder(self.storage, config.encoder, self.folders[number])
            index = exact_index(self.storage, number, gpu_dtype(config.encoder, config.index))
            self.searcher = hybrid_searcher(index, self.lexical_table, config.lexical, number)
            self.number = number

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        shard, number = int(item["shard"]), int(item["encoder"])
        is_reranked = number == len(self.folders)
        self._use(self.chosen if is_reranked else number)
        documents = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA)
        gold = self.storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"]
        rows = np.flatnonzero(pc.and_(pc.equal(documents["split"], "test"), pc.is_valid(gold)).to_numpy()).astype(
            np.int32
        )
        wanted = rows_of(documents, rows)
        titles, texts, excluded = (wanted[name].to_pylist() for name in ("title", "text", "excluded"))
        self.encoder.on_part = partial(report_done, item["file"]) if not is_reranked else lambda done: None
        encoded = self.encoder.encode_documents(titles, texts)
        depth = wanted = self.config.evaluate.depth
        if is_reranked:
            self.reranker = self.reranker or self._load_reranker()
            wanted = max(depth, self.reranker.depth(self.config.predict.rerank))
        similarity, labels = self.searcher.search(encoded.vectors, titles, texts, wanted, excluded)
        if self.reranker and is_reranked:
            labels = self._rerank(self.reranker, titles, texts, similarity, labels, item["file"])[:, :depth]
        table = pa.table(
            [pa.array(rows), pa.array([row[row >= 0] for row in labels], RANKINGS_SCHEMA.field(1).type)],
            schema=RANKINGS_SCHEMA,
        )
        counts = {"documents": len(rows)}
        self.storage.write_table(item["file"], table, counts)
        return counts

    def _rerank(
        self,
        reranker: Reranker,
        titles: list[str],
        texts: list[str],
        similarity: np.ndarray,
        labels: np.ndarray,
        file: str,
    ) -> np.ndarray:
        """``labels`` int32 [q, k], of falling ``similarity``, in the order that the cross-encoder gives them."""
        first = self.config.predict.rerank
        reranker.network.count_documents(partial(report_done, file), reranker.depth(first))
        return reranker.rerank(titles, texts, similarity, labels, first).labels

    def _load_reranker(self) -> Reranker:
        assert self.cross is not None  # else there is no such ranking
        report_phase("loading the cross-encoder")
        return load_reranker(self.storage, self.config.encoder, self.cross, all_texts(self.storage).combine_chunks())


@dataclass(frozen=True)
class AuditSettings:
    """What the audit goes by: the manifest of cycle 0's ``judged`` pairs, ``size`` labels a shortlist at most, and
    whether there are gold labels; ``seed``: of the draw of documents and of the bootstrap."""

    judged: JudgedCycle
    size: int
    has_gold: bool
    seed: int

    @property
    def share(self) -> float:
        """Of the documents whose pairs are measured by gold."""
        return min(1.0, MAX_AUDITED_PAIRS / max(1, self.judged.pairs))


@dataclass(frozen=True)
class AuditedGroup:
    """Of some shards: counts by rank and pairs without a verdict, of all documents; the ``pairs`` of those drawn that
    have gold labels."""

    first_shard: int
    by_rank: np.ndarray
    unjudged: int
    pairs: AuditPairs


def audit_teacher(
    storage: Storage, shards: int, settings: AuditSettings, run_tasks: RunTasks = starmap
) -> dict[str, Any]:
    """The audit of the teacher on the pairs of cycle 0; keys in docs/report.md.

    Pairs whose verdict is not a finite number are left out and counted; without gold labels what needs them is measured
    over no document. Shares of yes are of all documents. What gold says is of those that are drawn, document by
    document with the same chance: all of them up to MAX_AUDITED_PAIRS pairs, which is enough for every digit shown.
    """
    groups: list[AuditedGroup] = list(
        run_tasks(audit_group, [(storage, one, settings) for one in shard_groups(shards)])
    )
    groups.sort(key=lambda group: group.first_shard)
    pairs = join([group.pairs for group in groups])
    judged = settings.judged
    [by_gold] = run_tasks(audit_by_gold, [(pairs, judged.readout, judged.yes_threshold, settings.seed)])
    return {
        **by_gold,
        "audited_share": settings.share,
        "share_yes_by_rank": share_yes_by_rank(np.sum([group.by_rank for group in groups], axis=0)),
        "unjudged_pairs": sum(group.unjudged for group in groups),
    }


def audit_group(storage: Storage, shards: range, settings: AuditSettings) -> AuditedGroup:
    """Task: the part of the audit that ``shards`` have."""
    judged, has_gold = settings.judged, settings.has_gold
    by_rank, unjudged, with_gold = np.zeros((2, settings.size), np.int64), 0, []
    columns = ["row", "labels", "similarity", "raw", "verdict"]
    for shard in shards:
        examples = storage.read_shard(layout.examples(0), shard, EXAMPLES_SCHEMA, columns)
        gold = gold_of(storage, shard, examples["row"]) if has_gold else [_NO_LABELS] * len(examples)
        pairs = audit_pairs(examples, gold, judged.scale, shard)
        finite = np.isfinite(pairs.verdict)
        unjudged += int((~finite).sum())
        by_rank += count_by_rank(pairs.take(finite), judged.yes_threshold, settings.size)
        drawn = np.random.default_rng([settings.seed, shard]).random(len(examples)) < settings.share
        measurable = np.array([len(labels) > 0 for labels in gold], bool) & drawn
        with_gold.append(pairs.take(finite & np.repeat(measurable, lengths(examples["labels"]))))
    return AuditedGroup(shards.start, by_rank, unjudged, join(with_gold))


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
    labels = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["id", "text"]) if has_gold else None
    rows: list[dict[str, Any]] = []
    for shard, places in _first_test_rows(storage, shards, wanted):
        columns = ["id", "title", "text", "excluded"]
        documents = rows_of(storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, columns), places).to_pylist()
        columns = ["label_ids", "label_texts", "scores"]
        predictions = storage.read_shard(layout.PREDICTIONS, shard, PREDICTIONS_SCHEMA, columns).take(places)
        gold: list[Any] = [None] * len(places)
        if labels is not None:
            gold = storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"].take(places).to_pylist()
        for document, prediction, numbers in zip(documents, predictions.to_pylist(), gold, strict=True):
            excluded = set(document.pop("excluded") or [])
            counted = None if numbers is None else [number for number in numbers if number not in excluded]
            rows.append(document | _beside_gold(prediction, labels, counted))
    storage.write_table(target, pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA))


def _beside_gold(prediction: dict[str, Any], labels: pa.Table | None, gold: list[int] | None) -> dict[str, Any]:
    """A document's predicted labels and its ``gold`` ones (numbers; None: none given), and which are both."""
    shown = {"predicted": prediction["label_texts"], "scores": prediction["scores"]}
    if labels is None or gold is None:
        return shown
    found = labels.take(pa.array(gold, pa.int32())).to_pydict()
    return shown | {
        "gold": found["text"],
        "is_gold": [one in found["id"] for one in prediction["label_ids"]],
        "is_predicted": [one in prediction["label_ids"] for one in found["id"]],
    }


def _first_test_rows(storage: Storage, shards: int, wanted: int) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of the first ``wanted`` test documents, shard by shard; what comes after them is not read."""

    def test_rows(shard: int) -> np.ndarray:
        splits = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["split"])["split"]
        return np.flatnonzero(pc.equal(splits, "test").to_numpy())

    for shard, rows in enumerate(at_once(test_rows, range(shards if wanted else 0))):
        if len(rows):
            yield shard, rows[:wanted]
            wanted -= min(wanted, len(rows))
        if not wanted:
            return

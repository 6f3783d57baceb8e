"""Stage ``judge``: the teacher judges the pairs of the shortlists that the verdict store does not hold yet.

    ezxmc judge conf.yaml

In: cycle-c/shortlist/, documents/, labels.parquet, the teacher's model. Out: verdicts/<teacher key>/… (shared by all
cycles) and cycle-c/examples/, the shortlist joined with its verdicts. Items: ranges of shortlist rows; actors: engines.
A batch's verdicts are committed as soon as it is judged, so whatever dies, no committed pair is judged again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray.config import TeacherConfig, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.cluster import Item, Pool, cluster_gpus, map_items, node_cpus, node_gpus, run_task, run_tasks
from ezxmc_ray.stages.context import DOCUMENTS, LABELS, Context, shard_path
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetSums, scale_of, sums_of
from ezxmc_ray.tables import DOCUMENTS as DOCUMENTS_SCHEMA
from ezxmc_ray.tables import EXAMPLES, NO_DOCUMENT, SHORTLIST, shard_name
from ezxmc_ray.tables import LABELS as LABELS_SCHEMA
from ezxmc_ray.teacher.calibration import calibrate, resolve_calibration, yes_threshold
from ezxmc_ray.teacher.engine import DocumentPairs, Judged, describe, start_engine, teacher_key
from ezxmc_ray.teacher.store import PRIORS, VerdictStore
from ezxmc_ray.watchdog import start_watchdog

HISTOGRAM_BINS = 256
#: Documents a work item at most, and work items wanted: few enough for Ray, enough to show progress and share out.
ITEM_DOCUMENTS, ITEMS = 1024, 64


@dataclass
class Counts:
    """What engines did: pairs judged, prompt tokens, of them computed (the rest came from the cache), cuts, seconds."""

    pairs: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    truncated_documents: int = 0
    truncated_labels: int = 0
    seconds: float = 0.0

    def add(self, other: dict[str, Any]) -> None:
        """Add another engine's counts, as its actor returns them."""
        for name, value in other.items():
            setattr(self, name, getattr(self, name) + value)


def judge(context: Context, cycle: int) -> tuple[int, list[str], dict[str, Any]]:
    """Judge what is pending in ``cycle``, join the examples; returns pairs, files and details of the manifest."""
    config, storage = context.config.teacher, context.storage
    key = run_task(start_store, storage, config)
    calibration = resolve_calibration(config)
    prior_counts = Counts()
    pending = sum(run_tasks(count_pending, [(storage, key, cycle, shard) for shard in range(context.shards)]))
    prior_items: list[Item] = []
    if calibration == "label_prior":
        prior_items = _prior_items(storage, run_task(plan_priors, storage, key, cycle, context.shards), config, cycle)
    items = _items(context, cycle) if pending else []
    counts = Counts()
    priors = sum(item["stop"] - item["start"] for item in prior_items)
    with StageProgress(f"cycle {cycle} judge", "pairs", pending + priors) as progress:
        for done in map_items(
            prior_items + items, JudgeWorker, (storage, config, key, cycle), _pool(config), config.batches_in_flight
        ):
            (prior_counts if done.pop("prior") else counts).add(done)
            progress.advance(done["pairs"])
    return _examples(context, cycle, key, calibration, counts, prior_counts)


def start_store(storage: Storage, config: TeacherConfig) -> str:
    """Task: resolve the teacher, note its description in the verdict store, and return its key."""
    key = teacher_key(config)
    VerdictStore(storage, key).write_description(describe(config))
    return key


def _pool(config: TeacherConfig) -> Pool:
    """The engines: as many as configured, else one for each tensor-parallel group of GPUs, or one on a CPU machine."""
    gpus = cluster_gpus()
    if config.tensor_parallel > max(node_gpus(), 1):
        raise UserError(
            f"teacher.tensor_parallel is {config.tensor_parallel}, but no node has more than {node_gpus()} GPUs."
        )
    if gpus:
        return Pool(config.engines or gpus // config.tensor_parallel, 1, config.tensor_parallel)
    engines = config.engines or 1
    return Pool(engines, max(1, node_cpus() // engines))


def _items(context: Context, cycle: int) -> list[Item]:
    """Ranges of shortlist rows, none across shards."""
    storage, config = context.storage, context.config.teacher
    rows = [storage.rows(shard_path(f"cycle-{cycle}/shortlist", shard)) for shard in range(context.shards)]
    size = max(config.batch_documents, min(ITEM_DOCUMENTS, sum(rows) // ITEMS))
    return [
        {"shard": shard, "start": start, "stop": min(count, start + size)}
        for shard, count in enumerate(rows)
        for start in range(0, count, size)
    ]


def _prior_items(storage: Storage, labels: int, config: TeacherConfig, cycle: int) -> list[Item]:
    size = max(1, min(ITEM_DOCUMENTS * 8, max(256, labels // ITEMS)))
    return [{"shard": -1, "start": start, "stop": min(labels, start + size)} for start in range(0, labels, size)]


def count_pending(storage: Storage, key: str, cycle: int, shard: int) -> int:
    """Task: pairs of a shard's shortlist that the store does not hold."""
    return int(_Pending(storage, key, cycle).of_shard(shard).size)


def plan_priors(storage: Storage, key: str, cycle: int, shards: int) -> int:
    """Task: note the labels of the shortlists that have no prior yet, in cycle-c/pending_priors.parquet; how many."""
    numbers = [
        _flat(storage.read_table(shard_path(f"cycle-{cycle}/shortlist", shard), SHORTLIST)["labels"])
        for shard in range(shards)
    ]
    wanted = np.unique(np.concatenate(numbers)) if numbers else np.zeros(0, np.int32)
    hashes = (
        storage.read_table(LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"].take(pa.array(wanted)).to_pylist()
    )
    raw = VerdictStore(storage, key).lookup(PRIORS, [NO_DOCUMENT] * len(hashes), hashes)
    missing = wanted[np.isnan(raw)]
    storage.write_table(_prior_plan(cycle), pa.table({"label": pa.array(missing, pa.int32())}))
    return len(missing)


def _prior_plan(cycle: int) -> str:
    return f"cycle-{cycle}/pending_priors.parquet"


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a list column, one after the other."""
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False))


class _Pending:
    """Pairs that a cycle's shortlists have and the verdict store lacks."""

    def __init__(self, storage: Storage, key: str, cycle: int) -> None:
        self.storage, self.cycle = storage, cycle
        self.store = VerdictStore(storage, key)
        labels = storage.read_table(LABELS, LABELS_SCHEMA)
        self.label_texts, self.label_hashes = labels["text"], labels["content_hash"]

    def of_shard(self, shard: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Positions of the pending pairs among the flattened pairs of shortlist rows ``start`` to ``stop``."""
        pairs = self.pairs(shard, start, stop)
        raw = self.store.lookup(shard_name(shard), pairs["document_hash"], pairs["label_hash"])
        # The same text twice in a range (two documents alike) is asked once.
        seen: set[tuple[bytes, bytes]] = set()
        pending = []
        for position in np.flatnonzero(np.isnan(raw)):
            pair = (pairs["document_hash"][position], pairs["label_hash"][position])
            if pair not in seen:
                seen.add(pair)
                pending.append(position)
        return np.array(pending, dtype=np.int64)

    def pairs(self, shard: int, start: int = 0, stop: int | None = None) -> dict[str, list[Any]]:
        """The flattened pairs of shortlist rows ``start`` to ``stop``: row in the shard, label number, both hashes."""
        rows = self.storage.read_table(shard_path(f"cycle-{self.cycle}/shortlist", shard), SHORTLIST).slice(
            start, None if stop is None else stop - start
        )
        lists = rows["labels"].combine_chunks()
        repeats = np.diff(lists.offsets.to_numpy())
        row = np.repeat(rows["row"].to_numpy(), repeats)
        labels = np.asarray(lists.flatten())
        hashes = self.storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA, ["content_hash"])[
            "content_hash"
        ]
        return {
            "row": row.tolist(),
            "label": labels.tolist(),
            "document_hash": hashes.take(pa.array(row)).to_pylist(),
            "label_hash": self.label_hashes.take(pa.array(labels)).to_pylist(),
        }

    def documents(self, shard: int, start: int, stop: int) -> list[DocumentPairs]:
        """The pending pairs of a range of shortlist rows, grouped by document."""
        pending = self.of_shard(shard, start, stop)
        if not len(pending):
            return []
        pairs = self.pairs(shard, start, stop)
        texts = self.storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA, ["title", "text"])
        grouped: dict[int, list[int]] = {}
        for position in pending:
            grouped.setdefault(pairs["row"][position], []).append(int(position))
        return [
            DocumentPairs(
                document_hash=pairs["document_hash"][positions[0]],
                title=texts["title"][row].as_py(),
                text=texts["text"][row].as_py(),
                label_hashes=tuple(pairs["label_hash"][p] for p in positions),
                labels=tuple(self.label_texts[pairs["label"][p]].as_py() for p in positions),
            )
            for row, positions in grouped.items()
        ]

    def priors(self, start: int, stop: int) -> list[DocumentPairs]:
        """The labels ``start`` to ``stop`` of the plan of pending priors, as pairs with no document."""
        numbers = self.storage.read_table(_prior_plan(self.cycle))["label"].slice(start, stop - start)
        hashes = tuple(self.label_hashes.take(numbers).to_pylist())
        raw = self.store.lookup(PRIORS, [NO_DOCUMENT] * len(hashes), list(hashes))
        texts = self.label_texts.take(numbers).to_pylist()
        first = {key: text for key, text, value in zip(hashes, texts, raw, strict=True) if np.isnan(value)}
        return [DocumentPairs(NO_DOCUMENT, "", "", tuple(first), tuple(first.values()))] if first else []


class JudgeWorker:
    """Actor: one engine, and the verdict store that it appends to."""

    def __init__(self, storage: Storage, config: TeacherConfig, key: str, cycle: int) -> None:
        self.config = config
        # An engine may start worker processes of its own; they end with this actor, whatever ends it.
        self.watchdog = start_watchdog()
        self.pending = _Pending(storage, key, cycle)
        self.engine = start_engine(config)

    def __call__(self, item: Item) -> Item:
        """Do one item; returns its counts."""
        shard, start, stop = int(item["shard"]), int(item["start"]), int(item["stop"])
        prior = shard < 0
        documents = self.pending.priors(start, stop) if prior else self.pending.documents(shard, start, stop)
        folder = PRIORS if prior else shard_name(shard)
        counts = Counts()
        for batch in _batches(documents, self.config.batch_documents):
            judged = self._judge(batch)
            self.pending.store.append(folder, judged.table)
            counts.add(
                {
                    "pairs": len(judged.table),
                    "prompt_tokens": judged.prompt_tokens,
                    "computed_tokens": judged.computed_tokens,
                    "truncated_documents": judged.truncated_documents,
                    "truncated_labels": judged.truncated_labels,
                    "seconds": judged.seconds,
                }
            )
        return {**vars(counts), "prior": prior}

    def _judge(self, batch: list[DocumentPairs]) -> Judged:
        try:
            return self.engine.judge(batch)
        except Exception as error:
            if type(error).__name__ != "EngineDeadError":
                raise
            # A dead engine does not come back in this process. Ray replaces an actor that ends, and gives its items
            # out again; raising would hand the next item to the same dead engine.
            print(f"the engine died: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def _batches(documents: list[DocumentPairs], size: int) -> Iterator[list[DocumentPairs]]:
    for start in range(0, len(documents), size):
        yield documents[start : start + size]


def _examples(
    context: Context, cycle: int, key: str, calibration: str, counts: Counts, prior_counts: Counts
) -> tuple[int, list[str], dict[str, Any]]:
    """Join shortlists and verdicts, measure the calibrated verdicts, and collect the manifest's details."""
    storage, shards = context.storage, range(context.shards)
    joined = list(
        run_tasks(
            join_examples, [(storage, key, cycle, shard, context.config.teacher, calibration) for shard in shards]
        )
    )
    sums = sum((one["sums"] for one in joined), TargetSums())
    pairs = sums.pairs
    low, high = (min(one["low"] for one in joined), max(one["high"] for one in joined)) if pairs else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), HISTOGRAM_BINS + 1)
    histograms = run_tasks(histogram_of, [(storage, cycle, shard, edges) for shard in shards])
    histogram = np.sum(list(histograms), axis=0)
    threshold = yes_threshold(histogram, edges) if pairs else 0.0
    yes = sum(run_tasks(count_yes, [(storage, cycle, shard, threshold) for shard in shards]))
    asked = counts.pairs + prior_counts.pairs
    details = {
        "teacher": {**run_task(describe, context.config.teacher), "key": key, "calibration": calibration},
        "pairs": pairs,
        "pairs_asked": counts.pairs,
        "pairs_held": pairs - counts.pairs,
        "prior_pairs_asked": prior_counts.pairs,
        "prompt_tokens": counts.prompt_tokens + prior_counts.prompt_tokens,
        "computed_tokens": counts.computed_tokens + prior_counts.computed_tokens,
        "truncated_documents": counts.truncated_documents,
        "truncated_labels": counts.truncated_labels + prior_counts.truncated_labels,
        "engine_seconds": counts.seconds + prior_counts.seconds,
        "engine_pairs_per_s": asked / max(1e-9, counts.seconds + prior_counts.seconds) if asked else None,
        "scale": to_dict(scale_of(sums)),
        "yes_threshold": threshold,
        "share_yes": yes / max(1, pairs),
        "histogram": {"edges": edges.tolist(), "counts": histogram.tolist()},
    }
    storage.remove(_prior_plan(cycle))
    return pairs, [shard_path(f"cycle-{cycle}/examples", shard) for shard in shards], details


def join_examples(
    storage: Storage, key: str, cycle: int, shard: int, config: TeacherConfig, calibration: str
) -> dict[str, Any]:
    """Task: write cycle-c/examples/ of one shard; returns the sums that the target's scale is made of."""
    pending = _Pending(storage, key, cycle)
    pairs = pending.pairs(shard)
    raw = pending.store.lookup(shard_name(shard), pairs["document_hash"], pairs["label_hash"])
    if missing := int(np.isnan(raw).sum()):
        raise RuntimeError(f"{missing} pairs of {shard_name(shard)} have no verdict after judging")
    prior = None
    if calibration == "label_prior":
        prior = pending.store.lookup(PRIORS, [NO_DOCUMENT] * len(raw), pairs["label_hash"])
    verdict = calibrate(raw, prior, config.readout, calibration)
    rows = storage.read_table(shard_path(f"cycle-{cycle}/shortlist", shard), SHORTLIST)
    held_out = storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA, ["held_out"])["held_out"].take(
        rows["row"]
    )
    offsets = rows["labels"].combine_chunks().offsets
    columns = [
        rows["row"],
        held_out,
        rows["labels"],
        rows["similarity"],
        pa.ListArray.from_arrays(offsets, pa.array(raw, pa.float32())),
        pa.ListArray.from_arrays(offsets, pa.array(verdict, pa.float32())),
    ]
    storage.write_table(shard_path(f"cycle-{cycle}/examples", shard), pa.Table.from_arrays(columns, schema=EXAMPLES))
    sums = sums_of(verdict, _flat(rows["similarity"]))
    return {"sums": sums, "low": float(verdict.min(initial=np.inf)), "high": float(verdict.max(initial=-np.inf))}


def _verdicts(storage: Storage, cycle: int, shard: int) -> np.ndarray:
    return _flat(storage.read_table(shard_path(f"cycle-{cycle}/examples", shard), EXAMPLES, ["verdict"])["verdict"])


def histogram_of(storage: Storage, cycle: int, shard: int, edges: np.ndarray) -> np.ndarray:
    """Task: how many of a shard's verdicts fall between ``edges``, int64 [bins]."""
    return np.histogram(_verdicts(storage, cycle, shard), edges)[0]


def count_yes(storage: Storage, cycle: int, shard: int, threshold: float) -> int:
    """Task: how many of a shard's verdicts reach ``threshold``."""
    return int((_verdicts(storage, cycle, shard) >= threshold).sum())

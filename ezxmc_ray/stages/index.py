"""Stage ``index``: build the sharded FAISS index over the labels with the chosen encoder's vectors.

    ezxmc index conf.yaml

In: cycle-c/label_vectors/ of the chosen encoder c. Out: index/shard-NNN.faiss, one a slice of labels, and a manifest
with label ranges, metric, parameters, checksums and the recall against exact search. Items: slices of labels.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.cluster.session import cluster_gpus, run_task, run_tasks
from ezxmc_ray.config import IndexConfig
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.index.build import ShardInfo, build_shard, choose_factory, save_shard
from ezxmc_ray.index.search import ShardedIndex, measured_recall
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.shortlist import read_label_vectors
from ezxmc_ray.storage import Storage

#: Label vectors that stand in for queries when the recall of an approximate index is measured.
RECALL_QUERIES = 1000
RECALL_AT = 10


def index(context: Context) -> StageResult:
    """Build the index of the chosen encoder; returns rows (labels), files and details of the manifest."""
    config, storage = context.config.index, context.storage
    labels = context.prepared.labels
    vectors = layout.label_vectors(context.manifest(layout.STUDENT).details["encoder"])
    # Slices of equal size, so that none is too small to train the index that all the others have.
    size = math.ceil(labels / math.ceil(labels / config.shard_labels))
    slices = [(first, min(labels, first + size)) for first in range(0, labels, size)]
    arguments = [(storage, config, vectors, labels, number, first, stop) for number, (first, stop) in enumerate(slices)]
    shards: list[ShardInfo] = []
    with StageProgress("index", "labels", labels) as progress:
        for info in run_tasks(build_one, arguments):
            shards.append(info)
            progress.advance(info.labels)
    shards.sort(key=lambda shard: shard.first_label)
    dimension = storage.read_table(storage.list(vectors, ".parquet")[0]).schema.field("vector").type.list_size
    details = {
        "factory": choose_factory(config, labels, dimension),
        "metric": "inner product of unit vectors (cosine)",
        "probes": config.probes,
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "recall": run_task(recall_of, storage, vectors, shards),
        "gpus": cluster_gpus(),
        # What belongs together: `ezxmc tag` refuses a run in which one of them is newer than this index.
        "student": context.manifest(layout.STUDENT).commit,
        "match_settings": context.match_settings,
        "label_fingerprint": context.prepared.label_fingerprint,
    }
    return StageResult(labels, [f"{layout.INDEX}/{shard.file}" for shard in shards], details)


def build_one(
    storage: Storage, config: IndexConfig, folder: str, labels: int, number: int, first: int, stop: int
) -> ShardInfo:
    """Task: build and commit shard ``number``, of the labels ``first`` to ``stop``."""
    vectors = read_label_vectors(storage, folder, first, stop)
    built = build_shard(vectors, first, choose_factory(config, labels, vectors.shape[1]), config.probes)
    name = f"shard-{number:03d}.faiss"
    scratch = Path(tempfile.mkdtemp(prefix="ezxmc-"))
    try:
        info = save_shard(built, scratch / name, first)
        storage.upload(scratch / name, f"{layout.INDEX}/{name}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return info


def recall_of(storage: Storage, folder: str, shards: list[ShardInfo]) -> dict[str, Any]:
    """Task: share of the exact ten nearest that the index finds, for up to a thousand labels spread over all."""
    vectors = read_label_vectors(storage, folder)
    step = max(1, len(vectors) // RECALL_QUERIES)
    queries = vectors[::step][:RECALL_QUERIES]
    with storage.local(layout.INDEX) as path:
        recall = measured_recall(ShardedIndex.load(path, shards), queries, vectors, min(RECALL_AT, len(vectors)))
    return {"value": recall, "at": RECALL_AT, "queries": len(queries)}

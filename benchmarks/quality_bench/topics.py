"""The shortlists of the method ``icxml``: the labels nearest to topics that an LLM writes of each document.

After ICXML (https://arxiv.org/abs/2311.09649): an LLM writes labels freely, what it wrote stands for the nearest labels
that exist, and it ranks these. Here it writes once, without made-up demonstrations, and judges each pair by itself as
every teacher here does, in place of ranking a list. Comes in: a run with the shortlists of cycle 0. Goes out: the same
with other labels in them, and TOPICS_FILE, what was written.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.context import Context
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.integrity import checksums_of, written_sizes
from ezxmc_ray.models import resolve_model
from ezxmc_ray.stages.shortlist import exact_index
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, SHORTLIST_SCHEMA
from ezxmc_ray.teacher.engine import dtype_here

TOPICS_FILE = "topics.json"
SHORTLISTS = "cycle-0/shortlist"
#: What stands around a topic in a list.
_AROUND = " \t\n.-*\"'"
_NUMBER = re.compile(r"^\s*\d+[.)]")
#: It may write so many tokens a document.
TOKENS = 40
#: Characters that it reads of a document, and tokens of the longest prompt with its answer: more than those have.
CHARACTERS, CONTEXT = 1200, 2048
INSTRUCTION = (
    "List three to eight short topics or categories of the text, separated by semicolons, the most important first. "
    "Write nothing else."
)
#: Labels (numbers, falling similarity) and their similarities.
Proposed = tuple[np.ndarray, np.ndarray]


def propose_by_topics(context: Context) -> dict[str, Any]:
    """Put the labels nearest to each document's topics into its shortlist of cycle 0; returns figures.

    A document of which nothing was written keeps the shortlist that it had. The topics are written in a process of
    their own, since the judge stage starts an engine next.
    """
    documents = [
        context.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA).to_pylist()
        for shard in range(context.shards)
    ]
    texts = [document_text(row["title"] or "", row["text"])[:CHARACTERS] for shard in documents for row in shard]
    if not context.storage.exists(TOPICS_FILE):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            written = process.submit(write_topics, context.config.teacher, texts).result()
        context.storage.write_json(TOPICS_FILE, {"topics": written})
    written = context.storage.read_json(TOPICS_FILE)["topics"]
    topics = list(map(split_topics, written))
    proposed = nearest_labels(topics, _search(context), context.config.shortlist.size)
    place = 0
    for shard, rows in enumerate(documents):
        _replace(context, shard, proposed[place : place + len(rows)])
        place += len(rows)
    _write_down(context.storage)
    return {"topics": sum(map(len, topics)) / len(topics), "without_topics": sum(not one for one in topics)}


def write_topics(teacher: TeacherConfig, texts: Sequence[str]) -> list[str]:
    """What the LLM writes of each text, greedy; by vLLM, in this process."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    import torch
    from vllm import LLM, SamplingParams

    memory: dict[str, Any] = {"kv_cache_memory_bytes": teacher.cpu_kv_cache_gib << 30}
    if torch.cuda.is_available():
        memory = {"gpu_memory_utilization": teacher.gpu_memory_share}
    model = resolve_model(teacher.model)
    llm = LLM(model, dtype=dtype_here(teacher), max_model_len=CONTEXT, enforce_eager=teacher.enforce_eager, **memory)
    asked: list[Any] = [
        [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text}] for text in texts
    ]
    answers = llm.chat(asked, SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)
    return [answer.outputs[0].text for answer in answers]


def split_topics(written: str) -> list[str]:
    """The topics of what was written, each once, as a list of any kind; the last may be cut, by TOKENS."""
    parts = (_NUMBER.sub("", part).strip(_AROUND) for part in re.split(r"[;,\n]", written))
    return list(dict.fromkeys(part for part in parts if part))


def nearest_labels(
    topics: Sequence[Sequence[str]], search: Callable[[list[str], int], Proposed], size: int
) -> list[Proposed | None]:
    """For each document ``size`` labels: the nearest of each topic in turn, then the second nearest, and so on.

    ``search(texts, k)`` gives similarities and labels, float32 and int32 [texts, k]. None: a document without topics.
    """
    known = sorted({topic for some in topics for topic in some})
    similarities, labels = search(known, size)
    row_of = {topic: row for row, topic in enumerate(known)}
    found: list[Proposed | None] = []
    for some in topics:
        ranked = [list(zip(labels[row_of[t]].tolist(), similarities[row_of[t]].tolist(), strict=True)) for t in some]
        turns = [one for rank in zip_longest(*ranked) for one in rank if one is not None and one[0] >= 0]
        best: dict[int, float] = {}
        for label, similarity in turns:
            if label in best or len(best) < size:
                best[label] = max(similarity, best.get(label, similarity))
        order = sorted(best, key=lambda label: -best[label])
        scores = np.array([best[label] for label in order], np.float32)
        found.append((np.array(order, np.int32), scores) if order else None)
    return found


def _search(context: Context) -> Callable[[list[str], int], Proposed]:
    """Search the labels by texts like theirs, with the base encoder alone."""
    encoder = Encoder.load(context.config.encoder.model, context.config.encoder)
    index = exact_index(context.storage, 0, None)
    return lambda texts, k: index.search(encoder.encode_labels(texts).vectors, min(k, context.prepared.labels))


def _replace(context: Context, shard: int, proposed: Sequence[Proposed | None]) -> None:
    """Write the shard's shortlists anew; ``proposed``: of each of its documents."""
    file = layout.shard_file(SHORTLISTS, shard)
    table = context.storage.read_table(file, SHORTLIST_SCHEMA)
    lists = []
    for row, *own in zip(*(table[name].to_pylist() for name in SHORTLIST_SCHEMA.names[:3]), strict=True):
        lists.append(proposed[row] or own)
    labels, scores = ([one[place] for one in lists] for place in (0, 1))
    columns = [
        table["row"],
        *(
            pa.array(one, field.type)
            for one, field in zip((labels, scores, scores), list(SHORTLIST_SCHEMA)[1:], strict=True)
        ),
    ]
    counts = context.storage.read_counts(file)
    context.storage.write_table(file, pa.table(columns, schema=SHORTLIST_SCHEMA), counts)


def _write_down(storage: Storage) -> None:
    """What the shortlists' manifest says of its files is of the new ones."""
    manifest = read_manifest(storage, SHORTLISTS)
    assert manifest is not None
    sizes = written_sizes(storage, manifest.files)
    checksums = checksums_of(storage, sizes, lambda task, of: [task(*one) for one in of])
    write_manifest(storage, SHORTLISTS, replace(manifest, sizes=sizes, checksums=checksums))

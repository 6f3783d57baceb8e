"""How many pairs a second does everything but the model allow? A real vLLM engine whose forward costs next to nothing.

    python benchmarks/scale.py ceiling --name teacher-ceiling --data DIRECTORY [--profile FILE]

The model has one layer of 64, random weights, and the vocabulary of the bundled teacher; it is made in a temporary
folder. Documents are recombined as in judge.py, ten labels each. The engine and its prompts are the stage's own, in a
loop without Ray, tables and files. ``cpu_us_per_pair``: of the whole process. --profile writes what cProfile says of
the engine's thread, in a run of its own after the timed one.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from common.arguments import add_texts_arguments
from common.publish import publish
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from ezxmc_ray.tables import content_hash
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.teacher.start import start_engine
from scale_bench.judge import SHORTLIST, read_texts, recombined

BUNDLED = TeacherConfig().model


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        documents, labels = read_texts(given.data)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ezxmc-ceiling-") as folder:
        make_model(folder)
        config = TeacherConfig(model=folder, readout=given.readout, dtype="float32", threads=1, max_document_tokens=250)
        engine = start_engine(config)
        batches = batches_of(given.documents, documents, labels, config.batch_documents)
        list(engine.judge_many(batches[:2]))
        row = timed(engine, batches)
        if given.profile:
            profile = cProfile.Profile()
            profile.runcall(timed, engine, batches_of(given.documents, documents, labels, config.batch_documents, 1))
            profile.dump_stats(given.profile)
        engine.close()
    notes = [f"{os.cpu_count()} cores, one thread; load of the machine: {os.getloadavg()[0]:.1f}."]
    publish(given.name, "Pairs a second of a model that costs nothing", {"rows": [row], "notes": notes, **row})
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_texts_arguments(parser)
    parser.add_argument("--documents", type=int, default=960, help="of ten pairs each")
    parser.add_argument("--readout", default="yes_no", choices=["yes_no", "likelihood"])
    parser.add_argument("--profile", help="file for cProfile's statistics")
    return parser.parse_args(arguments)


def make_model(folder: str) -> None:
    """A causal model of one layer of 64 with random weights, and the bundled teacher's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUNDLED))
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)


def batches_of(
    count: int, documents: list[dict[str, Any]], labels: list[str], size: int, seed: int = 0
) -> list[list[DocumentPairs]]:
    """``count`` recombined documents with ten labels each, in batches of ``size``."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        document = recombined(documents, draw, str(number))
        chosen = tuple(draw.sample(labels, SHORTLIST))
        hashes = tuple(content_hash("", label) for label in chosen)
        made.append(DocumentPairs(document["content_hash"], document["title"], document["text"], hashes, chosen))
    return [made[start : start + size] for start in range(0, count, size)]


def timed(engine: Any, batches: list[list[DocumentPairs]]) -> dict[str, Any]:
    """Judge ``batches``; the figures."""
    cpu, began = time.process_time(), time.perf_counter()
    judged = list(engine.judge_many(batches))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    pairs = sum(len(one.table) for one in judged)
    return {
        "pairs": pairs,
        "pairs_per_s": pairs / wall,
        "cpu_us_per_pair": 1e6 * cpu / pairs,
        "tokens a prompt": sum(one.prompt_tokens for one in judged) / pairs,
        "tokens computed a pair": sum(one.computed_tokens for one in judged) / pairs,
    }

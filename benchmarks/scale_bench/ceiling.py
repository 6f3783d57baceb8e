"""How many pairs a second does everything but the model allow? Real engines whose forward costs next to nothing.

    python benchmarks/scale.py ceiling --name teacher-ceiling --data DIRECTORY [--before TREE] [--profile FILE]

The model has one layer of 64, random weights, and the vocabulary of the bundled teacher; it is made in a temporary
folder. Documents are recombined as in judge.py, ten labels each. The engines and their prompts are the stage's own, in
a loop without Ray, tables and files (ceiling_engine.py), each in a process of its own that gets --cores cores.
``cpu_us_per_pair``: of the whole process. --before measures the vLLM engine of another version as well, whose tree
lies in TREE. --profile writes what cProfile says of each engine's thread, in a run of its own after the timed one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from common.arguments import add_texts_arguments, choice
from common.publish import publish, run_module
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from ezxmc_ray.tables import content_hash
from scale_bench.ceiling_engine import DOCUMENTS, MODEL, SETTINGS
from scale_bench.judge import SHORTLIST, read_texts, recombined

BUNDLED = TeacherConfig().model
ENGINES = ("vllm", "packed")
BEFORE = "vllm_before"
#: Documents that are judged before the clock starts.
WARM_UP = 64


def main(arguments: Sequence[str]) -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        documents, labels = read_texts(given.data)
        with tempfile.TemporaryDirectory(prefix="ezxmc-ceiling-") as folder:
            make_inputs(given, Path(folder), documents, labels)
            rows = [row for cores in given.cores for row in rows_of(given, cores, Path(folder))]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    least = [row for row in rows if row["cores"] == min(given.cores)]
    result = {
        "pairs_per_s": {row["engine"]: row["pairs_per_s"] for row in least},
        "rows": rows,
        "notes": [f"{os.cpu_count()} cores; load of the machine at the end: {os.getloadavg()[0]:.1f}."],
    }
    publish(given.name, "Pairs a second of a model that costs nothing", result)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_texts_arguments(parser)
    parser.add_argument("--documents", type=int, default=960, help="of ten pairs each")
    parser.add_argument("--readout", default="yes_no", choices=["yes_no", "likelihood"])
    parser.add_argument("--engines", type=choice(ENGINES), default=list(ENGINES), help="by commas")
    parser.add_argument("--cores", type=cores_in, default=[1, 2], help="by commas")
    parser.add_argument("--before", type=Path, help="another version's tree")
    parser.add_argument("--profile", default="", help="file for cProfile's statistics; engine and cores are added")
    return parser.parse_args(arguments)


def cores_in(text: str) -> list[int]:
    """Numbers of cores that this machine has."""
    there = len(os.sched_getaffinity(0))
    if not all(one.isdecimal() and 1 <= int(one) <= there for one in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: write numbers from 1 to {there}, such as 1,{there}")
    return [int(one) for one in text.split(",")]


def make_inputs(given: argparse.Namespace, folder: Path, documents: list[dict[str, Any]], labels: list[str]) -> None:
    """The model, the documents, and what the engines are told."""
    make_model(folder / MODEL)
    counts = (given.documents, given.documents, WARM_UP)
    rows = [rows_of_documents(count, documents, labels, seed) for seed, count in enumerate(counts)]
    (folder / DOCUMENTS).write_text(json.dumps(rows))
    teacher = {"readout": given.readout, "dtype": "float32", "max_document_tokens": 250}
    profile = str(Path(given.profile).absolute()) if given.profile else ""
    (folder / SETTINGS).write_text(json.dumps({"teacher": teacher, "profile": profile}))


def make_model(folder: Path) -> None:
    """A causal model of one layer of 64 with random weights, and the bundled teacher's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUNDLED))
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)


def rows_of_documents(count: int, documents: list[dict[str, Any]], labels: list[str], seed: int) -> list[list[Any]]:
    """``count`` recombined documents with ten labels each: the fields of DocumentPairs, hashes as hexadecimals."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        document = recombined(documents, draw, str(number))
        chosen = draw.sample(labels, SHORTLIST)
        hashes = [content_hash("", label).hex() for label in chosen]
        made.append([document["content_hash"].hex(), document["title"], document["text"], hashes, chosen])
    return made


def rows_of(given: argparse.Namespace, cores: int, folder: Path) -> list[dict[str, Any]]:
    """A row an engine on so many cores. Errors: UserError where one fails."""
    trees = ({BEFORE: given.before} if given.before else {}) | dict.fromkeys(given.engines)
    rows = []
    for name, tree in trees.items():
        output, log = folder / f"{name}-{cores}.json", Path(tempfile.gettempdir()) / f"ceiling-{name}-{cores}.log"
        words = [ENGINES[0] if name == BEFORE else name, str(cores), str(folder)]
        path = {"PYTHONPATH": str(tree.resolve())} if tree else {}
        with mock.patch.dict(os.environ, path):
            done = run_module("scale_bench.ceiling_engine", words, output, log)
        if "error" in done:
            raise UserError(f"The engine {name} failed ({done['error']}): see {log}.")
        measured = Path(done.pop("tree"))
        if tree and measured != tree.resolve():
            raise UserError(
                f"--before {tree}: what was measured lies in {measured}: give the folder with ezxmc_ray in it."
            )
        rows.append({"engine": name, "cores": cores, **done})
        print(rows[-1], flush=True)
    return rows

"""``ezxmc run`` from documents to the report, on made-up texts, with the bundled teacher and encoder.

Goes out: a row of the command, and one for each step that was done, with the figures that its manifest has of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from common.publish import ROOT
from gpu_bench.plan import Settings
from gpu_bench.report import Report
from gpu_bench.search import take_other_faiss
from gpu_bench.texts import random_texts, words

DOCUMENTS, TINY_DOCUMENTS = 2000, 20
LABELS, TINY_LABELS = 500, 12
WORDS_PER_DOCUMENT = 60
#: Of a step's details, where it has them.
FIGURES = (
    "pairs_asked",
    "engine_pairs_per_s",
    "engine_start_seconds",
    "busy_share",
    "prompt_tokens",
    "computed_tokens",
    "documents",
    "documents_per_s",
    "workers",
    "steps",
    "start_seconds",
    "training_seconds",
    "gpus",
    "searched_by_gpu",
)


def whole_run_part(settings: Settings, report: Report) -> None:
    """Errors: RuntimeError where the command fails; the steps that were done have their rows then too."""
    report.note(other_faiss_works=take_other_faiss(settings))
    folder = settings.path("whole")
    documents, labels = write_inputs(folder, settings.tiny)
    began = time.perf_counter()
    program = [sys.executable, "-m", "ezxmc_ray.cli", "run", str(folder / "configuration.yaml")]
    ended = subprocess.run(program, cwd=ROOT, check=False)
    seconds = time.perf_counter() - began
    report.row("ezxmc run", documents=documents, labels=labels, seconds=seconds, status=ended.returncode)
    for file in sorted((folder / "run").rglob("manifest.json"), key=lambda file: file.stat().st_mtime):
        done = json.loads(file.read_text())
        figures = {name: done["details"][name] for name in FIGURES if name in done.get("details", {})}
        what = str(file.parent.relative_to(folder / "run"))
        report.row(what, rows=done.get("rows"), seconds=done.get("seconds"), **figures)
    if ended.returncode:
        raise RuntimeError(f"ezxmc run ended with status {ended.returncode}, see the log")


def write_inputs(folder: Path, tiny: bool) -> tuple[int, int]:
    """Documents, labels and configuration; how many of the first two. At toy sizes no vLLM is started."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = random_texts(words(), TINY_DOCUMENTS if tiny else DOCUMENTS, WORDS_PER_DOCUMENT, 11)
    names = list(dict.fromkeys(random_texts(words(), TINY_LABELS if tiny else LABELS, 2, 12)))
    rows = {
        "documents": [{"id": f"d{number}", "title": text[:40], "text": text} for number, text in enumerate(texts)],
        "labels": [{"id": f"l{number}", "text": text} for number, text in enumerate(names)],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    settings = {
        "run": str(folder / "run"),
        "prepare": {name: [str(folder / f"{name}.jsonl")] for name in rows},
        "shortlist": {"size": 10},
        "teacher": {"engine": "packed"} if tiny else {"gpu_memory_share": 0.5},
    }
    (folder / "configuration.yaml").write_text(yaml.safe_dump(settings))
    return len(texts), len(names)

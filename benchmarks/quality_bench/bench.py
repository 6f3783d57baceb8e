"""What the parts of benchmarks/quality.py share: data, base, and how a method is run and measured.

Comes in: the command line. Goes out: below --runs and --name a folder for each set of documents and labels, with the
base, the verdict store and a run a method; and rows with costs and measures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.arguments import name_of
from common.data import Files, find_files, read_data
from common.publish import run_module
from ezxmc_ray import layout
from ezxmc_ray.config import Config, apply_overrides, load_config, to_dict
from ezxmc_ray.context import Context
from ezxmc_ray.cycles import documents_per_cycle
from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics import per_document
from ezxmc_ray.storage import Storage
from ezxmc_ray.teacher.readout import resolve_readout
from ezxmc_ray.verdicts.transfer import import_verdicts
from quality_bench.figures import (
    LARGER,
    LMTX,
    ONCE,
    OURS,
    PUBLISHED,
    PUBLISHED_WORDS,
    RERANKED,
    Row,
    Values,
    measures,
)
from quality_bench.task import DOCUMENTS_FILE, VERDICTS, documents_of, make_base, read_ranking, share_verdicts
from student_bench.task import Job, ranked_documents, read_job, write_job

#: The folder of the prepared documents, beside the methods' runs.
BASE = "base"
#: They judge the test documents themselves.
BY_LLM = ("llm_rerank", "llm_fusion", "icxml")
WITHOUT_SEEDS = ("untrained", "bm25", "tfidf", "words", LARGER, *BY_LLM)
WITH_CYCLES = (*LMTX, ONCE, OURS, RERANKED)
WITH_TEACHER = (*WITH_CYCLES, *BY_LLM)
WITHOUT_ENCODER = ("bm25", "tfidf")
ENCODER_ALONE = ("lexical.weight=0",)
PAIRS = ("student.loss=infonce", "student.target=verdict")
READ_ONCE = "teacher.second_readout=none"
#: The published recipe; with the likelihood read-out there is no answer of the LLM's own, so the threshold is fitted.
RECIPE = (
    "student.loss=lmtx",
    "student.target=verdict",
    "student.past_verdicts=false",
    "student.sampling_correction=false",
    "student.dropout=true",
    "teacher.calibration=none",
    "teacher.examples=null",
    READ_ONCE,
    "student.target_temperature=0.5",
    "shortlist.documents_per_cycle=0",
)
OWN_YES = "teacher.yes_threshold=0"
TEST_DOCUMENTS_ALONE = (
    "curriculum.cycles=1",
    "curriculum.pair_budget=0",
    "prepare.held_out_share=0",
    "shortlist.documents_per_cycle=0",
)
#: What makes a method what it is; has the last word over the command line.
SETTINGS: dict[str, tuple[str, ...]] = {
    "untrained": ENCODER_ALONE,
    "title": (*ENCODER_ALONE, *PAIRS),
    "segments": (*ENCODER_ALONE, *PAIRS),
    PUBLISHED: (*ENCODER_ALONE, *RECIPE),
    PUBLISHED_WORDS: RECIPE,
    **dict.fromkeys(BY_LLM, TEST_DOCUMENTS_ALONE),
    ONCE: (READ_ONCE,),
    RERANKED: ("predict.rerank=30",),
}
#: What the part ``rounds`` compares: how many documents are judged, and who says so.
ROUNDS: dict[str, tuple[str, ...]] = {
    "100 documents": ("shortlist.documents_per_cycle=100",),
    "300 documents, the default": (),
    "pair_budget auto": ("curriculum.pair_budget=auto",),
}


@dataclass(frozen=True)
class Bench:
    """What the parts share; ``facts``: counts of the base."""

    given: argparse.Namespace
    config: Config
    files: Files
    facts: dict[str, Any]

    @property
    def dataset(self) -> Row:
        """What a row names first."""
        documents, labels = self.files.documents.absolute(), self.files.labels
        return {"dataset": documents.parent.name, "labels": labels.name.split(".")[0]}

    @property
    def folder(self) -> Path:
        """Where the runs with these documents and labels lie."""
        return folder_of(self.given, self.files)

    @property
    def base(self) -> str:
        """The run with the prepared documents."""
        return str(self.folder / BASE)

    def identity(self, method: str, seed: int) -> Row:
        """What names the row of ``method``; None where it has no such thing."""
        encoder = self.given.larger if method == LARGER else self.config.encoder.model
        return {
            **self.dataset,
            "method": method,
            "teacher": name_of(self.config.teacher.model) if method in WITH_TEACHER else None,
            "student": None if method in WITHOUT_ENCODER else name_of(encoder),
            "seed": None if method in WITHOUT_SEEDS else seed,
        }

    def configure(self, row: Row, share: float = 1.0) -> Config:
        """The configuration of the method's run."""
        settings = [f"run={self.run_of(row, share)}", f"seed={row['seed'] or 0}"]
        settings += [f"prepare.documents=[{self.base}/{DOCUMENTS_FILE}]"]
        settings += [f"curriculum.cycles={self.given.cycles}", "curriculum.min_lead=null"]
        settings += SETTINGS.get(row["method"], ())
        if row["method"] in LMTX and resolve_readout(self.config.teacher) != "likelihood":
            settings.append(OWN_YES)
        if row["method"] == LARGER:
            settings.append(f"encoder.model={self.given.larger}")
        settings += ROUNDS.get(row.get("rounds", ""), ())
        if row["method"] == PUBLISHED_WORDS:  # ranks with what the published recipe's run has made
            settings.append(f"encoder.model={self.run_of(row | {'method': PUBLISHED}, share)}/student")
        if share < 1:
            held_out = self.config.prepare.held_out_share
            train = self.facts["train_documents"]
            whole = apply_overrides(self.config, settings)
            full = documents_per_cycle(whole, train, round(held_out * train), self.facts["labels"], 0)
            documents = max(2, round(share * full))
            settings += [f"shortlist.documents_per_cycle={documents}", f"prepare.held_out_share={share * held_out}"]
        return apply_overrides(self.config, settings)

    def run_of(self, row: Row, share: float = 1.0) -> str:
        """The directory of a row's run: under the names that tell it from the others of the dataset."""
        kind = [f"cycles-{self.given.cycles}"] if row["method"] in WITH_CYCLES else []
        kind += [f"share-{share:.6g}"] if share < 1 else []
        kind += [row["rounds"]] if "rounds" in row else []
        kind += [] if row["seed"] is None else [f"seed-{row['seed']}"]
        parts = [row["method"], row["teacher"], row["student"], *kind]
        return str(self.folder / "-".join(re.sub(r"[^\w.]+", "-", part) for part in parts if part))

    def do(self, row: Row, share: float = 1.0) -> Row:
        """Run the method of ``row``; what it cost. Errors: UserError if it fails."""
        if row["method"] == PUBLISHED_WORDS:
            return self.do(row | {"method": PUBLISHED}, share) | self._run(row, share)
        return self._run(row, share)

    def _run(self, row: Row, share: float) -> Row:
        config = self.configure(row, share)
        name = Path(config.run).name
        job, output, log = (self.folder / "jobs" / f"{name}.{end}" for end in ("json", "result.json", "log"))
        wanted = Job(row["method"], self.base, to_dict(config))
        is_known = self.given.resume and output.is_file() and job.is_file() and read_job(str(job)) == wanted
        result: Row = json.loads(output.read_text()) if is_known else {"error": "not done"}
        if "error" not in result:
            print(f"{name}: taken over from an earlier call", flush=True)
        else:
            output.unlink(missing_ok=True)
            write_job(job, wanted)
            result = run_module("quality_bench.methods", [str(job)], output, log)
        if "error" in result:
            raise UserError(f"The method {row['method']} failed ({result['error']}); see {log}.")
        print(f"{name}: {json.dumps({key: value for key, value in result.items() if key != 'encoders'})}", flush=True)
        return result

    def values(self, row: Row, share: float = 1.0) -> Values:
        """The measures of each test document in the ranking that the method of ``row`` has written."""
        ranked = read_ranking(self.run_of(row, share), self.ids())
        assert ranked is not None
        return per_document(ranked, self.gold())

    def ids(self) -> list[str]:
        """Ids of the test documents."""
        return [row["id"] for row in documents_of(self.base, "test")]

    def gold(self) -> list[Any]:
        """Gold label numbers of the test documents, int32 [g] each."""
        return ranked_documents(self.base)[2]

    def measured(self, row: Row, share: float = 1.0) -> Row:
        """Run the method of ``row`` and measure its ranking."""
        costs = self.do(row, share)
        about = {name: self.facts[name] for name in ("train_documents", "test_documents")}
        if row["method"] in WITH_CYCLES:
            about |= {"cycles": self.given.cycles, "yes_threshold": self.configure(row, share).teacher.yes_threshold}
        return {**row, **about, **costs, "metrics": measures(self.values(row, share))}


def make_bench(given: argparse.Namespace) -> Bench:
    """Read the data and prepare the base; errors: UserError for what is missing."""
    files = find_files(given.data, given.labels, None, None, "test")
    ranked = given.documents if given.test_documents is None else given.test_documents
    data = read_data(files, given.documents, ranked)
    config = configure(given, files)
    folder = folder_of(given, files)
    base = apply_overrides(config, [f"run={folder / BASE}", "prepare.held_out_share=0", "curriculum.pair_budget=0"])
    facts = make_base(base, data)
    for held in map(Path, given.verdicts):
        if held.is_file():
            share_verdicts(base.run, str(folder / VERDICTS))
            import_verdicts(Context(base, Storage(base.run)), str(held), None)
        else:
            take_verdicts(held, folder / VERDICTS)
    return Bench(given, config, files, facts)


def configure(given: argparse.Namespace, files: Files) -> Config:
    """The defaults but for the data and the teacher; what the command line overrides has the last word."""
    settings = {
        "prepare.labels": f"[{files.labels.absolute()}]",
        "prepare.on_bad_rows": "skip",
    }
    if given.teacher:
        settings["teacher.model"] = given.teacher
    return load_config(None, [f"{key}={value}" for key, value in settings.items()] + given.overrides)


def folder_of(given: argparse.Namespace, files: Files) -> Path:
    """Below --runs and --name a folder for each set of documents and labels."""
    name = f"{files.documents.absolute().parent.name}-{files.labels.name.split('.')[0]}"
    return Path(given.runs.absolute(), given.name, name)


def take_verdicts(run: Path, store: Path) -> None:
    """Copy the verdicts of ``run`` into ``store``; the next judge stage brings them to where their documents are."""
    if not (run / VERDICTS).is_dir():
        raise UserError(f"The run {run} holds no verdicts: give another one by --verdicts.")
    shutil.copytree(run / VERDICTS, store, dirs_exist_ok=True)
    for placement in store.glob(f"*/{layout.PLACEMENT_NOTE}"):
        placement.unlink()

"""How fast does the student train and encode, and how good does it get? Against SentenceTransformers, same machine.

    python benchmarks/student.py --name student --data DIRECTORY --labels labels-8k.jsonl.gz --verdicts FILE

Parts (--parts; all without it):

- ``speed``: documents/s of the training loop against SentenceTransformerTrainer with MultipleNegativesRankingLoss and
  CachedMultipleNegativesRankingLoss, on the same documents and labels, at the same batch size, length of documents and
  precision: with one positive a document, and with all; with the defaults, and with dropout in both;
- ``encode``: documents/s against ``SentenceTransformer.encode``, and the cosines between both vectors;
- ``quality``: P@1, P@5, R@10, R@100 of the student that the train stage makes of the stored verdicts, a line a seed,
  against the untrained encoder and SentenceTransformers' two losses on the pairs that got a yes. Encoders rank alone.
  ``ezxmc`` learns from verdicts and cosines; ``ezxmc_words`` from verdicts and the similarity as it is by default, with
  the words in it (lexical.weight);
- ``perfect``: the same with a simulated perfect teacher: gold labels as verdicts;
- ``scaling``: documents/s of the train stage with one and with two workers.

Each method is a process of its own, and in every round all run one after the other: a ratio is the median of the
ratios within a round. DIRECTORY holds documents.jsonl.gz (id, title, text, split, labels); verdicts are JSON lines with
id, label_ids, p_yes. A call writes one result file, with the parts that it measured.

To choose settings without a look at the test documents, rank others: ``--dev-data FILE --dev-documents N``. A small
try: ``--documents 100 --parts quality --methods untrained,ezxmc --seeds 1``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.arguments import add_data_arguments, choice, name_of
from common.data import Data, Files, find_files, read_data
from common.publish import ROOT, publish, run_module
from ezxmc_ray.config import Config, apply_overrides, load_config, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.versions import versions
from make_results import table
from student_bench import figures
from student_bench.figures import MEASURES, Part
from student_bench.task import (
    Job,
    all_yes,
    best_yes,
    derive,
    make_perfect,
    make_stored,
    section,
    whole_shortlist,
    write_job,
    write_texts,
)

#: The methods that may fail without ending the benchmark.
RIVALS = ("st_mnrl", "st_cached_mnrl", "sentence_transformers")
OURS = ("ezxmc", "ezxmc_words")
METHODS = ("untrained", *OURS, "st_mnrl", "st_cached_mnrl")
PICKS = {"one": best_yes, "yes": all_yes, "shortlist": whole_shortlist}


def main() -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse()
    try:
        verdicts = given.verdicts
        if verdicts is None and set(given.parts) & {"speed", "quality", "scaling"}:
            raise UserError("The parts speed, quality and scaling need verdicts: name a file of them by --verdicts.")
        split = given.test_split or ("dev" if given.dev_data else "test")
        files = find_files(given.data, given.labels, verdicts, given.dev_data, split)
        data = read_data(files, given.documents, given.dev_documents if given.dev_data else given.documents)
        bench = Bench(given, configure(given, files), data)
        parts = {name: PARTS[name](bench) for name in given.parts}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = collected(bench, parts)
    print("\n".join(table(result)))
    publish(given.name, given.title or title(given.parts), {**about(bench, files), **result})
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_arguments(parser)
    parser.add_argument("--verdicts", help="file in --data, or a path")
    parser.add_argument("--parts", type=choice(PARTS), default=list(PARTS), help="by commas")
    parser.add_argument("--methods", type=choice(METHODS), default=list(METHODS), help="of quality, by commas")
    parser.add_argument("--test-split", help="split of the documents that are ranked; without it test, or dev")
    parser.add_argument("--dev-data", type=Path, help="rank documents of this file that --data does not hold")
    parser.add_argument("--dev-documents", type=int, default=1000, help="how many of them, 0 = all")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--rival-seeds", type=int, default=1, help="of SentenceTransformers, from 0")
    parser.add_argument("--rival-learning-rate", type=float, default=5e-5, help="of SentenceTransformers")
    parser.add_argument("--epochs", type=float, help="student.epochs")
    parser.add_argument(
        "--dtype", type=choice(("float32", "bfloat16")), default=["float32"], help="of speed, by commas"
    )
    parser.add_argument("--steps", type=int, default=8, help="of an epoch of speed, one positive a document")
    parser.add_argument("--encode-documents", type=int, default=1000, help="how many, 0 = all")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of speed, encode and scaling")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where the runs go")
    parser.add_argument("--overrides", nargs="+", default=[], help="a.b=c")
    parser.add_argument("--title", help="of the result; without it one that says whether a teacher is simulated")
    parser.add_argument("--perfect-overrides", nargs="+", default=[], help="a.b=c, for the part perfect on top")
    return parser.parse_args()


def configure(given: argparse.Namespace, files: Files) -> Config:
    """What the command line overrides has the last word; without it no document is held out, and no words are counted.

    What is compared here is the encoder; what the words add beside it is measured by benchmarks/quality.py.
    """
    settings = {
        "prepare.labels": f"[{files.labels.absolute()}]",
        "prepare.held_out_share": 0,
        "prepare.on_bad_rows": "skip",
        "lexical.weight": 0,
    }
    if any(one.partition("=")[0] == "lexical.weight" for one in given.overrides):
        raise UserError("The encoder ranks alone here: leave lexical.weight out of --overrides.")
    if given.epochs:
        settings["student.epochs"] = given.epochs
    return load_config(None, [f"{key}={value}" for key, value in settings.items()] + given.overrides)


@dataclass(frozen=True)
class Bench:
    """What the parts share."""

    given: argparse.Namespace
    config: Config
    data: Data

    @property
    def folder(self) -> Path:
        """Where the runs of this benchmark lie."""
        return Path(self.given.runs.absolute(), self.given.name)

    def base(self, name: str) -> str:
        """The directory of a run that methods learn from."""
        return str(self.folder / "bases" / name)

    def made(self, name: str, make: Callable[[Config, Data], dict[str, Any]], overrides: list[str]) -> dict[str, Any]:
        """Make a base, if it is not there; facts about it."""
        return make(apply_overrides(self.config, [*overrides, f"run={self.base(name)}"]), self.data)

    def run(self, name: str, method: str, base: str, overrides: list[str]) -> dict[str, Any]:
        """One method in a process of its own; errors: UserError unless it is a rival (then ``error`` says why)."""
        config = apply_overrides(self.config, [*overrides, f"run={self.folder / name}"])
        job, output, log = (self.folder / "jobs" / f"{name}.{end}" for end in ("json", "result.json", "log"))
        write_job(job, Job(method, base, to_dict(config), self.given.rival_learning_rate))
        result = run_module("student_bench.methods", [str(job)], output, log)
        print(f"{name}: {shown(result)}", flush=True)
        if "error" in result and not method.endswith(RIVALS):
            raise UserError(f"The method {method} failed ({result['error']}); see {log}.")
        return result

    def rounds(self, name: str, jobs: dict[str, tuple[str, str, list[str]]]) -> list[dict[str, Any]]:
        """What each of ``jobs`` (method, base, overrides) gave in each round; every other round in reverse order."""
        done = []
        for number in range(self.given.repeats):
            order = list(jobs)[:: -1 if number % 2 else 1]
            results = {key: self.run(f"{name}-{key}-{number}", *jobs[key]) for key in order}
            done.append({key: results[key] for key in jobs})
        return done


def speed(bench: Bench) -> Part:
    """Training loops over the same documents and labels."""
    bench.made("stored", make_stored, [])
    for name, pick in PICKS.items():
        derive(bench.base("stored"), bench.base(name), pick, bench.given.steps * bench.config.student.batch_size)
    rounds = {}
    for dtype in bench.given.dtype:
        for pairs in PICKS:
            methods = ("ezxmc",) if pairs == "shortlist" else ("ezxmc", "st_mnrl", "st_cached_mnrl")
            jobs = {method: (f"time_{method}", bench.base(pairs), [f"student.dtype={dtype}"]) for method in methods}
            if pairs != "shortlist":
                overrides = [f"student.dtype={dtype}", "student.dropout=true"]
                jobs["ezxmc_dropout"] = ("time_ezxmc", bench.base(pairs), overrides)
            rounds[dtype, pairs] = bench.rounds(f"speed-{dtype}-{pairs}", jobs)
    return figures.training(rounds)


def encode(bench: Bench) -> Part:
    """Both encoders over the same texts."""
    rows = [*bench.data.train, *bench.data.ranked][: bench.given.encode_documents or None]
    write_texts(bench.base("texts"), rows)
    texts = bench.base("texts")
    jobs = {
        "ezxmc": ("encode_ezxmc", texts, []),
        "ezxmc_float32": ("encode_ezxmc", texts, ["encoder.dtype=float32"]),
        "sentence_transformers": ("encode_sentence_transformers", texts, []),
    }
    rounds = bench.rounds("encode", jobs)
    vectors = [np.load(rounds[0][method]["vectors"]) for method in ("ezxmc", "sentence_transformers")]
    return figures.encoding(rounds, figures.cosines_of(*vectors))


def quality(bench: Bench) -> Part:
    """Students of the stored verdicts."""
    facts = bench.made("stored", make_stored, [])
    bases = dict.fromkeys(bench.given.methods, "stored")
    if "ezxmc_words" in bases:
        bases["ezxmc_words"] = "stored-words"
        bench.made("stored-words", make_stored, [f"lexical.weight={Config().lexical.weight}"])
    return figures.quality(learned(bench, "quality", bases, []), facts)


def perfect(bench: Bench) -> Part:
    """Students of the simulated perfect teacher."""
    overrides = bench.given.perfect_overrides
    facts = bench.made("perfect", make_perfect, overrides)
    bases = dict.fromkeys(("untrained", "ezxmc"), "perfect")
    return figures.perfect(learned(bench, "perfect", bases, overrides), facts)


def learned(bench: Bench, part: str, bases: dict[str, str], overrides: list[str]) -> dict[str, list[Any]]:
    """By method what each seed gave; ``bases``: by method what it learns from."""
    seeds = {"untrained": 1} | dict.fromkeys(OURS, bench.given.seeds)
    names = {"untrained": "untrained"} | dict.fromkeys(OURS, "learn_ezxmc")
    results: dict[str, list[Any]] = {}
    for method, base in bases.items():
        name = names.get(method, f"learn_{method}")
        results[method] = [
            bench.run(f"{part}-{method}-{seed}", name, bench.base(base), [*overrides, f"seed={seed}"])
            for seed in range(seeds.get(method, bench.given.rival_seeds))
        ]
    return results


def scaling(bench: Bench) -> Part:
    """The train stage with one worker and with two."""
    bench.made("stored", make_stored, [])
    jobs = {workers: ("stage", bench.base("stored"), [f"student.workers={workers}"]) for workers in ("1", "2")}
    return figures.scaling(bench.rounds("scaling", jobs), len(os.sched_getaffinity(0)))


PARTS: dict[str, Callable[[Bench], Part]] = {
    "speed": speed,
    "encode": encode,
    "quality": quality,
    "perfect": perfect,
    "scaling": scaling,
}


def shown(result: dict[str, Any]) -> str:
    """A method's figures in a line."""
    if "error" in result:
        return f"cannot run here: {result['error']}"
    if "P@1" in result:
        return "  ".join(f"{name} {result[name]:.2f}" for name in MEASURES)
    return f"{result['documents'] / result['seconds']:.2f} documents/s ({result['seconds']:.1f} s)"


def collected(bench: Bench, parts: dict[str, Part]) -> dict[str, Any]:
    """The figures, tables and notes of ``parts``, and the settings that they were measured with."""
    figures: dict[str, Any] = {key: value for part in parts.values() for key, value in part.figures.items()}
    settings = {"settings": section(bench.config)}
    if "perfect" in parts:
        settings["perfect_settings"] = section(apply_overrides(bench.config, bench.given.perfect_overrides))
    tables = [{"title": part.title, "rows": part.rows} for part in parts.values()]
    return {**settings, **figures, "tables": tables, "notes": [note for part in parts.values() for note in part.notes]}


def title(parts: Sequence[str]) -> str:
    """Names the simulation where there is one."""
    simulated = ", and with a simulated perfect teacher" if "perfect" in parts else ""
    return f"Student: speed and quality on stored verdicts{simulated}"


def about(bench: Bench, files: Files) -> dict[str, Any]:
    """What was measured on."""
    return {
        "model": name_of(bench.config.encoder.model),
        "data": files.documents.parent.name,
        "labels": files.labels.name,
        "ranked": f"split {files.split} of {files.ranked.parent.name}",
        "ranked_documents": len(bench.data.ranked),
        "left_out_of_the_ranking": bench.data.left_out,
        "versions": versions(),
    }


if __name__ == "__main__":
    sys.exit(main())

"""How fast is the judge stage? Same weights, same pairs, same machine: this project's stage and the other ways.

    python benchmarks/teacher.py --name teacher-smollm2 --documents 30 --repeats 1
    python benchmarks/teacher.py --name teacher-qwen-0.5b --teacher DIRECTORY

Methods: ``published`` (the recipe of LMTX: a full prompt a pair, ``generate``, parse the text, batches of 16),
``one_forward`` (a forward a pair, logits only, batches of 16), ``ray_data_llm`` (``ray.data.llm``'s processor as its
documentation shows it), ``vllm_default`` (``LLM.generate`` over the list of pairs, vLLM's default settings), ``ezxmc``
(the judge stage). vLLM on a CPU leaves a core to its own other processes, of two cores one: the methods that end in
``_all_cores`` do not let it.

Each is a process of its own, and in every round all run one after the other: a ratio is the median of the ratios
within a round. Where computing tokens is all the time, the ratio of the tokens that two methods compute bounds the
ratio of their speeds. Beside the speed: the tokens that the stage computed against the ideal, in which whatever prompts
share is counted once (the template once an engine, a document once); the stage against its own engine in a bare loop;
and how many of its decisions are those of a float32 forward over the same prompts.

Without --data the documents are Debian packages. The first command takes about 15 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.arguments import add_teacher_arguments
from common.publish import ROOT, publish, run_module
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher.engine import dtype_here, load_teacher
from ezxmc_ray.versions import versions
from make_results import table
from teacher_bench.figures import agreement_of, summary, tokens_of
from teacher_bench.task import Sample, Task, make_task, sample_documents

EXAMPLE = ROOT / "data" / "debian-packages-all"
RIVALS = ("published", "one_forward", "ray_data_llm", "ray_data_llm_all_cores", "vllm_default", "vllm_all_cores")


def main() -> int:
    """Measure and publish; returns the exit status (2 for what the user can mend)."""
    given = parse()
    try:
        data, labels = inputs(given)
        config = configure(given, labels)
        sample = take_sample(given, data, config)
        task = Task(str(given.runs.absolute() / given.name), given.slow_pairs, given.reference_pairs)
        make_task(task, config, sample)
        rounds = [run_round(task, given.methods, number) for number in range(given.repeats)]
        agreement = agreement_of(task.raw(), np.array(run_method(task, "reference")["raw"]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = summary(rounds, tokens_of(config.teacher, task.documents()), agreement)
    result["notes"] += [*about_cores(given.methods), about_the_pairs(given, data, sample, rounds[0])]
    about = {
        "model": Path(config.teacher.model).name,
        "dtype": dtype_here(config.teacher),
        "pairs": rounds[0]["ezxmc"]["pairs"],
        "documents": given.documents,
        "document_tokens": given.document_tokens,
        "joined_documents": sample.joined,
        "versions": versions(),
    }
    print("\n".join(table(result)))
    title = f"Speed of the teacher: {about['model']}, documents of {given.document_tokens} tokens"
    publish(given.name, title, about | result | {"rounds": rounds})
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_teacher_arguments(parser, 100, "how many, by the hash of their ids")
    parser.add_argument("--shortlist", type=int, default=10, help="labels a document")
    parser.add_argument("--document-tokens", type=int, default=250, help="every document is cut to so many tokens")
    parser.add_argument("--methods", type=names_of_methods, default=list(RIVALS), help="by commas; ezxmc always runs")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    return parser.parse_args()


def names_of_methods(text: str) -> list[str]:
    """The rivals in ``text``, in the order of RIVALS."""
    names = set(text.split(","))
    if unknown := names - {*RIVALS, "ezxmc"}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose among {', '.join(RIVALS)}, ezxmc")
    return [name for name in RIVALS if name in names]


def inputs(given: argparse.Namespace) -> tuple[Path, Path]:
    """The files of documents and labels; errors: UserError if one is missing."""
    if (given.data is None) != (given.labels is None):
        raise UserError("--data and --labels go together: give both, or neither for the Debian packages.")
    if given.data is None:
        files = EXAMPLE / "documents.jsonl.gz", EXAMPLE / "labels.jsonl.gz"
        mend = f"python examples/debian_packages.py --output {EXAMPLE.relative_to(ROOT)} --documents all"
    else:
        files, mend = (given.data, given.labels), "give others as --data and --labels"
    for file in files:
        if not file.is_file():
            raise UserError(f"There is no file {file}: {mend}")
    return files


def configure(given: argparse.Namespace, labels: Path) -> Config:
    """One engine, the read-out yes_no; what the command line overrides has the last word."""
    teacher = {"teacher.model": given.teacher} if given.teacher else {}
    settings = teacher | {
        "prepare.labels": f"[{labels.absolute()}]",
        "shortlist.size": given.shortlist,
        "teacher.prompt": "generic" if given.data else "package",
        "teacher.max_document_tokens": given.document_tokens,
        "teacher.dtype": given.dtype,
        "teacher.readout": "yes_no",
        # Both ask for no other prompts.
        "teacher.calibration": "none",
        "teacher.second_readout": "none",
        "teacher.engines": 1,
    }
    return load_config(None, [f"{key}={value}" for key, value in settings.items()] + given.overrides)


def take_sample(given: argparse.Namespace, data: Path, config: Config) -> Sample:
    """The documents, cut by the teacher's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(load_teacher(config.teacher).resolved)
    return sample_documents(data, tokenizer, given.documents, given.document_tokens)


def run_round(task: Task, rivals: list[str], number: int) -> dict[str, Any]:
    """The rivals, the stage and the bare loop, every other round in reverse order; what each gave by its name."""
    order = [*rivals, "ezxmc", "bare"][:: -1 if number % 2 else 1]
    done: dict[str, Any] = {}
    for method in order:
        done[method] = run_method(task, method, number)
        print(f"round {number + 1}: {method}: {shown(done[method])}", flush=True)
    return done


def run_method(task: Task, method: str, number: int = 0) -> dict[str, Any]:
    """One method in a process of its own; errors: UserError unless it is a rival (then ``error`` says why)."""
    output, log = (Path(task.folder, f"{method}-{number}.{end}") for end in ("json", "log"))
    result = run_module("teacher_bench.methods", [method, task.folder], output, log)
    if "error" in result and method not in RIVALS:
        raise UserError(f"The method {method} failed ({result['error']}); see {log}.")
    return result


def shown(timing: dict[str, Any]) -> str:
    """A method's figures in a line."""
    if "error" in timing:
        return f"cannot run here: {timing['error']}"
    rate = timing["pairs"] / timing["seconds"]
    return f"{rate:.2f} pairs/s ({timing['pairs']} in {timing['seconds']:.1f} s, start {timing['start_seconds']:.0f} s)"


def about_cores(rivals: list[str]) -> list[str]:
    """On a CPU, what vLLM's default does with the cores."""
    import torch

    if torch.cuda.is_available() or "vllm_default" not in rivals:
        return []
    return [
        f"By default vLLM on a CPU computes with all cores but one (here {len(os.sched_getaffinity(0))}), which it "
        "leaves to its other processes: ray_data_llm and vllm_default do so; what ends in _all_cores, and all others, "
        "take every core."
    ]


def about_the_pairs(given: argparse.Namespace, data: Path, sample: Sample, done: dict[str, Any]) -> str:
    """Which pairs they were, and which methods judged a part of them only."""
    pairs = done["ezxmc"]["pairs"]
    joined = f", {sample.joined} of them several short ones in a row" if sample.joined else ""
    fewer = [f"{name} the first {done[name]['pairs']}" for name in ("published", "one_forward") if name in done]
    part = f"; {' and '.join(fewer)}" if given.slow_pairs and given.slow_pairs < pairs else ""
    return (
        f"{given.documents} documents of {data.parent.name} by the hash of their ids, cut to {given.document_tokens} "
        f"tokens{joined}; {pairs:,} pairs{part}."
    )


if __name__ == "__main__":
    sys.exit(main())

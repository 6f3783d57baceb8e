"""One run of so many documents for growth.py: its inputs, and what its stages cost.

Comes in: documents and labels of a data set, recombined to as many as are wanted. Goes out: CPU seconds, requests and
files of every stage of a whole run, with its commit. Stages, actors and the training worker are this project's own; the
encoder is small and has random weights, the engine takes no time (growth_work.py), and label priors are by chance.

Run as a module with documents, those of the run before it, how many runs (of which the middle one counts), shard rows,
--data's path, labels, a scratch folder and the file for its answer. The run before it, in the same processes, imports
and loads what all runs share.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from common.data import DOCUMENTS, read_rows
from common.simulated_ray import TasksHere, simulated_ray
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.documents import shards
from ezxmc_ray.stages.judge_worker import JudgeWorker
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.verdicts.examples import make_examples
from scale_bench.counted import REQUESTS, SimulatedObjectStore, Spent, TimedTasks
from scale_bench.growth_work import simulated_judge_worker, train_some_steps, write_priors
from scale_bench.train import small_encoder

DOCUMENTS_PER_FILE = 5000
#: Of each of two texts that a document is made of: few, so that what each document costs is not all reading.
WORDS = 12
LABELS = "labels.jsonl.gz"
#: The steps of a run that grow with its documents, and what they are called here.
STAGES = {
    "prepare": "prepare",
    "cycle 0 shortlist": "shortlist",
    "cycle 0 judge": "judge",
    "cycle 0 train": "train",
    "predict": "predict",
    "evaluate": "evaluate",
    "report": "report",
}
JOIN = "join_examples"
KNOBS = [
    "shortlist.documents_per_cycle=0",
    "encoder.dtype=float32",
    "lexical.candidates=100",
    "teacher.readout=yes_no",
    "teacher.second_readout=none",
    "teacher.dtype=float32",
    "student.trackers=[]",
]


@dataclass
class Cost:
    """Of a stage: CPU seconds of its tasks' and actors' work, of the start of its actors, and of the driver; requests
    of all, the files it left, the most memory that the driver had until its end, MiB, and the documents it trained
    on."""

    task_cpu_s: float
    start_cpu_s: float
    driver_cpu_s: float
    requests: int
    files: int
    driver_mib: float
    trained: int

    def without(self, part: Cost) -> Cost:
        """What is left of it without ``part``, that happened meanwhile."""
        left = {name: value - getattr(part, name) for name, value in asdict(self).items()}
        return Cost(**left | {"driver_mib": self.driver_mib})


def recombined_labels(labels: Sequence[dict[str, Any]], count: int) -> list[dict[str, str]]:
    """``count`` labels: those of a data set, then the texts of two of them together."""
    draw = random.Random(0)
    found = [{"id": str(label["id"]), "text": label["text"]} for label in labels[:count]]
    for number in range(len(found), count):
        found.append({"id": f"more-{number}", "text": f"{draw.choice(labels)['text']} {draw.choice(labels)['text']}"})
    return found


def write_inputs(folder: Path, rows: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]], count: int) -> None:
    """``count`` documents in ``folder``, of three of ``rows`` each: a title, and WORDS words of each of two texts."""
    draw = random.Random(count)
    folder.mkdir(parents=True)
    (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    for start in range(0, count, DOCUMENTS_PER_FILE):
        with (folder / f"documents-{start:09d}.jsonl").open("w") as file:
            for number in range(start, min(count, start + DOCUMENTS_PER_FILE)):
                title, first, second = (draw.choice(rows) for _ in range(3))
                text = f"{_words(first['text'], draw)} {_words(second['text'], draw)}"
                gold = draw.sample(labels, draw.randint(1, 4))
                one = {"id": f"d{number}", "title": title["title"], "text": text, "labels": [g["id"] for g in gold]}
                file.write(json.dumps(one) + "\n")


def _words(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    first = draw.randrange(max(1, len(words) - WORDS))
    return " ".join(words[first : first + WORDS])


class Growth:
    """A run in ``folder`` and what its stages cost; ``tasks``: what runs tasks and actors.

    ``knobs``: of the configuration.
    """

    def __init__(self, folder: Path, tasks: TasksHere, knobs: Sequence[str]) -> None:
        inputs = [
            f"prepare.documents=[{folder}/input/documents-*.jsonl]",
            f"prepare.labels=[{folder}/input/labels.jsonl]",
        ]
        encoder = tasks.run_task(small_encoder, f"{folder}/encoder")
        self.config: Config = load_config(
            None, [*inputs, *KNOBS, f"encoder.model={encoder}", *knobs, f"run={folder}/run"]
        )
        self.plan = RunPlan(self.config, SimulatedObjectStore(f"{folder}/run"))
        self.tasks = tasks
        self.costs: dict[str, Cost] = {}

    def run(self, left_out: str = "") -> None:
        """All steps of the run but those of the stage ``left_out``."""
        stand_ins = {JudgeWorker: simulated_judge_worker, make_examples: self._make_examples}
        with simulated_ray(self.tasks, stand_ins):
            for step in self.plan.steps():
                if step.stage == left_out:
                    continue
                if step.name == "cycle 0 judge":
                    self.tasks.run_task(write_priors, self.plan.storage, self.plan.context.teacher)
                with self.measured(STAGES.get(step.name, step.name)):
                    self.plan.execute(step)
        self.costs["judge"] = self.costs["judge"].without(self.costs[JOIN])

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Note what the block costs, as the work of ``stage``."""
        files, requests, spent = self._files(), REQUESTS.total(), copy.copy(self._spent())
        began = time.process_time()
        yield
        driver_s, peak = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        there = self._spent() - spent
        requests = there.requests + REQUESTS.total() - requests
        new = len(self._files() - files)
        self.costs[stage] = Cost(there.cpu_s, there.start_cpu_s, driver_s, requests, new, peak, there.trained)

    def _make_examples(self, *arguments: Any) -> Any:
        """verdicts.examples.make_examples, whose cost in cycle 0 is noted by itself."""
        if JOIN in self.costs:
            return make_examples(*arguments)
        with self.measured(JOIN):
            return make_examples(*arguments)

    def _spent(self) -> Spent:
        return self.tasks.spent if isinstance(self.tasks, TimedTasks) else Spent()

    def _files(self) -> set[Path]:
        return {path for path in Path(self.plan.storage.root).rglob("*") if path.is_file()}


def grow(folder: Path, tasks: TasksHere, knobs: Sequence[str], left_out: str = "") -> dict[str, Any]:
    """A run on the inputs in ``folder``; the costs of its stages but ``left_out``, with documents and shards."""
    growth = Growth(folder, tasks, knobs)
    # A set of few documents is cut into shards of the size that others have.
    with mock.patch.object(shards, "_SHARDS_AT_LEAST", 1):
        growth.run(left_out)
    known = growth.plan.context.prepared
    costs = {name: asdict(growth.costs[name]) for name in (*STAGES.values(), JOIN) if name != left_out}
    return {"documents": known.documents, "shards": known.shards, "labels": known.labels, "stages": costs}


def middle(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of runs on the same documents for each stage the one whose CPU is the median; of two the lesser.

    Not the least: the largest size runs once, and would look dear beside the luckiest of several small ones.
    """
    costs = [run["stages"] for run in runs]
    stages = {name: sorted((one[name] for one in costs), key=cpu_of)[(len(runs) - 1) // 2] for name in costs[0]}
    return {**runs[0], "runs": len(runs), "stages": stages}


def cpu_of(cost: dict[str, Any]) -> float:
    """CPU seconds of a stage, the start of its actors apart."""
    return float(cost["task_cpu_s"] + cost["driver_cpu_s"])


def main() -> None:
    """Make the inputs, run the stages, and write what they cost."""
    documents, before, runs, shard_rows, data, labels, scratch, output = sys.argv[1:]
    knobs = [f"prepare.shard_rows={shard_rows}"]
    found = []
    with tempfile.TemporaryDirectory(dir=scratch, prefix="growth-") as folder:
        # Another process reads the data set: the memory of this one is to be a driver's, and that of the tasks' theirs.
        maker = TimedTasks(train_some_steps)
        for name, count in (("before", before), ("run", documents)):
            maker.run_task(_make_inputs, Path(folder) / name / "input", Path(data), int(labels), int(count))
        maker.close()
        tasks = TimedTasks(train_some_steps)
        grow(Path(folder) / "before", tasks, knobs)
        for _ in range(int(runs)):
            found.append(grow(Path(folder) / "run", tasks, knobs))
            shutil.rmtree(Path(folder) / "run" / "run")
        tasks.close()
    Path(output).write_text(json.dumps(middle(found)))


def _make_inputs(folder: Path, data: Path, labels: int, documents: int) -> None:
    rows = read_rows(data / DOCUMENTS, ("title", "text"))
    known = recombined_labels(read_rows(data / LABELS, ("id", "text")), labels)
    write_inputs(folder, rows, known, documents)


if __name__ == "__main__":
    main()

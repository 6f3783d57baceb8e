"""One small run, made once through the command line with real models, that the tests of this folder look at.

It was killed on a laptop's Ray while its teacher judged, and goes on as a job on a cluster: so its tables prove what a
run leaves, that a killed one goes on where it was, and that `ray job submit` does the same as `ezxmc run`.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT

TOPICS = {
    "astronomy": "telescope star galaxy orbit comet planet nebula",
    "baking": "bread flour oven yeast dough cake sugar",
    "chess": "opening gambit bishop checkmate pawn endgame",
    "sailing": "boat wind keel harbour mast anchor",
    "medicine": "patient doctor therapy vaccine hospital",
    "music": "violin orchestra melody chord concert",
    "gardening": "soil seeds tomato compost greenhouse",
    "finance": "bank interest loan stock dividend",
    "football": "goal striker league stadium referee",
    "law": "court judge contract statute lawyer",
    "photography": "camera lens aperture portrait exposure",
    "geology": "rock mineral volcano sediment fault",
}
DOCUMENTS = 96
EZXMC = str(Path(sys.executable).with_name("ezxmc"))
#: Batches that are committed before the run is killed; a batch has eight documents of 72.
BATCHES_BEFORE_THE_KILL = 2


def write_input(folder: Path, gold_shift: int = 0) -> None:
    """documents.jsonl.gz and labels.jsonl in ``folder``; ``gold_shift`` turns every gold label into another one."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    names = list(TOPICS)
    with gzip.open(folder / "documents.jsonl.gz", "wt") as out:
        for number in range(DOCUMENTS):
            topics = draw.sample(names, 2)
            words = [word for topic in topics for word in draw.sample(TOPICS[topic].split(), 3)]
            document = {
                "id": f"d{number}",
                "title": f"About {words[0]} and {words[3]}",
                "text": "A text that speaks of " + ", ".join(words) + ".",
                "labels": [names[(names.index(topic) + gold_shift) % len(names)] for topic in topics],
                "split": "test" if number % 4 == 0 else "train",
            }
            out.write(json.dumps(document) + "\n")
    (folder / "labels.jsonl").write_text("".join(json.dumps({"id": name, "text": name}) + "\n" for name in names))


@dataclass(frozen=True)
class Killed:
    """What a run that was killed while judging left behind.

    How many processes it had, and those alive 30 s later; the files of verdicts, and what `ezxmc verdicts` said then.
    """

    processes: int
    survivors: list[psutil.Process]
    verdict_files: list[Path]
    verdicts: str


@dataclass(frozen=True)
class Project:
    """A folder with an input, a configuration and a run directory."""

    folder: Path
    killed: Killed | None = field(default=None, compare=False)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def arguments(self) -> list[str]:
        """What comes after ``ezxmc run``."""
        return [str(self.folder / "conf.yaml")]

    def ezxmc(self, *arguments: str, typed: str = "", timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run the command as a user would, with ``typed`` on its standard input."""
        environment = users_environment()
        return subprocess.run(
            [EZXMC, *arguments], input=typed, capture_output=True, text=True, timeout=timeout, env=environment
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command; its output goes to the file ``stdout``."""
        with (self.folder / "stdout").open("w") as output:
            return subprocess.Popen(
                [EZXMC, *arguments], stdout=output, stderr=subprocess.STDOUT, text=True, env=users_environment()
            )

    def rows(self, folder: str) -> list[dict[str, Any]]:
        """All rows of a folder's Parquet files, in order, read by plain pyarrow."""
        files = sorted((self.run / folder).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def manifest(self, folder: str) -> dict[str, Any]:
        """A stage's manifest."""
        found: dict[str, Any] = json.loads((self.run / folder / "manifest.json").read_text())
        return found

    def verdict_files(self) -> list[Path]:
        """The batches of pairs that are committed; priors apart."""
        return sorted(self.run.glob("verdicts/*/shard-*/*.parquet"))

    def copy(self, folder: Path) -> Project:
        """The same input and configuration with a copy of the run."""
        folder.mkdir(parents=True)
        shutil.copytree(self.run, folder / "run", copy_function=shutil.copy2)
        text = (self.folder / "conf.yaml").read_text()
        (folder / "conf.yaml").write_text(text.replace(f"run: {self.run}", f"run: {folder}/run"))
        return Project(folder)


def users_environment() -> dict[str, str]:
    """This process's environment without the token of the session's Ray: `ezxmc` makes one of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}


def make_project(folder: Path, gold_shift: int = 0) -> Project:
    """A project without a run."""
    write_input(folder / "input", gold_shift)
    (folder / "conf.yaml").write_text(
        f"""
run: {folder}/run
prepare: {{documents: [{folder}/input/documents.jsonl.gz], labels: [{folder}/input/labels.jsonl], held_out_share: 0.25}}
encoder: {{dtype: float32}}
shortlist: {{size: 4}}
teacher: {{readout: likelihood, batch_documents: 8, max_document_tokens: 48}}
student:
  {{workers: 2, epochs: 2, batch_size: 16, dropout: true, checkpoint_every_s: 0.5, validate_every_steps: 4,
   trackers: [tensorboard]}}
"""
    )
    return Project(folder)


@pytest.fixture(scope="session")
def topics() -> list[str]:
    """The labels of the input, in order."""
    return list(TOPICS)


@pytest.fixture(scope="session")
def new_project() -> Callable[..., Project]:
    """Makes a project without a run: ``new_project(folder, gold_shift=0)``."""
    return make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, one_engine: Any, ray_head: Any) -> Project:
    """A finished run: `ezxmc run` on the input above, killed while judging, and given as a job. ``stdout``: of both."""
    made = make_project(tmp_path_factory.mktemp("project"))
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", ray_head.job_server, "--"]
    job = [*submit, sys.executable, str(ROOT / "jobs" / "run.py"), *made.arguments]
    with one_engine():
        killed = kill_while_judging(made)
        done = subprocess.run(job, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    with (made.folder / "stdout").open("a") as output:
        output.write(done.stdout)
    return Project(made.folder, killed)


def kill_while_judging(project: Project) -> Killed:
    """Start `ezxmc run`, and kill its process when some batches of verdicts are committed, as `kill -9` does."""
    driver = project.start("run", *project.arguments)
    deadline = time.monotonic() + 400
    while len(project.verdict_files()) < BATCHES_BEFORE_THE_KILL:
        said = (project.folder / "stdout").read_text()
        assert driver.poll() is None and time.monotonic() < deadline, said[-3000:]
        time.sleep(0.1)
    of_the_run = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 30
    while any(map(running, of_the_run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    shown = project.ezxmc("verdicts", "show", str(project.run), "--teacher", "configured")
    assert shown.returncode == 0, shown.stderr
    return Killed(len(of_the_run), list(filter(running, of_the_run)), project.verdict_files(), shown.stdout)


def running(process: psutil.Process) -> bool:
    """Whether it lives and is no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

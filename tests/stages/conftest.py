"""One small run, made once through the command line with real models, that the tests of this folder look at."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

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
class Project:
    """A folder with an input, a configuration and a run directory."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def arguments(self) -> list[str]:
        """What comes after ``ezxmc run``."""
        return [str(self.folder / "conf.yaml")]

    def ezxmc(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run the command as a user would."""
        return subprocess.run([EZXMC, *arguments], capture_output=True, text=True, timeout=timeout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command, its output discarded."""
        return subprocess.Popen([EZXMC, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)

    def rows(self, folder: str) -> list[dict[str, Any]]:
        """All rows of a folder's Parquet files, in order, read by plain pyarrow."""
        files = sorted((self.run / folder).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def manifest(self, folder: str) -> dict[str, Any]:
        """A stage's manifest."""
        found: dict[str, Any] = json.loads((self.run / folder / "manifest.json").read_text())
        return found

    def copy(self, folder: Path) -> Project:
        """The same input and configuration with a copy of the run."""
        folder.mkdir(parents=True)
        shutil.copytree(self.run, folder / "run", copy_function=shutil.copy2)
        text = (self.folder / "conf.yaml").read_text()
        (folder / "conf.yaml").write_text(text.replace(f"run: {self.run}", f"run: {folder}/run"))
        return Project(folder)


def make_project(folder: Path, gold_shift: int = 0) -> Project:
    """A project without a run."""
    write_input(folder / "input", gold_shift)
    (folder / "conf.yaml").write_text(
        f"""
run: {folder}/run
prepare: {{documents: [{folder}/input/documents.jsonl.gz], labels: [{folder}/input/labels.jsonl], held_out_share: 0.25}}
encoder: {{dtype: float32}}
shortlist: {{size: 4}}
teacher: {{readout: likelihood, batch_documents: 8, max_document_tokens: 48,
  second_prompt_documents: 20}}
student:
  {{workers: 2, epochs: 2, batch_size: 16, dropout: true, checkpoint_every_steps: 3, validate_every_steps: 4,
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
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run: `ezxmc run` on the input above."""
    made = make_project(tmp_path_factory.mktemp("project"))
    done = made.ezxmc("run", *made.arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (made.folder / "stdout").write_text(done.stdout)
    return made


@pytest.fixture(autouse=True)
def no_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that the developer happens to run is not used."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

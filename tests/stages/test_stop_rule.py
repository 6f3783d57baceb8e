"""The stop rule and the model card in a real run through the command line.

Verdicts of all pairs are imported beforehand (made up from the topics of the input), so that no engine is started.
Marked slow: several whole runs (the rule itself is tested in tests/test_cycles.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
Project = Any  # conftest.Project: pytest's importlib mode gives test modules no name to import it by
SETTINGS = [
    "curriculum.cycles=2",
    "teacher.readout=yes_no",
    "teacher.second_readout=none",
    "teacher.calibration=none",
    "student.epochs=1",
    "student.validate_every_steps=0",
    "student.trackers=[]",
]


def run(project: Project, *overrides: str) -> list[str]:
    """Give ``ezxmc run``; the steps that it executed."""
    done = project.ezxmc("run", *project.arguments, *SETTINGS, *overrides)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (project.folder / "stdout").write_text(done.stdout)
    return re.findall(r"^([a-z0-9 ]+): [\d,]+ [a-z -]+ in [\d,.]+ s$", done.stdout, re.M)


def states(project: Project) -> dict[str, str]:
    printed = project.ezxmc("status", str(project.run)).stdout
    return dict(re.findall(r"^  ([a-z0-9 ]+?)  +(done|missing|stale|not run)\b", printed, re.M))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[..., Any], topics: list[str]) -> Project:
    """A prepared run that holds a verdict of every pair: a label fits where its topic is one of the document's two."""
    project = new_project(tmp_path_factory.mktemp("stop"))
    done = project.ezxmc("prepare", *project.arguments, *SETTINGS)
    assert done.returncode == 0, done.stderr
    documents, gold = project.rows("documents"), project.rows("gold")
    fits = [
        (document["id"], topic, 0.9 if number in truth["labels"] else 0.1)
        for document, truth in zip(documents, gold, strict=True)
        for number, topic in enumerate(topics)
    ]
    columns = dict(zip(("document_id", "label_id", "raw"), map(list, zip(*fits, strict=True)), strict=True))
    pq.write_table(pa.table(columns), project.folder / "verdicts.parquet")
    file = str(project.folder / "verdicts.parquet")
    done = project.ezxmc("verdicts", "import", str(project.run), file, "--teacher", "configured")
    assert done.returncode == 0, done.stderr
    return project


def test_a_student_that_does_not_lead_by_enough_ends_the_cycles_and_the_run_can_be_taken_further(
    judged: Project,
) -> None:
    held_out = ["cycle 1 shortlist", "cycle 1 judge"]
    ending = ["select", "index", "predict", "evaluate", "report"]
    first = run(judged, "curriculum.min_lead=1000")
    assert first == ["cycle 0 shortlist", "cycle 0 judge", "cycle 0 train", *held_out, "cycle 1 select", *ending]
    assert "The cycles end: cycle_0 leads untrained by" in (judged.folder / "stdout").read_text()
    lead = judged.manifest("cycle-1/selection")["details"]["lead"]
    documents = judged.manifest("documents")["details"]
    assert (lead["over"], lead["documents"]) == ("untrained", documents["held_out"])
    assert lead["standard_error"] > 0
    assert judged.manifest("cycle-1/shortlist")["rows"] == documents["held_out"] > 0
    assert len(judged.manifest("student")["details"]["scores"]) == 2
    assert [name for name, state in states(judged).items() if state == "not run"] == [
        "cycle 1 train",
        "cycle 2 shortlist",
        "cycle 2 judge",
    ]
    assert run(judged, "curriculum.min_lead=1000") == []
    check_card(judged, cycles=1)

    second = run(judged, "curriculum.min_lead=-1000")
    assert second == [*held_out, "cycle 1 train", "cycle 2 shortlist", "cycle 2 judge", *ending]
    assert judged.manifest("cycle-1/shortlist")["rows"] == documents["train"]
    assert len(judged.manifest("student")["details"]["scores"]) == 3
    assert set(states(judged).values()) == {"done"}
    check_card(judged, cycles=2)


def check_card(project: Project, cycles: int) -> None:
    """The card is complete, and the directory is a SentenceTransformer all the same."""
    card = ModelCard.load(project.run / "student" / "README.md")
    report = json.loads((project.run / "report.json").read_text())
    assert report["cycles"]["run"] == cycles
    chosen = report["selection"]["chosen"]
    low, high = report["intervals"][chosen]["P@1"]
    assert f"| P@1 | {report['metrics']['chosen']['P@1']:.1f} | {low:.1f} to {high:.1f} |" in card.text
    assert f"Shipped: **{chosen}**" in card.text
    assert f"{cycles} of at most 2" in card.text
    assert report["data"]["document_fingerprint"] in card.text
    student = SentenceTransformer(str(project.run / "student"), device="cpu")
    assert student.encode(["a text"], prompt_name="document").shape == (1, 384)
    assert student.encode(["a label"], prompt_name="label").shape == (1, 384)

"""A run that is killed goes on where it was, here as a Ray job, and leaves no process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.config import load_config
from ezxmc_ray.teacher.engine import DocumentPairs, load_teacher
from ezxmc_ray.teacher.transformers_engine import TransformersEngine

# The first test waits for the run that all of them look at.
pytestmark = pytest.mark.timeout(900)
Project = Any  # conftest.Project


def pairs_in(files: list[Path]) -> list[tuple[bytes, bytes]]:
    return [(row["document_hash"], row["label_hash"]) for file in files for row in pq.read_table(file).to_pylist()]


def test_a_driver_killed_while_judging_leaves_no_process(project: Project) -> None:
    assert project.killed.processes > 5
    assert project.killed.survivors == []


def test_a_killed_run_goes_on_where_it_was_and_no_pair_is_judged_twice(project: Project) -> None:
    judged = project.manifest("cycle-0/examples")
    held = pairs_in(project.killed.verdict_files)
    assert 0 < len(held) < judged["rows"] == judged["details"]["pairs"]
    # What it cost adds up over both starts.
    assert judged["details"]["pairs_held"] == 0
    assert judged["details"]["pairs_asked"] == judged["rows"]
    folder = project.run / "verdicts" / judged["details"]["teacher"]["key"]
    pairs = pairs_in([file for file in project.verdict_files() if file.is_relative_to(folder)])
    asked_later = project.manifest("cycle-1/examples")["details"]["pairs_asked"]
    assert set(held) < set(pairs)
    assert len(pairs) == len(set(pairs)) == judged["rows"] + asked_later


def test_the_verdicts_before_and_after_the_kill_are_the_references(project: Project) -> None:
    """Against transformers in float32, on the examples of a few documents that either command judged."""
    config = load_config(project.arguments[0]).teacher
    engine = TransformersEngine(load_teacher(replace(config, dtype="float32")))
    labels = pq.read_table(project.run / "labels.parquet").to_pylist()
    held = {document for document, _ in pairs_in(project.killed.verdict_files)}
    judged = list(judged_documents(project))
    for before_the_kill in (True, False):
        batch, found = [], []
        for document, example in [one for one in judged if (one[0]["content_hash"] in held) == before_the_kill][:6]:
            asked = [labels[number] for number in example["labels"]]
            hashes, texts = (tuple(label[name] for label in asked) for name in ("content_hash", "text"))
            batch.append(DocumentPairs(document["content_hash"], document["title"], document["text"], hashes, texts))
            found += example["raw"]
        expected = np.asarray(engine.judge(batch).table["raw"])
        # bfloat16 moves mean log likelihoods by some hundredths (0.04 and 0.06 on these); they differ by 2.
        assert len(found) == 24 and np.abs(found - expected).mean() < 0.1 < expected.std() / 10


def judged_documents(project: Project) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each document of cycle 0 with its example; a row is one of its shard."""
    for file in sorted((project.run / "cycle-0" / "examples").glob("*.parquet")):
        documents = pq.read_table(project.run / "documents" / file.name).to_pylist()
        for example in pq.read_table(file).to_pylist():
            yield documents[example["row"]], example

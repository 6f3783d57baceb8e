"""The parts of benchmarks/packed.py and of the ceiling that need no engine; and one engine on a task of four pairs."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import packed
from common.headlines import headline
from common.measures import in_batches
from ezxmc_ray.config import Config
from ezxmc_ray.tables import content_hash
from ezxmc_ray.teacher.engine import DocumentPairs
from scale_bench import ceiling
from scale_bench.ceiling import rows_of_documents
from scale_bench.ceiling_engine import document_in
from teacher_bench.packed import asked, asked_by

TEXTS = [{"title": f"title {n}", "text": f"one half {n} and the other half {n}"} for n in range(40)]


class Task:
    """Two documents of two labels."""

    slow_pairs, reference_pairs = 2, 3

    def __init__(self, teacher: str) -> None:
        self.config = Config()
        self.config.teacher.model, self.config.teacher.dtype = teacher, "float32"
        self.config.teacher.readout = "yes_no"

    def documents(self, pairs: int = 0) -> list[DocumentPairs]:
        labels = ("stars", "a label of more words")
        hashes = tuple(content_hash("", label) for label in labels)
        count = pairs or 4
        whole = [DocumentPairs(content_hash("", text), "", text, hashes, labels) for text in ("of stars", "of music")]
        return [replace(one, label_hashes=hashes[:n], labels=labels[:n]) for one, n in cut(whole, count)]

    def warm_up(self) -> list[DocumentPairs]:
        return self.documents(1)


def cut(documents: list[DocumentPairs], pairs: int) -> list[tuple[DocumentPairs, int]]:
    found = []
    for one in documents:
        taken = min(pairs, len(one.labels))
        pairs -= taken
        if taken:
            found.append((one, taken))
    return found


def test_an_engine_is_asked_the_pairs_that_are_meant_for_it(small_teacher: str) -> None:
    task: Any = Task(small_teacher)
    asked_about = {name: asked_by(name, task)[1] for name in ("vllm", "one_forward", "float32")}
    assert [sum(len(one.labels) for one in documents) for documents in asked_about.values()] == [4, 2, 3]
    found, alone = asked("packed", task), asked("float32", task)
    assert found["pairs"] == len(found["raw"]) == 4 and alone["pairs"] == 3
    assert np.allclose(found["raw"][:3], alone["raw"], atol=1e-4)
    assert 1 <= found["tokens_over_ideal_of_the_padded"] < 1.02  # documents that begin alike are read twice
    assert found["tokens_over_ideal_of_the_padded"] < found["tokens_over_ideal"] < alone["tokens_over_ideal"]


def test_works_are_tokens_and_labels() -> None:
    assert packed.works_in("250x10,32x1") == [(250, 10), (32, 1)]
    for wrong in ("250x10,32", "250x0", "0x10"):
        with pytest.raises(argparse.ArgumentTypeError, match="write works as"):
            packed.works_in(wrong)


def test_rows_stand_beside_vllm_and_scores_beside_float32() -> None:
    def engine(rate: float, raw: list[float]) -> dict[str, Any]:
        figures = {
            "computed_tokens_per_pair": 30.0,
            "tokens_over_ideal": 1.05,
            "tokens_over_ideal_of_the_padded": 1.0,
            "most_memory_gib": 2.0,
        }
        return {"pairs": len(raw), "pairs_per_s": rate, "raw": raw} | figures

    engines = {
        "packed": engine(30, [0.9, 0.1, 0.8]),
        "vllm": engine(20, [0.9, 0.1, 0.5]),
        "float32": engine(1, [0.9, 0.1]),
    }
    rows = packed.rows_of({"tokens": 250, "labels": 10, "engines": engines})
    assert [(row["engine"], row["times vLLM's"]) for row in rows] == [("packed", 1.5), ("vllm", 1.0)]
    scores = packed.agreements(engines)
    assert scores["packed, float32"]["share_within_tolerance"] == 1.0
    assert scores["packed, vllm"]["largest_difference"] == pytest.approx(0.3)


def test_documents_of_the_ceiling_come_back_as_they_were() -> None:
    rows = rows_of_documents(5, TEXTS, [f"label {n}" for n in range(20)], 0)
    documents = [document_in(row) for row in rows]
    assert all(one.label_hashes == tuple(content_hash("", label) for label in one.labels) for one in documents)
    assert all(len(set(one.labels)) == 10 for one in documents) and len({one.document_hash for one in documents}) == 5
    assert [len(batch) for batch in in_batches(documents, 2)] == [2, 2, 1]
    assert rows == rows_of_documents(5, TEXTS, [f"label {n}" for n in range(20)], 0)


def test_cores_are_some_that_are_there() -> None:
    there = len(os.sched_getaffinity(0))
    assert ceiling.cores_in(f"{there},1") == [there, 1]
    for wrong in ("0", str(there + 1), "one"):
        with pytest.raises(argparse.ArgumentTypeError, match="write numbers from 1"):
            ceiling.cores_in(wrong)


def test_the_ceiling_is_told_for_the_fewest_cores() -> None:
    rows = [{"engine": "vllm", "cores": 1}, {"engine": "vllm", "cores": 2}]
    command = "python benchmarks/scale.py ceiling --name n"
    told = headline({"command": command, "rows": rows, "pairs_per_s": {"vllm": 1500.4, "packed": 9000}})
    assert told == "pairs/s of a model that costs nothing, 1 core: vllm 1,500, packed 9,000"

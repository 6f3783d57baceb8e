"""The runs that benchmarks/student.py derives from others: which labels and documents they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.hybrid import PairScorer
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import EXAMPLES_SCHEMA
from student_bench.task import (
    EXAMPLES_FOLDER,
    Vectors,
    all_yes,
    best_yes,
    derive,
    in_falling_similarity,
    nearest_labels,
    ranked_documents,
    whole_shortlist,
    yes_labels,
)


def examples(run: str) -> list[tuple[int, list[int], list[float]]]:
    rows = Storage(run).read_table(f"{EXAMPLES_FOLDER}/shard-00000.parquet", EXAMPLES_SCHEMA).to_pylist()
    return [(row["row"], row["labels"], np.round(row["similarity"], 3).tolist()) for row in rows]


@pytest.mark.parametrize(
    ("pick", "first", "second"),
    [(best_yes, [1], [0]), (all_yes, [1, 2], [0, 1]), (whole_shortlist, [0, 1, 2], [0, 1])],
)
def test_a_derived_run_has_the_documents_with_a_yes_and_the_labels_picked(
    base: str, tmp_path: Path, pick: Any, first: list[int], second: list[int]
) -> None:
    derive(base, str(tmp_path / "run"), pick, 2)
    expected = [
        (row, labels, [round(0.9 - 0.1 * one, 3) for one in labels]) for row, labels in ((0, first), (2, second))
    ]
    assert examples(str(tmp_path / "run")) == expected


def test_only_as_many_documents_as_are_wanted_and_no_fewer(base: str, tmp_path: Path) -> None:
    derive(base, str(tmp_path / "run"), whole_shortlist, 1)
    assert [row for row, _, _ in examples(str(tmp_path / "run"))] == [0]
    with pytest.raises(UserError, match="Only 2 train documents have a yes, and 3 are timed: lower --steps"):
        derive(base, str(tmp_path / "run"), whole_shortlist, 3)


def test_pairs_for_sentence_transformers_are_the_yes_ones_of_documents_that_are_trained_on(base: str) -> None:
    assert yes_labels(base) == [
        ("title 0\ntext 0", ["label 1", "label 2"]),
        ("title 2\ntext 2", ["label 0", "label 1"]),
    ]


def test_only_test_documents_are_ranked(base: str) -> None:
    titles, texts, gold = ranked_documents(base)
    assert (titles, texts, [one.tolist() for one in gold]) == (["title 4"], ["text 4"], [[2]])


def test_shortlists_fall_in_similarity_and_ties_go_by_label_number() -> None:
    labels, similarity = in_falling_similarity(np.array([7, 3, 5], np.int32), np.array([0.5, 0.5, 0.75]))
    assert labels.tolist() == [5, 3, 7]
    assert similarity.dtype == np.float32 and similarity.tolist() == [0.75, 0.5, 0.5]


def test_the_simulated_teacher_sees_the_nearest_labels() -> None:
    angles = np.linspace(0, 1, 4)
    labels = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    similarity = PairScorer(labels, None, LexicalConfig())
    vectors = Vectors(["d", "e"], labels[[0, 3]], ["a", "b", "c", "f"], labels, similarity)
    assert nearest_labels(vectors, 2) == {"d": ["a", "b"], "e": ["f", "c"]}
    assert len(nearest_labels(vectors, 10)["d"]) == 4

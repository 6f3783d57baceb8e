"""The parts of benchmarks/encode.py that need no model: its sample and its figures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from encode import REFERENCE, Texts, row, sample


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(one) + "\n" for one in rows)


def test_the_sample_is_drawn_among_the_longest_and_short_texts_are_labels_first(tmp_path: Path) -> None:
    texts = [{"title": f"t{number}", "text": "x" * number} for number in range(20)]
    write_lines(tmp_path / "documents.jsonl.gz", texts)
    write_lines(tmp_path / "labels.jsonl.gz", [{"text": "one"}, {"text": "two"}])
    documents, labels = sample(tmp_path, 4, 6, 5, 0)
    assert len(set(documents.texts)) == 4
    assert all(text.count("x") >= 14 for text in documents.texts)
    assert sample(tmp_path, 4, 6, 5, 0)[0].texts == documents.texts
    assert labels.texts == ["one", "two", "t0", "t1", "t2"]
    assert (documents.max_tokens, labels.max_tokens) == (128, 32)


def test_ratios_are_taken_within_a_round() -> None:
    kinds = [Texts("documents", ["a", "b"], 128)]
    seconds = {(REFERENCE, "documents"): [1.0, 4.0, 2.0], ("ours", "documents"): [0.5, 1.0, 4.0]}
    reference = np.array([[1.0, 0.0], [0.0, 1.0]])
    vectors = {(REFERENCE, "documents"): reference, ("ours", "documents"): np.array([[2.0, 0.0], [3.0, 4.0]])}
    shown = row("ours", kinds, seconds, vectors)
    assert shown["documents_per_s"] == pytest.approx(2.0)  # the median round takes a second
    assert shown["documents_ratio"] == pytest.approx(2.0)  # of 2, 4 and 0.5
    assert (shown["cosine_min"], shown["cosine_mean"]) == ("0.80000", "0.90000")

"""The methods of benchmarks/student.py that need no Ray, on three documents with the bundled encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ezxmc_ray.config import load_config, to_dict
from student_bench.figures import MEASURES, cosines_of
from student_bench.methods import METHODS
from student_bench.task import Job, all_yes, derive, write_texts

SETTINGS = ["student.batch_size=2", "student.max_document_tokens=16", "encoder.max_document_tokens=16"]


def job(base: str, folder: Path, *overrides: str) -> Job:
    config = load_config(None, [*SETTINGS, f"run={folder / 'run'}", *overrides])
    return Job("", base, to_dict(config), 5e-5)


@pytest.fixture
def two_documents(base: str, tmp_path: Path) -> str:
    """Those with a yes, each with its two positives."""
    derive(base, str(tmp_path / "two"), all_yes, 2)
    return str(tmp_path / "two")


def test_the_training_loop_takes_a_document_once(two_documents: str, tmp_path: Path) -> None:
    found = METHODS["time_ezxmc"](job(two_documents, tmp_path))
    assert (found["documents"], found["rows"], found["steps"]) == (2, 2, 1)
    assert found["seconds"] > 0 and found["start_seconds"] > 0


@pytest.mark.parametrize("method", ["st_mnrl", "st_cached_mnrl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sentence_transformers_takes_a_row_for_each_positive(
    two_documents: str, tmp_path: Path, method: str, dtype: str
) -> None:
    pytest.importorskip("datasets")
    found = METHODS[f"time_{method}"](job(two_documents, tmp_path, f"student.dtype={dtype}"))
    assert (found["documents"], found["rows"], found["steps"]) == (2, 4, 2)


def test_what_sentence_transformers_has_learnt_is_ranked(two_documents: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    found = METHODS["learn_st_mnrl"](job(two_documents, tmp_path, "student.epochs=2"))
    untrained = METHODS["untrained"](job(two_documents, tmp_path))
    # One test document, whose gold label is one of four.
    assert set(MEASURES) <= found.keys() and found["R@10"] == untrained["R@10"] == 100.0
    assert found["rows"] == 4 and found["steps"] >= 4


def test_both_encoders_read_the_same_texts(tmp_path: Path) -> None:
    write_texts(str(tmp_path / "texts"), [{"title": f"title {i}", "text": "word " * i} for i in range(5)])
    methods = ("encode_ezxmc", "encode_sentence_transformers")
    files = [
        METHODS[method](job(str(tmp_path / "texts"), tmp_path / method, "encoder.dtype=float32"))["vectors"]
        for method in methods
    ]
    least, _ = cosines_of(*(np.load(file) for file in files))
    assert least == pytest.approx(1.0, abs=1e-5)

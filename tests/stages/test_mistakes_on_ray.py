"""Mistakes that only a command on Ray finds: one sentence, exit status 2, nothing half done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_mistakes import Ezxmc, assert_one_sentence, folder, run_process

__all__ = ["folder"]  # a fixture


def on_the_cluster(folder: Path) -> list[str]:
    """Overrides for a command that joins a cluster, whose nodes do not share its working directory."""
    return [f"run={folder}/run", f"prepare.labels=[{folder}/labels.jsonl]"]


def test_more_training_workers_than_the_cluster_has_are_one_sentence(
    folder: Path, ezxmc: Ezxmc, joins_ray: None
) -> None:
    documents = f"prepare.documents=[{folder}/documents.jsonl]"
    done = ezxmc("run", "conf.yaml", "student.workers=5", documents, *on_the_cluster(folder))
    assert_one_sentence(done, "student.workers to 2 at most")
    assert not (folder / "run" / "documents").exists()  # refused before the first stage


def test_what_an_index_cannot_be_is_told_before_the_first_stage(folder: Path, ezxmc: Ezxmc, joins_ray: None) -> None:
    """A node loads the encoder for it; test_shortlist_worker.py has what that refuses by itself."""
    documents = f"prepare.documents=[{folder}/documents.jsonl]"
    done = ezxmc("run", "conf.yaml", "index.factory=IVF8,PQ7", documents, *on_the_cluster(folder))
    assert_one_sentence(done, "index.factory=IVF8,PQ7 is not a FAISS factory string for vectors of length 384")
    assert not (folder / "run" / "documents").exists() and not (folder / "run" / "config.yaml").exists()


def test_an_input_without_documents_is_one_sentence(folder: Path, ezxmc: Ezxmc, joins_ray: None) -> None:
    empty = f"prepare.documents=[{folder}/empty.jsonl]"
    assert_one_sentence(ezxmc("prepare", "conf.yaml", empty, *on_the_cluster(folder)), "There is no document")


@pytest.mark.ray
def test_bad_rows_are_counted_and_listed(folder: Path) -> None:
    """With a Ray of its own, which finds files relative to the working directory."""
    done = run_process(["prepare", "conf.yaml", "prepare.documents=[bad.jsonl]"])
    assert done.returncode == 2
    assert "2 " in done.stderr.splitlines()[0]
    assert "prepare.on_bad_rows=skip" in done.stderr
    assert "bad.jsonl:2: " in done.stderr and "bad.jsonl:3: " in done.stderr
    assert (folder / "run" / "rejected.parquet").exists()

"""What is refused before Ray is started: inputs that lack what the configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ezxmc_ray.checks import check_inputs
from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.errors import UserError


def _check(folder: Path, documents: str, **knobs: str) -> None:
    (folder / "documents.csv").write_text(documents)
    (folder / "labels.csv").write_text("id,text\na,A\n")
    paths = {"documents": [f"{folder}/documents.csv"], "labels": [f"{folder}/labels.csv"]}
    check_inputs(Config(prepare=PrepareConfig(**(paths | knobs))))


def test_rows_without_ids_are_no_mistake(tmp_path: Path) -> None:
    _check(tmp_path, "text\none\n")
    with pytest.raises(UserError, match=r"has a column .key. \(prepare.id_column\)"):
        _check(tmp_path, "text\none\n", id_column="key")


def test_a_named_column_that_is_not_there_is_told_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No file of prepare.documents has a column 'tags' \(prepare.labels_column\)"):
        _check(tmp_path, "id,text\n1,one\n", labels_column="tags")
    with pytest.raises(UserError, match="has no column 'name'"):
        _check(tmp_path, "id,text\n1,one\n", label_text_column="name")


def test_a_vocabulary_is_not_read_twice(tmp_path: Path) -> None:
    (tmp_path / "v.ttl").write_text("this is no Turtle; only prepare reads it")
    _check(tmp_path, "id,text\n1,one\n", labels=[f"{tmp_path}/v.ttl"])  # type: ignore[arg-type]

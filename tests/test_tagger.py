"""Files that are tagged: what is written beside the tags, and what is left alone. No model: the tagger is a fake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.tables import PREDICTIONS_SCHEMA
from ezxmc_ray.tagger import tag_files


class FakeTagger:
    """Gives every document the label x."""

    def tag(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> tuple[pa.Table, int]:
        labels = [{"id": i, "label_ids": ["x"], "label_texts": ["X"], "scores": [0.5]} for i in ids]
        return pa.Table.from_pylist(labels, PREDICTIONS_SCHEMA), 0


def tag(source: Path, output: Path) -> int:
    return tag_files(FakeTagger(), [str(source)], str(output), PrepareConfig()).documents  # type: ignore[arg-type]


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_that_cannot_be_used_lie_beside_the_tags_of_the_same_call_only(tmp_path: Path) -> None:
    out = tmp_path / "tags.parquet"
    rejected = tmp_path / "tags.parquet.rejected.parquet"
    good, bad = {"id": "a", "text": "one"}, {"id": "b", "text": ""}
    assert tag(write(tmp_path / "first.jsonl", good, bad), out) == 1
    assert pq.read_table(rejected).num_rows == 1
    assert tag(write(tmp_path / "second.jsonl", good), out) == 1
    assert not rejected.exists()


def test_an_empty_input_leaves_the_tags_of_before(tmp_path: Path) -> None:
    out = tmp_path / "tags.parquet"
    tag(write(tmp_path / "first.jsonl", {"id": "a", "text": "one"}), out)
    with pytest.raises(UserError, match=r"^There are no documents in .*empty\.jsonl; give files"):
        tag(write(tmp_path / "empty.jsonl"), out)
    assert pq.read_table(out)["id"].to_pylist() == ["a"]


def test_the_documents_are_not_replaced_by_their_tags(tmp_path: Path) -> None:
    documents = pa.table({"id": ["a"], "title": [""], "text": ["one"]})
    pq.write_table(documents, tmp_path / "documents.parquet")
    with pytest.raises(UserError, match=r"documents\.parquet is one of the files to tag, which it would replace"):
        tag(tmp_path / "documents.parquet", tmp_path / "documents.parquet")
    assert pq.read_table(tmp_path / "documents.parquet").equals(documents)

"""The label set: numbers, what is rejected, and what is only counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.inputs import find_inputs, label_sources
from ezxmc_ray.documents.labels import LabelSet, read_labels
from ezxmc_ray.errors import UserError
from ezxmc_ray.tables import LABELS_SCHEMA, content_hash


def _read(*paths: str) -> LabelSet:
    return read_labels(find_inputs(PrepareConfig(documents=[paths[0]], labels=list(paths))).labels)


def test_labels_are_numbered_over_all_files(write_jsonl: Callable[..., str], tmp_path: Path) -> None:
    first = write_jsonl(
        "1.jsonl", [{"id": 3, "text": "x"}, {"id": "e", "text": " "}, b"{", b"", {"id": "s", "text": "same"}]
    )
    (tmp_path / "2.csv").write_text('id,text\ns,other\nt,same\n"",no id\nu,"two, parts"\n')
    found = _read(first, str(tmp_path / "2.csv"))
    assert found.table.schema == LABELS_SCHEMA
    assert found.table.to_pylist() == [
        {"id": one, "text": text, "description": "", "content_hash": content_hash("", text)}
        for one, text in [("3", "x"), ("s", "same"), ("t", "same"), ("u", "two, parts")]
    ]
    assert found.duplicate_texts == 1
    rejected = [(Path(row["source"]).name, row["line"], row["reason"]) for row in found.rejected.to_pylist()]
    assert rejected == [
        ("1.jsonl", 2, "empty label: text of 'e' is empty"),
        ("1.jsonl", 3, "broken JSON: Expecting property name enclosed in double quotes at column 2"),
        ("2.csv", 2, "duplicate label id: 's'"),
        ("2.csv", 4, "empty id: id is empty or missing"),
    ]
    # Rows of the sources, one after the other (lines 4 of the first and 1 of the second are no rows).
    assert found.numbers.tolist() == [0, -1, -1, -1, 1, -1, 1, 2, -1, 3]


def test_further_rows_of_a_label_may_be_synonyms(write_jsonl: Callable[..., str]) -> None:
    rows = [{"id": 1, "text": "sea"}, {"id": 2, "text": "bee"}, {"id": 1, "text": "ocean"}, {"id": 1, "text": "sea"}]
    sources = label_sources(PrepareConfig(labels=[write_jsonl("a.jsonl", rows)]))
    found = read_labels(sources, "synonyms")
    assert found.table["text"].to_pylist() == ["sea", "bee"]
    assert (found.synonyms, found.rejected.num_rows) == (1, 0)
    assert found.numbers.tolist() == [0, 1, 0, 0]
    assert read_labels(sources).rejected["line"].to_pylist() == [3, 4]


def test_a_description_is_part_of_what_a_label_is(write_jsonl: Callable[..., str]) -> None:
    rows = [{"id": 1, "text": "bass"}, {"id": 2, "text": "bass", "description": "a fish"}]
    found = _read(write_jsonl("a.jsonl", [*rows, {"id": 3, "text": "x", "description": [1]}]))
    assert found.table["description"].to_pylist() == ["", "a fish"]
    assert found.table["content_hash"].to_pylist() == [content_hash("", "bass"), content_hash("a fish", "bass")]
    assert found.duplicate_texts == 1
    assert found.rejected.to_pylist()[0]["reason"] == "bad text: description is [1], not a string"


def test_no_label_at_all(write_jsonl: Callable[..., str]) -> None:
    empty = write_jsonl("empty.jsonl", [])
    with pytest.raises(UserError) as raised:
        _read(empty)
    assert str(raised.value) == f"There is no label in {empty}; give files with at least one."
    bad = write_jsonl("bad.jsonl", [{"id": "a", "text": ""}, {"id": "b", "text": None}])
    with pytest.raises(UserError) as raised:
        _read(bad)
    assert str(raised.value) == (
        f"There is no usable label in {bad}: all 2 rows are bad, the first ({bad}:1) for "
        "empty label: text of 'a' is empty."
    )


def test_both_ways_of_naming_the_input(write_jsonl: Callable[..., str], tmp_path: Path) -> None:
    labels = write_jsonl("a.jsonl", [{"id": 1, "text": "x"}])
    with pytest.raises(UserError, match="stands instead of"):
        find_inputs(PrepareConfig(labels=[labels], xmc_directory=str(tmp_path)))
    with pytest.raises(UserError, match=r"^prepare\.documents is empty"):
        find_inputs(PrepareConfig(labels=[labels]))
    with pytest.raises(UserError, match=r"^prepare\.labels is empty"):
        find_inputs(PrepareConfig(documents=[labels]))

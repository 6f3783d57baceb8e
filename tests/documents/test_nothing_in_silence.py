"""What a reader may leave out is read, refused, or counted and said."""

from __future__ import annotations

import bz2
import json
from typing import Any

import pytest

from tests.documents.conftest import Folder, Row

#: Items of a list of labels: an object with the field, a text in its stead, and an object that lacks the field.
MIXED: list[Row] = [
    {"id": "p", "text": "Of hives.", "tags": [{"name": "bees"}, "tax", {"uri": "x"}]},
    {"id": "q", "text": "Of boats.", "tags": [{"uri": "x"}, {"uri": "x"}]},
    {"id": "r", "text": "Of hives.", "tags": ["bees", None, {"name": None}]},
    {"id": "s", "text": "Of duties.", "tags": [{"name": ["tax", "sea"]}]},
    {"id": "t", "text": "Of tides.", "tags": "sea"},
]


def test_items_of_a_list_that_lack_the_field_are_counted(folder: Folder) -> None:
    for name, content in {
        "d.jsonl": "".join(json.dumps(row) + "\n" for row in MIXED),
        "d.json": json.dumps(MIXED),
    }.items():
        file = folder.write(name, content)
        found = folder.prepare(name, labels_column="tags.name", test_share=0)
        assert [gold for _, _, gold in found] == [["bees", "tax"], [], ["bees"], ["tax", "sea"], ["sea"]]
        assert folder.details["dropped_gold_labels"] == 3
        assert any(f"""({file}:1: "no tags.name in {{'uri': 'x'}}\"""" in told for told in folder.said)


def test_a_field_that_no_object_has_is_no_column(folder: Folder) -> None:
    folder.write("d.jsonl", [{"id": "p", "text": "x", "tags": [{"uri": "x"}, "bees"]}])
    assert "'tags.name' (prepare.labels_column)" in folder.refused("d.jsonl", labels_column="tags.name")


def test_files_that_only_their_endings_tell_apart_have_ids_of_their_own(folder: Folder) -> None:
    folder.write("d/a.csv", "text\nof hives\nof boats\n")
    folder.write("d/a.jsonl", [{"text": "of duties"}])
    folder.write("d/b.jsonl", [{"text": "of tides"}])
    assert [one for one, _, _ in folder.prepare("d", test_share=0)] == ["a.csv-0", "a.csv-1", "a.jsonl-0", "b-0"]


def test_files_of_a_directory_that_are_not_read_are_said(folder: Folder) -> None:
    row: Any = {"id": "p", "title": "A data set", "text": "t"}
    folder.write("d/part-0.jsonl", [row])
    for name in ("README.json", "dataset-metadata.json", "Metadata.json.gz", "datapackage.json"):
        folder.write(f"d/{name}", json.dumps(row | {"id": name}))
    folder.write("d/sub/part-1.jsonl.xz", b"?")
    folder.write("d/README.md", "x")
    folder.write("d/.hidden", "x")
    assert [one for one, _, _ in folder.prepare("d", test_share=0)] == ["p"]
    assert folder.said[-1] == (
        "Files of the directories that are not read: Metadata.json.gz, README.json, README.md, datapackage.json, "
        "dataset-metadata.json, part-1.jsonl.xz (6 in all); to read one, name it, with an ending that says its format"
    )
    assert [one for one, _, _ in folder.prepare("d/README.json*", test_share=0, held_out_share=0)] == ["README.json"]
    told = folder.refused("d/sub")
    assert "holds no file that ends in .jsonl, " in told and "(there are part-1.jsonl.xz)" in told


@pytest.mark.parametrize("name", ["d.jsonl.bz2", "d.csv.bz2"])
def test_bzip2(folder: Folder, name: str) -> None:
    content = (
        'id,text,labels\np,"Of\nhives",bees\n' if "csv" in name else '{"id": "p", "text": "x", "labels": ["bees"]}\n'
    )
    folder.write(name, bz2.compress(content.encode()))
    assert folder.prepare(name, test_share=0) == [("p", "train", ["bees"])]
    folder.write(name, bz2.compress(content.encode())[:-5])
    assert "is it cut off, damaged or misnamed?" in folder.refused(name)

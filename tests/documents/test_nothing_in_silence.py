"""What a reader may leave out is read, refused, or counted and said."""

from __future__ import annotations

import bz2
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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


TWICE = ['{"id": "p", "text": "x", "text": "y"}', '{"id": "q", "text": "x", "doc": {"a": 1, "b": {"a": 1, "a": 2}}}']
ONCE = ['{"id": "r", "text": "x", "id": "r"}', '{"id": "s", "text": "x", "a": {"id": 1, "text": 2}}']


@pytest.mark.parametrize("block", [7, 1 << 20])
@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_a_key_with_two_values_is_said(folder: Folder, monkeypatch: pytest.MonkeyPatch, name: str, block: int) -> None:
    monkeypatch.setattr("ezxmc_ray.documents.json_reader._BLOCK_BYTES", block)
    rows = [ONCE[0], *TWICE, ONCE[1]]
    file = folder.write(name, "[" + ",\n".join(rows) + "]" if name == "d.json" else "\n".join(rows) + "\n")
    labels = folder.write("l.jsonl", '{"id": "bees", "text": "Bees", "text": "Wasps"}\n')
    found = folder.prepare(name, test_share=0, held_out_share=0, shard_rows=9)
    assert [one for one, _, _ in found] == ["r", "p", "q", "s"]
    told = "rows give a key of an object two values, of which the last counts"
    assert f"2 {told} ('text', {file}:2)" in folder.said
    table = pq.read_table(folder.path / "run/documents/shard-00000.parquet")
    assert table["text"].to_pylist() == ["x", "y", "x", "x"]
    folder.prepare(name, labels=[labels], test_share=0, held_out_share=0)
    assert f"3 {told} ('text', {labels}:1)" in folder.said
    folder.write(name, "[" + ",\n".join(ONCE) + "]" if name == "d.json" else "\n".join(ONCE) + "\n")
    folder.prepare(name, test_share=0, held_out_share=0)
    assert not any(told in one for one in folder.said)


def test_decimals_are_ids_in_their_shortest_form(folder: Folder) -> None:
    numbers = pa.array(["1.00", "20.00", "3.50", "-0.00"]).cast(pa.decimal128(9, 2))
    folder.write("labels.parquet", pa.table({"id": numbers, "text": list("abcd")}))
    golds = pa.array([[1, 20], [20], []], pa.list_(pa.int64()))
    folder.write("d.parquet", pa.table({"id": numbers[:3], "text": list("xyz"), "labels": golds}))
    found = folder.prepare("d.parquet", labels=[str(folder.path / "labels.parquet")], test_share=0)
    assert found == [("1", "train", ["1", "20"]), ("20", "train", ["20"]), ("3.5", "train", [])]


def test_dates_are_no_ids(folder: Folder) -> None:
    day = pa.array([0], pa.timestamp("s"))
    folder.write("d.parquet", pa.table({"id": day, "text": ["x"]}))
    assert "bad id: id is datetime.datetime(1970, 1, 1, 0, 0), not a string or a number" in folder.refused("d.parquet")


@pytest.mark.parametrize(
    ("ids", "gold", "hint"),
    [
        (["007", "010"], [7], "'7', but there is '007'"),
        (["7", "10"], ["007"], "'007', but there is '7'"),
        (["http://v.test/a"], ["https://www.v.test/a/"], "but there is 'http://v.test/a'"),
        (["a-1", "1"], ["A.01"], "'A.01', but there is 'a-1'"),
        (["Machine Learning"], ["machine-learning"], "but there is 'Machine Learning'"),
    ],
)
def test_gold_that_is_nearly_a_label_is_said_to_be(folder: Folder, ids: list[str], gold: list[Any], hint: str) -> None:
    folder.write("labels.jsonl", [{"id": one, "text": one} for one in ids])
    folder.write("d.jsonl", [{"id": "p", "text": "x", "labels": gold}])
    assert folder.prepare("d.jsonl", test_share=0, held_out_share=0) == [("p", "train", [])]
    told = next(told for told in folder.said if told.startswith("Left out: 1 of 1 gold labels"))
    assert f"{hint}); ids that differ in case, signs or zeros are others: write them alike in both" in told


def test_signs_that_show_nothing_are_none_of_a_gold_label(folder: Folder) -> None:
    folder.write("d.jsonl", [{"id": "p", "text": "x", "labels": ["bees\u200b", "\ufeff se\u00ada"]}])
    assert folder.prepare("d.jsonl", test_share=0, held_out_share=0) == [("p", "train", ["bees", "sea"])]
    folder.write("labels.jsonl", [{"id": "\u0646\u200c\u0645", "text": "a"}, {"id": "\u0646\u0645", "text": "b"}])
    folder.prepare("d.jsonl", test_share=0, held_out_share=0)
    assert folder.details["labels"] == 2


def test_a_cell_of_which_parts_are_a_label_together_is_a_bad_row(folder: Folder) -> None:
    ids = ["Arts", "Crafts", "Arts, Crafts", "Toys"]
    folder.write("labels.jsonl", [{"id": one, "text": one} for one in ids])
    folder.write("d.csv", 'id,text,labels\np,x,"Toys, Arts"\nq,x,"Arts, Crafts, Toys"\nr,x,"Arts, Crafts"\n')
    assert "d.csv:3: ambiguous labels: labels is 'Arts, Crafts, Toys'" in folder.refused("d.csv")
    found = folder.prepare("d.csv", on_bad_rows="skip", test_share=0, held_out_share=0)
    assert [gold for _, _, gold in found] == [["Arts", "Toys"], ["Arts, Crafts"]]
    found = folder.prepare("d.csv", list_separator="comma", test_share=0, held_out_share=0)
    assert [gold for _, _, gold in found] == [["Arts", "Toys"], ["Arts", "Crafts", "Toys"], ["Arts, Crafts"]]


def test_gold_below_zero_is_like_no_label(folder: Folder) -> None:
    folder.write("labels.jsonl", [{"id": 1, "text": "One"}])
    folder.write("d.jsonl", [{"id": "p", "text": "x", "labels": [-1]}])
    folder.prepare("d.jsonl", test_share=0, held_out_share=0)
    assert not any("but there is" in told for told in folder.said)


def test_the_language_of_a_vocabulary_and_what_is_deprecated_are_said(folder: Folder) -> None:
    turtle = """@prefix skos: <http://www.w3.org/2004/02/skos/core#> . @prefix v: <http://v.test/> .
    @prefix owl: <http://www.w3.org/2002/07/owl#> .
    v:sea a skos:Concept ; skos:prefLabel "The sea"@en, "Meri"@fi .
    v:bee a skos:Concept ; skos:prefLabel "Bees"@en, "Mehiläiset"@fi, "Bin"@sv .
    v:tax a skos:Concept ; skos:prefLabel "Vero"@fi, "Taxes"@en .
    v:old a skos:Concept ; skos:prefLabel "Old"@en ; owl:deprecated true .
    """
    file = folder.write("v.ttl", turtle)
    folder.write("d.jsonl", [{"id": "p", "text": "x", "labels": ["http://v.test/sea"]}])
    folder.prepare("d.jsonl", labels=[file], test_share=0, held_out_share=0)
    assert folder.said[2:] == [
        f"1 concepts of {file} are left out: they are deprecated",
        f"Labels of {file} are in en, which most of its concepts have (3 of 3; others: fi 3, sv 1): "
        "prepare.label_language sets another",
    ]
    folder.prepare("d.jsonl", labels=[file], label_language="fi", test_share=0, held_out_share=0)
    assert folder.said[2:] == [f"1 concepts of {file} are left out: they are deprecated"]
    assert folder.details["read"] == folder.said


def test_a_column_of_two_names_is_said(folder: Folder) -> None:
    rows: list[Row] = [{"id": "p", "text": "x", "labels": ["bees"]}, {"id": "q", "text": "x", "Labels": ["sea"]}]
    folder.write("d/a.jsonl", rows)
    folder.write("d/b.jsonl", [{"id": "r", "abstract": "x", "title": "t", "tags": ["tax"]}])
    folder.write("d/c.jsonl", [{"id": "s", "text": "x", "labels": ["tax"], "tags": ["y"]}])
    found = folder.prepare("d", test_share=0, held_out_share=0)
    assert [gold for _, _, gold in found] == [["bees"], None, None, ["tax"]]
    told = "which alone prepare.{} names: give the column one name in all rows and files"
    assert [one.replace(f"{folder.path}/d/", "") for one in folder.said if one.startswith("Warning")] == [
        f"Warning: b.jsonl has abstract instead of 'text', {told.format('text_column')}",
        f"Warning: a.jsonl has Labels beside 'labels', {told.format('labels_column')}",
    ]
    folder.write("l/a.csv", "id,text,alternatives\nbees,Bees,wasps;ants\n")
    folder.write("l/b.csv", "id,text,synonyms\nsea,The sea,tides;waves\n")
    folder.write("l/c.csv", "id,text\ntax,Taxes\n")
    folder.prepare("d", labels=[str(folder.path / "l")], test_share=0, held_out_share=0)
    told = told.format("label_alternatives_column")
    assert folder.said[-1] == f"Warning: {folder.path}/l/b.csv has synonyms instead of 'alternatives', {told}"


@pytest.mark.parametrize("word", ["NULL", "null", "None", "nan", "NaN", "NA", "N/A", "<NA>", "\\N"])
def test_words_for_no_value_give_no_gold(folder: Folder, word: str) -> None:
    folder.write("d.csv", f"id,text,labels\np,x,{word}\nq,x,bees\nr,x,{word};bees\n")
    found = folder.prepare("d.csv", test_share=0, held_out_share=0)
    assert [gold for _, _, gold in found] == [None, ["bees"], ["bees"]]
    folder.write("labels.jsonl", [{"id": word, "text": "a label of that name"}, {"id": "bees", "text": "Bees"}])
    assert folder.prepare("d.csv", test_share=0, held_out_share=0)[0][2] == [word]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            ["text,labels", "Moss,bees", "Moss,sea", "Ants,bees"],
            "Warning: 1 document has the title and text of an earl",
        ),
        (["id,text,labels", "p,Moss,bees", "q,Moss,sea"], "1 document has the title and text of an earlier one under "),
        (["text", "Moss", "Moss", "Moss"], "2 documents have the title and text of an earlier one"),
        (["id,text,labels", "p,Moss,bees", "p,Moss,sea"], ""),
        (["text,labels", "Moss,bees", "Ants,bees"], ""),
    ],
)
def test_rows_of_one_text_are_told_of(folder: Folder, rows: list[str], told: str) -> None:
    """Without ids they may be one document, of which each has a part of the gold labels."""
    folder.write("d.csv", "\n".join(rows) + "\n")
    folder.prepare("d.csv", test_share=0, held_out_share=0)
    found = [one for one in folder.said if "title and text of an earlier one" in one]
    assert found == [one for one in found if told and one.startswith(told)] and bool(found) == bool(told)


@pytest.mark.parametrize(("lists", "is_told"), [([[1, 0], [0, 1], [1, 0]], True), ([[1], [0], [1, 0]], False)])
def test_a_matrix_of_two_labels_is_suspected(folder: Folder, lists: list[list[int]], is_told: bool) -> None:
    """Its rows are lists of known ids, none of which comes twice."""
    folder.write("labels.jsonl", [{"id": "0", "text": "Alpha"}, {"id": "1", "text": "Beta"}])
    folder.write("d.jsonl", [{"id": str(at), "text": f"x {at}", "labels": one} for at, one in enumerate(lists)])
    folder.prepare("d.jsonl", test_share=0, held_out_share=0)
    told = [one for one in folder.said if "rows of a 0/1 matrix, write the ids of the ones" in one]
    assert bool(told) == is_told

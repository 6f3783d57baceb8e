"""Files that look like something else than they are, or hold what a reader may drop without a word.

Each case: files as somebody wrote them, and the documents that they mean, or the sentence that refuses them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.documents.conftest import LABELS, Folder, Row

CSV = "id,text,labels,split\np,Of hives.,bees,train\nq,Of duties.,tax;sea,test\n"
MEANT = [("p", "train", ["bees"]), ("q", "test", ["tax", "sea"])]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["documents.csv", "documents.jsonl", "documents.txt"])
def test_utf_16_is_refused(folder: Folder, name: str, encoding: str) -> None:
    content = {"csv": CSV, "jsonl": '{"id": "1", "text": "x"}\n', "txt": "Of hives.\nOf duties.\n"}
    folder.write(name, content[name.rpartition(".")[2]].encode(encoding))
    assert folder.refused(name, on_bad_rows="skip") == f"…/{name} is UTF-16: save it as UTF-8."


def test_a_file_of_zeros_is_not_taken_for_utf_16(folder: Folder) -> None:
    folder.write("documents.csv", CSV.replace("Of hives.", "\x00" * 80))
    assert folder.refused("documents.csv").splitlines()[1].endswith("title and text of 'p' are both empty")


def test_lines_that_end_in_carriage_returns(folder: Folder) -> None:
    folder.write("documents.csv", CSV.replace("\n", "\r"))
    assert folder.refused("documents.csv").endswith("documents.csv end in carriage returns: save it with line feeds.")
    folder.write("documents.txt", "Of hives.\rOf duties.\r\nOf boats.\n")
    assert folder.prepare("documents.txt", on_bad_rows="skip", test_share=0) == [("1", "train", None)]
    assert folder.details["rejected_by_reason"] == {"line end": 1}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"id": "bees", "text": "Bees"}\n\n{"id": "tax", "text": "Taxes"}\n', "JSON: end its name in .jsonl"),
        ('["Bees", "Taxes"]\n', "JSON: end its name in .jsonl"),
        ("bees\tBees\ntax\tTaxes\n", "columns with tabs between: end its name in .tsv, and name the columns in its"),
        ("__label__bees Of hives.\n__label__tax Of duties.\n", "fastText's format: write JSON lines"),
        ("__label__bees\n__label__tax\n", "fastText's format: write JSON lines"),
        ("1 Bees\n2 Taxes\n3 The sea\n", "a number before each: leave the texts alone in it, or end its name in .csv"),
        ("\ufefftext;id\nBees;bees\n", "a header of columns: end its name in .csv."),
    ],
)
def test_a_list_that_is_none(folder: Folder, content: str, why: str) -> None:
    folder.write("labels.txt", content)
    folder.write("documents.csv", CSV)
    told = folder.refused("documents.csv", labels=[str(folder.path / "labels.txt")])
    assert told.startswith(f"…/labels.txt is to have a text a line, and holds {why}")


def test_a_list_may_hold_signs_of_all_kinds(folder: Folder) -> None:
    folder.write("documents.txt", '{not json}\n[\nid, text\nwith\ta tab\n__label__x\n"quoted"\n')
    assert [one for one, *_ in folder.prepare("documents.txt", test_share=0)] == ["0", "1", "2", "3", "4", "5"]
    folder.write("documents.txt", "Fig. 1:\tThe hive\nOf bees\nFig. 2:\tThe comb\n")  # columns, but of texts
    assert len(folder.prepare("documents.txt", test_share=0)) == 3


@pytest.mark.parametrize(
    ("documents", "labels"), [("data", "data/labels.jsonl"), ("data", "data"), ("data/*", "data/l*")]
)
def test_a_file_is_one_of_documents_or_of_labels(folder: Folder, documents: str, labels: str) -> None:
    folder.write("data/labels.jsonl", LABELS)
    folder.write("data/documents.jsonl", [{"id": "p", "text": "Of hives."}])
    told = folder.refused(documents, labels=[str(folder.path / labels)])
    assert "is among the files of prepare.labels and of prepare.documents, by a directory or a glob" in told


@pytest.mark.parametrize(
    ("documents", "labels"), [("data", "data/latest.jsonl"), ("data", "latest.jsonl"), ("data/l*", "data")]
)
def test_a_link_is_no_other_file(folder: Folder, documents: str, labels: str) -> None:
    folder.write("data/labels.jsonl", LABELS)
    folder.write("data/documents.jsonl", [{"id": "p", "text": "Of hives."}])
    for name, target in {"data/latest.jsonl": "labels.jsonl", "latest.jsonl": "data/labels.jsonl"}.items():
        (folder.path / name).symlink_to(target)
    told = folder.refused(documents, labels=[str(folder.path / labels)])
    assert "is among the files of prepare.labels and of prepare.documents, by a directory or a glob" in told
    found = folder.prepare("latest.jsonl", labels=[str(folder.path / "data/labels.jsonl")], test_share=0)
    assert [one for one, *_ in found] == ["bees", "tax", "sea"]


def test_rows_without_ids_are_not_read_by_a_link_too(folder: Folder) -> None:
    folder.write("data/a.jsonl", [{"text": "Of hives."}, {"text": "Of boats."}])
    (folder.path / "data/latest.jsonl").symlink_to("a.jsonl")
    assert [one for one, *_ in folder.prepare("data", test_share=0)] == ["0", "1"]


def test_a_file_that_is_named_for_both_is_both(folder: Folder) -> None:
    found = folder.prepare("labels.jsonl", test_share=0)
    assert [one for one, *_ in found] == ["bees", "tax", "sea"]


def test_a_header_that_comes_again_is_no_row(folder: Folder) -> None:
    folder.write("documents.csv", CSV + CSV.replace("p,", "r,").replace("q,", "s,"))
    assert folder.refused("documents.csv").endswith("documents.csv:4: repeated header: the columns' names once more")
    assert len(folder.prepare("documents.csv", on_bad_rows="skip")) == 4


@pytest.mark.parametrize(
    "header", ["id,text,labels,split", '"id","text","labels","split"', '"id", text, labels, split']
)
def test_a_header_that_comes_again_behind_a_mark_is_no_row(folder: Folder, header: str) -> None:
    rows = CSV.partition("\n")[2]
    again = [f"\ufeff{header}\n{rows}".replace("p,", f"{one},").replace("q,", f"{one}{one},") for one in "rs"]
    folder.write("documents.csv", "\ufeff" + CSV + "".join(again))
    told = folder.refused("documents.csv").splitlines()[1:]
    assert [one.rpartition("/")[2] for one in told] == [
        f"documents.csv:{line}: repeated header: the columns' names once more" for line in (4, 7)
    ]
    ids = [one for one, *_ in folder.prepare("documents.csv", on_bad_rows="skip")]
    assert ids == ["p", "q", "r", "rr", "s", "ss"]
    folder.write("labels.csv", f"\ufeff{header}\nbees,Bees,,\n\ufeff{header}\ntax,Taxes,,\n")
    labels = [str(folder.path / "labels.csv")]
    folder.prepare("documents.csv", labels=labels, on_bad_rows="skip", labels_column="")
    assert folder.details["labels"] == 2


@pytest.mark.parametrize("again", ["text", "\ufefftext", '"text"', '\ufeff"text"', " text "])
def test_the_header_of_one_column_that_comes_again_is_no_row(folder: Folder, again: str) -> None:
    folder.write("documents.csv", f"text\nOf hives.\n{again}\nOf duties.\nThe text\n")
    told = "documents.csv:3: repeated header: the columns' names once more; if it is a row, call the column otherwise"
    assert folder.refused("documents.csv").endswith(told)
    assert len(folder.prepare("documents.csv", on_bad_rows="skip", test_share=0)) == 3


@pytest.mark.parametrize("again", [",text,labels", "\ufeff,text,labels", ' ,"text", labels'])
def test_a_header_with_a_column_without_a_name_that_comes_again_is_no_row(folder: Folder, again: str) -> None:
    """As pandas writes the column of its index."""
    folder.write("documents.csv", f",text,labels\n0,Of hives.,bees\n{again}\n0,Of duties.,tax\n,x,sea\n")
    assert "documents.csv:3: repeated header: the columns' names once more" in folder.refused("documents.csv")
    assert len(folder.prepare("documents.csv", on_bad_rows="skip", test_share=0)) == 3


def test_a_mark_before_a_row_that_is_no_header_stays(folder: Folder) -> None:
    folder.write("documents.csv", "text,labels\nOf hives.,bees\n\ufefftext,bees\n\ufeff\n")
    assert len(folder.prepare("documents.csv", test_share=0, on_bad_rows="skip")) == 2
    assert folder.details["rejected_by_reason"] == {"ragged CSV row": 1}


def test_two_columns_of_one_name(folder: Folder) -> None:
    columns = [pa.array(["p"]), pa.array(["x"]), pa.array(["y"])]
    folder.write("d.parquet", pa.Table.from_arrays(columns, names=["id", "text", "text"]))
    assert folder.refused("d.parquet") == "…/d.parquet has two columns 'text'; give each column a name of its own."


OBJECTS: list[Row] = [
    {"id": "p", "text": "Of hives.", "subjects": [{"of": {"uri": "bees"}, "score": 1}], "split": "train"},
    {"id": "q", "text": "Of duties.", "subjects": [{"of": {"uri": "tax"}}, {"of": {"uri": "sea"}}], "split": "test"},
    {"id": "r", "text": "Of boats.", "subjects": [], "split": "train"},
]


@pytest.mark.parametrize("name", ["documents.jsonl", "documents.json", "documents.parquet"])
def test_label_ids_in_lists_of_objects(folder: Folder, name: str) -> None:
    folder.write(name, json.dumps(OBJECTS) if name.endswith(".json") else OBJECTS)
    meant: list[Any] = [*MEANT, ("r", "train", [])]
    assert folder.prepare(name, labels_column="subjects.of.uri") == meant
    told = folder.refused(name, labels_column="subjects")
    assert "not a string or a number; name its field, as in subjects.of" in told
    assert "'subjects.of.url' (prepare.labels_column)" in folder.refused(name, labels_column="subjects.of.url")


def test_hive_folders_in_any_case_and_those_that_say_no_split(folder: Folder) -> None:
    for number, where in enumerate(["Split=Train/year=1", "Split=TEST/year=2", "Split=Dev/year=3"]):
        folder.write(f"data/{where}/part.jsonl", [{"id": str(number), "text": "x"}])
    found = folder.prepare("data")
    assert sorted((one, split) for one, split, _ in found) == [("0", "train"), ("1", "test"), ("2", "train")]
    assert folder.said[-1] == "Folders of the documents whose names are not used: year="


def test_eval_is_a_test_set(folder: Folder) -> None:
    folder.write("data/train.jsonl", [{"id": "a", "text": "x"}])
    folder.write("data/eval-00000.jsonl", [{"id": "b", "text": "x"}, {"id": "c", "text": "x", "split": "train"}])
    assert [(one, split) for one, split, _ in folder.prepare("data")] == [("b", "test"), ("c", "train"), ("a", "train")]


def test_labels_that_only_case_or_composition_tells_apart_are_counted(folder: Folder) -> None:
    texts = ["Caf\u00e9", "cafe\u0301", " CAF\u00c9", "Tea"]
    folder.write("labels.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts)])
    folder.write("documents.csv", CSV)
    folder.prepare("documents.csv", labels_column="")
    assert folder.details["duplicate_label_texts"] == 2
    assert folder.said[2].startswith("2 labels have the text of an earlier one, but for case and blanks at most")


def test_annifs_corpus_may_begin_without_a_subject_and_has_two_fields(folder: Folder) -> None:
    folder.write("labels.tsv", "<http://v/bees>\tBees\n<http://v/tax>\tTaxes\t12\n")
    labels = [str(folder.path / "labels.tsv")]
    folder.write("d.tsv", "Of nothing\t\r\nOf hives\t<http://v/bees> <http://v/tax>\r\n")
    found = folder.prepare("d.tsv", labels=labels, test_share=0)
    assert found == [("0", "train", None), ("1", "train", ["http://v/bees", "http://v/tax"])]
    folder.write("d.tsv", "Of hives\t<http://v/bees>\nOf\tduties\t<http://v/tax>\n")
    assert folder.refused("d.tsv", labels=labels).endswith("d.tsv:2: ragged row: 3 fields, not 2")


def test_an_empty_set_as_python_prints_it(folder: Folder) -> None:
    folder.write("documents.csv", "id,text,labels\np,Of hives.,{'bees'}\nq,Of boats.,set()\n")
    assert folder.prepare("documents.csv", test_share=0) == [("p", "train", ["bees"]), ("q", "train", [])]


def test_a_packed_file_of_several_parts_is_read_to_its_end(folder: Folder) -> None:
    packed = [gzip.compress(part.encode()) for part in (CSV[:30], "", CSV[30:])]
    folder.write("documents.csv.gz", b"".join(packed))
    assert folder.prepare("documents.csv.gz") == MEANT
    folder.write("documents.csv.gz", b"".join(packed)[:-9])
    assert "cannot be read as CSV in gzip: Truncated" in folder.refused("documents.csv.gz")


def test_a_directory_of_hugging_faces(folder: Folder) -> None:
    folder.write("data/train/dataset_info.json", '{"description": "x", "features": {}}')
    folder.write("data/train/data-00000-of-00001.arrow", b"ARROW1")
    told = "prepare.documents: the directory …/data holds no file that ends in .jsonl, .json, .ndjson, .parquet"
    assert folder.refused("data").startswith(told)
    folder.write("data/dataset_infos.json", "{}")
    folder.write("data/train/part.parquet", [{"id": "p", "text": "Of hives."}])
    assert folder.prepare("data", test_share=0) == [("p", "train", None)]


def test_numbers_as_pandas_writes_them_beside_missing_ones(folder: Folder) -> None:
    folder.write(
        "labels.jsonl", [{"id": number, "text": f"label {number}"} for number in (7, 12)] + [{"id": "3.0", "text": "x"}]
    )
    folder.write("documents.csv", "id,text,labels\np,x,7.0\nq,x,12.0;7.0\nr,x,\ns,x,3\nt,x,7.5\n")
    found = folder.prepare("documents.csv", test_share=0)
    assert [gold for _, _, gold in found] == [["7"], ["7", "12"], None, ["3.0"], []]


def test_blanks_behind_the_commas(folder: Folder) -> None:
    folder.write("documents.csv", 'id, text, labels\np, "Of hives, and bees", bees\nq,  Of duties., "tax;sea"\n')
    assert folder.prepare("documents.csv", test_share=0) == [("p", "train", ["bees"]), ("q", "train", ["tax", "sea"])]
    table = pq.read_table(folder.path / "run/documents/shard-00000.parquet")
    assert table["text"].to_pylist() == ["Of hives, and bees", "Of duties."]
    folder.write("documents.csv", 'id,text,labels\np, "Of hives" ,bees\n')
    folder.prepare("documents.csv", test_share=0)
    table = pq.read_table(folder.path / "run/documents/shard-00000.parquet")
    assert table["text"].to_pylist() == [' "Of hives" ']


def test_a_quote_that_is_not_closed_swallows_no_rows_of_a_table_with_tabs(folder: Folder) -> None:
    rows = ['"I went home.\tbees', *(f"Plain {number}.\ttax" for number in range(3)), 'I slept."\tsea']
    folder.write("documents.tsv", "text\tlabels\n" + "\n".join(rows) + "\n")
    assert [one[2] for one in folder.prepare("documents.tsv", on_bad_rows="skip", test_share=0)][:3] == [["tax"]] * 3
    assert sum(folder.details["rejected_by_reason"].values()) >= 1
    folder.write("documents.tsv", 'text\tlabels\n"Two\nlines of a text."\tbees\n')
    assert folder.prepare("documents.tsv", test_share=0) == [("0", "train", ["bees"])]


def test_words_of_one_label_are_no_list_of_others(folder: Folder) -> None:
    folder.write("labels.csv", "id,text\nlearning,Learning\nvision,Vision\n")
    folder.write("documents.csv", "id,text,labels\n1,a,machine learning\n2,b,vision\n3,c,deep learning\n")
    found = folder.prepare("documents.csv", labels=[str(folder.path / "labels.csv")], test_share=0)
    assert [one[2] for one in found] == [[], ["vision"], []]
    folder.write("documents.csv", "id,text,labels\n1,a,vision learning\n2,b,vision other\n")
    found = folder.prepare("documents.csv", labels=[str(folder.path / "labels.csv")], test_share=0)
    assert [one[2] for one in found] == [["learning", "vision"], ["vision"]]


@pytest.mark.parametrize("other", [" 7", "7.0", "<7>", "7\u200b", "\ufeff7", " \u00ad7\u200e "])
def test_ids_are_compared_alike_everywhere(folder: Folder, other: str) -> None:
    folder.write("documents.csv", f'id,text,labels,split\n7,Of hives.,bees,train\n"{other}",Of hives.,bees,test\n')
    assert "duplicate id: " in folder.refused("documents.csv")
    folder.write("labels.csv", f'id,text\n7,Seven\n"{other}",Other\n')
    folder.write("documents.csv", "id,text\np,Of hives.\n")
    assert "duplicate label id" in folder.refused("documents.csv", labels=[str(folder.path / "labels.csv")])


def test_rows_of_one_document_in_two_splits_are_not_united(folder: Folder) -> None:
    folder.write("train.jsonl", [{"id": "p", "text": "Of hives.", "labels": ["bees"]}])
    folder.write("test.jsonl", [{"id": "p", "text": "Of hives.", "labels": ["tax"]}])
    assert "duplicate id: " in folder.refused("t*.jsonl")
    folder.write("test.jsonl", [{"id": "q", "text": "Of hives.", "labels": ["tax"]}])
    assert sorted(folder.prepare("t*.jsonl")) == [("p", "train", ["bees"]), ("q", "test", ["tax"])]


@pytest.mark.parametrize(
    "content",
    [
        "__label__bees How much honey?\nNo label here.\n__label__tax __label__bees Of duties.\n",
        "How much honey? __label__bees\nOf duties. __label__tax\nNo label here.\n",
        "Of hives\t<http://v/bees>\nOf nothing\nOf duties\t<http://v/tax>\n",
        '{"text": "Of hives"}\n{"text": "Of duties"}\nbroken\n',
    ],
)
def test_a_document_without_labels_does_not_make_a_table_a_list_of_texts(folder: Folder, content: str) -> None:
    """Its gold labels would be among the texts that are learned from."""
    folder.write("documents.txt", content)
    assert folder.refused("documents.txt").startswith("…/documents.txt is to have a text a line, and holds ")


@pytest.mark.parametrize("first", ["Stars, planets", "text, and more", "a; b; c"])
def test_annifs_corpus_whose_first_text_has_other_separators(folder: Folder, first: str) -> None:
    folder.write("d.tsv", f"{first}\t<http://v/bees>\nMoss, wet\t<http://v/tax>\n")
    labels = [folder.write("labels.tsv", "<http://v/bees>\tBees, wasps\n<http://v/tax>\tTaxes\n")]
    found = folder.prepare("d.tsv", labels=labels, test_share=0)
    assert found == [("0", "train", ["http://v/bees"]), ("1", "train", ["http://v/tax"])]
    assert _texts(folder) == [("", first), ("", "Moss, wet")]


def test_annifs_corpus_behind_excels_line(folder: Folder) -> None:
    folder.write("d.tsv", "sep=\t\nOf hives\t<http://v/bees>\nOf duties\t<http://v/tax>\n")
    labels = [folder.write("labels.tsv", "sep=\t\n<http://v/bees>\tBees\n<http://v/tax>\tTaxes\n")]
    found = folder.prepare("d.tsv", labels=labels, test_share=0)
    assert found == [("0", "train", ["http://v/bees"]), ("1", "train", ["http://v/tax"])]


def test_signs_for_no_text_in_csv_are_none(folder: Folder) -> None:
    folder.write("documents.csv", "id,title,text\n1,NA,Of hives\n2,Hives,\\N\n3,NULL,nan\n4,None,N/A\n5,NATO,NA NA\n")
    label_rows = "id,text,description,alternatives\nbees,Bees,NA,NA\ntax,NA,\\N,dues;NULL\n"
    labels = {"labels": [folder.write("l.csv", label_rows)], "label_alternatives_column": "alternatives"}
    found = folder.prepare("documents.csv", on_bad_rows="skip", test_share=0, **labels)
    assert [one for one, *_ in found] == ["1", "2", "4", "5"]
    assert _texts(folder) == [("", "Of hives"), ("Hives", ""), ("None", "N/A"), ("NATO", "NA NA")]
    table = folder.storage.read_table("labels.parquet")
    assert table["text"].to_pylist() == ["Bees", "NA"] and table["description"].to_pylist() == ["", ""]
    assert table["alternatives"].to_pylist() == [[], ["dues", "NULL"]]
    told = "4 rows of CSV have NA, NULL, \\N or the like for a text, the first "
    assert [one.removeprefix(told) for one in folder.said if "taken as empty" in one] == [
        f"{folder.path}/l.csv:2: it is taken as empty"
    ]
    assert folder.said[-1].startswith("Warning: 1 bad row is left out (empty document 1), the first ")
    told = "documents.csv:4: empty document: title and text of '3' are both empty; NA, NULL and the like stand for none"
    assert told in folder.refused("documents.csv", **labels)
    folder.write("documents.jsonl", [{"id": "1", "title": "NA", "text": "NULL"}])  # who writes JSON has null for that
    assert folder.prepare(test_share=0) and _texts(folder) == [("NA", "NULL")]


def test_rows_that_are_left_out_are_told(folder: Folder) -> None:
    rows = [{"id": str(one), "text": "x", "split": "tset" if one else "train"} for one in range(40)]
    folder.write("documents.jsonl", [*rows, {"id": "y", "text": ""}])
    assert folder.prepare(on_bad_rows="skip") == [("0", "train", None)]
    assert folder.said[-1] == (
        "Warning: 40 bad rows are left out (bad split 39, empty document 1), the first "
        f"{folder.path}/documents.jsonl:2: bad split: split is 'tset', it must be train, test or validation; "
        "rejected.parquet has them"
    )
    assert folder.details["read"] == folder.said


def test_a_damaged_page_of_parquet_with_checksums_is_told(folder: Folder) -> None:
    path = folder.write("documents.parquet", b"")
    rows = [{"id": str(one), "text": f"quick brown fox {one}"} for one in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"fox 30", b"fix 30", 1))
    told = "…/documents.parquet cannot be read as Parquet: "
    assert folder.refused("documents.parquet").startswith(told)
    Path(path).write_bytes(content)
    assert len(folder.prepare("documents.parquet")) == 50


def _texts(folder: Folder) -> list[tuple[str, str]]:
    names = folder.storage.list("documents", ".parquet")
    tables = [folder.storage.read_table(name).to_pylist() for name in names]
    return [(row["title"], row["text"]) for rows in tables for row in rows]

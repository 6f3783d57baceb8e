"""What people bring, whole: columns, splits, gold labels and ids by prepare, and what it says of them.

Each case: files as somebody wrote them, and the documents that they mean, or the sentence that refuses them.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.documents.conftest import LABELS, Folder, Row

ROWS: list[Row] = [
    {"id": "p", "title": "Hives", "text": "Of hives.", "labels": ["bees"], "split": "train"},
    {"id": "q", "title": "Duty", "text": "Of duties.", "labels": ["tax", "sea"], "split": "test"},
    {"id": "r", "title": "Boats", "text": "Of boats.", "labels": [], "split": "train"},
]
#: (id, split, gold) of ROWS.
MEANT = [("p", "train", ["bees"]), ("q", "test", ["tax", "sea"]), ("r", "train", [])]


def test_what_was_read_is_said_and_kept(folder: Folder) -> None:
    rows = [*ROWS, {"id": "s", "text": "x", "labels": ["bees", "gone"], "year": 3}]
    file = folder.write("documents.jsonl", [row | {"journal": "j"} for row in rows])
    assert folder.prepare(test_share=0) == [*MEANT, ("s", "train", ["bees"])]
    assert folder.said == [
        "Read 4 documents: 3 with a title, 4 with a text, 3 with gold labels (4 in all); 3 labels",
        "Split: 3 train, 1 test (3 by the column 'split', 1 that nothing says it of, 0 % drawn for testing)",
        f"Left out: 1 of 5 gold labels, of 1 documents, are not among the labels ({file}:4: 'gone')",
        "Columns of the documents that are not used: journal, year",
    ]
    assert folder.details["read"] == folder.said
    counts = ("documents_with_title", "documents_with_text", "documents_with_gold", "gold_labels", "gold_documents")
    assert [folder.details[name] for name in counts] == [3, 4, 3, 4, 4]


def test_texts_that_are_trained_on_and_measured_by_are_told(folder: Folder) -> None:
    rows = [
        {"id": "a", "title": "Hives", "text": "Of hives.", "split": "train"},
        {"id": "b", "title": "Hives", "text": "Of hives.", "split": "test"},
        {"id": "c", "title": "Hives", "text": "Of hives.", "split": "test"},
        {"id": "d", "title": "Hives", "text": "Of other hives.", "split": "test"},
        {"id": "e", "title": "Boats", "text": "Of boats.", "split": "test"},
        {"id": "f", "title": "Boats", "text": "Of boats.", "split": "test"},
        {"id": "g", "title": "Hives", "text": "Of hives.", "split": "train"},
    ]
    folder.write("documents.jsonl", rows)
    folder.prepare(held_out_share=0)
    better = "what is measured by them is better than on texts that are new"
    assert (
        f"Warning: 2 test documents have the title and text of a train document with another id: {better}"
        in folder.said
    )
    assert (folder.details["known_test_documents"], folder.details["known_held_out_documents"]) == (2, 0)
    copies = [{"id": f"{text}-{copy}", "text": str(text), "split": "train"} for text in range(40) for copy in range(2)]
    folder.write("documents.jsonl", copies)
    folder.prepare(held_out_share=0.5)
    documents = pq.read_table(folder.path / "run" / "documents").to_pylist()
    held = {row["id"] for row in documents if row["held_out"]}
    leaked = sum(len(held & {f"{text}-0", f"{text}-1"}) == 1 for text in range(40))
    assert folder.details["known_held_out_documents"] == leaked > 5
    assert any(f"{leaked} held-out documents have the title" in one for one in folder.said)
    folder.prepare(held_out_share=0.5, limit_documents=1)
    assert folder.details["known_held_out_documents"] == 0


def test_gold_that_is_not_among_the_labels_stops_the_run_if_asked(folder: Folder) -> None:
    folder.write("documents.jsonl", [ROWS[0], {"id": "s", "text": "x", "labels": ["gone", "bees", "away"]}])
    assert folder.refused(on_unknown_gold="fail") == (
        "2 of 4 gold labels, of 1 documents, are not among the labels (…/documents.jsonl:2: 'gone', "
        "…/documents.jsonl:2: 'away'); mend them, or leave them out of their documents with "
        "prepare.on_unknown_gold=skip."
    )
    folder.write("documents.jsonl", [{"id": "s", "text": "x", "labels": ["Bees"]}])
    folder.prepare(test_share=0, held_out_share=0)
    assert folder.said[-1].endswith(
        "'Bees', but there is 'bees'); ids that differ in case, signs or zeros are others: write them alike in both; "
        "none at all is known: if they are texts of labels, set prepare.label_id_column to the column of texts"
    )
    found = folder.prepare(test_share=0, held_out_share=0, label_id_column="text")
    assert found == [("s", "train", ["Bees"])]


@pytest.mark.parametrize("name", ["documents.jsonl", "documents.csv", "documents.parquet"])
def test_a_column_that_is_named_must_be_there(folder: Folder, name: str) -> None:
    if name.endswith("csv"):
        folder.write(name, "id,title,text,labels,Split\n1,a,b,bees,train\n")
    else:
        folder.write(name, [{"id": "1", "title": "a", "text": "b", "labels": ["bees"], "Split": "train"}])
    assert folder.refused(name, split_column="split_", labels_column="topics", title_column="title") == (
        "No file of prepare.documents has a column 'topics' (prepare.labels_column) or 'split_' "
        "(prepare.split_column; did you mean 'Split'?); the columns are id, title, text, labels, Split: name one of "
        "these, or none with an empty value."
    )
    assert "'key'" in folder.refused(name, id_column="key")
    assert "'body' (prepare.text_column)" in folder.refused(name, text_column="body")
    assert folder.prepare(name, labels_column="", test_share=0, held_out_share=0) == [("1", "train", None)]


def test_a_column_of_labels_that_is_named_must_be_there(folder: Folder) -> None:
    folder.write("documents.jsonl", ROWS)
    assert folder.refused(label_description_column="glos") == (
        "No file of prepare.labels has a column 'glos' (prepare.label_description_column); the columns are id, text: "
        "name one of these, or none with an empty value."
    )
    more = folder.write("more.jsonl", [{"id": "x", "text": "X", "glos": "a letter"}])
    folder.prepare(labels=[more, f"{folder.path}/labels.jsonl"], label_description_column="glos")
    assert folder.details["labels"] == 4


def test_columns_that_look_like_one_that_is_absent_are_told_of(folder: Folder) -> None:
    rows = [{"id": 1, "name": "a", "text": "b", "Labels ": ["bees"], "SPLIT": "test", "abstract": "c"}]
    folder.write("documents.jsonl", [*rows, {"id": 2, "text": "d"}])
    folder.write("labels.jsonl", [one | {"definition": "d"} for one in LABELS])
    folder.prepare(test_share=0, held_out_share=0)
    assert folder.said[2:] == [
        "Columns of the documents that are not used: name, Labels , SPLIT, abstract",
        "Columns of the labels that are not used: definition",
        "Warning: no file has a column 'title'; if 'name' is it, set prepare.title_column=name",
        "Warning: no file has a column 'labels'; if 'Labels ' is it, set prepare.labels_column=Labels ",
        "Warning: no file has a column 'split'; if 'SPLIT' is it, set prepare.split_column=SPLIT",
        "Warning: no file has a column 'description'; if 'definition' is it, set "
        "prepare.label_description_column=definition",
    ]


def test_documents_without_a_text(folder: Folder) -> None:
    folder.write("documents.jsonl", [{"id": 1, "title": "a", "body": "b"}, {"id": 2, "title": "c", "body": "d"}])
    assert folder.refused() == (
        "No document has a text: no file has a column 'text'; if 'body' is it, set prepare.text_column=body; where "
        "titles are all there is, set prepare.text_column=title."
    )
    found = folder.prepare(text_column="title", test_share=0, held_out_share=0)
    assert [one for one, _, _ in found] == ["1", "2"]
    assert folder.said[0].startswith("Read 2 documents: 0 with a title, 2 with a text")
    folder.write("documents.jsonl", [{"id": 1, "title": "a", "text": ""}])
    assert folder.refused() == (
        "No document has a text: the column 'text' is empty or absent, and the columns are id, title, text: set "
        "prepare.text_column, where titles are all there is to prepare.text_column=title."
    )


def test_files_and_folders_that_say_the_split(folder: Folder) -> None:
    text = {"text": "t"}
    layouts = {
        "names": ["train-00000-of-00002.jsonl", "test-00000.jsonl", "validation-0.jsonl", "extra.jsonl"],
        "ends": ["docs_train.jsonl", "docs_test.jsonl", "docs.dev.jsonl", "docs.jsonl"],
        "folders": ["train/part-0.jsonl", "test/part-0.jsonl", "valid/part-0.jsonl", "part-0.jsonl"],
        "hive": ["split=train/part-0.jsonl", "split=test/a.jsonl", "split=validation/a.jsonl", "a.jsonl"],
    }
    for layout, names in layouts.items():
        for name in names:
            folder.write(f"{layout}/{name}", [text | {"id": name}])
        splits = {one: split for one, split, _ in folder.prepare(layout, test_share=1)}
        assert [splits[name] for name in names] == ["train", "test", "train", "test"], layout
        assert folder.said[1] == (
            "Split: 2 train, 2 test (3 by the names of files and folders, 1 that nothing says it of, 100 % drawn for "
            "testing); 1 for validation are taken as train"
        )


def test_a_row_says_its_split_before_its_file_does(folder: Folder) -> None:
    folder.write("d/train.jsonl", [{"id": 1, "text": "a", "split": "test"}, {"id": 2, "text": "b"}])
    folder.write("d/test.jsonl", [{"id": 3, "text": "c"}])
    found = {one: split for one, split, _ in folder.prepare("d")}
    assert found == {"1": "test", "2": "train", "3": "test"}


@pytest.mark.parametrize(
    "names", [["test.jsonl"], ["train-0.jsonl", "train-1.jsonl"], ["test/a.jsonl", "test/b.jsonl"]]
)
def test_files_that_all_say_the_same_say_nothing(folder: Folder, names: list[str]) -> None:
    for name in names:
        folder.write(f"d/{name}", [{"id": f"{name}{number}", "text": "t"} for number in range(40)])
    folder.prepare("d", test_share=0.5)
    assert 0 < folder.details["test"] < 40 * len(names)
    assert "no file says train or test: 50 % drawn for testing" in folder.said[1]


def test_a_hive_folder_with_another_value(folder: Folder) -> None:
    folder.write("d/split=part1/a.jsonl", [{"id": 1, "text": "t"}])
    assert folder.refused("d").startswith("…/d/split=part1/a.jsonl lies in a folder split=part1, which must be split=")


def test_rows_without_ids_are_numbered(folder: Folder) -> None:
    folder.write("one.csv", 'text,labels\nfirst,bees\n\n"two\nlines",tax sea\n')
    knobs = {"test_share": 0, "held_out_share": 0}
    assert folder.prepare("one.csv", **knobs) == [("0", "train", ["bees"]), ("1", "train", ["tax", "sea"])]
    assert folder.said[2] == "No file has a column 'id': the numbers of the rows, from 0, are the ids"
    for name in ("d/a/x.parquet", "d/b/x.parquet"):
        folder.write(name, [{"text": name}, {"text": "again"}])
    assert [one for one, _, _ in folder.prepare("d", **knobs)] == ["a/x-0", "a/x-1", "b/x-0", "b/x-1"]
    folder.write("d/c.jsonl", [{"id": 1, "text": "with an id"}])
    assert folder.refused("d").startswith("…/d/a/x.parquet has no column 'id'")
    for number in range(8):
        folder.write(f"d/b/{number}.parquet", [{"text": "more than are looked at first"}])
    assert "and others have none: give all of them ids" in folder.refused("d")


def test_one_separator_a_column(folder: Folder) -> None:
    folder.write("documents.csv", "id,text,labels\n1,a,bees;tax\n2,b,sea\n3,c,tax|sea\n")
    assert "ambiguous labels: labels is 'tax|sea', ids with '|' between, where other rows have ';'" in folder.refused(
        "documents.csv"
    )
    folder.write("d/a.csv", "id,text,labels\n" + "".join(f"{number},a,bees\n" for number in range(300)))
    folder.write("d/b.jsonl", [{"id": 900, "text": "t", "labels": "gone;bees"}])
    folder.write("d/c.jsonl", [{"id": 901, "text": "t", "labels": "gone, bees"}])
    assert folder.refused("d") == (
        "The column 'labels' has label ids with ',' (…/d/c.jsonl:1) and ';' (…/d/b.jsonl:1) between, and a column has "
        "one separator: mend the rows, or set prepare.list_separator."
    )
    found = folder.prepare("d", list_separator="comma", test_share=0)
    assert found[-2:] == [("900", "train", []), ("901", "train", ["bees"])]
    assert folder.details["dropped_gold_labels"] == 2


def test_ids_that_are_composed_otherwise_are_the_same(folder: Folder) -> None:
    folder.write("labels.jsonl", [{"id": "tähti", "text": "a"}, {"id": "yö", "text": "b"}])
    rows = [{"id": "1", "text": "t", "labels": ["tähti", "yö"]}, {"id": "2", "text": "t", "labels": "yö"}]
    folder.write("documents.jsonl", rows)
    assert folder.prepare(test_share=0) == [("1", "train", ["tähti", "yö"]), ("2", "train", ["yö"])]
    folder.write("labels.jsonl", [{"id": "yö", "text": "a"}, {"id": "yö", "text": "b"}])
    assert "duplicate label id" in folder.refused()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_header_says_how_columns_are_parted(folder: Folder, separator: str) -> None:
    lists = " " if separator in ",;" else ";"
    lines = [["\ufeff id ", "title", " text", "labels ", "split"]]
    lines += [
        [row["id"], row["title"], f'"{row["text"]}"', lists.join(row["labels"]) or "[]", row["split"]] for row in ROWS
    ]
    folder.write("documents.tsv", "".join(separator.join(line) + "\r\n" for line in lines))
    assert folder.prepare("documents.tsv") == MEANT
    folder.write("excel.csv", f"sep={separator}\n" + (folder.path / "documents.tsv").read_text().lstrip("\ufeff"))
    assert folder.prepare("excel.csv") == MEANT
    told = folder.refused("documents.tsv", csv_separator="pipe" if separator != "|" else "comma")
    assert "has no column" in told or "set prepare." in told


def test_a_quote_that_is_not_closed_costs_its_line_alone(folder: Folder) -> None:
    rows = "".join(f"{number},Title {number},Text {number},bees,train\n" for number in range(500))
    head = "id,title,text,labels,split\n"
    for quoted in ('a "b" c', 'b",c', '"whole"'):
        folder.write("d.csv", f'{head}x,T,"never closed,bees,train\n{rows}y,T,{quoted},train\n')
        found = folder.prepare("d.csv", on_bad_rows="skip")
        assert [one for one, _, _ in found if one.isdecimal()] == [str(number) for number in range(500)], quoted
        assert folder.details["documents"] + folder.details["rejected"] == 502
    folder.write("d.csv", f'{head}x,T,"two\nlines, of\ntext, as\nthey, are",bees,train\n{rows}')
    folder.prepare("d.csv")
    assert (folder.details["documents"], folder.details["rejected"]) == (501, 0)


def test_lost_lines_of_a_ragged_record_are_told(folder: Folder) -> None:
    folder.write("d.csv", 'id,text\n1,"a\nb\nc",x\n2,y\n')
    told = folder.refused("d.csv")
    assert "…/d.csv:2: ragged CSV row: 3 fields, the header has 2 (lines 2 to 4, 3 lines)" in told
    assert "1 bad row" in told


@pytest.mark.parametrize(
    "content", [json.dumps(ROWS), json.dumps(ROWS, indent=2), "\n".join(json.dumps(row, indent=1) for row in ROWS)]
)
def test_json_that_is_no_lines(folder: Folder, content: str) -> None:
    folder.write("documents.json", content)
    assert folder.prepare("documents.json") == MEANT
    folder.write("documents.json", "\ufeff \n" + content)
    assert folder.prepare("documents.json") == MEANT


def test_a_large_array_is_read_piece_by_piece(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezxmc_ray.documents.json_reader._BLOCK_BYTES", 7)
    rows = [{"id": str(number), "text": 'é\\"]},{' * (number + 1), "n": [-1.5e3, None]} for number in range(40)]
    for indent in (None, 1):
        folder.write("documents.json", json.dumps(rows, ensure_ascii=False, indent=indent))
        assert [one for one, _, _ in folder.prepare("documents.json")] == [str(number) for number in range(40)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"id": 1, "text": "a"}, {"id": 2, "text": ]', "broken at line 1: Expecting value"),
        ('[{"id": 1,\n "text": "a"}\n{"id": 2}]', "broken at line 3: a comma or ] is missing"),
        ('[{"id": 1, "text": "a"},\n', "broken at line 2: it ends within the array"),
        ('[{"id": 1, "text": "a"}]\n[]', "broken at line 2: something follows behind the end"),
        ("[" * 100_000, "broken at line 1: it is nested too deeply, or a number is too long"),
        ('[{"id": 1, "text": ' + "9" * 5000 + "}]", "it is nested too deeply, or a number is too long"),
    ],
)
def test_an_array_that_is_broken_is_no_shorter_array(folder: Folder, content: str, sentence: str) -> None:
    folder.write("documents.json", content)
    assert sentence in folder.refused("documents.json", on_bad_rows="skip")


def test_bytes_paths_and_case_in_parquet(folder: Folder) -> None:
    rows = [{"doc": {"id": row["id"], "text": row["text"].encode()}, "gold": row["labels"]} for row in ROWS]
    kind = pa.schema(
        [("doc", pa.struct([("id", pa.string()), ("text", pa.binary())])), ("gold", pa.list_(pa.binary()))]
    )
    pq.write_table(pa.Table.from_pylist(rows, kind), folder.path / "d.parquet")
    knobs = {"id_column": "doc.id", "text_column": "doc.text", "labels_column": "gold", "test_share": 0}
    expected = [(one, "train", gold) for one, _, gold in MEANT]
    assert folder.prepare("d.parquet", **knobs) == expected
    folder.write("d.jsonl", [{"doc": {"id": row["id"], "text": row["text"]}, "gold": row["labels"]} for row in ROWS])
    assert folder.prepare("d.jsonl", **knobs) == expected
    texts = pa.array([b"x", b"y"]).dictionary_encode()
    pq.write_table(pa.table({"id": ["1", "2"], "text": texts}), folder.path / "e.parquet")
    assert len(folder.prepare("e.parquet", test_share=0)) == 2


@pytest.mark.parametrize("part_rows", [3, 8192])
def test_rows_of_one_document_with_a_label_each(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    monkeypatch.setattr("ezxmc_ray.documents.parts.PART_ROWS", part_rows)
    rows = [
        {"id": "x", "text": "same"},
        {"id": "x", "text": "same"},
        {"id": "y", "text": "other"},
        {"id": "x", "text": "same"},
    ]
    rows += [
        {"id": "x", "text": "another"},
        {"id": "x", "text": "same"},
        {"id": "z", "text": "z"},
        {"id": "z", "text": "z"},
    ]
    gold = ["sea", "bees", "tax", "gone", "tax", "bees", None, "tax"]
    folder.write("documents.jsonl", [row | {"labels": label} for row, label in zip(rows, gold, strict=True)])
    found = folder.prepare(on_bad_rows="skip", test_share=0)
    assert found == [("x", "train", ["bees", "sea"]), ("y", "train", ["tax"]), ("z", "train", None)]
    assert "2 rows repeat a document with other gold labels: they are united with its first row" in folder.said
    assert folder.details["dropped_gold_labels"] == 1
    # Another text, nothing new, and a first row that gives no gold labels are duplicates.
    rejected = pq.read_table(folder.path / "run/rejected.parquet")
    assert rejected["line"].to_pylist() == [5, 6, 8]
    assert rejected["reason"].to_pylist()[0].endswith("jsonl:1; the gold labels of this row are lost with it")
    monkeypatch.setattr("ezxmc_ray.documents.unite.MAX_ROWS", 1)
    assert folder.prepare(on_bad_rows="skip", test_share=0) == found
    limited = folder.prepare(on_bad_rows="skip", test_share=0, limit_documents=3)
    assert limited[0] == ("x", "train", ["sea"])


def test_names_of_columns_do_not_steer_the_terminal(folder: Folder) -> None:
    folder.write("documents.jsonl", [{"id": 1, "text": "t", "\x1b]0;x\x07": 1, "y" * 500: 2, "lab\nels": 3}])
    folder.prepare(test_share=0, held_out_share=0)
    assert folder.said[2] == f"Columns of the documents that are not used: '\\x1b]0;x\\x07', '{'y' * 60}', 'lab\\nels'"
    assert folder.said[3].endswith("if 'lab\\nels' is it, set prepare.labels_column='lab\\nels'")
    assert not any("\x1b" in sentence or "\n" in sentence for sentence in folder.said)
    assert "\x1b" not in folder.refused(text_column="gone")


def test_texts_one_a_line_are_documents(folder: Folder) -> None:
    folder.write("a.txt", "one text, with a comma\r\n\n  another \n\u200b\n")
    knobs = {"test_share": 0, "held_out_share": 0, "on_bad_rows": "skip"}
    assert [one for one, _, _ in folder.prepare("a.txt", **knobs)] == ["0", "1"]
    assert folder.said[0].startswith("Read 2 documents: 0 with a title, 2 with a text")
    assert folder.details["rejected_by_reason"] == {"empty document": 1}
    folder.write("d/x.txt", "x\n")
    folder.write("d/y.txt", "y\n")
    assert [one for one, _, _ in folder.prepare("d/*.txt", **knobs)] == ["x-0", "y-0"]
    folder.write("d/z.csv", "id,text\n1,t\n")
    assert "and others have none: give all of them ids" in folder.refused("d/*", **knobs)
    assert [one for one, _, _ in folder.prepare("d", **knobs)] == ["1"]
    folder.write("labels.txt", "id,text\nl,L\n")
    folder.write("table.txt", "id,text\n7,t\n")
    labels = [f"{folder.path}/labels.txt"]
    assert folder.prepare("table.txt", labels=labels, format="csv", **knobs) == [("7", "train", None)]
    assert folder.details["labels"] == 1

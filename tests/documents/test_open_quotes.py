"""A quote that is not closed swallows no rows, and a text of several lines is one all the same."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ezxmc_ray.documents.finding import find_sources
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.sources import RawRow
from tests.documents.conftest import LABELS, Folder

IDS = {"numbers": "{}", "words and numbers": "doc-{}", "addresses": "http://d.test/{}"}
#: Columns of a table, where its text is, and a row of it.
TABLES: dict[str, tuple[int, list[str]]] = {
    "id,text": (1, ["{}", "Of hives and bees"]),
    "id,text,labels": (1, ["{}", "Of duties", "tax"]),
    "id,title,text,labels,split": (2, ["{}", "The sea", "Of boats at sea", "sea", "train"]),
    "id,labels,text": (2, ["{}", "bees", "Of hives"]),
    "text,labels": (0, ["Of hives and bees, dear", "bees"]),
}


def _with_an_open_quote(table: str, kind: str, before: int, swallowed: int, sign: str) -> str:
    place, row = TABLES[table]
    rows = [[one.replace(",", "").format(IDS[kind].format(number)) for one in row] for number in range(before + 210)]
    rows[before][place] = '"' + rows[before][place]
    rows[before + swallowed][place] += ' 24"'
    return "".join(sign.join(row) + "\n" for row in [table.split(","), *rows])


def _read(content: str, path: Path) -> list[RawRow]:
    path.write_text(content, newline="")
    return _read_file(path)


def _read_file(path: Path) -> list[RawRow]:
    source = find_sources([str(path)], "auto", "prepare.documents")[0]
    return list(read_rows(source, ["id", "title", "text", "labels", "split"], ()))


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("table", list(TABLES))
def test_rows_behind_an_open_quote_are_read(tmp_path: Path, table: str, sign: str) -> None:
    has_ids = table.startswith("id")
    for kind in list(IDS) if has_ids else ["numbers"]:
        for before, swallowed in [(0, 4), (30, 1), (30, 2), (30, 3), (30, 150)] + [(0, 1)] * has_ids:
            rows = _read(_with_an_open_quote(table, kind, before, swallowed, sign), tmp_path / "d.csv")
            assert [row.line for row in rows] == list(range(2, before + 212)), (kind, before, swallowed)
            bad = [(row.line, row.reason) for row in rows if row.reason]
            lines = before + 2, before + swallowed + 2
            assert bad == [(lines[0], f"broken CSV: a quote that is not closed by line {lines[1]}")]


@pytest.mark.parametrize(("damaged", "lines"), [(10, []), (11, [12]), (150, [151]), (200, [201])])
def test_a_bad_byte_among_rows_behind_an_open_quote_costs_its_own_row(
    tmp_path: Path, damaged: int, lines: list[int]
) -> None:
    rows = [b"id,text,labels", *(f"{number},text number {number},l{number % 3}".encode() for number in range(1, 301))]
    rows[10], rows[200] = b'10,"text number 10,l1', b'200,a screen of 24",l2'
    rows[damaged] = rows[damaged].replace(b",", b",caf\xe9 ").replace(b'caf\xe9 "', b'"caf\xe9 ')
    (tmp_path / "d.csv").write_bytes(b"\n".join(rows) + b"\n")
    found = _read_file(tmp_path / "d.csv")
    assert [row.line for row in found] == list(range(2, 302))
    bad = {row.line: (row.reason or "").partition(" of the line")[0] for row in found if row.reason}
    column = len(f"{damaged},caf") + 1
    assert bad == {11: "broken CSV: a quote that is not closed by line 201"} | dict.fromkeys(
        lines, f"invalid UTF-8: byte {column}"
    )


def test_a_bad_byte_in_a_text_of_several_lines_costs_the_whole_record(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b'id,text\n1,"Of hives,\ncaf\xe9s\nand boats."\n2,Of duties\n')
    assert [(row.line, row.reason) for row in _read_file(tmp_path / "d.csv")] == [
        (3, "invalid UTF-8: byte 4 of the line"),
        (5, None),
    ]


@pytest.mark.parametrize("swallowed", [1, 2, 40])
def test_labels_behind_an_open_quote_are_read(folder: Folder, swallowed: int) -> None:
    rows = [f"l{number},Label {number}" for number in range(60)]
    rows[5] = 'l5,"Label 5'
    rows[5 + swallowed] += ' 24"'
    folder.write("labels.csv", "id,text\n" + "\n".join(rows) + "\n")
    folder.write("documents.jsonl", [{"id": "1", "text": "x", "labels": ["l5", "l6"]}])
    folder.prepare(labels=[str(folder.path / "labels.csv")], on_bad_rows="skip", test_share=0)
    assert (folder.details["labels"], folder.details["rejected"]) == (59, 1)


TEXTS = [
    "It manages windows,\nall of them.",
    "Apples, pears,\nand plums, too.",
    "See f(a,b)\nor g(c,d).",
    "It weighs\n1,000 tons.",
    "12 Main Street\nSpringfield,IL",
    "However,\nit rains.",
    "1. one\n2. two\n3. three",
    "first, second\nthird, fourth\nfifth, sixth\nseventh, eighth",
    "Doe,J;\nSmith,A;\nRoe,R;",
    'He said "no",\nand went.',
    "\n\nafter blank lines\n",
    "one\n" * 50,
    "def f(a, b):\n    return [a,b,\n            1,2]",
]


@pytest.mark.parametrize("table", list(TABLES))
def test_texts_of_several_lines_are_texts(tmp_path: Path, table: str) -> None:
    place, row = TABLES[table]
    for sign in ",;":
        text = io.StringIO()
        rows = csv.writer(text, delimiter=sign)
        rows.writerow(table.split(","))
        for number, one in enumerate(TEXTS):
            cells = [cell.format(f"doc-{number}") for cell in row]
            rows.writerow([*cells[:place], one, *cells[place + 1 :]])
        found = _read(text.getvalue(), tmp_path / "d.csv")
        assert [row.values and row.values["text"] for row in found] == TEXTS
        assert [row.lines for row in found] == [one.count("\n") + 1 for one in TEXTS]


@pytest.mark.parametrize(
    ("content", "lost"),
    [
        ('text,labels\n"open,bees\ny",tax\nz,sea\n', 2),
        ('title,text,labels\nt,"open,bees\nu,y",tax\nv,z,sea\n', 2),
        ('id,text,labels\ndoc 1,"open,bees\ndoc 2,y",tax\ndoc 3,z,sea\n', 2),
        ('text,labels,id\n"open,bees,1\ny",tax,2\nz,sea,3\n', 2),
        ('id,year,text,labels\n1,2001,"open,bees\n2,2002,y",tax\n3,2003,z,sea\n', 2),
    ],
)
def test_an_open_quote_in_the_first_row(tmp_path: Path, content: str, lost: int) -> None:
    rows = _read(content, tmp_path / "d.csv")
    assert [(row.line, row.reason is None) for row in rows] == [(lost, False), (3, True), (4, True)]


def test_what_cannot_be_told_from_a_text_is_counted(folder: Folder) -> None:
    folder.write("d.csv", 'text,journal\n"Of hives,Apis\nOf the sea 24",Tides\nOf boats,Tides\n')
    folder.write("labels.csv", 'id,text\nbees,"Bees\nof all kinds\nand wasps"\nsea,The sea\n')
    labels = [str(folder.path / "labels.csv")]
    assert [one for one, _, _ in folder.prepare("d.csv", labels=labels, test_share=0)] == ["0", "1"]
    assert (
        f"2 records of CSV span lines, the longest 3 lines ({labels[0]}:2); if that is no text of so many lines, a "
        "quote is not closed there"
    ) in folder.said
    folder.write("d.csv", "text,labels\nOf hives,bees\n")
    folder.write("labels.jsonl", LABELS)
    folder.prepare("d.csv", test_share=0)
    assert not any("span lines" in told for told in folder.said)

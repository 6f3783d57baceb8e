"""Files that are tagged: what is written beside the tags, and what is left alone. No model: the tagger is a fake."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.inputs import document_sources, with_row_ids
from ezxmc_ray.documents.rejected import RejectedRows
from ezxmc_ray.errors import UserError
from ezxmc_ray.report.compare_page import write_text
from ezxmc_ray.shown import show_what_fits
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import PREDICTIONS_SCHEMA
from ezxmc_ray.tagging.files import document_batches, open_output, read_tags, tag_files
from ezxmc_ray.terminal import tag_lines


class FakeTagger:
    """Gives every document the label x."""

    def __init__(self, prepare: PrepareConfig | None = None) -> None:
        self.settings = SimpleNamespace(prepare=prepare or PrepareConfig(), reranking=None)

    def tag_columns(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> tuple[pa.Table, int]:
        labels = [{"id": i, "label_ids": ["x"], "label_texts": ["X"], "scores": [0.5]} for i in ids]
        return pa.Table.from_pylist(labels, PREDICTIONS_SCHEMA), 0


def tag(source: Path, output: Path) -> int:
    return tag_files(FakeTagger(), [str(source)], str(output)).documents  # type: ignore[arg-type]


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
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


def test_files_without_rows_and_files_that_are_not_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in/a.jsonl", {"id": "a", "text": "one"})
    empty = write(tmp_path / "in/b.jsonl")
    write(tmp_path / "in/d.jsonl.xz")
    assert tag(tmp_path / "in", tmp_path / "tags.csv") == 1
    told = " ".join(capsys.readouterr().out.split())
    assert f"Warning: 1 file holds no row: {empty}; if rows were to be" in told
    assert "Files of the directories that are not read: d.jsonl.xz (1 in all); to read one, name it" in told
    (tmp_path / "in/c.jsonl.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"c\.jsonl\.gz has 0 bytes, which no file in gzip has"):
        tag(tmp_path / "in", tmp_path / "tags.csv")


def test_a_standard_output_that_is_closed_or_full_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in.jsonl", {"id": "a", "text": "one"})
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(UserError, match="the standard output, which is closed: give a file"):
        tag_files(FakeTagger(), [str(source)], "-")  # type: ignore[arg-type]

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(UserError, match=r"cannot be written to the standard output: .*No space left"):
        tag_files(FakeTagger(), [str(source)], "-")  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="The standard input is closed"):
        tag_lines(FakeTagger())  # type: ignore[arg-type]


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
    (tmp_path / "link").symlink_to(tmp_path)
    for documents_by, output_by in (("link/", ""), ("", "link/")):
        with pytest.raises(UserError, match=r"is one of the files to tag, which it would replace"):
            tag(tmp_path / documents_by / "documents.parquet", tmp_path / output_by / "documents.parquet")
    assert pq.read_table(tmp_path / "documents.parquet").equals(documents)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_the_ending_of_the_output_says_how_it_is_written(tmp_path: Path, ending: str) -> None:
    texts = ['a, "b"\nc', "é\x1b", "plain"]
    source = write(tmp_path / "in.jsonl", *({"id": text, "text": "t"} for text in texts))
    assert tag(source, tmp_path / f"out.{ending}") == 3
    out = tmp_path / f"out.{ending}"
    if ending == "parquet":
        rows = pq.read_table(out).to_pylist()
    elif ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text().split("\n") if line]
    else:
        with out.open(newline="") as file:
            rows = [
                {key: value if key == "id" else json.loads(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]
    assert rows == [{"id": text, "label_ids": ["x"], "label_texts": ["X"], "scores": [0.5]} for text in texts]


@pytest.mark.parametrize("name", ["out.xlsx", "out", "out.jsonl.gz", "folder/"])
def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"--output .* must end in one of \.parquet, \.jsonl, \.csv"):
        tag_files(FakeTagger(), ["gone.jsonl"], f"{tmp_path}/{name}")  # type: ignore[arg-type]


def test_a_file_with_content_is_never_tagged_as_no_documents(tmp_path: Path) -> None:
    out = tmp_path / "tags.csv"
    (tmp_path / "broken.jsonl").write_text('{"id": "1", "text": \n{"id": "2", "text": ""}\n')
    with pytest.raises(UserError) as raised:
        tag(tmp_path / "broken.jsonl", out)
    assert str(raised.value) == (
        f"There is no usable document in {tmp_path}/broken.jsonl: all 2 rows are bad, the first "
        f"({tmp_path}/broken.jsonl:1) for broken JSON: Expecting value at column 21."
    )
    assert not out.exists()
    documents = [{"id": str(number), "text": f"text {number}"} for number in range(2000)]
    for indent in (None, 1):
        (tmp_path / "array.json").write_text(json.dumps(documents, indent=indent))
        assert tag(tmp_path / "array.json", out) == 2000


def test_rows_without_a_column_of_ids_are_called_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text('text\none\n\n"two\nlines"\n')
    assert tag(tmp_path / "texts.csv", tmp_path / "tags.parquet") == 2
    assert pq.read_table(tmp_path / "tags.parquet")["id"].to_pylist() == ["0", "1"]


def test_a_text_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"id": "a", "title": "t", "abstract": "long"})
    with pytest.raises(UserError, match=r"No file of --input has a column 'Abstract' \(prepare.text_column; did"):
        tag_files(FakeTagger(PrepareConfig(text_column="Abstract")), [str(source)], f"{tmp_path}/a.csv")  # type: ignore[arg-type]
    assert not (tmp_path / "a.csv").exists()


def test_titles_alone_are_tagged_where_no_column_looks_like_the_text_and_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the text lies in the other column, and the tags would be of the titles."""
    out, looks_like = f"{tmp_path}/a.csv", write(tmp_path / "in.jsonl", {"id": "a", "title": "t", "Body": "long"})
    for place in (out, f"{tmp_path}/-.jsonl"):
        with pytest.raises(UserError) as refused:
            tag_files(FakeTagger(), [str(looks_like)], place)  # type: ignore[arg-type]
        assert str(refused.value) == (
            "No document has a text: no file has a column 'text'; if 'Body' is it, set prepare.text_column=Body; where "
            "titles are all there is, set prepare.text_column=title."
        )
        assert not Path(place).exists()
    told = " ".join(capsys.readouterr().out.split())
    assert told == ""
    for row in ({"title": "t"}, {"title": "t", "labels": "l", "publisher": "p"}):
        counts = tag_files(FakeTagger(), [str(write(tmp_path / "in.jsonl", {"id": "a", **row}))], out)  # type: ignore[arg-type]
        assert (counts.documents, counts.without_text) == (1, 1)
        told = " ".join(capsys.readouterr().out.split())
        assert told == "Note: no file has a column 'text' (prepare.text_column), so of documents the titles are read."
    given = FakeTagger(PrepareConfig(text_column="title"))
    assert tag_files(given, [str(looks_like)], out).without_text == 0  # type: ignore[arg-type]


def test_a_file_whose_texts_have_another_name_than_the_others_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(write(tmp_path / f"{name}.jsonl", {"id": name, "title": "t", "text": "t"})) for name in "ab"]
    names.append(str(write(tmp_path / "c.jsonl", {"id": "c", "title": "t", "Abstract": "long"})))
    counts = tag_files(FakeTagger(), names, f"{tmp_path}/out.csv")  # type: ignore[arg-type]
    assert (counts.documents, counts.without_text) == (3, 1)
    assert " ".join(capsys.readouterr().out.split()) == (
        f"Warning: {names[2]} has Abstract instead of 'text', which alone prepare.text_column names: give the column "
        "one name in all rows and files."
    )
    tag_files(FakeTagger(), names[:2], f"{tmp_path}/out.csv")  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_a_title_column_that_was_named_and_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(column: str, **row: str) -> str:
        source = write(tmp_path / "in.jsonl", {"id": "a", "text": "t", **row})
        tag_files(FakeTagger(PrepareConfig(title_column=column)), [str(source)], f"{tmp_path}/a.csv")  # type: ignore[arg-type]
        return " ".join(capsys.readouterr().out.split())

    absent = "no file has a column 'caption' (prepare.title_column), so documents have no titles"
    assert said("caption") == f"Note: {absent}."
    assert "if 'headline' is it, set prepare.title_column=headline" in said("title", headline="h")
    assert said("title", labels="l", split="s") == said("", name="n") == ""
    assert said("caption", caption="c") == said("title", title="h") == said("title") == said("") == ""


def test_what_a_terminal_would_obey_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hostile(FakeTagger):
        def tag_columns(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> tuple[pa.Table, int]:
            row = {"id": "0", "label_ids": ["i\r\u202e"], "label_texts": ["two\nlines\t\x1b]0;x\x07é\u200d"]}
            return pa.Table.from_pylist([{**row, "scores": [0.5]}], PREDICTIONS_SCHEMA), 0

    monkeypatch.setattr("sys.stdin", io.StringIO("text\n"))
    tag_lines(Hostile())  # type: ignore[arg-type]
    assert capsys.readouterr().out == "text\n  0.500\ttwo\\nlines\\t\\x1b]0;x\\x07é\u200d\t(i\\x0d\\u202e)\n\n"


@pytest.mark.parametrize("locale", ["ascii", "utf-8:surrogateescape", "latin-1"])
def test_texts_and_tags_are_utf8_whatever_the_locale_says(monkeypatch: pytest.MonkeyPatch, locale: str) -> None:
    encoding, _, errors = locale.partition(":")

    def stream(content: bytes) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(content), encoding, errors or "strict")

    monkeypatch.setattr("sys.stdin", stream("na\u00efve\n".encode()))
    monkeypatch.setattr("sys.stdout", out := stream(b""))
    show_what_fits()
    tag_lines(FakeTagger())  # type: ignore[arg-type]
    out.flush()
    first = out.buffer.getvalue().splitlines()[0]  # type: ignore[attr-defined]
    assert first.decode(encoding) == ("na\\xefve" if encoding == "ascii" else "na\u00efve")
    monkeypatch.setattr("sys.stdin", stream(b"caf\xe9\n"))
    with pytest.raises(UserError, match="The texts on the standard input are not UTF-8"):
        tag_lines(FakeTagger())  # type: ignore[arg-type]


def test_tags_on_the_standard_output_are_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.jsonl", {"id": "\u00e9", "text": "one"})
    monkeypatch.setattr("sys.stdout", out := io.TextIOWrapper(io.BytesIO(), "ascii"))
    tag_files(FakeTagger(), [str(source)], "-")  # type: ignore[arg-type]
    assert json.loads(out.buffer.getvalue().decode())["id"] == "\u00e9"  # type: ignore[attr-defined]


def test_a_carriage_return_in_an_id_is_read_back_from_csv(tmp_path: Path) -> None:
    ids = ("a\rb", "\r\n", 'c"d,\n', "e")
    rows = [{"id": one, "label_ids": [one], "label_texts": ["a"], "scores": [0.5]} for one in ids]
    storage = Storage(str(tmp_path))
    with open_output(storage, "tags.csv") as write:
        write(pa.Table.from_pylist(rows, PREDICTIONS_SCHEMA))
    assert [row[0] for row in read_tags(storage, "tags.csv")] == [row["id"] for row in rows]


def test_ids_that_come_late_are_told_before_all_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezxmc_ray.tagging.files.TAG_BATCH", 2)
    rows = [{"text": str(number)} for number in range(9)]
    rows[2]["id"] = "mine"
    source = write(tmp_path / "in.jsonl", *rows)
    (one,) = document_sources(PrepareConfig(), [str(source)], "--input")
    given = document_batches(with_row_ids([one])[0], RejectedRows("in", 0), {})
    assert next(given)[2] == ["0", "1"]
    with pytest.raises(UserError, match="Some files of --input have a column 'id' and others have none"):
        next(given)


FOLDER = "files-0123456789abcdef"


def test_tags_replace_no_file_of_a_run_and_lie_in_no_export(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", {"id": "a", "text": "one"})
    for name in ("run/config.yaml", "run/documents/manifest.json", "run/labels.parquet", "tagger/bundle.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as it was")
    (tmp_path / "tagger" / FOLDER).mkdir()
    (tmp_path / "tagger/bundle.json").write_text(json.dumps({"folder": FOLDER}))
    (tmp_path / "link").symlink_to("run")
    for name in ("run/labels.parquet", "link/cycle-1/tags.csv", "run/cycle-0/tags.jsonl"):
        with pytest.raises(UserError, match=rf"--output .*{name} lies in the run directory .*/run under a name that"):
            tag(source, tmp_path / name)
    for name in ("tagger/tags.jsonl", f"tagger/{FOLDER}/tags.csv"):
        with pytest.raises(UserError, match=rf"--output .*{name} lies in an export, which holds its own files alone"):
            tag(source, tmp_path / name)
    with pytest.raises(UserError, match=r"--html .*run/report\.html lies in the run directory"):
        write_text(f"{tmp_path}/run/report.html", "--html", "a comparison")
    assert (tmp_path / "run/labels.parquet").read_text() == "as it was"
    for name in ("run/tags.jsonl", "run/mine/tags.jsonl", "tagger/mine/tags.jsonl"):
        assert tag(source, tmp_path / name) == 1  # names of one's own
    (tmp_path / "tagger/bundle.json").write_text(json.dumps({"resourceType": "Bundle"}))  # of other software
    assert tag(source, tmp_path / "tagger/tags.jsonl") == 1
    (tmp_path / "run/documents/manifest.json").unlink()  # some project with a config.yaml
    assert tag(source, tmp_path / "run/report/tags.jsonl") == 1

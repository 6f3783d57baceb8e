"""Reading rows: every format gives the same rows, bad rows have reasons, and bad files one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.documents import parquet_reader, sources
from ezxmc_ray.documents.finding import find_sources
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.sources import RawRow
from ezxmc_ray.errors import UserError

COLUMNS = ["id", "title", "text"]
REQUIRED = (("prepare.id_column", ("id",)), ("prepare.text_column", ("text", "title")))


def _rows(path: Path, wanted_format: str = "auto") -> list[RawRow]:
    return list(read_rows(find_sources([str(path)], wanted_format, "prepare.documents")[0], COLUMNS, REQUIRED))


def _told(rows: list[RawRow]) -> list[Any]:
    """(line, values or reason)."""
    return [(row.line, row.reason if row.values is None else row.values) for row in rows]


def _write(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        half = len(content) // 2  # two members, as `cat a.gz b.gz` gives
        content = gzip.compress(content[:half]) + gzip.compress(content[half:])
    elif path.suffix == ".zst":
        content = pa.Codec("zstd").compress(content, asbytes=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.ndjson.zst"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    lines = [
        b'\xef\xbb\xbf{"id": 1, "text": "caf\xc3\xa9 \xf0\x9f\x98\x80"}\r\n',
        b"\n",
        b"   \r\n",
        b'{"id": 2, "text": "\xff"}\n',
        b'{"id": 3, "text": \n',
        b"[1, 2]\n",
        b'"text"\n',
        b"[" * 100_000 + b"\n",
        b'{"id": ' + b"9" * 5000 + b"}\n",
        b'{"id": 4, "text": "a\\u0000b\\n"}',
    ]
    assert _told(_rows(_write(tmp_path / name, b"".join(lines)))) == [
        (1, {"id": 1, "text": "café 😀"}),
        (4, "invalid UTF-8: byte 20 of the line"),
        (5, "broken JSON: Expecting value at column 19"),
        (6, "not a JSON object: list, one object a line"),
        (7, "not a JSON object: str, one object a line"),
        (8, "broken JSON: nested too deeply"),
        (9, "broken JSON: a number is too long"),
        (10, {"id": 4, "text": "a\x00b\n"}),
    ]


def test_a_line_without_end_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 1 << 20)
    content = b'{"id": 1, "text": "' + b"x" * (5 << 20) + b'"}\n{"id": 2, "text": "b"}\n'
    assert _told(_rows(_write(tmp_path / "a.jsonl", content))) == [
        (1, "line too long: over 1 MiB"),
        (2, {"id": 2, "text": "b"}),
    ]


def test_csv(tmp_path: Path) -> None:
    content = (
        b"\xef\xbb\xbf\r\nid,title,text\r\n"
        b'1,"a ""b""","two\r\nlines, one field"\r\n'
        b"\r\n"
        b"2,only\r\n"
        b"3,a,b,c\r\n"
        b"4,\xe4,latin\r\n"
        b'5,"a"b,quote\r\n'
        b"6,,\r\n"
        b'7,x,"never closed\r\n8,y,z\r\n'
    )
    assert _told(_rows(_write(tmp_path / "a.csv", content))) == [
        (3, {"id": "1", "title": 'a "b"', "text": "two\r\nlines, one field"}),
        (6, "ragged CSV row: 2 fields, the header has 3"),
        (7, "ragged CSV row: 4 fields, the header has 3"),
        (8, "invalid UTF-8: byte 3 of the line"),
        (9, "broken CSV: ',' expected after '\"'"),
        (10, {"id": "6", "title": "", "text": ""}),
        (11, "broken CSV: unexpected end of data by line 12"),
        (12, {"id": "8", "title": "y", "text": "z"}),
    ]


def test_parquet(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff\xfe", None], pa.binary())
    as_string = pa.Array.from_buffers(pa.string(), 3, texts.buffers(), null_count=1)
    table = pa.table({"id": [1, 2, 3], "title": texts, "text": as_string, "vector": [[0.5], [0.5], [0.5]]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert _told(_rows(tmp_path / "a.parquet")) == [
        (1, {"id": 1, "title": "fine", "text": "fine"}),
        (2, "invalid UTF-8: column 'title'"),
        (3, {"id": 3, "title": None, "text": None}),
    ]


def test_parquet_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "_BATCH_ROWS", 7)
    pq.write_table(pa.table({"id": range(100), "text": ["t"] * 100}), tmp_path / "a.parquet", row_group_size=30)
    rows = _rows(tmp_path / "a.parquet")
    assert [(row.line, row.values and row.values["id"]) for row in rows] == [(i + 1, i) for i in range(100)]


def test_damaged_files(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"id": 1, "text": "a"}\n' * 1000)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[:-8])
    zstd = tmp_path / "cut.jsonl.zst"
    zstd.write_bytes(pa.Codec("zstd").compress(b"{}\n" * 100_000, asbytes=True)[:-4])
    plain = tmp_path / "plain.csv.gz"
    plain.write_bytes(b"id,text\n1,a\n")
    fake = tmp_path / "fake.parquet"
    fake.write_bytes(b"id,text\n1,a\n")
    kinds = {cut: "JSON lines in gzip", zstd: "JSON lines in zstd", plain: "CSV in gzip", fake: "Parquet"}
    for path, kind in kinds.items():
        with pytest.raises(UserError) as raised:
            _rows(path)
        assert str(raised.value).startswith(f"{path} cannot be read as {kind}: ")
        assert str(raised.value).endswith("; is it cut off, damaged or misnamed?")
        assert "\n" not in str(raised.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": [1], "text": ["a"]}), tmp_path / "a.parquet")
    _write(tmp_path / "a.csv", b"key;text\n1;a\n")
    _write(tmp_path / "a.jsonl", b'{"id": 1}\n{"id": 2, "body": "b"}\n')
    for name, message in {
        "a.parquet": "has no column 'id'; its columns are key, text: set prepare.id_column.",
        "a.csv": "has no column 'id'; its columns are key, text: set prepare.id_column.",
        "a.jsonl": "has no column 'text' or 'title'; its columns are id, body: set prepare.text_column.",
    }.items():
        with pytest.raises(UserError) as raised:
            _rows(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name} {message}"


def test_csv_headers_that_cannot_be(tmp_path: Path) -> None:
    for content, message in {b"id,text,id\n": "names 'id' twice", b"id,t\xe4xt\n": "is not valid UTF-8"}.items():
        with pytest.raises(UserError, match=message):
            _rows(_write(tmp_path / "a.csv", content))


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.jsonl.gz"):
        assert _rows(_write(tmp_path / name, b"")) == []


def test_snippets_of_bad_rows_are_valid_and_short() -> None:
    assert RawRow(1, {"id": "\ud800", "text": "x" * 1000}).content().startswith('{"id": "?", "text": "xxx')
    assert len(RawRow(1, {"text": "x" * 1000}).content()) == sources.SNIPPET_CHARACTERS


def test_values_that_python_cannot_hold_are_bad_rows(tmp_path: Path) -> None:
    far = pa.array([2**62, 0, -(2**62)], pa.int64())
    small = pa.array([2**31 - 1, 0, -(2**31)], pa.int32())
    kinds = [pa.timestamp("us"), pa.timestamp("us", "Europe/Paris"), pa.duration("ms")]
    for number, values in enumerate([*map(far.cast, kinds), small.cast(pa.date32())]):
        pq.write_table(pa.table({"id": [1, 2, 3], "text": values}), tmp_path / f"{number}.parquet")
        reasons = [row.reason for row in _rows(tmp_path / f"{number}.parquet")]
        assert reasons == ["bad value: column 'text' is out of range", None, reasons[0]], number
    digits = pa.array(["9" * 70, "0.5"]).cast(pa.decimal256(76, 5))
    pq.write_table(pa.table({"id": digits, "text": ["a", "b"]}), tmp_path / "d.parquet")
    found = [str(row.values and row.values["id"]) for row in _rows(tmp_path / "d.parquet")]
    assert found == ["9" * 70 + ".00000", "0.50000"]


def _of_a_list(kind: str, **fields: pa.Array) -> pa.Array:
    """Two rows of one object each, of a list of ``kind``."""
    objects = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    if kind == "fixed_size_list":
        return pa.FixedSizeListArray.from_arrays(objects, 1)
    makes, offsets = {"list": (pa.ListArray, pa.int32()), "large_list": (pa.LargeListArray, pa.int64())}[kind]
    return makes.from_arrays(pa.array([0, 1, 2], offsets), objects)


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed_size_list"])
def test_what_lies_beside_a_field_of_a_list_is_nobodys_matter(tmp_path: Path, kind: str) -> None:
    damaged = pa.array([b"\xff\xd8", b"\xff\xd8"], pa.binary())
    uris = pa.array(["bees", "tax"])
    others = {
        "bytes": damaged,
        "text": pa.Array.from_buffers(pa.string(), 2, damaged.buffers()),
        "time": pa.array([2**62, 2**62], pa.int64()).cast(pa.timestamp("us")),
        "objects": _of_a_list(kind, thumb=damaged),
    }
    for name, other in others.items():
        objects = _of_a_list(kind, **{"uri": uris, name: other, "of": _of_a_list(kind, it=uris, thumb=damaged)})
        pq.write_table(pa.table({"id": ["p", "q"], "subjects": objects}), tmp_path / "a.parquet")
        source = find_sources([str(tmp_path / "a.parquet")], "auto", "prepare.documents")[0]
        assert _told(list(read_rows(source, ["id", "subjects.uri", "subjects.of.it"], ()))) == [
            (1, {"id": "p", "subjects.uri": ["bees"], "subjects.of.it": ["bees"]}),
            (2, {"id": "q", "subjects.uri": ["tax"], "subjects.of.it": ["tax"]}),
        ], name
        assert [row.reason for row in read_rows(source, ["id", "subjects.of.thumb"], ())] == [
            "invalid UTF-8: column 'subjects.of.thumb'"
        ] * 2


def test_objects_of_a_list_that_are_null_or_lack_a_field(tmp_path: Path) -> None:
    kind = pa.list_(pa.struct({"of": pa.struct({"uri": pa.binary(), "n": pa.int64()}), "thumb": pa.binary()}))
    rows = [[{"of": {"uri": b"x"}, "thumb": b"\xff"}, None, {"of": None, "thumb": b"\xff"}, {"of": {"n": 1}}], None, []]
    pq.write_table(pa.table({"subjects": pa.array(rows, kind)}), tmp_path / "a.parquet")
    source = find_sources([str(tmp_path / "a.parquet")], "auto", "prepare.documents")[0]
    found = [(row.values or {})["subjects.of.uri"] for row in read_rows(source, ["subjects.of.uri"], ())]
    assert found == [["x", None, {"of": None}, None], None, []]


def test_a_path_that_is_not_the_name_of_one_field_is_no_fault_of_the_program(tmp_path: Path) -> None:
    dotted = pa.array([[{"dc.title": "x"}]], pa.list_(pa.struct({"dc.title": pa.string()})))
    two = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["u", "u"]))
    for column, path in ((dotted, "s.dc.title"), (two, "s.u")):
        pq.write_table(pa.table({"s": column}), tmp_path / "a.parquet")
        source = find_sources([str(tmp_path / "a.parquet")], "auto", "prepare.documents")[0]
        [row] = read_rows(source, [path], ())
        assert row.values is None or row.values[path] != ["x"]


def test_a_parquet_file_whose_columns_names_are_damaged(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "text": ["t"]}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"text", b"\xf3ext"))
    with pytest.raises(UserError, match=r"a\.parquet (cannot be read as Parquet|has no column)"):
        _rows(tmp_path / "a.parquet")

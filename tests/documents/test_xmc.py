"""Extreme Classification Repository layouts: rows of the label file become label numbers, whatever is rejected."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage

#: Row 1 is rejected and row 4 repeats the id of row 0, so numbers are 0, -, 1, 2, 0, 3.
LABELS = [
    {"uid": "A", "title": "apples", "content": "not read"},
    {"uid": "B", "title": "", "content": ""},
    {"uid": "C", "title": "cherries"},
    {"uid": "D", "title": "dates"},
    {"uid": "A", "title": "apples again"},
    {"uid": "F", "title": "figs"},
]


def _config(tmp_path: Path, **knobs: Any) -> Config:
    return Config(prepare=PrepareConfig(xmc_directory=str(tmp_path / "set"), on_bad_rows="skip", **knobs))


def _documents(storage: Storage) -> list[tuple[Any, ...]]:
    """(id, title, text, split, gold, excluded) of all documents."""
    found = []
    for name in storage.list("documents", ".parquet"):
        rows = storage.read_table(name).to_pylist()
        gold_file = name.replace("documents", "gold")
        gold = storage.read_table(gold_file)["labels"].to_pylist() if storage.exists(gold_file) else [None] * len(rows)
        columns = ("id", "title", "text", "split")
        found += [(*(row[c] for c in columns), g, row["excluded"]) for row, g in zip(rows, gold, strict=True)]
    return found


def _rejected(storage: Storage) -> list[tuple[str, int, str]]:
    rows = storage.read_table("rejected.parquet").to_pylist()
    return [(Path(row["source"]).name, row["line"], row["reason"]) for row in rows]


def test_json_layout(tmp_path: Path, write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]) -> None:
    write_jsonl("set/lbl.json.gz", LABELS)
    train = [
        {"uid": "t0", "title": "zero", "content": "c", "target_ind": [5, 0], "target_rel": [1.0, 1.0]},
        {"uid": "t1", "title": "one", "content": "", "target_ind": [1]},
        {"uid": "t2", "title": "two", "target_ind": [6]},
        {"uid": "t3", "title": "three", "target_ind": [4, 0, 2]},
        {"uid": "t4", "title": "four", "target_ind": []},
        {"uid": "t5", "title": "five", "target_ind": [-1]},
        {"uid": "t6", "title": "six", "target_ind": "0"},
        {"uid": "t7", "title": "seven", "target_ind": [True]},
    ]
    write_jsonl("set/trn.json.gz", train)
    write_jsonl(
        "set/tst.json",
        [{"uid": "t0", "title": "again", "target_ind": []}, {"uid": "C", "title": "cherries", "target_ind": [2, 3]}],
    )
    (tmp_path / "set/filter_labels_train.txt").write_text("3 0\n0 1\n")
    (tmp_path / "set/filter_labels_test.txt").write_text("1 2\n1 1\n")
    (_, _, details), storage = sequential_prepare(_config(tmp_path))
    assert _documents(storage) == [
        ("t0", "zero", "c", "train", [0, 3], []),
        ("t1", "one", "", "train", [], []),
        ("t2", "two", "", "train", [], []),
        ("t3", "three", "", "train", [1], [0]),
        ("t4", "four", "", "train", [], []),
        ("t5", "five", "", "train", [], []),
        ("C", "cherries", "", "test", [2], [1]),
    ]
    assert _rejected(storage) == [
        ("lbl.json.gz", 2, "empty label: title of 'B' is empty"),
        ("lbl.json.gz", 5, "duplicate label id: 'A'"),
        ("trn.json.gz", 7, "bad labels: target_ind is '0', not a list"),
        ("trn.json.gz", 8, "bad labels: target_ind holds True, not a row of the label file"),
        ("tst.json", 1, f"duplicate id: 't0', first in {tmp_path}/set/trn.json.gz:1"),
    ]
    assert (details["filtered_pairs"], details["gold_documents"], details["sources"]) == (2, 7, 3)
    # Rows 1 (rejected), 6 and -1 (there are none); a gold label that is filtered is known.
    assert (details["dropped_gold_labels"], details["documents_with_gold"]) == (3, 3)


def _write_text_layout(folder: Path, train_texts: str, test_texts: str, label_texts: str) -> None:
    for path in (train_texts, test_texts, label_texts):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / train_texts).write_bytes(b"first\r\n\nthird \xc3\xa9\nfo\xffrth\n")
    (folder / test_texts).write_bytes(b"test zero\ntest one")
    (folder / label_texts).write_text("apples\n\ncherries\ndates\n")
    train = np.array([[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    stored_zero = scipy.sparse.csr_matrix(([1.0, 0.0], ([0, 0], [3, 2])), shape=(2, 4))
    scipy.sparse.save_npz(folder / "Y.trn.npz", scipy.sparse.csc_matrix(train))
    scipy.sparse.save_npz(folder / "Y.tst.npz", stored_zero)


@pytest.mark.parametrize(
    "names",
    [
        ("train_raw_texts.txt", "test_raw_texts.txt", "output-items.txt"),
        ("X.trn.txt", "X.tst.txt", "output-items.txt"),
        ("raw/trn_X.txt", "raw/tst_X.txt", "raw/Y.txt"),
        ("raw_data/trn_X.txt", "raw_data/tst_X.txt", "label_map.txt"),
    ],
)
def test_text_layout(tmp_path: Path, sequential_prepare: Callable[..., Any], names: tuple[str, str, str]) -> None:
    _write_text_layout(tmp_path / "set", *names)
    (tmp_path / "set/tst_filter_labels.txt").write_text("0 3\n")
    _, storage = sequential_prepare(_config(tmp_path))
    assert _documents(storage) == [
        ("trn-0", "", "first", "train", [0, 2], []),
        ("trn-2", "", "third é", "train", [], []),
        ("tst-0", "", "test zero", "test", [], [2]),
        ("tst-1", "", "test one", "test", [], []),
    ]
    assert _rejected(storage) == [
        (Path(names[2]).name, 2, "empty label: text of '1' is empty"),
        (Path(names[0]).name, 2, "empty document: title and text of 'trn-1' are both empty"),
        (Path(names[0]).name, 4, "invalid UTF-8: byte 3 of the line"),
    ]


def test_without_gold_and_without_a_test_file(tmp_path: Path, sequential_prepare: Callable[..., Any]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train_raw_texts.txt").write_text("".join(f"text {i}\n" for i in range(200)))
    (tmp_path / "set/output-items.txt").write_text("apples\n")
    (documents, files, details), storage = sequential_prepare(_config(tmp_path, test_share=0.5))
    assert documents == 200
    assert 60 < details["test"] < 140
    assert (details["gold_documents"], details["gold_fingerprint"]) == (0, None)
    assert not storage.exists("gold")
    assert not [name for name in files if name.startswith("gold")]


def _message(tmp_path: Path, run: Callable[..., Any]) -> str:
    with pytest.raises(UserError) as raised:
        run(_config(tmp_path))
    return str(raised.value).replace(str(tmp_path), "…")


def test_messages(tmp_path: Path, sequential_prepare: Callable[..., Any]) -> None:
    folder = tmp_path / "set"
    assert _message(tmp_path, sequential_prepare).startswith("prepare.xmc_directory: there is no directory …/set;")
    folder.mkdir()
    told = _message(tmp_path, sequential_prepare)
    assert told.startswith(
        "…/set is no data set that ezxmc knows: looked for lbl.json and trn.json (tst.json), and for "
    )
    assert "output-items.txt or Y.txt or label_map.txt and train_raw_texts.txt or X.trn.txt or trn_X.txt" in told

    _write_text_layout(folder, "trn_X.txt", "tst_X.txt", "Y.txt")
    (folder / "filter_labels_train.txt").write_text("4 0\n")
    assert _message(tmp_path, sequential_prepare) == (
        "…/set/filter_labels_train.txt names document row 4, but …/set/trn_X.txt has 4 rows; "
        "give the files of one data set."
    )
    (folder / "filter_labels_train.txt").write_text("0 4\n")
    assert "must hold a document row and a label row a line" in _message(tmp_path, sequential_prepare)
    (folder / "filter_labels_train.txt").write_text("0 x\n")
    assert "is not pairs of a document row and a label row" in _message(tmp_path, sequential_prepare)
    (folder / "filter_labels_train.txt").unlink()

    (folder / "tst_X.txt").write_text("a\nb\nc\n")
    assert "…/set/Y.tst.npz has 2 rows, and …/set/tst_X.txt not as many" in _message(tmp_path, sequential_prepare)
    (folder / "tst_X.txt").write_text("a\n")
    assert "…/set/Y.tst.npz has 2 rows, and …/set/tst_X.txt not as many" in _message(tmp_path, sequential_prepare)
    (folder / "Y.txt").write_text("only\n")
    assert "…/set/Y.trn.npz has 4 columns, but the label file has 1 rows" in _message(tmp_path, sequential_prepare)
    (folder / "Y.trn.npz").write_bytes(b"no zip")
    assert "…/set/Y.trn.npz is not a matrix saved by scipy.sparse.save_npz" in _message(tmp_path, sequential_prepare)

    (folder / "train_raw_texts.txt").write_text("x\n")
    assert _message(tmp_path, sequential_prepare) == (
        "…/set holds train_raw_texts.txt and trn_X.txt, which are the same thing; keep one of them."
    )
    (folder / "train_raw_texts.txt").unlink()
    (folder / "trn.json").write_text("{}\n")
    (folder / "lbl.json").write_text("{}\n")
    assert _message(tmp_path, sequential_prepare).startswith(
        "…/set holds a data set in JSON (…/set/lbl.json) and one in"
    )


def _text_set(folder: Path) -> None:
    folder.mkdir()
    (folder / "trn_X.txt").write_text("one\ntwo\nthree\n")
    (folder / "tst_X.txt").write_text("four\nfive\n")
    (folder / "Y.txt").write_text("apples\nbananas\ncherries\n")


def test_gold_labels_in_the_repositorys_text_matrices(
    tmp_path: Path, sequential_prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ezxmc_ray.stages.prepare.say", said.append)
    _text_set(tmp_path / "set")
    sequential_prepare(_config(tmp_path))
    assert said[-1].startswith("No gold labels: ")
    (tmp_path / "set/trn_X_Y.txt").write_text("3 3\n2:1 0:1\n\n1:1.0 2:0\n")
    (tmp_path / "set/tst_X_Y.txt.gz").write_bytes(gzip.compress(b"2 3\n0:1\n1:0.5"))
    _, storage = sequential_prepare(_config(tmp_path))
    gold = {document[0]: document[4] for document in _documents(storage)}
    assert gold == {"trn-0": [0, 2], "trn-1": [], "trn-2": [1], "tst-0": [0], "tst-1": [1]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("0:1\n", "does not begin with its rows and columns"),
        ("3 2\n", "has 2 columns, but the label file has 3 rows"),
        ("3 3\n0:1\n", "says that it has 3 rows, and has 1; is it cut off?"),
        ("3 3\n0:1\n3:1\n\n", "trn_X_Y.txt:3 names a label row outside 0 to 2"),
        ("3 3\n0:1\nx\n\n", "trn_X_Y.txt:3 is not label:1 label:1"),
    ],
)
def test_text_matrices_that_do_not_fit(
    tmp_path: Path, sequential_prepare: Callable[..., Any], content: str, sentence: str
) -> None:
    _text_set(tmp_path / "set")
    (tmp_path / "set/trn_X_Y.txt").write_text(content)
    assert sentence in _message(tmp_path, sequential_prepare)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_matrices_in_every_form_of_scipy(tmp_path: Path, sequential_prepare: Callable[..., Any], kind: str) -> None:
    _text_set(tmp_path / "set")
    matrix = scipy.sparse.csr_matrix(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])).asformat(kind)
    scipy.sparse.save_npz(tmp_path / "set/Y.trn.npz", matrix)
    _, storage = sequential_prepare(_config(tmp_path))
    assert [document[4] for document in _documents(storage)][:3] == [[0, 2], [], [1]]


CRAFTED: dict[str, dict[str, Any]] = {
    "an index out of range": {"indices": [0, 99_999_999, 2]},
    "a negative index": {"indices": [0, -1, 2]},
    "csc, an index out of range": {"format": b"csc", "indices": [0, 99_999_999, 2]},
    "indptr out of range": {"indptr": [0, 1, 2, 99_999]},
    "a falling indptr": {"indptr": [0, 2, 1, 3]},
    "a short indptr": {"indptr": [0, 3]},
    "data of text": {"data": ["a", "b", "c"]},
    "fewer values than indices": {"data": [1.0]},
    "indices of fractions": {"indices": [0.5, 1.0, 2.0]},
    "coo, a row out of range": {"format": b"coo", "row": [0, 1, 77], "col": [0, 1, 2]},
    "an unknown format": {"format": b"bsr"},
    "a negative shape": {"shape": [-3, 3]},
    "a shape of three": {"shape": [3, 3, 3]},
    "no shape": {"shape": None},
    "objects": {"data": [None, {}, {}]},
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_matrix_is_one_sentence(tmp_path: Path, sequential_prepare: Callable[..., Any], name: str) -> None:
    _text_set(tmp_path / "set")
    arrays: dict[str, Any] = {"format": b"csr", "shape": [3, 3], "data": [1.0, 1.0, 1.0], "indices": [0, 1, 2]}
    arrays = {key: value for key, value in (arrays | {"indptr": [0, 1, 2, 3]} | CRAFTED[name]).items() if value}
    np.savez(tmp_path / "set/Y.trn.npz", **arrays)
    assert "…/set/Y.trn.npz is not a matrix saved by scipy.sparse.save_npz: " in _message(tmp_path, sequential_prepare)


def test_a_small_file_does_not_unpack_to_gigabytes(tmp_path: Path, sequential_prepare: Callable[..., Any]) -> None:
    _text_set(tmp_path / "set")
    arrays = {"format": b"csr", "shape": [3, 3], "indices": [0], "indptr": [0, 1, 1, 1]}
    np.savez_compressed(tmp_path / "set/Y.trn.npz", data=np.zeros(9_000_000), **arrays)
    told = _message(tmp_path, sequential_prepare)
    assert "bytes are to be 72,00" in told and "unpacked, which no matrix of labels is" in told


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (["0 Bees", "1 The sea", "2 Taxes"], ["Bees", "The sea", "Taxes"]),
        (["1\tBees", "2\tThe sea", "3\tTaxes"], ["Bees", "The sea", "Taxes"]),
        (["B07X\tBees", "B09Y\tThe sea", "B01Z\tTaxes"], ["Bees", "The sea", "Taxes"]),
        (["Bees\t17", "The sea\t4", "Taxes\t9"], ["Bees", "The sea", "Taxes"]),
        (["1 Corinthians", "2 Kings", "3 John"], ["Corinthians", "Kings", "John"]),
        (["2 Kings", "1 Corinthians", "3 John"], ["2 Kings", "1 Corinthians", "3 John"]),
        (["100 years", "Bees", "Taxes"], ["100 years", "Bees", "Taxes"]),
        (["Bees\twasps", "The sea", "Taxes"], ["Bees\twasps", "The sea", "Taxes"]),
    ],
)
def test_ids_beside_the_texts_of_labels_are_none_of_them(
    tmp_path: Path, sequential_prepare: Callable[..., Any], lines: list[str], texts: list[str]
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/label_map.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "set/X.trn.txt").write_text("Of hives.\nOf boats.\n")
    (tmp_path / "set/trn_X_Y.txt").write_text("2 3\n0:1\n2:1 1:1\n")
    (_, _, details), storage = sequential_prepare(_config(tmp_path, test_share=0, held_out_share=0))
    assert storage.read_table("labels.parquet")["text"].to_pylist() == texts
    assert [gold for *_, gold, _ in _documents(storage)] == [[0], [1, 2]]
    told = "label_map.txt have an id and a text each: the ids are left out of the labels' texts"
    assert any(told in one for one in details["read"]) == (texts != lines)


def test_columns_in_the_repositorys_labels_are_refused(tmp_path: Path, sequential_prepare: Callable[..., Any]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/Y.txt").write_text("a\tBees\tof all kinds\nb\tThe sea\tand its coast\n")
    (tmp_path / "set/X.trn.txt").write_text("Of hives.\nOf boats.\n")
    with pytest.raises(UserError, match=r"Y\.txt has columns with tabs between: leave nothing but the labels' texts"):
        sequential_prepare(_config(tmp_path))
    rows = "".join(f"id{number}\tLabel {number}\n" for number in range(101))
    (tmp_path / "set/Y.txt").write_text(rows + "Taxes\n")
    _, storage = sequential_prepare(_config(tmp_path, test_share=0, held_out_share=0))
    assert storage.read_table("labels.parquet")["text"].to_pylist()[-1] == "Label 100"
    assert _rejected(storage) == [("Y.txt", 102, "ragged row: no id beside the text, as the first lines have")]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ("0,1\tOf hives.\n1\tOf boats.\n", "an id, or labels, and a tab before the texts of most lines"),
        ("B01\tOf hives.\nB02\tOf boats.\n", "an id, or labels, and a tab before the texts of most lines"),
        ("0,1\tOf hives.\n\tOf nothing.\n", "an id, or labels, and a tab before the texts of most lines"),
        ("0,1\tOf hives.\nOf a line that broke\n2\tOf boats.\n", "an id, or labels, and a tab before the texts"),
        (
            "__label__0 Of hives.\nOf boats.\n__label__1 Of sails.\n",
            "labels beside the texts of most lines, as",
        ),
        ("2 5\n0:0.1 3:1e-5\n1:0.5\n", r"features \(3:0\.5\) and no texts"),
    ],
)
def test_documents_with_something_beside_their_texts_are_refused(
    tmp_path: Path, sequential_prepare: Callable[..., Any], texts: str, why: str
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/Y.txt").write_text("Bees\nThe sea\n")
    (tmp_path / "set/X.trn.txt").write_text(texts)
    with pytest.raises(UserError, match=rf"X\.trn\.txt has {why}"):
        sequential_prepare(_config(tmp_path))


def test_other_files_of_the_directory_are_said(tmp_path: Path, sequential_prepare: Callable[..., Any]) -> None:
    (tmp_path / "set/raw").mkdir(parents=True)
    for name, text in {"Y.txt": "Bees\n", "raw/X.trn.txt": "Of hives.\nOf\tbees.\n", "val_X.txt": "x\n"}.items():
        (tmp_path / "set" / name).write_text(text)
    (tmp_path / "set/.hidden").write_text("x")
    (_, _, details), _ = sequential_prepare(_config(tmp_path, test_share=0, held_out_share=0))
    assert details["read"][-1] == "Files of the directories that are not read: val_X.txt (1 in all)"

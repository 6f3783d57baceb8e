"""One document: what makes it good, what makes it bad and for which reason, and draws that nothing else changes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.documents import Document, DocumentSource, LabelsById, check_document, draw
from ezxmc_ray.documents.labels import LabelNumbers
from ezxmc_ray.documents.lists import ListReader
from ezxmc_ray.documents.rejected import BadRow
from ezxmc_ray.documents.sources import RawRow, Source
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, content_hash

LABEL_IDS = ["a", "b", "c;d", "7"]


@pytest.fixture
def labels(tmp_path: Path) -> LabelsById:
    storage = Storage(str(tmp_path))
    rows = [{"id": one, "text": one, "description": "", "content_hash": content_hash("", one)} for one in LABEL_IDS]
    storage.write_table("labels.parquet", pa.Table.from_pylist(rows, LABELS_SCHEMA))
    numbers = LabelNumbers(storage)
    return LabelsById(ListReader(numbers.get, "labels", None), numbers.like)


def _check(labels: LabelsById, values: dict[str, Any], seed: int = 0, **knobs: Any) -> Document:
    file = Source("a.jsonl", "a.jsonl", None, "jsonl", None, 0, 0)
    source = DocumentSource(file, "id", "title", "text", "labels", "split", ())
    return check_document(RawRow(3, values), source, labels, PrepareConfig(**knobs), seed, 0)[0]


def _reason(labels: LabelsById, values: dict[str, Any]) -> str:
    with pytest.raises(BadRow) as raised:
        _check(labels, values)
    return str(raised.value)


def test_a_good_document(labels: LabelsById) -> None:
    found = _check(labels, {"id": 12, "title": None, "text": " a\n", "labels": ["b", "a"], "split": "Test"})
    assert (found.id, found.title, found.text, found.split, found.held_out) == ("12", "", " a\n", "test", False)
    assert (found.gold, found.excluded, found.line) == ([0, 1], [], 3)
    assert found.content_hash == content_hash("", " a\n")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, "1"), (12.0, "12"), (1.5, "1.5"), (Decimal("7"), "7"), (" x ", " x "), ("é\u200f\x01", "é\u200f\x01")],
)
def test_ids(labels: LabelsById, value: Any, expected: str) -> None:
    assert _check(labels, {"id": value, "text": "t"}).id == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ([], []),
        ([7, "a"], [0, 3]),
        ("", None),
        ("  ", None),
        ("b", [1]),
        ("a; b", [0, 1]),
        ("b|a|", [0, 1]),
        ("a, b", [0, 1]),
        ("a b", [0, 1]),
        ("a\nb", [0, 1]),
        ("c;d | a", [0, 2]),
        ("['a', 'b']", [0, 1]),
        ("['a' 'b']", [0, 1]),
        ("{'a'}", [0]),
        ("[7. nan]", [3]),
        ([""], None),
        ([None, float("nan")], None),
        (["b", "", " ", None], [1]),
        (float("nan"), None),
        (" 7 ", [3]),
        ("<a>", [0]),
        ("c;d", [2]),
        ('["c;d", 7]', [2, 3]),
        ("[]", []),
        (7, [3]),
        (7.0, [3]),
    ],
)
def test_gold_labels(labels: LabelsById, value: Any, expected: list[int] | None) -> None:
    assert _check(labels, {"id": 1, "text": "t", "labels": value}).gold == expected


@pytest.mark.parametrize(
    "text", ["\x00\x01\x1ba", "😀👩‍👩‍👧", "שלום \u202eabc\u202c", "\ufeffx", "a\u0301", "می\u200cخواهم"]
)
def test_texts_pass_unharmed(labels: LabelsById, text: str) -> None:
    found = _check(labels, {"id": "1", "title": text, "text": text})
    assert (found.title, found.text) == (text, text)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": "t"}, "empty id: id is empty or missing"),
        ({"id": " ", "text": "t"}, "empty id: id is empty or missing"),
        ({"id": float("nan"), "text": "t"}, "empty id: id is empty or missing"),
        ({"id": True, "text": "t"}, "bad id: id is True, not a string or a number"),
        ({"id": [1], "text": "t"}, "bad id: id is [1], not a string or a number"),
        ({"id": "1", "title": " \n", "text": None}, "empty document: title and text of '1' are both empty"),
        (
            {"id": "1", "title": "\u200b\x00", "text": "\ufeff\u00ad \u2060\u200d"},
            "empty document: title and text of '1' are both empty",
        ),
        ({"id": "\u200b", "text": "t"}, "empty id: id is empty or missing"),
        ({"id": "1", "text": ["t"]}, "bad text: text is ['t'], not a string"),
        ({"id": "1", "text": "a\ud800"}, "invalid Unicode: lone surrogate at character 2 of text"),
        (
            {"id": "1", "text": "t", "split": "fold 1"},
            "bad split: split is 'fold 1', it must be train, test or validation",
        ),
        ({"id": "1", "text": "t", "split": 0}, "bad split: split is 0, it must be train, test or validation"),
        ({"id": "1", "text": "t", "labels": ["a", "b", "a"]}, "repeated label: labels repeats 'a'"),
        (
            {"id": "1", "text": "t", "labels": [1, 0, 0]},
            "repeated label: labels repeats '0': that is no list of ids but a row of a 0/1 matrix",
        ),
        ({"id": "1", "text": "t", "labels": ["z", "z"]}, "repeated label: labels repeats 'z'"),
        (
            {"id": "1", "text": "t", "labels": {"a": 1}},
            "bad id: labels is {'a': 1}, not a string or a number; name its field, as in labels.a",
        ),
        (
            {"id": "1", "text": "t", "labels": "[a"},
            'bad labels: labels is \'[a\', which begins like a list and is none; write ["b", "c"] or b;c',
        ),
    ],
)
def test_bad_rows(labels: LabelsById, values: dict[str, Any], reason: str) -> None:
    assert _reason(labels, values) == reason


def test_gold_labels_that_are_not_among_the_labels_are_left_out_and_counted(labels: LabelsById) -> None:
    for value in (["a", "gone"], "a;gone", "['gone', 'a']", "a|gone|gone2"):
        found = _check(labels, {"id": 1, "text": "t", "labels": value})
        assert (found.gold, found.unknown_gold) == ([0], str(value).count("gone"))
    found = _check(labels, {"id": 1, "text": "t", "labels": "nothing known"})
    assert (found.gold, found.unknown_gold) == ([], 1)


def test_validation_documents_are_for_training(labels: LabelsById) -> None:
    for word in ("validation", "Valid", "dev", "val"):
        found = _check(labels, {"id": 1, "text": "t", "split": word}, test_share=1.0)
        assert (found.split, found.split_from) == ("train", "column, validation")
    assert _check(labels, {"id": 1, "text": "t", "split": "testing"}).split_from == "column"
    assert _check(labels, {"id": 1, "text": "t"}).split_from == "drawn"


def test_draws_are_what_they_were() -> None:
    # Written down once: a change would move documents between train and test in every run there is.
    assert draw(0, "split", "a") == 0.6306468596428789
    assert draw(0, "split", "a") != draw(1, "split", "a") != draw(1, "held_out", "a")


def test_shares_are_met_and_marks_are_independent(labels: LabelsById) -> None:
    found = [_check(labels, {"id": i, "text": "t"}, test_share=0.2, held_out_share=0.3) for i in range(4000)]
    test = sum(one.split == "test" for one in found) / len(found)
    train = [one for one in found if one.split == "train"]
    held_out = sum(one.held_out for one in train) / len(train)
    assert test == pytest.approx(0.2, abs=0.025)
    assert held_out == pytest.approx(0.3, abs=0.03)
    assert not any(one.held_out for one in found if one.split == "test")
    other = [_check(labels, {"id": i, "text": "t"}, seed=1, test_share=0.2) for i in range(4000)]
    both = sum(a.split == b.split == "test" for a, b in zip(found, other, strict=True)) / len(found)
    assert both == pytest.approx(0.04, abs=0.015)


@pytest.mark.parametrize(("share", "split"), [(0.0, "train"), (1.0, "test")])
def test_shares_of_none_and_all(labels: LabelsById, share: float, split: str) -> None:
    assert {_check(labels, {"id": i, "text": "t"}, test_share=share).split for i in range(200)} == {split}


def test_a_split_column_wins_over_the_draw_row_by_row(labels: LabelsById) -> None:
    values = {"id": "1", "text": "t"}
    assert _check(labels, values | {"split": "train"}, test_share=1.0).split == "train"
    assert _check(labels, values | {"split": None}, test_share=1.0).split == "test"
    assert _check(labels, values | {"split": ""}, test_share=1.0).split == "test"

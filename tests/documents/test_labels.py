"""The label set: numbers, what is rejected, and what is only counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.documents.inputs import find_inputs, label_sources
from ezxmc_ray.documents.labels import LabelSet, read_labels
from ezxmc_ray.errors import UserError
from ezxmc_ray.tables import LABELS_SCHEMA, LABELS_WITH_ALTERNATIVES, content_hash


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
    rows: list[dict[str, Any]] = [{"id": 1, "text": "sea"}, {"id": 2, "text": "bee"}]
    rows += [{"id": 1, "text": "ocean", "description": "salt"}, {"id": 1, "text": "sea", "alternatives": ["brine"]}]
    sources = label_sources(PrepareConfig(labels=[write_jsonl("a.jsonl", rows)]))
    found = read_labels(sources, "synonyms")
    assert found.table.schema == LABELS_WITH_ALTERNATIVES
    assert found.table["text"].to_pylist() == ["sea", "bee"]
    assert found.table["description"].to_pylist() == ["salt", ""]
    assert found.table["content_hash"].to_pylist() == [content_hash("salt", "sea"), content_hash("", "bee")]
    assert found.table["alternatives"].to_pylist() == [["ocean", "brine"], []]
    assert (found.alternatives, found.rejected.num_rows) == ({0: ["ocean", "brine"]}, 0)
    assert found.numbers.tolist() == [0, 1, 0, 0]
    refused = read_labels(sources)
    assert refused.rejected["line"].to_pylist() == [3, 4]
    assert refused.table.schema == LABELS_SCHEMA


CELLS: list[tuple[Any, list[str]]] = [
    (["ocean", "", None, "brine", "ocean", "sea", 7], ["ocean", "brine", "7"]),
    (None, []),
    (float("nan"), []),
    ("", []),
    (" ; ", []),
    ("ocean, the salty one", ["ocean, the salty one"]),
    ("ocean; brine ;", ["ocean", "brine"]),
    ('["ocean", "a; b"]', ["ocean", "a; b"]),
    ("['ocean' 'brine']", ["ocean", "brine"]),
    ("[2+2] cycloaddition; x", ["[2+2] cycloaddition", "x"]),
    ("array(['ocean', 'brine'], dtype=object)", ["ocean", "brine"]),
    ("set()", []),
    ("set(theory)", ["set(theory)"]),
    ("list(s); tuple(x)", ["list(s)", "tuple(x)"]),
    ("e\u0301; \u00e9; \u200b", ["e\u0301"]),
]


def test_alternatives_are_read_from_lists_and_from_texts(write_jsonl: Callable[..., str]) -> None:
    rows = [{"id": number, "text": "sea", "alternatives": cell} for number, (cell, _) in enumerate(CELLS)]
    sources = label_sources(PrepareConfig(labels=[write_jsonl("a.jsonl", rows)]))
    assert read_labels(sources).table["alternatives"].to_pylist() == [texts for _, texts in CELLS]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('["ocean", ', "bad alternatives: alternatives is '[\"ocean\",', which begins like a list and is none"),
        (
            "array(['a', b)",
            "bad alternatives: alternatives is \"array(['a', b)\", which begins like a list and is none",
        ),
        (
            "ocean; x|y",
            "ambiguous alternatives: alternatives is 'ocean; x|y', texts with ';' and with '|' between: "
            "set prepare.list_separator",
        ),
        ([["ocean"]], "bad text: alternatives is ['ocean'], not a string"),
        ({"en": "ocean"}, "bad text: alternatives is {'en': 'ocean'}, not a string"),
    ],
)
def test_alternatives_that_are_none_make_a_bad_row(write_jsonl: Callable[..., str], cell: Any, reason: str) -> None:
    rows = [{"id": 1, "text": "bee"}, {"id": 2, "text": "sea", "alternatives": cell}]
    found = read_labels(label_sources(PrepareConfig(labels=[write_jsonl("a.jsonl", rows)])))
    assert found.table["id"].to_pylist() == ["1"]
    assert found.rejected["reason"].to_pylist() == [reason]


def test_a_given_separator_parts_alternatives_too_but_a_blank(write_jsonl: Callable[..., str]) -> None:
    rows = [{"id": 1, "text": "sea", "others": "the ocean, the brine"}]
    config = PrepareConfig(labels=[write_jsonl("a.jsonl", rows)], label_alternatives_column="others")
    for name, texts in {"comma": ["the ocean", "the brine"], "space": ["the ocean, the brine"]}.items():
        assert read_labels(label_sources(config), "fail", name).alternatives == {0: texts}


def test_a_column_of_alternatives_has_one_separator(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    rows = [{"id": 1, "text": "sea", "alternatives": "a;b"}, {"id": 2, "text": "bee", "alternatives": "c|d"}]
    documents = write_jsonl("d.jsonl", [{"id": n, "text": "x"} for n in range(20)])
    prepare = PrepareConfig(documents=[documents], labels=[write_jsonl("l.jsonl", rows)])
    with pytest.raises(UserError, match=r"'alternatives' has texts with ';' \(.*:1\) and '\|' \(.*:2\) between"):
        sequential_prepare(Config(prepare=prepare))
    prepare.list_separator = "semicolon"
    (_, _, details), storage = sequential_prepare(Config(prepare=prepare))
    assert storage.read_table("labels.parquet")["alternatives"].to_pylist() == [["a", "b"], ["c|d"]]
    assert (details["labels_with_alternatives"], details["alternatives"]) == (2, 3)
    assert any("2 labels have alternatives, 3 texts in all" in told for told in details["read"])


def test_labels_without_alternatives_are_what_they_were(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    documents = write_jsonl("d.jsonl", [{"id": n, "text": "x"} for n in range(20)])
    fingerprints = []
    for number, more in enumerate([None, [], ["sea"], ["ocean"]]):
        labels = write_jsonl(f"l{number}.jsonl", [{"id": 1, "text": "sea", "alternatives": more}])
        config = Config(prepare=PrepareConfig(documents=[documents], labels=[labels]))
        (_, _, details), storage = sequential_prepare(config, f"run-{number}")
        fingerprints.append(details["label_fingerprint"])
        expected = LABELS_SCHEMA if number < 3 else LABELS_WITH_ALTERNATIVES
        assert storage.read_table("labels.parquet").schema == expected
    before = "9ea781a900f862a99ae8a8abee4b72bd"  # as it was before labels had alternatives
    assert fingerprints[:3] == [before] * 3 and fingerprints[3] != before


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

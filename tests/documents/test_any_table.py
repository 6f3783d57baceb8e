"""What goes in comes out the same, or is refused: generated tables by JSON, CSV, Parquet and the Repository's layouts.

The reference is the table itself. EZXMC_EXAMPLES=20000 tries more of them.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.errors import UserError

EXAMPLES = int(os.environ.get("EZXMC_EXAMPLES", "500"))
#: Signs that readers and separators stumble over; no lone surrogates, which no file of text can hold.
SIGNS = st.one_of(
    st.sampled_from(list("ab,;|\t\n\r\"'[]{}()<>\\:= 01é\u0301\u200b\ufeff\x00\x1b\u2028😀")),
    st.characters(exclude_categories=["Cs"]),
)
TEXTS = st.text(SIGNS, max_size=6)
SEPARATORS = {"semicolon": ";", "pipe": "|", "comma": ",", "tab": "\t", "newline": "\n"}


@dataclasses.dataclass(frozen=True)
class Table:
    """Labels by id, and documents: id, title, text, split ("": none), gold label ids, of which some are unknown.

    ``others``: texts of labels beside their own, by id; ``further``: more rows of labels, (id, text).
    """

    labels: dict[str, str]
    documents: list[tuple[str, str, str, str, list[str]]]
    others: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    further: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def label_rows(self) -> list[tuple[str, str, list[str]]]:
        """All rows of labels: id, text, other texts."""
        own = [(one, text, self.others.get(one, [])) for one, text in self.labels.items()]
        return own + [(one, text, []) for one, text in self.further]


@st.composite
def tables(draw: Any) -> Table:
    """A small table; ids differ also as they are compared."""
    ids = draw(st.lists(TEXTS, min_size=1, max_size=4, unique_by=_compared))
    labels = {one: draw(TEXTS) for one in ids}
    documents = []
    for one in draw(st.lists(TEXTS, min_size=1, max_size=4, unique_by=_compared)):
        known = st.builds(_otherwise, st.sampled_from(ids), st.integers(0, 4))
        gold = draw(st.lists(st.one_of(known, TEXTS), max_size=3, unique_by=_compared))
        split = draw(st.sampled_from(["train", "train", "test", "Validation", ""]))
        documents.append((one, draw(TEXTS), draw(TEXTS), split, gold))
    others = {one: draw(st.lists(st.one_of(TEXTS, st.just(text)), max_size=3)) for one, text in labels.items()}
    further = draw(st.lists(st.tuples(st.sampled_from(ids), TEXTS), max_size=2))
    further = [(unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), one), text) for one, text in further]
    return Table(labels, documents, others, further)


def _otherwise(label_id: str, way: int) -> str:
    """The same id as others write it."""
    decomposed = unicodedata.normalize("NFD", label_id)
    number = f"{label_id}.0" if label_id.isdecimal() else label_id
    return [label_id, decomposed, f" {label_id}\t", f"<{label_id}>", number][way]


def _compared(label_id: str) -> str:
    text = re.sub("[\u00ad\u200b\u200e\u200f\u2060\ufeff]", "", label_id).strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1].strip()
    if text.endswith(".0") and text[:-2].isdecimal():
        text = text[:-2]
    return unicodedata.normalize("NFC", text)


def _seen(text: str) -> bool:
    """Whether there is anything in ``text`` that is seen: a plain reference for values.as_text."""
    hidden = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
    plain = (sign for sign in text if not sign.isspace() and sign not in hidden and not _selector(sign))
    return any(unicodedata.category(sign) not in ("Cc", "Cf") for sign in plain)


def _selector(sign: str) -> bool:
    return bool(re.match("[\ufe00-\ufe0f\u180b-\u180f\ufff0-\ufff8\u2065\U000e0000-\U000e0fff]", sign))


@dataclasses.dataclass(frozen=True)
class Meant:
    """The labels and documents that a table means, how many of its rows are none, gold labels that are unknown."""

    labels: list[tuple[str, str, list[str]]]
    documents: list[tuple[str, str, str, str, list[str] | None]]
    bad: int
    unknown: int


def meant(table: Table) -> Meant:
    """Row after row, as docs/data.md says."""
    rows = [row for row in table.label_rows() if _seen(row[0]) and _seen(row[1])]
    labels = _united(rows)
    known = {_compared(one): one for one, _, _ in labels}
    documents, bad, unknown = [], len(table.label_rows()) - len(rows), 0
    for one, title, text, split, gold in table.documents:
        named = [label for label in gold if _seen(label)]
        if not _seen(one) or not (_seen(title) or _seen(text)):
            bad += 1
            continue
        found = [one for _, one in sorted((at, one) for at, one in enumerate(known) if one in map(_compared, named))]
        unknown += len(named) - len(found)
        title, text = (part if _seen(part) else "" for part in (title, text))
        said = "test" if split == "test" else "train"
        documents.append((one, title, text, said, [known[one] for one in found] if named or not gold else None))
    return Meant(labels, documents, bad, unknown)


def _united(rows: list[tuple[str, str, list[str]]]) -> list[tuple[str, str, list[str]]]:
    """Labels of ``rows``; what further rows of one say are other texts of it."""
    labels: list[tuple[str, str, list[str]]] = []
    for one, text, others in rows:
        same = [label for label in labels if _nfc(label[0]) == _nfc(one)]
        if not same:
            labels.append((one, text, []))
        _, preferred, found = same[0] if same else labels[-1]
        for other in [text, *others]:
            if _seen(other) and _nfc(other) not in map(_nfc, [preferred, *found]):
                found.append(other)
    return labels


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def came_out(storage: Any) -> tuple[list[tuple[str, str, list[str]]], list[tuple[Any, ...]]]:
    """Labels and documents of a run."""
    rows = storage.read_table("labels.parquet").to_pylist()
    labels = [(row["id"], row["text"], row.get("alternatives", [])) for row in rows]
    documents = []
    for name in storage.list("documents", ".parquet"):
        rows = storage.read_table(name).to_pylist()
        gold = name.replace("documents", "gold")
        lists = storage.read_table(gold)["labels"].to_pylist() if storage.exists(gold) else [None] * len(rows)
        for row, numbers in zip(rows, lists, strict=True):
            found = numbers if numbers is None else [labels[number][0] for number in numbers]
            documents.append((row["id"], row["title"], row["text"], row["split"], found))
    return labels, documents


COLUMNS = ("id", "title", "text", "split", "labels")
#: Cells that say that there is no value, unless a label has such an id.
NOTHING = ("NULL", "null", "None", "nan", "NaN", "NA", "N/A", "<NA>", "\\N")
LABEL_COLUMNS = ("id", "text", "alternatives")
Knobs = dict[str, Any]


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rows(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, one, strict=True)) for one in table.documents]


def write_json_lines(folder: Path, table: Table) -> tuple[Table, Knobs]:
    _json_lines(folder / "d.jsonl", _rows(table))
    return table, {}


def write_array(folder: Path, table: Table) -> tuple[Table, Knobs]:
    text = json.dumps(_rows(table), indent=len(table.documents), ensure_ascii=False)
    (folder / "d.json").write_text(text, encoding="utf-8", newline="")
    return table, {}


def write_parquet(folder: Path, table: Table) -> tuple[Table, Knobs]:
    kinds = [pa.string()] * 4 + [pa.list_(pa.string())]
    arrays = [pa.array(one, kind) for one, kind in zip(zip(*table.documents, strict=True), kinds, strict=True)]
    pq.write_table(pa.table(arrays, COLUMNS), folder / "d.parquet")
    return table, {}


def write_csv(folder: Path, table: Table) -> tuple[Table, Knobs]:
    """Label ids with a separator between where none of them holds it or a bracket, else as JSON."""
    ids = "".join([*table.labels, *(label for one in table.documents for label in one[4])])
    name = next((name for name, sign in SEPARATORS.items() if sign not in ids), None)
    if name and not set("[({") & set(ids) and all(label.strip() for one in table.documents for label in one[4] or "x"):
        cells, knobs = [SEPARATORS[name].join(one[4]) or "[]" for one in table.documents], {"list_separator": name}
    else:
        cells, knobs = [json.dumps(one[4]) for one in table.documents], {}
    known = set(map(_compared, table.labels))
    says_nothing = [cell.strip() in NOTHING and _compared(cell) not in known for cell in cells]
    documents = [
        (*one[:4], [" "] if nothing else one[4]) for one, nothing in zip(table.documents, says_nothing, strict=True)
    ]
    with (folder / "d.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL, delimiter=";" if len(ids) % 2 else ",")
        rows.writerow(COLUMNS)
        rows.writerows([*one[:4], cell] for one, cell in zip(table.documents, cells, strict=True))
    return dataclasses.replace(table, documents=documents), knobs


def write_labels_json(path: Path, table: Table, separator: str) -> None:
    _json_lines(path, [dict(zip(LABEL_COLUMNS, row, strict=True)) for row in table.label_rows()])


def write_labels_parquet(path: Path, table: Table, separator: str) -> None:
    kinds = [pa.string(), pa.string(), pa.list_(pa.string())]
    columns = zip(*table.label_rows(), strict=True)
    pq.write_table(pa.table([pa.array(*one) for one in zip(columns, kinds, strict=True)], LABEL_COLUMNS), path)


def write_labels_csv(path: Path, table: Table, separator: str) -> None:
    """Other texts with ``separator`` between where none of them holds it or a bracket, else as JSON."""
    texts = [text for row in table.label_rows() for text in row[2]]
    plain = not any(set("[({;|\t\n" + separator) & set(text) or text != text.strip() for text in texts)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL)
        rows.writerow(LABEL_COLUMNS)
        for one, text, others in table.label_rows():
            rows.writerow([one, text, separator.join(others) if plain else json.dumps(others)])


LABEL_WRITERS = {"l.jsonl": write_labels_json, "l.parquet": write_labels_parquet, "l.csv": write_labels_csv}


def _in_parts(table: Table) -> dict[str, list[tuple[str, str, str, str, list[str]]]]:
    """The documents by the Repository's files; gold labels that are seen."""
    documents = [(*one[:4], [label for label in one[4] if _seen(label)]) for one in table.documents]
    test = [one for one in documents if one[3] == "test"]
    return {"trn": [one for one in documents if one[3] != "test"]} | ({"tst": test} if test else {})


def _label_rows(table: Table, gold: list[str]) -> list[int]:
    """Rows of the label file; that of an unknown label is far beyond its end."""
    places = {_compared(label): row for row, label in enumerate(table.labels)}
    return [places.get(_compared(label), 900 + at) for at, label in enumerate(gold)]


def write_repository_json(folder: Path, table: Table) -> tuple[Table, Knobs]:
    parts = _in_parts(table)
    _json_lines(folder / "lbl.json", [{"uid": one, "title": text} for one, text in table.labels.items()])
    for part, documents in parts.items():
        names = ("uid", "title", "content")
        rows = [dict(zip(names, one, strict=False)) | {"target_ind": _label_rows(table, one[4])} for one in documents]
        _json_lines(folder / f"{part}.json", rows)
    everything = [one for documents in parts.values() for one in documents]
    return Table(table.labels, everything), {"xmc_directory": str(folder)}


def write_repository_text(folder: Path, table: Table) -> tuple[Table, Knobs]:
    """Texts without line ends; ids are row numbers; gold labels as .npz of the train file and as text of the other."""
    parts, documents = _in_parts(table), []
    labels = {str(row): _in_line(text) for row, text in enumerate(table.labels.values())}
    (folder / "Y.txt").write_text("".join(f"{text}\n" for text in labels.values()), encoding="utf-8")
    for part, ones in parts.items():
        gold = [[row for row in _label_rows(table, one[4]) if row < len(labels)] for one in ones]
        texts = [_in_line(one[2]) for one in ones]
        (folder / f"{part}_X.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        if part == "trn":
            dense = np.array([[row in rows for row in range(len(labels))] for rows in gold], float)
            scipy.sparse.save_npz(folder / "Y.trn.npz", scipy.sparse.csr_matrix(dense.reshape(-1, len(labels))))
        else:
            lines = [" ".join(f"{row}:1" for row in rows) for rows in gold]
            (folder / "tst_X_Y.txt").write_text("\n".join([f"{len(ones)} {len(labels)}", *lines]) + "\n")
        for row, (one, text, rows) in enumerate(zip(ones, texts, gold, strict=True)):
            documents.append((f"{part}-{row}", "", text, one[3], [str(number) for number in rows]))
    return Table(labels, documents), {"xmc_directory": str(folder)}


def _in_line(text: str) -> str:
    return re.sub("[\n\r\t\ufeff]", " ", text)


WRITERS: dict[str, Callable[[Path, Table], tuple[Table, Knobs]]] = {
    "d.jsonl": write_json_lines,
    "d.json": write_array,
    "d.parquet": write_parquet,
    "d.csv": write_csv,
    "the Repository's JSON": write_repository_json,
    "the Repository's texts": write_repository_text,
}


@pytest.fixture
def run(sequential_prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """``run(folder, **knobs)``: the stage, and what it wrote, in a folder that is emptied each time."""
    monkeypatch.setattr("ezxmc_ray.stages.prepare.say", lambda _: None)
    monkeypatch.setattr("ezxmc_ray.storage.os.fsync", lambda _: None)  # thousands of commits, none to survive a crash

    def prepare(folder: Path, **knobs: Any) -> Any:
        shutil.rmtree(folder / "run", ignore_errors=True)
        config = Config(prepare=PrepareConfig(test_share=0, held_out_share=0, on_bad_rows="skip", **knobs))
        (_, _, details), storage = sequential_prepare(config, f"file://{folder}/run")
        return details, *came_out(storage)

    yield prepare


@given(table=tables(), name=st.sampled_from(list(WRITERS)), labels_name=st.sampled_from(list(LABEL_WRITERS)))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 500,
    suppress_health_check=list(HealthCheck),
)
def test_a_table_comes_out_as_it_went_in(run: Callable[..., Any], table: Table, name: str, labels_name: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as where:
        folder = Path(where)
        written, knobs = WRITERS[name](folder, table)
        if "xmc_directory" not in knobs:
            LABEL_WRITERS[labels_name](
                folder / labels_name, table, SEPARATORS[knobs.get("list_separator", "semicolon")]
            )
            knobs |= {"documents": [f"{folder}/{name}"], "labels": [f"{folder}/{labels_name}"]}
            knobs["repeated_labels"] = "synonyms"
        expected = meant(written)
        refused = _why_refused(expected, "xmc_directory" in knobs)
        if refused:
            with pytest.raises(UserError, match=refused):
                run(folder, **knobs)
            return
        details, labels, documents = run(folder, **knobs)
    assert labels == expected.labels
    gold_given = any(one[4] is not None for one in expected.documents)
    assert documents == [(*one[:4], one[4] if gold_given else None) for one in expected.documents]
    assert (details["rejected"], details["dropped_gold_labels"]) == (expected.bad, expected.unknown)


def _why_refused(expected: Meant, is_repository: bool) -> str:
    """The sentence for a table that no run can be made of; "" for another one."""
    if not expected.labels:
        return "There is no usable label"
    if not expected.documents:
        return "There is no document"
    if not is_repository and not any(text for _, _, text, _, _ in expected.documents):
        return "No document has a text"
    if not any(split == "train" for _, _, _, split, _ in expected.documents):
        return "None of the .* documents is for training"
    return ""

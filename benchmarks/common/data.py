"""The files that the benchmarks read: documents, labels and stored verdicts, JSON lines, .gz or not.

Comes in: where they lie. Goes out: the train documents and the documents to rank, both in the order of the hash of
their ids, and what the teacher said. Gold labels are read to measure with, and for the simulated perfect teacher.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ezxmc_ray.errors import UserError, one_line

Row: TypeAlias = "dict[str, Any]"
#: By document id: what the teacher said of each label of the shortlist, P(yes) by label id.
Verdicts: TypeAlias = "dict[str, dict[str, float]]"

DOCUMENTS = "documents.jsonl.gz"


@dataclass(frozen=True)
class Files:
    """``ranked``: the file whose documents of ``split`` are ranked; ``documents`` itself unless others are given."""

    documents: Path
    labels: Path
    verdicts: Path | None
    ranked: Path
    split: str


@dataclass(frozen=True)
class Data:
    """``train`` and ``ranked``: rows with id, title, text, labels; ``verdicts``: on documents of ``train``.

    ``left_out``: documents that cannot be ranked; ``repeated``: ranked ones with the very text of a train document.
    """

    train: list[Row]
    ranked: list[Row]
    labels: list[Row]
    verdicts: Verdicts
    left_out: int
    repeated: int


def find_files(directory: str | None, labels: str, verdicts: str | None, dev_data: Path | None, split: str) -> Files:
    """``labels`` and ``verdicts``: names in ``directory``, or paths. Errors: UserError for what is not there."""
    if not directory:
        raise UserError(f"No data is given: name the directory that holds {DOCUMENTS} by --data or EZXMC_DATA.")
    folder = Path(directory)
    documents = _file(folder / DOCUMENTS, "--data")
    return Files(
        documents,
        _file(folder / labels, "--labels"),
        _file(folder / verdicts, "--verdicts") if verdicts else None,
        _file(dev_data, "--dev-data") if dev_data else documents,
        split,
    )


def read_data(files: Files, documents: int, ranked_documents: int) -> Data:
    """At most ``documents`` to learn from and ``ranked_documents`` to rank, 0 = all.

    A limit takes the judged documents first. Documents of another file than ``files.documents`` are ranked only if
    that one does not hold their text, and none is unless it has gold labels, all of them among the labels. Errors:
    UserError for rows that lack a field, for label and document ids that are not there, and if nothing is left.
    """
    rows = read_rows(files.documents, ("id", "title", "text", "split", "labels"))
    labels = read_rows(files.labels, ("id", "text"))
    verdicts = read_verdicts(files.verdicts) if files.verdicts else {}
    train = in_order(row for row in rows if row["split"] == "train")
    _check_ids(verdicts, train, labels, files)
    train.sort(key=lambda row: row["id"] not in verdicts)
    train = train[: documents or None]
    others = rows if files.ranked == files.documents else read_rows(files.ranked, tuple(rows[0]))
    known = set() if others is rows else set(map(text_of, rows))
    wanted = in_order(row for row in others if row["split"] == files.split and text_of(row) not in known)
    ranked = [row for row in wanted if rankable(row, {label["id"] for label in labels})]
    if not train or not ranked:
        what = "train documents" if not train else f"documents of the split {files.split} with gold labels"
        raise UserError(f"There are no {what} in {files.documents if not train else files.ranked}.")
    kept = {row["id"]: verdicts[row["id"]] for row in train if row["id"] in verdicts}
    left_out, ranked = len(wanted) - len(ranked), ranked[: ranked_documents or None]
    learnt = set(map(text_of, train))
    return Data(train, ranked, labels, kept, left_out, sum(text_of(row) in learnt for row in ranked))


def read_rows(path: Path, fields: Sequence[str]) -> list[Row]:
    """The objects of a JSON-lines file; UserError for a line that is none, or one without a field of ``fields``."""
    content = path.read_bytes()
    try:
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): give a whole .gz file.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: this is not JSON ({one_line(error)}).") from error
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise UserError(f"{path}, line {number}: there is no field {missing[0]!r}.")
        rows.append(row)
    return rows


def read_verdicts(path: Path) -> Verdicts:
    """A file with id, label_ids and p_yes a line; UserError for lists of unequal length and a document told twice."""
    verdicts: Verdicts = {}
    for number, row in enumerate(read_rows(path, ("id", "label_ids", "p_yes")), 1):
        labels, scores = row["label_ids"], row["p_yes"]
        if len(labels) != len(scores) or len(set(labels)) != len(labels):
            raise UserError(f"{path}, line {number}: label_ids must be different labels, with a p_yes each.")
        if row["id"] in verdicts:
            raise UserError(f"{path}, line {number}: the document {row['id']} was there before.")
        verdicts[row["id"]] = dict(zip(labels, scores, strict=True))
    return verdicts


def simulated_verdicts(shortlists: Mapping[str, Sequence[str]], gold: Mapping[str, Iterable[str]]) -> Verdicts:
    """A simulated perfect teacher: 1 for a document's gold labels, 0 for the others of its shortlist.

    Gold labels that are not in the shortlist are added to it, as no real teacher could.
    """
    return {
        document: {label: float(label in set(gold[document])) for label in dict.fromkeys([*labels, *gold[document]])}
        for document, labels in shortlists.items()
    }


def in_order(rows: Iterable[Row]) -> list[Row]:
    """``rows`` by the hash of their ids."""
    return sorted(rows, key=lambda row: hashlib.blake2b(str(row["id"]).encode(), digest_size=8).digest())


def text_of(row: Row) -> tuple[str, str]:
    """Title and text."""
    return row["title"], row["text"]


def rankable(row: Row, labels: set[str]) -> bool:
    """Whether a document has gold labels, and all of them are among ``labels``."""
    return bool(row["labels"]) and labels.issuperset(row["labels"])


def _file(path: Path, option: str) -> Path:
    if not path.is_file():
        raise UserError(f"There is no file {path}: give another one by {option}.")
    return path


def _check_ids(verdicts: Verdicts, train: list[Row], labels: list[Row], files: Files) -> None:
    """UserError for verdicts on documents that are not for training, or on labels that are not there."""
    strange = verdicts.keys() - {row["id"] for row in train}
    if strange:
        raise UserError(
            f"{files.verdicts} judges {len(strange)} documents that are no train documents of {files.documents}, "
            f"such as {min(strange)}: give the verdicts that belong to the documents."
        )
    unknown = {label for judged in verdicts.values() for label in judged} - {row["id"] for row in labels}
    if unknown:
        raise UserError(
            f"{files.verdicts} judges {len(unknown)} labels that {files.labels} does not have, such as {min(unknown)}: "
            "give the labels that were judged by --labels."
        )

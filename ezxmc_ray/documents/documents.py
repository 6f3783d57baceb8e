"""One document: from a raw row to a checked one, with its split, its gold labels and its excluded labels.

Comes in: RawRows, the configuration, and a way to find label numbers. Goes out: :class:`Document`, or BadRow with the
reason. The split and the held-out mark of a document depend on the seed and its id alone, so neither the order of the
documents nor other documents change them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.labels import LabelNumbers
from ezxmc_ray.documents.rejected import BadRow, shown
from ezxmc_ray.documents.sources import RawRow, Required, Source
from ezxmc_ray.documents.values import as_id, as_label_ids, as_split, as_text
from ezxmc_ray.tables import HASH_BYTES, content_hash


@dataclass(frozen=True)
class DocumentSource:
    """One file of documents, the names of its columns, and what stands beside it.

    ``split`` is given where the file as a whole says it; ``id_prefix`` is put before each id. ``label_rows``: gold
    labels are rows of the label file (from 0), not ids. ``gold_matrix`` and ``label_filter`` are files whose row
    numbers are the rows of this one (see xmc.py). See sources.check_columns for ``required``.
    """

    source: Source
    id_column: str
    title_column: str
    text_column: str
    labels_column: str
    split_column: str
    required: Required
    split: str | None = None
    id_prefix: str = ""
    label_rows: bool = False
    gold_matrix: Source | None = None
    label_filter: Source | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of interest."""
        return [self.id_column, self.title_column, self.text_column, self.labels_column, self.split_column]

    @property
    def files(self) -> list[Source]:
        """All files that are read."""
        beside = [self.gold_matrix, self.label_filter]
        return [self.source, *(one for one in beside if one is not None)]


class LabelsOf(Protocol):
    """Finds the labels of a document; ``row`` (from 0) is the document's place in its source."""

    def gold(self, row: int, value: Any) -> list[int] | None:
        """Label numbers from the row's gold column; None if nothing is said, BadRow if a label does not exist."""

    def excluded(self, row: int) -> list[int]:
        """Label numbers that must never be proposed for the document."""


@dataclass(frozen=True, slots=True)
class Document:
    """A row of DOCUMENTS_SCHEMA, its gold labels (sorted label numbers; None: not given), the line it came from."""

    id: str
    title: str
    text: str
    split: str
    held_out: bool
    content_hash: bytes
    excluded: list[int]
    gold: list[int] | None
    line: int
    id_hash: bytes


class LabelsById:
    """Gold labels given as label ids; nothing is excluded."""

    def __init__(self, numbers: LabelNumbers, column: str) -> None:
        self._numbers, self._column = numbers, column

    def gold(self, row: int, value: Any) -> list[int] | None:
        """See LabelsOf. A string that is an id as a whole is that id, whatever separators it holds."""
        if isinstance(value, str) and value.strip() and (number := self._numbers.get(value.strip())) is not None:
            return [number]
        ids = as_label_ids(value, self._column)
        if ids is None:
            return None
        found = [self._numbers.get(label_id) for label_id in ids]
        if None in found:
            raise BadRow(f"unknown gold label: {shown(ids[found.index(None)])} is not among the labels")
        return [number for number in found if number is not None]

    def excluded(self, row: int) -> list[int]:
        """None."""
        return []


def check_document(
    row: RawRow, source: DocumentSource, labels: LabelsOf, prepare: PrepareConfig, seed: int
) -> Document:
    """The document in ``row``; BadRow if it cannot be used. Excluded labels are left out of its gold labels."""
    if row.values is None:
        raise BadRow(row.reason)
    values = row.values
    document_id = source.id_prefix + as_id(values.get(source.id_column), source.id_column)
    title = as_text(values.get(source.title_column), source.title_column)
    text = as_text(values.get(source.text_column), source.text_column)
    if not title and not text:
        raise BadRow(f"empty document: title and text of {shown(document_id)} are both empty")
    split = source.split or as_split(values.get(source.split_column), source.split_column)
    split = split or ("test" if draw(seed, "split", document_id) < prepare.test_share else "train")
    excluded = sorted(set(labels.excluded(row.line - 1)))
    gold = labels.gold(row.line - 1, values.get(source.labels_column))
    return Document(
        id=document_id,
        title=title,
        text=text,
        split=split,
        held_out=split == "train" and draw(seed, "held_out", document_id) < prepare.held_out_share,
        content_hash=content_hash(title, text),
        excluded=excluded,
        gold=None if gold is None else sorted(set(gold).difference(excluded)),
        line=row.line,
        id_hash=hashlib.blake2b(document_id.encode(), digest_size=HASH_BYTES).digest(),
    )


def draw(seed: int, purpose: str, document_id: str) -> float:
    """A number in [0, 1), the same for the same seed, purpose and document on every machine and in any order."""
    digest = hashlib.blake2b(f"{seed}\x00{purpose}\x00{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64

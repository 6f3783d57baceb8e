"""One document: from a raw row to a checked one, with its split, its gold labels and its excluded labels.

Comes in: RawRows, the configuration, and a way to find label numbers. Goes out: :class:`Document`, or BadRow with the
reason. The split and the held-out mark of a document depend on the seed and its id alone, so neither the order of the
documents nor other documents change them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.lists import Gold, ListReader
from ezxmc_ray.documents.rejected import BadRow, shown
from ezxmc_ray.documents.sources import RawRow, Required, Source
from ezxmc_ray.documents.values import as_id, as_split, as_text, cells, is_empty_by_sign, same_id
from ezxmc_ray.tables import HASH_BYTES, content_hash


@dataclass(frozen=True)
class DocumentSource:
    """One file of documents, the names of its columns ("": none), and what stands beside it.

    ``split`` (train, test or validation) is given where the file's name or folder says it for rows that do not;
    ``id_prefix`` is put before each id. ``row_ids``: ids are the rows' numbers from 0. ``label_rows``: gold labels are
    rows of the label file (from 0), not ids. ``gold_matrix`` and ``label_filter`` are files whose row numbers are the
    rows of this one (see xmc.py). See sources.check_columns for ``required``.
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
    row_ids: bool = False
    label_rows: bool = False
    gold_matrix: Source | None = None
    label_filter: Source | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of interest; no row has one that is called ""."""
        return [self.id_column, self.title_column, self.text_column, self.labels_column, self.split_column]

    @property
    def text_columns(self) -> list[str]:
        """Of these the ones whose cells are texts."""
        return [self.title_column, self.text_column]

    @property
    def files(self) -> list[Source]:
        """All files that are read."""
        beside = [self.gold_matrix, self.label_filter]
        return [self.source, *(one for one in beside if one is not None)]


class LabelsOf(Protocol):
    """Finds the labels of a document; ``row`` (from 0) is the document's place in its source."""

    def gold(self, row: int, value: Any) -> Gold | None:
        """The labels in the row's gold column; None if nothing is said, BadRow if it cannot be read."""

    def excluded(self, row: int) -> list[int]:
        """Label numbers that must never be proposed for the document."""


class Document(NamedTuple):
    """A row of DOCUMENTS_SCHEMA, its gold labels (sorted label numbers; None: not given), the line it came from.

    ``split_from``: what said the split: column, file or drawn; "validation" is added where that is what it was called.
    ``unknown_gold``: gold labels that are not among the labels.
    """

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
    split_from: str
    unknown_gold: int


class LabelsById:
    """Gold labels given as label ids; nothing is excluded. ``like``: the id of a label that is nearly the given one."""

    def __init__(self, reader: ListReader, like: Callable[[str], str]) -> None:
        self.reader, self.like = reader, like

    def gold(self, row: int, value: Any) -> Gold | None:
        """See LabelsOf."""
        return self.reader.read(value, row + 1)

    def excluded(self, row: int) -> list[int]:
        """None."""
        return []


def check_document(
    row: RawRow, source: DocumentSource, labels: LabelsOf, prepare: PrepareConfig, seed: int, number: int
) -> tuple[Document, list[str]]:
    """The document in ``row``, the file's ``number``-th from 0, and its gold labels that are not among the labels.

    Excluded labels are left out of its gold labels. BadRow if it cannot be used.
    """
    if row.values is None:
        raise BadRow(row.reason)
    values = row.values
    title, text = document_texts(values, source)
    document_id = document_name(values, source, number)
    if not title and not text:
        raise BadRow(empty_document(document_id, values, source))
    said = as_split(values.get(source.split_column), source.split_column)
    if said or source.split:
        split, split_from = _split(said, source.split)
    else:
        split, split_from = ("test" if draw(seed, "split", document_id) < prepare.test_share else "train"), "drawn"
    excluded = sorted(set(labels.excluded(row.line - 1)))
    gold = labels.gold(row.line - 1, values.get(source.labels_column))
    document = Document(
        id=document_id,
        title=title,
        text=text,
        split=split,
        held_out=split == "train" and draw(seed, "held_out", document_id) < prepare.held_out_share,
        content_hash=content_hash(title, text),
        excluded=excluded,
        gold=None if gold is None else sorted(set(gold.numbers).difference(excluded)),
        line=row.line,
        id_hash=hashlib.blake2b(same_id(document_id).encode(), digest_size=HASH_BYTES).digest(),
        split_from=split_from,
        unknown_gold=len(gold.unknown) if gold else 0,
    )
    return document, gold.unknown if gold else []


def document_name(values: dict[str, Any], source: DocumentSource, number: int) -> str:
    """The id of a row, the file's ``number``-th from 0; BadRow for a value that is none."""
    own = str(number) if source.row_ids else as_id(values.get(source.id_column), source.id_column)
    return source.id_prefix + own


def document_texts(values: dict[str, Any], source: DocumentSource) -> tuple[str, str]:
    """Title and text of a row, "" where there is none; BadRow for values that are no text."""
    title, text = map(as_text, cells(values, source.text_columns, source.source.format), source.text_columns)
    return title, text


def empty_document(document_id: str, values: dict[str, Any], source: DocumentSource) -> str:
    """The reason of a row that has neither title nor text."""
    by_sign = is_empty_by_sign(values, source.text_columns, source.source.format)
    signs = "; NA, NULL and the like stand for none in CSV" if by_sign else ""
    return f"empty document: title and text of {shown(document_id)} are both empty{signs}"


def _split(row: str | None, file: str | None) -> tuple[str, str]:
    """train or test, and what says so: the row, else its file."""
    said, by = (row, "column") if row else (file, "file")
    return ("train", f"{by}, validation") if said == "validation" else (str(said), by)


def draw(seed: int, purpose: str, document_id: str) -> float:
    """A number in [0, 1), the same for the same seed, purpose and document on every machine and in any order."""
    digest = _digest_of(seed, purpose).copy()
    digest.update(document_id.encode())
    return int.from_bytes(digest.digest(), "big") / 2**64


@functools.cache
def _digest_of(seed: int, purpose: str) -> Any:
    """What every document's begins with."""
    return hashlib.blake2b(f"{seed}\x00{purpose}\x00".encode(), digest_size=8)

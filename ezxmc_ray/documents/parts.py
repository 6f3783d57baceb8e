"""Pass 1 of prepare: labels, and source by source the documents, checked and written to part files of the scratch.

Comes in: sources. Goes out: labels.parquet, part files of good documents and tables of rejected rows below
layout.PREPARE_PARTS, and what was found in each source.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.documents import (
    Document,
    DocumentSource,
    LabelsById,
    LabelsOf,
    check_document,
)
from ezxmc_ray.documents.fingerprints import table_fingerprint
from ezxmc_ray.documents.labels import LabelNumbers, LabelSource, read_labels
from ezxmc_ray.documents.lists import ListReader, separator_of
from ezxmc_ray.documents.oddities import Oddities
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow, RejectedRows, shown
from ezxmc_ray.documents.sources import RawRow
from ezxmc_ray.documents.values import is_empty_by_sign
from ezxmc_ray.documents.xmc import LabelsByRow
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import ALTERNATIVES, DOCUMENTS_SCHEMA, HASH

_LABEL_ROWS = f"{layout.PREPARE_PARTS}/label-rows.parquet"

#: A part file is closed at so many rows, or at so many characters.
PART_ROWS = 8192
_PART_CHARACTERS = 64_000_000
#: What one task reads, where files are smaller: so many bytes, or less, that each CPU may have so many tasks.
_BATCH_BYTES, _BATCHES_PER_CPU = 64 << 20, 4
#: Unknown gold labels that a source names.
_UNKNOWN_SHOWN = 5
#: What stands behind one that is nearly a label's id, before that.
LIKE = ", but there is "

PART = pa.schema(
    [
        *DOCUMENTS_SCHEMA,
        ("gold", pa.list_(pa.int32())),
        ("line", pa.int64()),
        ("id_hash", HASH),
        ("split_from", pa.string()),
        ("unknown_gold", pa.int32()),
    ]
)
_NUMBERS_SCHEMA = pa.schema([("number", pa.int32())])


@dataclass(frozen=True)
class LabelCounts:
    """Of the label set: how many, how many of them have the text of an earlier one, rejected tables, fingerprint.

    ``columns``, ``separators``, ``oddities`` and ``notes``: see labels.LabelSet. ``with_alternatives``: labels that
    have ``alternatives``, texts in all.
    """

    labels: int
    duplicate_texts: int
    rejected: str
    fingerprint: str
    columns: dict[str, list[str]] = field(default_factory=dict)
    separators: dict[str, str] = field(default_factory=dict)
    with_alternatives: int = 0
    alternatives: int = 0
    oddities: Oddities = field(default_factory=Oddities)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """A part file: rows of one source, in its order. ``number`` is the source's place in the order of reading."""

    path: str
    number: int
    source: str
    rows: int
    gold: int


@dataclass(frozen=True)
class CheckedSource:
    """What pass 1 made of one source; ``full``: it alone gives all documents that prepare.limit_documents asks for.

    ``columns``: all that it has. ``separators``: of label ids, and where each first was. ``unknown``: some of the gold
    labels that are not among the labels, and where. ``oddities``: of its good rows.
    """

    number: int
    parts: list[Part]
    rejected: list[str]
    full: bool
    columns: list[str]
    separators: dict[str, str]
    unknown: list[str]
    oddities: Oddities

    @property
    def is_rowless(self) -> bool:
        """Whether the file gave no row, neither a good one nor a bad one."""
        return not self.parts and not self.rejected


def write_labels(
    storage: Storage, sources: Sequence[LabelSource], repeated: str, list_separator: str = "auto"
) -> LabelCounts:
    """Read all labels and write labels.parquet; leaves rejected rows and the numbers of source rows in the scratch.

    ``repeated`` and ``list_separator``: prepare.repeated_labels, prepare.list_separator.
    """
    labels = read_labels(sources, repeated, list_separator)
    storage.write_table(layout.LABELS, labels.table)
    storage.write_table(_LABEL_ROWS, pa.Table.from_arrays([pa.array(labels.numbers)], schema=_NUMBERS_SCHEMA))
    rejected = f"{layout.PREPARE_PARTS}/rejected-labels.parquet"
    storage.write_table(rejected, labels.rejected)
    return LabelCounts(
        labels.table.num_rows,
        labels.duplicate_texts,
        rejected,
        label_fingerprint(labels.table),
        labels.columns,
        labels.separators,
        len(labels.alternatives),
        sum(map(len, labels.alternatives.values())),
        labels.oddities,
        labels.notes,
    )


def label_fingerprint(labels: pa.Table) -> str:
    """Of what the labels (LabelSet.table) are called, and of what else a run knows of them."""
    content = ["id", "text", "description", *([ALTERNATIVES] if ALTERNATIVES in labels.column_names else [])]
    return table_fingerprint(labels, content)


def batches(sources: Sequence[DocumentSource], first: int, cpus: int) -> Iterator[list[tuple[int, DocumentSource]]]:
    """``sources``, numbered from ``first`` on, as the tasks of a cluster with so many CPUs are to read them.

    A task reads the ids of all labels first: of 100,000 that takes as long as to read 1,000 documents. So small files
    are read by few tasks together, but by enough for all CPUs.
    """
    sizes = [sum(file.size for file in source.files) for source in sources]
    most = min(_BATCH_BYTES, math.ceil(sum(sizes) / (_BATCHES_PER_CPU * max(1, cpus))))
    batch, size = list[tuple[int, DocumentSource]](), 0
    for number, (source, more) in enumerate(zip(sources, sizes, strict=True), start=first):
        if batch and size + more > most:
            yield batch
            batch, size = [], 0
        batch.append((number, source))
        size += more
    if batch:
        yield batch


def check_sources(
    storage: Storage,
    batch: Sequence[tuple[int, DocumentSource]],
    prepare: PrepareConfig,
    seed: int,
    separator: str | None = None,
) -> list[CheckedSource]:
    """Check the rows of each source of ``batch``; write part files of the good ones, tables of the rejected ones.

    With prepare.limit_documents a source ends after so many different ids, since no more can be needed, and is the
    last. ``separator``: see lists.ListReader's ``settled``.
    """
    numbers, checked = LabelNumbers(storage), list[CheckedSource]()
    with _old_objects_left_alone():
        for number, source in batch:
            labels = _labels_of(storage, source, prepare, numbers, separator)
            checked.append(_check_source(storage, number, source, prepare, seed, labels))
            if checked[-1].full:
                break
    return checked


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """For the block Python's collector does not look at what was there before.

    A part's documents are so many objects that it looks through the whole process every 50,000 of them: 0.35 s where
    torch is imported, a sixth of all that reading takes.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _check_source(
    storage: Storage, number: int, source: DocumentSource, prepare: PrepareConfig, seed: int, labels: LabelsOf
) -> CheckedSource:
    parts = _PartWriter(storage, number, source.source.name)
    seen, columns, oddities = set[bytes](), dict[str, None](), Oddities()
    line, full, is_csv = 0, False, source.source.format == "csv"
    for index, row in enumerate(read_rows(source.source, source.columns, source.required, columns)):
        line = row.line
        try:
            document, unknown = check_document(row, source, labels, prepare, seed, index)
        except BadRow as error:
            parts.reject(row, str(error))
            continue
        parts.add(document, unknown)
        by_sign = is_csv and is_empty_by_sign(row.values or {}, source.text_columns, "csv")
        if row.lines > 1 or row.repeated or by_sign:
            oddities.take(row, source.source.name, by_sign)
        if prepare.limit_documents:
            seen.add(document.id_hash)
            if full := len(seen) == prepare.limit_documents:
                break
    parts.flush()
    if isinstance(labels, LabelsByRow) and not full:
        labels.check_rows(line)
    separators, unknown = {}, list(parts.unknown.values())
    if isinstance(labels, LabelsById):
        separators = labels.reader.separators
        near = map(labels.like, parts.unknown)
        unknown = [place + (f"{LIKE}{shown(one)}" if one else "") for place, one in zip(unknown, near, strict=True)]
    where = {one: f"{source.source.name}:{first}" for one, first in separators.items()}
    return CheckedSource(number, parts.written, parts.rejected, full, list(columns), where, unknown, oddities)


class _PartWriter:
    """Writes the part files and the tables of rejected rows of one source, each when it is large enough."""

    def __init__(self, storage: Storage, number: int, name: str) -> None:
        self._storage, self._number, self._name = storage, number, name
        self.written: list[Part] = []
        self.rejected: list[str] = []
        self.unknown: dict[str, str] = {}
        self._start()

    def _start(self) -> None:
        self._documents: list[Document] = []
        self._bad = RejectedRows(self._name, self._number)
        self._characters = 0

    def add(self, document: Document, unknown: Sequence[str]) -> None:
        """Take up a good row, and its gold labels that are not among the labels."""
        self._documents.append(document)
        for label in unknown:
            if len(self.unknown) < _UNKNOWN_SHOWN:
                self.unknown.setdefault(label, f"{self._name}:{document.line}: {shown(label)}")
        self._characters += len(document.title) + len(document.text)
        if len(self._documents) >= PART_ROWS or self._characters >= _PART_CHARACTERS:
            self.flush()

    def reject(self, row: RawRow, reason: str) -> None:
        """Take up a bad row."""
        self._bad.add(row, reason)
        if len(self._bad) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken up."""
        if self._documents:
            path = f"{layout.PREPARE_PARTS}/part-{self._number:06d}-{len(self.written):06d}.parquet"
            columns = dict(zip(Document._fields, zip(*self._documents, strict=True), strict=True))
            arrays = [pa.array(columns[one.name], one.type) for one in PART]
            self._storage.write_table(path, pa.table(arrays, schema=PART))
            gold = sum(document.gold is not None for document in self._documents)
            self.written.append(Part(path, self._number, self._name, len(self._documents), gold))
        if len(self._bad):
            self.rejected.append(f"{layout.PREPARE_PARTS}/rejected-{self._number:06d}-{len(self.rejected):06d}.parquet")
            self._storage.write_table(self.rejected[-1], self._bad.table())
        self._start()


def _labels_of(
    storage: Storage, source: DocumentSource, prepare: PrepareConfig, numbers: LabelNumbers, separator: str | None
) -> LabelsOf:
    if not source.label_rows:
        given = separator_of(prepare.list_separator)
        return LabelsById(
            ListReader(numbers.get, prepare.labels_column, given, separator, numbers.parted), numbers.like
        )
    of_rows = storage.read_table(_LABEL_ROWS, _NUMBERS_SCHEMA)["number"].to_numpy()
    return LabelsByRow(source, of_rows)

"""From sources to full shards, in two passes, so that no one holds the documents.

Pass 1, a source at a time: check its rows and write them to part files in a scratch folder of the run. Then the ids of
all parts are compared (16-byte hashes), the first of two stays, and shards are planned as ranges of what is left, in
source order. Pass 2, a shard at a time: cut it out of the parts. The same input gives the same bytes, however many
workers there are. Comes in: sources. Goes out: documents/, gold/, labels.parquet, rejected.parquet, and counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.documents import Document, DocumentSource, LabelsById, LabelsOf, check_document
from ezxmc_ray.documents.fingerprints import table_fingerprint
from ezxmc_ray.documents.labels import LabelNumbers, LabelSource, read_labels
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import REJECTED_PART, BadRow, RejectedRows, RejectedSummary, merge_rejected, shown
from ezxmc_ray.documents.sources import RawRow
from ezxmc_ray.documents.xmc import LabelsByRow
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, GOLD_SCHEMA, HASH, HASH_BYTES

#: What pass 1 leaves for pass 2; removed at the end.
_LABEL_ROWS = f"{layout.PREPARE_PARTS}/label-rows.parquet"
_DROPPED = f"{layout.PREPARE_PARTS}/dropped.parquet"

#: A part file is closed at so many rows, or at so many characters.
PART_ROWS = 8192
_PART_CHARACTERS = 64_000_000
#: Small inputs are cut into so many shards, so that there is work for several workers, but not into smaller ones.
_SHARDS_AT_LEAST, _ROWS_AT_LEAST = 8, 64

PART = pa.schema([*DOCUMENTS_SCHEMA, ("gold", pa.list_(pa.int32())), ("line", pa.int64()), ("id_hash", HASH)])
_DROPPED_SCHEMA = pa.schema([("part", pa.int32()), ("row", pa.int32())])
_NUMBERS_SCHEMA = pa.schema([("number", pa.int32())])


@dataclass(frozen=True)
class LabelCounts:
    """Of the label set: how many, how many of them have the text of an earlier one, rejected tables, fingerprint."""

    labels: int
    duplicate_texts: int
    rejected: str
    fingerprint: str


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
    """What pass 1 made of one source; ``full``: it alone gives all documents that prepare.limit_documents asks for."""

    number: int
    parts: list[Part]
    rejected: list[str]
    full: bool


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of what is left of part number ``part`` when its repeated ids are dropped."""

    part: int
    path: str
    start: int
    stop: int
    dropped: int


@dataclass(frozen=True)
class ShardCounts:
    """Of one shard. ``gold`` counts documents with gold labels given, an empty list too; ``excluded`` pairs."""

    shard: int
    rows: int
    train: int
    held_out: int
    test: int
    gold: int
    excluded: int
    document_fingerprint: str
    gold_fingerprint: str


def write_labels(storage: Storage, sources: Sequence[LabelSource]) -> LabelCounts:
    """Read all labels and write labels.parquet; leaves rejected rows and the numbers of source rows in the scratch."""
    labels = read_labels(sources)
    storage.write_table(layout.LABELS, labels.table)
    storage.write_table(_LABEL_ROWS, pa.Table.from_arrays([pa.array(labels.numbers)], schema=_NUMBERS_SCHEMA))
    rejected = f"{layout.PREPARE_PARTS}/rejected-labels.parquet"
    storage.write_table(rejected, labels.rejected)
    fingerprint = table_fingerprint(labels.table, ["id", "text", "description"])
    return LabelCounts(labels.table.num_rows, labels.duplicate_texts, rejected, fingerprint)


def check_source(
    storage: Storage, number: int, source: DocumentSource, prepare: PrepareConfig, seed: int
) -> CheckedSource:
    """Pass 1: check the rows of ``source`` and write part files of the good ones and tables of the rejected ones.

    With prepare.limit_documents it stops after so many different ids, since no more can be needed from one source.
    """
    labels = _labels_of(storage, source, prepare)
    parts = _PartWriter(storage, number, source.source.name)
    seen: set[bytes] = set()
    line, full = 0, False
    for row in read_rows(source.source, source.columns, source.required):
        line = row.line
        try:
            document = check_document(row, source, labels, prepare, seed)
        except BadRow as error:
            parts.reject(row, str(error))
            continue
        parts.add(document)
        if prepare.limit_documents:
            seen.add(document.id_hash)
            if full := len(seen) == prepare.limit_documents:
                break
    parts.flush()
    if isinstance(labels, LabelsByRow) and not full:
        labels.check_rows(line)
    return CheckedSource(number, parts.written, parts.rejected, full)


class _PartWriter:
    """Writes the part files and the tables of rejected rows of one source, each when it is large enough."""

    def __init__(self, storage: Storage, number: int, name: str) -> None:
        self._storage, self._number, self._name = storage, number, name
        self.written: list[Part] = []
        self.rejected: list[str] = []
        self._start()

    def _start(self) -> None:
        self._documents: list[Document] = []
        self._bad = RejectedRows(self._name, self._number)
        self._characters = 0

    def add(self, document: Document) -> None:
        """Take up a good row."""
        self._documents.append(document)
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
            arrays = [pa.array([getattr(document, one.name) for document in self._documents], one.type) for one in PART]
            self._storage.write_table(path, pa.table(arrays, schema=PART))
            gold = sum(document.gold is not None for document in self._documents)
            self.written.append(Part(path, self._number, self._name, len(self._documents), gold))
        if len(self._bad):
            self.rejected.append(f"{layout.PREPARE_PARTS}/rejected-{self._number:06d}-{len(self.rejected):06d}.parquet")
            self._storage.write_table(self.rejected[-1], self._bad.table())
        self._start()


def _labels_of(storage: Storage, source: DocumentSource, prepare: PrepareConfig) -> LabelsOf:
    if not source.label_rows:
        return LabelsById(LabelNumbers(storage), prepare.labels_column)
    numbers = storage.read_table(_LABEL_ROWS, _NUMBERS_SCHEMA)["number"].to_numpy()
    return LabelsByRow(source, numbers)


def drop_duplicates(storage: Storage, parts: Sequence[Part]) -> tuple[list[int], str]:
    """Find the ids that an earlier row has too; returns how many rows each part loses, and the table of the rejected.

    Memory: 16 bytes of hash, 8 of line and 8 of order a document.
    """
    tables = [storage.read_table(part.path, PART, ["id_hash", "line"]) for part in parts]
    hashes = np.concatenate([_words(table["id_hash"]) for table in tables] or [np.empty((0, 2), np.uint64)])
    lines = np.concatenate([table["line"].to_numpy() for table in tables] or [np.empty(0, np.int64)])
    starts = np.cumsum([0, *(part.rows for part in parts)])
    repeated, first = _repeated(hashes)
    part_of = np.searchsorted(starts, repeated, side="right") - 1
    rows = repeated - starts[part_of]
    columns = [pa.array(part_of, pa.int32()), pa.array(rows, pa.int32())]
    storage.write_table(_DROPPED, pa.Table.from_arrays(columns, schema=_DROPPED_SCHEMA))

    first_part = np.searchsorted(starts, first, side="right") - 1
    rejected = [REJECTED_PART.empty_table()]
    for part in np.unique(part_of):
        where = np.flatnonzero(part_of == part)
        places = [f"{parts[first_part[i]].source}:{lines[first[i]]}" for i in where]
        rejected.append(_rejected_duplicates(storage, parts[part], rows[where], places))
    path = f"{layout.PREPARE_PARTS}/rejected-duplicates.parquet"
    storage.write_table(path, pa.concat_tables(rejected))
    return np.bincount(part_of, minlength=len(parts)).tolist(), path


def _words(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """uint64 [rows, 2] from 16-byte values."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint64).reshape(-1, HASH_BYTES // 8)


def _repeated(hashes: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row numbers whose value an earlier row has, ascending, and for each the first such row. hashes: uint64 [n, 2]."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal values stay in row order
    same = np.concatenate([[False], (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)])[: len(order)]
    group_start = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    repeated, first = order[same], order[group_start[same]]
    ascending = np.argsort(repeated)
    return repeated[ascending], first[ascending]


def _rejected_duplicates(storage: Storage, part: Part, rows: npt.NDArray[np.int64], places: list[str]) -> pa.Table:
    table = storage.read_table(part.path, PART, ["id", "title", "text", "line"]).take(pa.array(rows))
    rejected = RejectedRows(part.source, part.number)
    for row, first in zip(table.to_pylist(), places, strict=True):
        line = row.pop("line")
        rejected.add(RawRow(line, row), f"duplicate id: {shown(row['id'])}, first in {first}")
    return rejected.table()


def rows_per_shard(documents: int, shard_rows: int) -> int:
    """Documents a shard: as configured, but fewer where that would give less than eight shards of 64 documents."""
    return min(shard_rows, max(_ROWS_AT_LEAST, math.ceil(documents / _SHARDS_AT_LEAST)))


def shards_of(documents: int, shard_rows: int) -> int:
    """Number of shards of ``documents``."""
    return math.ceil(documents / rows_per_shard(documents, shard_rows))


def plan_shards(parts: Sequence[Part], dropped: Sequence[int], shard_rows: int, limit: int) -> list[list[Piece]]:
    """The pieces of each shard: full shards of what is left, in source order; ``limit`` 0: all documents."""
    left = [part.rows - lost for part, lost in zip(parts, dropped, strict=True)]
    total = min(sum(left), limit or sum(left))
    size = rows_per_shard(total, shard_rows)
    starts = np.cumsum([0, *left])
    plan = []
    for begin in range(0, total, size):
        end = min(total, begin + size)
        first, last = np.searchsorted(starts, [begin, end - 1], side="right") - 1
        plan.append(
            [
                Piece(i, parts[i].path, max(0, begin - int(starts[i])), min(left[i], end - int(starts[i])), dropped[i])
                for i in range(first, last + 1)
                if left[i]
            ]
        )
    return plan


def write_rejected(
    storage: Storage, rejected: Sequence[str], parts: Sequence[Part], plan: Sequence[Sequence[Piece]], limit: int
) -> RejectedSummary:
    """Write rejected.parquet; where the limit was reached, without the rows after the last document that counts."""
    last = None
    if limit and sum(piece.stop - piece.start for shard in plan for piece in shard) == limit:
        piece = plan[-1][-1]
        lines = _kept(storage, piece, ["line"])["line"]
        last = (parts[piece.part].number, int(lines[-1].as_py()))
    return merge_rejected(storage, rejected, last)


def write_shard(storage: Storage, number: int, pieces: Sequence[Piece], with_gold: bool) -> ShardCounts:
    """Pass 2: write documents/shard-NNNNN.parquet and, ``with_gold``, gold/shard-NNNNN.parquet."""
    columns = [*DOCUMENTS_SCHEMA.names, "gold"]
    table = pa.concat_tables([_kept(storage, piece, columns) for piece in pieces]).combine_chunks()
    documents = table.select(DOCUMENTS_SCHEMA.names)
    gold = pa.Table.from_arrays([table["gold"]], schema=GOLD_SCHEMA)
    storage.write_shard(layout.DOCUMENTS, number, documents)
    if with_gold:
        storage.write_shard(layout.GOLD, number, gold)
    train = int(pc.sum(pc.equal(table["split"], "train")).as_py())
    return ShardCounts(
        shard=number,
        rows=table.num_rows,
        train=train,
        held_out=int(pc.sum(table["held_out"]).as_py()),
        test=table.num_rows - train,
        gold=table.num_rows - table["gold"].null_count,
        excluded=int(pc.sum(pc.list_value_length(table["excluded"])).as_py()),
        document_fingerprint=table_fingerprint(documents, ["id", "content_hash", "split", "held_out", "excluded"]),
        gold_fingerprint=table_fingerprint(gold, GOLD_SCHEMA.names),
    )


def _kept(storage: Storage, piece: Piece, columns: list[str]) -> pa.Table:
    """The rows of ``piece``."""
    table = storage.read_table(piece.path, PART, columns)
    if piece.dropped:
        dropped = storage.read_table(_DROPPED, _DROPPED_SCHEMA)
        rows = dropped.filter(pc.equal(dropped["part"], piece.part))["row"].to_numpy()
        keep = np.ones(table.num_rows, bool)
        keep[rows] = False
        table = table.filter(pa.array(keep))
    return table.slice(piece.start, piece.stop - piece.start)

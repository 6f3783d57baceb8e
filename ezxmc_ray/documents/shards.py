"""From sources to full shards, in two passes, so that no one holds the documents.

Pass 1 (parts.py), source by source: check its rows and write them to part files in a scratch folder. Then the ids of
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
from ezxmc_ray.documents.fingerprints import table_fingerprint
from ezxmc_ray.documents.parts import PART, Part
from ezxmc_ray.documents.rejected import REJECTED_PART, RejectedRows, RejectedSummary, merge_rejected, shown
from ezxmc_ray.documents.sources import RawRow
from ezxmc_ray.documents.unite import TEXTS_AT_ONCE, by_part, unite
from ezxmc_ray.prefetch import at_once, prefetch
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, GOLD_SCHEMA, HASH_BYTES

#: Small inputs are cut into so many shards, so that there is work for several workers, but not into smaller ones.
_SHARDS_AT_LEAST, _ROWS_AT_LEAST = 8, 64

_DROPPED_SCHEMA = pa.schema([("row", pa.int32())])


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
    """Of one shard. ``gold`` counts documents with gold labels given, an empty list too; ``excluded`` pairs.

    ``titles``, ``texts``, ``labelled``: documents that have one, or a gold label. ``gold_labels``: (document, label)
    pairs. ``unknown_gold``: gold labels left out since they are not among the labels, of so many ``unknown_documents``.
    ``split_from``: documents by what said their split (documents.Document).
    """

    shard: int
    rows: int
    train: int
    held_out: int
    test: int
    gold: int
    excluded: int
    document_fingerprint: str
    gold_fingerprint: str
    titles: int
    texts: int
    labelled: int
    gold_labels: int
    unknown_gold: int
    unknown_documents: int
    split_from: dict[str, int]


@dataclass(frozen=True)
class KnownTexts:
    """Documents whose title and text another one has under another id.

    ``test``, ``held_out``: that are for testing, and held out, where the other one is trained on. ``again``: all that
    have those of an earlier one.
    """

    test: int
    held_out: int
    again: int


@dataclass(frozen=True)
class Dropped:
    """What :func:`drop_duplicates` found: rows that each part loses, the table of the rejected, how many rows were
    united with the first of their id, and texts on both sides of the split."""

    rows: list[int]
    rejected: str
    united: int
    known: KnownTexts


def drop_duplicates(storage: Storage, parts: Sequence[Part], limit: int) -> Dropped:
    """Find the ids that an earlier row has too: the first stays, with the gold labels of all rows of the same text.

    With ``limit`` (prepare.limit_documents) none is united with its first, since which rows were read then depends on
    who was quicker. Memory: 32 bytes of hashes, 10 of what is known, and 8 of order a document.
    """
    columns = ["id_hash", "line", "content_hash", "split", "held_out"]
    tables = list(at_once(lambda part: storage.read_table(part.path, PART, columns), parts))
    hashes = np.concatenate([_words(table["id_hash"]) for table in tables] or [np.empty((0, 2), np.uint64)])
    lines = np.concatenate([table["line"].to_numpy() for table in tables] or [np.empty(0, np.int64)])
    starts = np.cumsum([0, *(part.rows for part in parts)])
    repeated, first = _repeated(hashes)
    known = _known_texts(tables, np.delete(np.arange(len(hashes)), repeated)[: limit or None])
    united = np.zeros(len(repeated), bool) if limit else unite(storage, parts, repeated, first)
    alone = np.flatnonzero(~united)
    first_part = np.searchsorted(starts, first, side="right") - 1

    def write(one: tuple[int, slice]) -> None:
        number, where = one
        rows = pa.array(repeated[where] - starts[number], pa.int32())
        storage.write_table(_dropped_of(number), pa.Table.from_arrays([rows], schema=_DROPPED_SCHEMA))

    def reject(one: tuple[int, slice]) -> pa.Table:
        number, where = one
        places = [f"{parts[first_part[at]].source}:{lines[first[at]]}" for at in alone[where]]
        return _rejected_duplicates(storage, parts[number], repeated[alone[where]] - starts[number], places)

    list(at_once(write, by_part(starts, repeated)))
    rejected = prefetch(reject, by_part(starts, repeated[alone]), TEXTS_AT_ONCE - 1, TEXTS_AT_ONCE)
    path = f"{layout.PREPARE_PARTS}/rejected-duplicates.parquet"
    storage.write_table(path, pa.concat_tables([REJECTED_PART.empty_table(), *rejected]))
    return Dropped(np.diff(np.searchsorted(repeated, starts)).tolist(), path, int(united.sum()), known)


def _dropped_of(part: int) -> str:
    """The file with the rows that part number ``part`` loses: found between the passes, read with the part."""
    return f"{layout.PREPARE_PARTS}/dropped-{part:06d}.parquet"


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


def _known_texts(tables: Sequence[pa.Table], rows: npt.NDArray[np.int64]) -> KnownTexts:
    """How many documents are to be new to a student, and have the title and text of one that it may learn from; and how
    many have those of an earlier one at all.

    They are drawn by their ids, so a text under two ids may be on both sides. ``rows``: that are documents, of all
    ``tables`` together.
    """
    if not tables:
        return KnownTexts(0, 0, 0)
    hashes = np.concatenate([_words(table["content_hash"]) for table in tables])[rows]
    is_train = np.concatenate([pc.equal(table["split"], "train").to_numpy() for table in tables])[rows]
    held_out = np.concatenate([table["held_out"].to_numpy() for table in tables])[rows]
    repeated, first = _repeated(hashes)
    text = np.arange(len(hashes))  # of each document, by the number of the first one that has it
    text[repeated] = first
    is_learned = np.zeros(len(hashes), bool)
    is_learned[text[is_train & ~held_out]] = True
    known = is_learned[text]
    return KnownTexts(int((known & ~is_train).sum()), int((known & held_out).sum()), len(repeated))


def _rejected_duplicates(storage: Storage, part: Part, rows: npt.NDArray[np.int64], places: list[str]) -> pa.Table:
    table = storage.read_table(part.path, PART, ["id", "title", "text", "line", "gold"]).take(pa.array(rows))
    rejected = RejectedRows(part.source, part.number)
    for row, first in zip(table.to_pylist(), places, strict=True):
        line, gold = row.pop("line"), row.pop("gold")
        lost = "; the gold labels of this row are lost with it" if gold else ""
        rejected.add(RawRow(line, row), f"duplicate id: {shown(row['id'])}, first in {first}{lost}")
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
    columns = [*DOCUMENTS_SCHEMA.names, "gold", "split_from", "unknown_gold"]
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
        titles=_filled(table["title"]),
        texts=_filled(table["text"]),
        labelled=int(pc.sum(pc.greater(pc.list_value_length(table["gold"]), 0)).as_py() or 0),
        gold_labels=int(pc.sum(pc.list_value_length(table["gold"])).as_py() or 0),
        unknown_gold=int(pc.sum(table["unknown_gold"]).as_py()),
        unknown_documents=int(pc.sum(pc.greater(table["unknown_gold"], 0)).as_py()),
        split_from={one["values"]: one["counts"] for one in pc.value_counts(table["split_from"]).to_pylist()},
    )


def _filled(column: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.greater(pc.binary_length(column), 0)).as_py())


def _kept(storage: Storage, piece: Piece, columns: list[str]) -> pa.Table:
    """The rows of ``piece``."""
    table = storage.read_table(piece.path, PART, columns)
    if piece.dropped:
        dropped = storage.read_table(_dropped_of(piece.part), _DROPPED_SCHEMA)
        keep = np.ones(table.num_rows, bool)
        keep[dropped["row"].to_numpy()] = False
        table = table.filter(pa.array(keep))
    return table.slice(piece.start, piece.stop - piece.start)

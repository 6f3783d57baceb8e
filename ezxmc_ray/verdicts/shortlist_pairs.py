"""The pairs of a cycle's shortlists, which of them the verdict store lacks, and the texts of those for the teacher.

In: cycle-c/shortlist/, documents/, labels.parquet, verdicts/<teacher key>/. Out: counts for the driver, documents with
their pending pairs for the engines' actors; cycle-c/pending_priors.parquet, the plan of label priors to ask for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, LABELS_SCHEMA, NO_DOCUMENT, SHORTLIST_SCHEMA, flat, lengths, rows_of
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.verdicts.store import VerdictStore, hash_bytes, pair_keys

#: Labels that are asked for as one document when priors are: about as many as a shortlist has.
PRIORS_PER_DOCUMENT = 16


@dataclass(frozen=True)
class _Pairs:
    """Flattened pairs of shortlist rows: ``offsets`` int64 [rows + 1]; the others a value a pair.

    ``row``: int32, of the document in its shard; ``label``: int32, its number; both content hashes.
    """

    offsets: np.ndarray
    row: np.ndarray
    label: np.ndarray
    document_hash: pa.ChunkedArray
    label_hash: pa.ChunkedArray

    def before(self, row: int) -> int:
        """How many pairs the shortlist rows before the number ``row`` have."""
        return int(self.offsets[min(row, len(self.offsets) - 1)])


def count_pending(storage: Storage, key: str, cycle: int, shards: Sequence[int]) -> int:
    """Task: pairs of the shortlists of ``shards`` that the store does not hold; the labels are read once for all."""
    pairs = ShortlistPairs(storage, key, cycle)
    return sum(int(pairs.of_shard(shard).size) for shard in shards)


def plan_priors(
    storage: Storage, key: str, cycle: int, shards: Sequence[int], first: list[tuple[int, int]]
) -> tuple[int, int]:
    """Task: note the labels of the shortlists of ``shards`` that have no prior yet, in cycle-c/pending_priors.parquet.

    ``first``: (shard, rows from its first on), whose labels stand at the top of the plan. Of labels with the same text
    one is noted. Returns how many there are, and how many of them are on top.
    """
    label_hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]

    def labels_in(rows: tuple[int, int | None]) -> np.ndarray:
        shard, count = rows
        table = storage.read_shard(layout.shortlist(cycle), shard, SHORTLIST_SCHEMA, ["labels"])
        return flat(table.slice(0, count)["labels"])

    def marked(rows: list[tuple[int, int | None]]) -> np.ndarray:
        """Whether a label is in (shard, rows from its first on), bool [labels]."""
        is_in = np.zeros(len(label_hashes), bool)
        for labels in at_once(labels_in, rows):
            is_in[labels] = True
        return is_in

    wanted = np.flatnonzero(marked([(shard, None) for shard in shards])).astype(np.int32)
    hashes = label_hashes.take(pa.array(wanted))
    raw = VerdictStore(storage, key).label_priors(hashes)
    is_first = marked(list(first))[wanted]
    order = np.concatenate([np.flatnonzero(is_first), np.flatnonzero(~is_first)])
    order = order[np.isnan(raw[order])]
    _, once = np.unique(hash_bytes(hashes)[order], axis=0, return_index=True)
    order = order[np.sort(once)]
    storage.write_table(layout.pending_priors(cycle), pa.table({"label": pa.array(wanted[order], pa.int32())}))
    return len(order), int(is_first[order].sum())


class ShortlistPairs:
    """The pairs of a cycle's shortlists, and those of them that the store of the teacher ``key`` lacks.

    A pair of texts that is in several rows of a shard belongs to the first of them, so that it is asked once, whoever
    judges the others.
    """

    def __init__(self, storage: Storage, key: str, cycle: int) -> None:
        self.storage, self.cycle = storage, cycle
        self.store = VerdictStore(storage, key)
        self.label_hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]

    @cached_property
    def label_texts(self) -> pa.Table:
        """``text`` and ``description`` of all labels: for engines only, other tasks need no more than the hashes."""
        return self.storage.read_table(layout.LABELS, LABELS_SCHEMA, ["text", "description"]).combine_chunks()

    def of_shard(self, shard: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Positions of the pending pairs among the flattened pairs of shortlist rows ``start`` to ``stop``, int64."""
        documents = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["content_hash"])
        pairs = self._pairs(shard, documents, 0, stop)
        return self._missing(shard, pairs, start) - pairs.before(start)

    def raw(self, shard: int, pairs: dict[str, list[Any]]) -> np.ndarray:
        """Raw scores of a shard's ``pairs``, float32; NaN where the store holds none."""
        return self.store.lookup(layout.shard_name(shard), pairs["document_hash"], pairs["label_hash"])

    def _missing(self, shard: int, pairs: _Pairs, start: int) -> np.ndarray:
        """Positions, int64, of those of ``pairs`` that the store lacks and no earlier one equals, in rows from
        ``start`` on; ``pairs`` begin with the shard's first row."""
        keys = pair_keys(pairs.document_hash, pairs.label_hash)
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first[first >= pairs.before(start)])
        return first[np.isnan(self.store.lookup_keys(layout.shard_name(shard), keys[first]))]

    def pairs(self, shard: int, start: int = 0, stop: int | None = None) -> dict[str, list[Any]]:
        """The flattened pairs of shortlist rows ``start`` to ``stop``: row in the shard, label number, both hashes."""
        documents = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["content_hash"])
        pairs = self._pairs(shard, documents, start, stop)
        return {
            "row": pairs.row.tolist(),
            "label": pairs.label.tolist(),
            "document_hash": pairs.document_hash.to_pylist(),
            "label_hash": pairs.label_hash.to_pylist(),
        }

    def _pairs(self, shard: int, documents: pa.Table, start: int, stop: int | None) -> _Pairs:
        """The flattened pairs of shortlist rows ``start`` to ``stop``; ``documents``: content_hash of the shard's."""
        rows = self.storage.read_shard(layout.shortlist(self.cycle), shard, SHORTLIST_SCHEMA, ["row", "labels"]).slice(
            start, None if stop is None else stop - start
        )
        counts = lengths(rows["labels"])
        row, label = np.repeat(rows["row"].to_numpy(), counts), flat(rows["labels"])
        hashes = documents["content_hash"].take(pa.array(row)), self.label_hashes.take(pa.array(label))
        return _Pairs(np.concatenate([[0], np.cumsum(counts)]), row, label, *hashes)

    def documents(self, shard: int, start: int, stop: int) -> list[DocumentPairs]:
        """The pending pairs of a range of shortlist rows, grouped by document."""
        texts = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["content_hash", "title", "text"])
        pairs = self._pairs(shard, texts, 0, stop)
        pending = self._missing(shard, pairs, start)
        row, begins = np.unique(pairs.row[pending], return_index=True)
        document = rows_of(texts, row).to_pydict()
        numbers = pa.array(pairs.label[pending])
        of_labels = [
            pairs.label_hash.take(pa.array(pending)).to_pylist(),
            *(self.label_texts[name].take(numbers).to_pylist() for name in ("text", "description")),
        ]
        bounds = [*begins.tolist(), len(pending)]
        of_documents = zip(document["content_hash"], document["title"], document["text"], strict=True)
        return [
            DocumentPairs(*of_document, *(tuple(column[begin:end]) for column in of_labels))
            for of_document, (begin, end) in zip(of_documents, itertools.pairwise(bounds), strict=True)
        ]

    def planned_priors(self, start: int, stop: int) -> list[DocumentPairs]:
        """The labels ``start`` to ``stop`` of the plan of pending priors, as pairs with no document."""
        return self.priors(
            self.storage.read_table(layout.pending_priors(self.cycle))["label"].slice(start, stop - start)
        )

    def priors(self, numbers: pa.Array | pa.ChunkedArray) -> list[DocumentPairs]:
        """The labels ``numbers`` (int32) whose prior the store lacks, as pairs with no document, a few a document."""
        hashes = tuple(self.label_hashes.take(numbers).to_pylist())
        raw = self.store.label_priors(hashes)
        texts = (tuple(row.values()) for row in self.label_texts.take(numbers).to_pylist())
        first = {key: both for key, both, value in zip(hashes, texts, raw, strict=True) if np.isnan(value)}
        missing = [(key, *both) for key, both in first.items()]
        groups = [missing[start : start + PRIORS_PER_DOCUMENT] for start in range(0, len(missing), PRIORS_PER_DOCUMENT)]
        return [DocumentPairs(NO_DOCUMENT, "", "", *zip(*group, strict=True)) for group in groups]

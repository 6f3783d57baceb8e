"""The pairs of a cycle's shortlists, which of them the verdict store lacks, and the texts of those for the teacher.

In: cycle-c/shortlist/, documents/, labels.parquet, verdicts/<teacher key>/. Out: counts for the driver, documents with
their pending pairs for the engines' actors; cycle-c/pending_priors.parquet, the plan of label priors to ask for.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, LABELS_SCHEMA, NO_DOCUMENT, SHORTLIST_SCHEMA, flat, lengths
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore

#: Labels that are asked for as one document when priors are: about as many as a shortlist has.
PRIORS_PER_DOCUMENT = 16


def count_pending(storage: Storage, key: str, cycle: int, shard: int) -> int:
    """Task: pairs of a shard's shortlist that the store does not hold."""
    return int(ShortlistPairs(storage, key, cycle).of_shard(shard).size)


def plan_priors(storage: Storage, key: str, cycle: int, shards: int, first: list[tuple[int, int]]) -> tuple[int, int]:
    """Task: note the labels of the shortlists that have no prior yet, in cycle-c/pending_priors.parquet.

    ``first``: (shard, rows from its first on), whose labels stand at the top of the plan. Returns how many labels
    there are, and how many of them are those.
    """
    numbers = [
        flat(storage.read_shard(layout.shortlist(cycle), shard, SHORTLIST_SCHEMA)["labels"]) for shard in range(shards)
    ]
    wanted = np.unique(np.concatenate(numbers)) if numbers else np.zeros(0, np.int32)
    hashes = (
        storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]
        .take(pa.array(wanted))
        .to_pylist()
    )
    raw = VerdictStore(storage, key).lookup(PRIORS, [NO_DOCUMENT] * len(hashes), hashes)
    missing = wanted[np.isnan(raw)]
    ahead = [
        flat(storage.read_shard(layout.shortlist(cycle), shard, SHORTLIST_SCHEMA).slice(0, rows)["labels"])
        for shard, rows in first
    ]
    is_ahead = np.isin(missing, np.concatenate(ahead)) if ahead else np.zeros(len(missing), bool)
    planned = np.concatenate([missing[is_ahead], missing[~is_ahead]])
    storage.write_table(layout.pending_priors(cycle), pa.table({"label": pa.array(planned, pa.int32())}))
    return len(planned), int(is_ahead.sum())


class ShortlistPairs:
    """The pairs of a cycle's shortlists, and those of them that the store of the teacher ``key`` lacks."""

    def __init__(self, storage: Storage, key: str, cycle: int) -> None:
        self.storage, self.cycle = storage, cycle
        self.store = VerdictStore(storage, key)
        self.label_hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]

    @cached_property
    def label_texts(self) -> pa.Table:
        """``text`` and ``description`` of all labels: for engines only, other tasks need no more than the hashes."""
        return self.storage.read_table(layout.LABELS, LABELS_SCHEMA, ["text", "description"])

    def of_shard(self, shard: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Positions of the pending pairs among the flattened pairs of shortlist rows ``start`` to ``stop``."""
        return self._missing(shard, self.pairs(shard, start, stop))

    def raw(self, shard: int, pairs: dict[str, list[Any]]) -> np.ndarray:
        """Raw scores of a shard's ``pairs``, float32; NaN where the store holds none."""
        return self.store.lookup(layout.shard_name(shard), pairs["document_hash"], pairs["label_hash"])

    def _missing(self, shard: int, pairs: dict[str, list[Any]]) -> np.ndarray:
        """Positions, int64, of those of ``pairs`` that the store lacks."""
        raw = self.raw(shard, pairs)
        # The same text twice in a range (two documents alike) is asked once.
        seen: set[tuple[bytes, bytes]] = set()
        pending = []
        for position in np.flatnonzero(np.isnan(raw)):
            pair = (pairs["document_hash"][position], pairs["label_hash"][position])
            if pair not in seen:
                seen.add(pair)
                pending.append(position)
        return np.array(pending, dtype=np.int64)

    def pairs(self, shard: int, start: int = 0, stop: int | None = None) -> dict[str, list[Any]]:
        """The flattened pairs of shortlist rows ``start`` to ``stop``: row in the shard, label number, both hashes."""
        rows = self.storage.read_shard(layout.shortlist(self.cycle), shard, SHORTLIST_SCHEMA).slice(
            start, None if stop is None else stop - start
        )
        row = np.repeat(rows["row"].to_numpy(), lengths(rows["labels"]))
        labels = flat(rows["labels"])
        hashes = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["content_hash"])["content_hash"]
        return {
            "row": row.tolist(),
            "label": labels.tolist(),
            "document_hash": hashes.take(pa.array(row)).to_pylist(),
            "label_hash": self.label_hashes.take(pa.array(labels)).to_pylist(),
        }

    def documents(self, shard: int, start: int, stop: int) -> list[DocumentPairs]:
        """The pending pairs of a range of shortlist rows, grouped by document."""
        pairs = self.pairs(shard, start, stop)
        pending = self._missing(shard, pairs)
        if not len(pending):
            return []
        texts = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["title", "text"])
        grouped: dict[int, list[int]] = {}
        for position in pending:
            grouped.setdefault(pairs["row"][position], []).append(int(position))
        return [
            DocumentPairs(
                document_hash=pairs["document_hash"][positions[0]],
                title=texts["title"][row].as_py(),
                text=texts["text"][row].as_py(),
                label_hashes=tuple(pairs["label_hash"][p] for p in positions),
                labels=tuple(self.label_texts["text"][pairs["label"][p]].as_py() for p in positions),
                descriptions=tuple(self.label_texts["description"][pairs["label"][p]].as_py() for p in positions),
            )
            for row, positions in grouped.items()
        ]

    def planned_priors(self, start: int, stop: int) -> list[DocumentPairs]:
        """The labels ``start`` to ``stop`` of the plan of pending priors, as pairs with no document."""
        return self.priors(
            self.storage.read_table(layout.pending_priors(self.cycle))["label"].slice(start, stop - start)
        )

    def priors(self, numbers: pa.Array | pa.ChunkedArray) -> list[DocumentPairs]:
        """The labels ``numbers`` (int32) whose prior the store lacks, as pairs with no document, a few a document."""
        hashes = tuple(self.label_hashes.take(numbers).to_pylist())
        raw = self.store.lookup(PRIORS, [NO_DOCUMENT] * len(hashes), list(hashes))
        texts = (tuple(row.values()) for row in self.label_texts.take(numbers).to_pylist())
        first = {key: both for key, both, value in zip(hashes, texts, raw, strict=True) if np.isnan(value)}
        missing = [(key, *both) for key, both in first.items()]
        groups = [missing[start : start + PRIORS_PER_DOCUMENT] for start in range(0, len(missing), PRIORS_PER_DOCUMENT)]
        return [DocumentPairs(NO_DOCUMENT, "", "", *zip(*group, strict=True)) for group in groups]

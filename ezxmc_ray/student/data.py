"""Reading the examples of a cycle: from rows of the batch plan to texts, verdicts and similarities of a batch.

Comes in: ``cycle-N/examples/shard-NNNNN.parquet`` with the documents' shards and the labels' texts. Goes out: for each
global batch the part of one worker. Held-out documents are never trained on; documents with an empty shortlist are
left out and counted. A shard is read once a window and kept while the plan works on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray.encoder.encoder import document_text
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import Row
from ezxmc_ray.tables import DOCUMENTS, EXAMPLES, LABELS


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch: b documents and the m distinct labels of their shortlists.

    ``label_numbers`` int32 [m], rising, with their ``label_texts``; ``verdict`` and ``similarity`` float32 [b, m], NaN
    where the label is not in the document's shortlist (the verdict also where it was not judged); ``excluded`` bool
    [b, m]: labels that the document must not get; ``best_verdict`` float32 [g]: the highest verdict of each of the g
    documents of the *global* batch (-inf: none judged), by which every worker knows how many of them teach something.
    """

    document_texts: list[str]
    label_numbers: np.ndarray
    label_texts: list[str]
    verdict: np.ndarray
    similarity: np.ndarray
    excluded: np.ndarray
    best_verdict: np.ndarray

    @property
    def global_documents(self) -> int:
        """Documents of the global batch, over all workers."""
        return len(self.best_verdict)


@dataclass(frozen=True)
class _Shard:
    """The usable rows of one example shard, aligned: texts, shortlists, and what is known about them."""

    titles: pa.Array
    texts: pa.Array
    excluded: list[np.ndarray]
    labels: list[np.ndarray]
    similarity: list[np.ndarray]
    verdict: list[np.ndarray]


class ExampleReader:
    """The examples of ``cycle``. A row of a shard is counted among its *usable* ones: trained on, shortlist not empty.

    ``label_texts``: by label number; None: read from labels.parquet. ``cached_shards``: shards held in memory; two
    windows of the plan, since a batch may reach over the end of a window.
    """

    def __init__(
        self,
        storage: Storage,
        cycle: int,
        documents_dir: str = "documents",
        label_texts: Sequence[str] | None = None,
        cached_shards: int = 16,
    ) -> None:
        self.storage = storage
        self.documents_dir = documents_dir
        self.shards = storage.list(f"cycle-{cycle}/examples", suffix=".parquet")
        self._label_texts = _label_texts(storage, label_texts)
        self._cached_shards = cached_shards
        self._cache: OrderedDict[int, _Shard] = OrderedDict()
        self.rows_of_shards: list[int] = []
        self.empty_shortlists = 0
        for name in self.shards:
            table = storage.read_table(name, EXAMPLES, columns=["held_out", "labels"])
            trained = pc.invert(table["held_out"])
            usable = pc.sum(pc.and_(trained, _has_shortlist(table))).as_py() or 0
            self.rows_of_shards.append(usable)
            self.empty_shortlists += (pc.sum(trained).as_py() or 0) - usable

    def read(self, rows: Sequence[Row], rank: int = 0, world: int = 1) -> Batch:
        """The part ``rows[rank::world]`` of a global batch; it may have no documents at all (labels: none either)."""
        mine = [(self._shard(shard), row) for shard, row in rows[rank::world]]
        none = [np.empty(0, dtype=np.int32)]
        numbers = np.unique(np.concatenate([shard.labels[row] for shard, row in mine] or none)).astype(np.int32)
        verdict = np.full((len(mine), len(numbers)), np.nan, dtype=np.float32)
        similarity = verdict.copy()
        excluded = np.zeros(verdict.shape, dtype=bool)
        for place, (shard, row) in enumerate(mine):
            columns = np.searchsorted(numbers, shard.labels[row])
            verdict[place, columns] = shard.verdict[row]
            similarity[place, columns] = shard.similarity[row]
            excluded[place] = np.isin(numbers, shard.excluded[row])
        texts = [document_text(shard.titles[row].as_py(), shard.texts[row].as_py()) for shard, row in mine]
        best = [_highest(self._shard(shard).verdict[row]) for shard, row in rows]
        return Batch(
            texts,
            numbers,
            self._label_texts.take(pa.array(numbers)).to_pylist(),
            verdict,
            similarity,
            excluded,
            np.array(best, dtype=np.float32),
        )

    def _shard(self, number: int) -> _Shard:
        if number not in self._cache:
            self._cache[number] = self._load(number)
            if len(self._cache) > self._cached_shards:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]

    def _load(self, number: int) -> _Shard:
        """Read an example shard and the documents' shard of the same name, usable rows only."""
        name = self.shards[number]
        examples = _usable(self.storage.read_table(name, EXAMPLES))
        documents = f"{self.documents_dir}/{name.rpartition('/')[2]}"
        table = self.storage.read_table(documents, DOCUMENTS, columns=["title", "text", "excluded"])
        table = table.take(examples["row"]).combine_chunks()
        return _Shard(
            pc.fill_null(table["title"], "").combine_chunks(),
            pc.fill_null(table["text"], "").combine_chunks(),
            _lists(table["excluded"], np.int32),
            _lists(examples["labels"], np.int32),
            _lists(examples["similarity"], np.float32),
            _lists(examples["verdict"], np.float32),
        )


def _label_texts(storage: Storage, given: Sequence[str] | None) -> pa.Array:
    if given is not None:
        return pa.array(given, pa.large_string())
    texts = storage.read_table("labels.parquet", LABELS, columns=["text"])["text"]
    return pa.chunked_array(texts.chunks, pa.string()).cast(pa.large_string()).combine_chunks()


def _has_shortlist(table: pa.Table) -> pa.ChunkedArray:
    return pc.greater(pc.fill_null(pc.list_value_length(table["labels"]), 0), 0)


def _usable(table: pa.Table) -> pa.Table:
    """The rows that are trained on and have a shortlist."""
    return table.filter(pc.and_(pc.invert(table["held_out"]), _has_shortlist(table)))


def _flat(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    """The values of a list column end to end; a missing number (a pair without verdict) is NaN."""
    return pc.list_flatten(column).combine_chunks().to_numpy(zero_copy_only=False).astype(dtype, copy=False)


def _lists(column: pa.ChunkedArray, dtype: type) -> list[np.ndarray]:
    """A list column as one array a row; a missing list is empty."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).combine_chunks().to_numpy()
    return np.split(_flat(column, dtype), np.cumsum(lengths)[:-1]) if len(lengths) else []


def _highest(verdict: np.ndarray) -> float:
    judged = verdict[np.isfinite(verdict)]
    return float(judged.max()) if len(judged) else -np.inf

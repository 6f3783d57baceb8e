"""Reading the examples of a cycle: from rows of the batch plan to texts, verdicts and similarities of a batch.

Comes in: ``cycle-N/examples/shard-NNNNN.parquet`` (of this cycle and those before) with the documents' shards and the
labels' texts. Goes out: for each global batch the part of one worker. Held-out documents are never trained on, and read
by :func:`held_out_documents` only; documents with an empty shortlist are left out and counted. A shard is read once a
window and kept while the plan works on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import Row
from ezxmc_ray.student.negatives import in_batch_weights, positives
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, rows_of


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch: b of its documents, and all m distinct labels of all its shortlists.

    ``label_numbers`` int32 [m], rising, with their ``label_texts``, the same for every worker; ``verdict`` and
    ``similarity`` (the base encoder's) float32 [b, m], NaN where the label is not in the document's shortlist (the
    verdict also where it was not judged); ``excluded`` bool [b, m]: labels that the document must not get, and those
    not in its shortlist that got a yes in an earlier cycle, or have the very text of one that did or that is in it:
    these would be its negatives; ``label_weights`` float64 [m], above 0: how much a label counts as a negative;
    ``best_verdict`` float32 [g]: the highest verdict of each of the g documents of the *global* batch (-inf: none
    judged), by which every worker knows how many of them teach something.
    """

    document_texts: list[str]
    label_numbers: np.ndarray
    label_texts: list[str]
    label_weights: np.ndarray
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
    lengths: np.ndarray  # characters of the text, int32
    excluded: list[np.ndarray]
    earlier_yes: list[np.ndarray]
    labels: list[np.ndarray]
    similarity: list[np.ndarray]
    verdict: list[np.ndarray]


@dataclass(frozen=True)
class _JudgedShortlist:
    """A document's labels, int32 [k], and what is known of them: float32 [k] each, NaN: not judged."""

    labels: np.ndarray
    similarity: np.ndarray
    verdict: np.ndarray


class ExampleReader:
    """The examples of ``cycle``. A row of a shard is counted among its *usable* ones: trained on, shortlist not empty.

    ``earlier_thresholds``: the least verdict that is a yes in each of the cycles before, where their verdicts count too
    (student.past_verdicts), else none. Documents that only earlier cycles judged are then among them, with the latest
    of their shortlists; ``earlier`` counts them. The scale of their targets is that of ``cycle``, though it comes of
    its own pairs. A label that an earlier cycle's verdict calls right is then no negative of its document.
    ``label_texts``: by label number; None: read from labels.parquet. ``cached_shards``: shards held in memory; two
    windows of the plan, since a batch may reach over the end of a window. ``held_out``: documents with a shortlist that
    are not trained on.
    """

    def __init__(
        self,
        storage: Storage,
        cycle: int,
        documents_dir: str = layout.DOCUMENTS,
        label_texts: Sequence[str] | None = None,
        cached_shards: int = 16,
        earlier_thresholds: Sequence[float] = (),
    ) -> None:
        self.storage = storage
        self.documents_dir = documents_dir
        self.shards = storage.list(layout.examples(cycle), suffix=".parquet")
        self._earlier_thresholds = earlier_thresholds
        self._label_texts = _label_texts(storage, label_texts)
        self._cached_shards = cached_shards
        self._cache: OrderedDict[int, _Shard] = OrderedDict()
        self.rows_of_shards: list[int] = []
        self.empty_shortlists = self.held_out = self.earlier = 0
        self._label_counts = np.zeros(len(self._label_texts), np.int64)
        for name in self.shards:
            columns = ["row", "held_out", "labels"]
            newest = storage.read_table(name, EXAMPLES_SCHEMA, columns)
            table = _latest(newest, self._earlier(name, columns).values())
            trained = pc.invert(table["held_out"])
            usable = _usable(table)
            self.rows_of_shards.append(len(usable))
            self._label_counts += np.bincount(_flat(usable["labels"], np.int32), minlength=len(self._label_texts))
            self.earlier += len(usable) - len(_usable(newest))
            self.empty_shortlists += _count(trained) - len(usable)
            self.held_out += _count(pc.and_(table["held_out"], _has_shortlist(table)))

    def read(self, rows: Sequence[Row], rank: int = 0, world: int = 1) -> Batch:
        """The part of worker ``rank`` of ``world`` of a global batch; it may have no documents at all.

        Documents are dealt by length, so that all workers have about as many tokens.
        """
        everyone = [(self._shard(shard), row) for shard, row in rows]
        shortlists = [shard.labels[row] for shard, row in everyone]
        numbers = np.unique(np.concatenate([np.empty(0, np.int32), *shortlists])).astype(np.int32)
        mine = sorted(everyone, key=lambda one: -one[0].lengths[one[1]])[rank::world]
        verdict = np.full((len(mine), len(numbers)), np.nan, dtype=np.float32)
        similarity = verdict.copy()
        excluded = np.zeros(verdict.shape, dtype=bool)
        label_texts = self._label_texts.take(pa.array(numbers)).to_pylist()
        text_numbers = np.unique(label_texts, return_inverse=True)[1]
        for place, (shard, row) in enumerate(mine):
            columns = np.searchsorted(numbers, shard.labels[row])
            verdict[place, columns] = shard.verdict[row]
            similarity[place, columns] = shard.similarity[row]
            excluded[place] = np.isin(text_numbers, text_numbers[columns])
            if len(shard.earlier_yes[row]):
                right = set(self._label_texts.take(pa.array(shard.earlier_yes[row])).to_pylist())
                excluded[place] |= [text in right for text in label_texts]
            excluded[place, columns] = False
            excluded[place] |= np.isin(numbers, shard.excluded[row])
        texts = [document_text(shard.titles[row].as_py(), shard.texts[row].as_py()) for shard, row in mine]
        best = [_highest(shard.verdict[row]) for shard, row in everyone]
        return Batch(
            texts,
            numbers,
            label_texts,
            in_batch_weights(self._label_counts[numbers], sum(self.rows_of_shards), len(rows)),
            verdict,
            similarity,
            excluded,
            np.array(best, dtype=np.float32),
        )

    def _earlier(self, name: str, columns: list[str] | None = None) -> dict[int, pa.Table]:
        """What the earlier cycles whose verdicts count have of the shard ``name``, by cycle, the latest one first."""
        file = name.rpartition("/")[2]
        return {
            cycle: self.storage.read_table(f"{layout.examples(cycle)}/{file}", EXAMPLES_SCHEMA, columns)
            for cycle in reversed(range(len(self._earlier_thresholds)))
        }

    def _shard(self, number: int) -> _Shard:
        if number not in self._cache:
            self._cache[number] = self._load(number)
            if len(self._cache) > self._cached_shards:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]

    def _load(self, number: int) -> _Shard:
        """Read an example shard and the documents' shard of the same name, usable rows only."""
        file = self.shards[number].rpartition("/")[2]
        newest = self.storage.read_table(self.shards[number], EXAMPLES_SCHEMA)
        earlier = self._earlier(self.shards[number])
        examples = _usable(_latest(newest, earlier.values()))
        judged = _judged_shortlists(examples)
        table = self.storage.read_table(
            f"{self.documents_dir}/{file}", DOCUMENTS_SCHEMA, columns=["title", "text", "excluded"]
        )
        table = rows_of(table, examples["row"].to_numpy())
        # Texts of more than 2 GiB together are not one array of the plain type.
        texts = pc.fill_null(table["text"].cast(pa.large_string()), "").combine_chunks()
        return _Shard(
            pc.fill_null(table["title"], "").combine_chunks(),
            texts,
            pc.utf8_length(texts).to_numpy(),
            _lists(table["excluded"], np.int32),
            _yes_labels(examples["row"].to_numpy(), [(earlier[c], self._earlier_thresholds[c]) for c in earlier]),
            [one.labels for one in judged],
            [one.similarity for one in judged],
            [one.verdict for one in judged],
        )


@dataclass(frozen=True)
class HeldOut:
    """A judged document that is not trained on: its text, its shortlist's texts, and what is known of these labels.

    ``verdict``, ``similarity`` (the base encoder's): float32 [k].
    """

    document_text: str
    label_texts: list[str]
    verdict: np.ndarray
    similarity: np.ndarray


def held_out_documents(
    storage: Storage, cycle: int, limit: int, documents_dir: str = layout.DOCUMENTS
) -> list[HeldOut]:
    """The first ``limit`` held-out documents of ``cycle`` whose labels are all judged, in the order of the shards."""
    found: list[HeldOut] = []
    label_texts = _label_texts(storage, None)
    for name in storage.list(layout.examples(cycle), suffix=".parquet"):
        if len(found) >= limit:
            break
        examples = storage.read_table(name, EXAMPLES_SCHEMA)
        examples = examples.filter(pc.and_(examples["held_out"], _has_shortlist(examples)))
        table = storage.read_table(
            f"{documents_dir}/{name.rpartition('/')[2]}", DOCUMENTS_SCHEMA, columns=["title", "text"]
        )
        texts = rows_of(table, examples["row"].to_numpy()).to_pylist()
        for text, one in zip(texts, _judged_shortlists(examples), strict=True):
            if np.isfinite(one.verdict).all():
                document = document_text(text["title"] or "", text["text"] or "")
                labels = label_texts.take(pa.array(one.labels)).to_pylist()
                found.append(HeldOut(document, labels, one.verdict, one.similarity))
    return found[:limit]


def _label_texts(storage: Storage, given: Sequence[str] | None) -> pa.Array:
    if given is not None:
        return pa.array(given, pa.large_string())
    texts = storage.read_table(layout.LABELS, LABELS_SCHEMA, columns=["text"])["text"]
    return pa.chunked_array(texts.chunks, pa.string()).cast(pa.large_string()).combine_chunks()


def _latest(newest: pa.Table, earlier: Iterable[pa.Table]) -> pa.Table:
    """The rows of ``newest``, and those of other documents in ``earlier``, whose first one has the later verdicts."""
    found = newest
    for table in earlier:
        known = pc.is_in(table["row"], value_set=found["row"].combine_chunks())
        found = pa.concat_tables([found, table.filter(pc.invert(known))])
    return found


def _yes_labels(rows: np.ndarray, judged: Sequence[tuple[pa.Table, float]]) -> list[np.ndarray]:
    """Of each of ``rows`` the labels, int32 [k], whose verdict in one of the example tables reaches its threshold."""
    of_parts, label_parts = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for table, threshold in judged:
        yes = positives(_flat(table["verdict"], np.float32), threshold)
        lengths = pc.fill_null(pc.list_value_length(table["labels"]), 0).to_numpy()
        of_parts.append(np.repeat(table["row"].to_numpy(), lengths)[yes])
        label_parts.append(_flat(table["labels"], np.int32)[yes])
    of, labels = np.concatenate(of_parts), np.concatenate(label_parts)
    order = np.argsort(of, kind="stable")
    bounds = (np.searchsorted(of, rows, side, sorter=order) for side in ("left", "right"))
    return [labels[order[first:last]] for first, last in zip(*bounds, strict=True)]


def _has_shortlist(table: pa.Table) -> pa.ChunkedArray:
    return pc.greater(pc.fill_null(pc.list_value_length(table["labels"]), 0), 0)


def _count(rows: pa.ChunkedArray) -> int:
    return pc.sum(rows).as_py() or 0


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


def _judged_shortlists(examples: pa.Table) -> list[_JudgedShortlist]:
    """Of every row of an example shard."""
    columns = (
        _lists(examples["labels"], np.int32),
        *(_lists(examples[key], np.float32) for key in ("base_similarity", "verdict")),
    )
    return [_JudgedShortlist(*lists) for lists in zip(*columns, strict=True)]


def _highest(verdict: np.ndarray) -> float:
    judged = verdict[np.isfinite(verdict)]
    return float(judged.max()) if len(judged) else -np.inf

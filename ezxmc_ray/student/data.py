"""Reading the examples of a cycle: from rows of the batch plan to texts, verdicts and similarities of a batch.

Comes in: ``cycle-N/examples/`` (of this cycle and those before), a file a shard and the summary of all, with the
documents' shards and the labels' texts. Goes out: for each global batch the part of one worker. Held-out documents are
never trained on, and read by :func:`held_out_documents` only; documents with an empty shortlist are left out and
counted. A worker reads the shards of its own rows, ahead and in threads, and keeps them while the plan works on them;
what the others' documents are judged with it is told by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ezxmc_ray import layout
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.index.label_texts import all_texts, read_label_texts
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import Part
from ezxmc_ray.student.negatives import Namesakes, in_batch_weights, positives
from ezxmc_ray.student.summary import (
    ALL,
    OWN,
    draws_of,
    half_of,
    has_shortlist,
    held_out_files,
    latest,
    read_held_out,
    read_label_documents,
    read_shard_counts,
    usable,
)
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, rows_of

#: Shards that are read at once.
READERS = 4
_READ = [name for name in EXAMPLES_SCHEMA.names if name != "raw"]
#: Of the held-out documents what a draw of them needs.
_DRAWN_BY = ["shard", "row", "labels", "verdict"]
#: What a worker tells the others, of a batch its labels (int32, distinct) and the highest verdict of each of its
#: documents (float32).
Told = tuple[np.ndarray, ...]
#: Gives what every worker has told, this one among them, in their order; all of them must call it.
Gather = Callable[[Told], Sequence[Told]]


def alone(told: Told) -> Sequence[Told]:
    """The :data:`Gather` of a single worker."""
    return [told]


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch: b of its documents, and all m distinct labels of all its shortlists.

    ``label_numbers`` int32 [m], rising, with their ``label_texts``, the same for every worker; ``verdict`` and
    ``similarity`` (the base encoder's) float32 [b, m], NaN where the label is not in the document's shortlist (the
    verdict also where it was not judged); ``excluded`` bool [b, m]: labels that the document must not get, and those
    not in its shortlist that got a yes in an earlier cycle, or are called as one that did or that is in it
    (negatives.Namesakes): these would be its negatives; ``label_weights`` float64 [m], above 0: how much a label counts
    as a negative;
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
    of their shortlists. The scale of their targets is that of ``cycle``, though it comes of its own pairs. A label that
    an earlier cycle's verdict calls right is then no negative of its document.
    """

    def __init__(self, storage: Storage, cycle: int, earlier_thresholds: Sequence[float] = ()) -> None:
        self.storage, self.cycle = storage, cycle
        self._earlier_thresholds = earlier_thresholds
        self._texts = _large(all_texts(storage))
        self._text_rows = read_label_texts(storage)
        scope = ALL if earlier_thresholds else OWN
        #: int64 [shards]
        self.rows_of_shards = read_shard_counts(storage, cycle, scope)["rows"]
        labels = self._text_rows.labels if self._text_rows else len(self._texts)
        self._label_documents = read_label_documents(storage, cycle, scope, labels)
        self._readers = ThreadPoolExecutor(READERS)
        self._shards: dict[int, Future[_Shard]] = {}

    def read(self, part: Part, gather: Gather = alone) -> Batch:
        """What ``part`` of a global batch comes to; it may have no documents at all.

        Workers that share rows deal the documents by length, so that all of them have about as many tokens.
        """
        self._read_ahead(part.shards)
        everyone = [(self._shards[shard].result(), row) for shard, row in part.rows]
        mine = sorted(everyone, key=lambda one: -one[0].lengths[one[1]])[part.place :: part.sharing]
        told = gather(
            (
                _distinct([shard.labels[row] for shard, row in mine]),
                np.array([_highest(shard.verdict[row]) for shard, row in mine], np.float32),
            )
        )
        numbers = _distinct([labels for labels, _ in told])
        verdict = np.full((len(mine), len(numbers)), np.nan, dtype=np.float32)
        similarity = verdict.copy()
        excluded = np.zeros(verdict.shape, dtype=bool)
        # Labels of an earlier cycle's yes count by their texts, whether or not the batch has them.
        known = _distinct([numbers, *(shard.earlier_yes[row] for shard, row in mine)])
        namesakes = self._namesakes(known)
        for place, (shard, row) in enumerate(mine):
            columns = np.searchsorted(numbers, shard.labels[row])
            verdict[place, columns] = shard.verdict[row]
            similarity[place, columns] = shard.similarity[row]
            right = np.concatenate([shard.labels[row], shard.earlier_yes[row]])
            excluded[place] = namesakes.of(np.searchsorted(known, right))[np.searchsorted(known, numbers)]
            excluded[place, columns] = False
            excluded[place] |= np.isin(numbers, shard.excluded[row])
        texts = [document_text(shard.titles[row].as_py(), shard.texts[row].as_py()) for shard, row in mine]
        return Batch(
            texts,
            numbers,
            self._texts.take(pa.array(numbers)).to_pylist(),
            in_batch_weights(self._label_documents[numbers], int(self.rows_of_shards.sum()), part.documents),
            verdict,
            similarity,
            excluded,
            np.concatenate([best for _, best in told]),
        )

    def _namesakes(self, labels: np.ndarray) -> Namesakes:
        """Which of ``labels`` (numbers) are called alike."""
        rows, counts = self._text_rows.rows_of(labels) if self._text_rows else (labels, np.ones(len(labels), int))
        return Namesakes.among(self._texts.take(pa.array(rows)).to_pylist(), counts)

    def _read_ahead(self, shards: Sequence[int]) -> None:
        """Have ``shards`` read, the first of them first, and hold no others."""
        self._shards = {one: self._shards.get(one) or self._readers.submit(self._load, one) for one in shards}

    def _load(self, number: int) -> _Shard:
        """Read an example shard and the documents' shard of the same number, usable rows only."""
        cycles = [self.cycle, *reversed(range(len(self._earlier_thresholds)))]
        newest, *before = (
            self.storage.read_shard(layout.examples(cycle), number, EXAMPLES_SCHEMA, _READ) for cycle in cycles
        )
        earlier = dict(zip(cycles[1:], before, strict=True))
        examples = usable(latest(newest, earlier.values()))
        judged = _judged_shortlists(examples)
        columns = ["title", "text", "excluded"]
        table = self.storage.read_shard(layout.DOCUMENTS, number, DOCUMENTS_SCHEMA, columns)
        table = rows_of(table, examples["row"].to_numpy())
        titles, texts = (_large(pc.fill_null(table[name], "")) for name in ("title", "text"))
        return _Shard(
            titles,
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
    storage: Storage,
    cycle: int,
    limit: int,
    rank: int = 0,
    world: int = 1,
    is_half: bool = False,
    gather: Gather = alone,
) -> list[HeldOut]:
    """Of the held-out documents of ``cycle`` whose labels are all judged, ``limit`` at most, the share of worker
    ``rank`` of ``world``; ``is_half``: of those that trainings stop by (summary.half_of).

    They are drawn by their places (summary.draws_of): the first ones would be of the input's first files. Each worker
    looks for them in its part of the files, and reads of others what holds its share: by ``gather`` all know the draws.
    A single worker, whose share is all that it finds, reads each file once.
    ValueError for one that is not of ``world`` workers.
    """
    files = held_out_files(storage, cycle)
    kept: list[pa.Table] | None = [] if world == 1 else None
    told = gather((_draw_held_out(storage, files, range(rank, len(files), world), limit, is_half, kept),))
    if len(told) != world:
        raise ValueError(f"{len(told)} of {world} workers told their draws")
    found = _lowest(np.concatenate([places for (places,) in told]), limit)
    found = found[np.lexsort((found[:, 2], found[:, 1]))]
    places = found[rank * len(found) // world : (rank + 1) * len(found) // world]
    tables = read_held_out(storage, [files[number] for number in np.unique(places[:, 3])]) if kept is None else kept
    mine = [
        (int(shard), int(row), one) for (_, shard, row, _), one in zip(places, _judged(tables, places), strict=True)
    ]
    label_texts = _large(storage.read_table(layout.LABELS, LABELS_SCHEMA, ["text"])["text"])
    shards, rows = (np.array([one[place] for one in mine], np.int64) for place in (0, 1))
    texts = texts_at(storage, shards, rows)
    return [
        HeldOut(
            document_text(*text),
            label_texts.take(pa.array(one.labels)).to_pylist(),
            one.verdict,
            one.similarity,
        )
        for text, (_, _, one) in zip(texts, mine, strict=True)
    ]


def texts_at(storage: Storage, shards: np.ndarray, rows: np.ndarray) -> list[tuple[str, str]]:
    """Title and text of the documents in these ``rows`` of ``shards``, int [n] each, which come shard after shard."""
    found: list[tuple[str, str]] = []
    for shard in dict.fromkeys(shards.tolist()):
        table = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["title", "text"])
        wanted = rows_of(table, rows[shards == shard])
        columns = (pc.fill_null(wanted[name], "").to_pylist() for name in ("title", "text"))
        found += zip(*columns, strict=True)
    return found


def _draw_held_out(
    storage: Storage,
    files: Sequence[str],
    numbers: Sequence[int],
    limit: int,
    is_half: bool,
    kept: list[pa.Table] | None,
) -> NDArray[np.uint64]:
    """The draws of ``limit`` held-out documents at most of the files with these ``numbers``, the lowest ones: uint64
    [n, 4], each with its shard, its row and the number of its file. ``kept``: where what is drawn is put, if anywhere.
    """
    found = np.empty((0, 4), np.uint64)
    columns_read = _DRAWN_BY if kept is None else None
    tables = read_held_out(storage, [files[number] for number in numbers], columns_read)
    for number, table in zip(numbers, tables, strict=True):
        table = half_of(table, of_training=True) if is_half else table
        table = table.filter(has_shortlist(table))
        columns = (draws_of(table), table["shard"], table["row"], np.full(len(table), number))
        places = np.stack([np.asarray(one).astype(np.uint64) for one in columns], axis=1)
        is_judged = [bool(np.isfinite(one).all()) for one in _lists(table["verdict"], np.float32)]
        found = _lowest(np.concatenate([found, places[np.array(is_judged, bool)]]), limit)
        if kept is not None:
            kept.append(_drawn(table, found))
    return found


def _drawn(table: pa.Table, places: NDArray[np.uint64]) -> pa.Table:
    """The rows of ``table`` that are among ``places``."""
    return table.filter(pa.array(np.isin(draws_of(table), places[:, 0])))


def _lowest(drawn: NDArray[np.uint64], limit: int) -> NDArray[np.uint64]:
    """The ``limit`` rows with the lowest draws, which stand in front."""
    return drawn[np.argsort(drawn[:, 0], kind="stable")[:limit]]


def _judged(tables: Iterable[pa.Table], places: NDArray[np.uint64]) -> list[_JudgedShortlist]:
    """The shortlists, in ``tables``, of drawn documents, whose ``places`` are as :func:`_draw_held_out` has them."""
    found: dict[int, _JudgedShortlist] = {}
    for table in tables:
        drawn = _drawn(table, places)
        found.update(zip(draws_of(drawn).tolist(), _judged_shortlists(drawn), strict=True))
    return [found[draw] for draw in places[:, 0].tolist()]


def _large(texts: pa.ChunkedArray) -> pa.Array:
    """``texts`` as one array, which more than 2 GiB of them are not in the plain type."""
    return texts.cast(pa.large_string()).combine_chunks()


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


def _distinct(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The numbers in ``labels``, rising: int32."""
    return np.unique(np.concatenate([np.empty(0, np.int32), *labels])).astype(np.int32)


def _highest(verdict: np.ndarray) -> float:
    judged = verdict[np.isfinite(verdict)]
    return float(judged.max()) if len(judged) else -np.inf

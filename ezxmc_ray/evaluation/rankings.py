"""What the encoders of a run are worth: their rankings of the test documents, measured against gold labels.

Comes in: ``evaluation/encoder-N``, ``gold`` and ``documents`` of a run directory. Goes out: measurements, and the
plain dicts that the stage evaluate puts into its manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ezxmc_ray import layout
from ezxmc_ray.config import EvaluateConfig
from ezxmc_ray.metrics import (
    BINS,
    Measurement,
    bin_of_labels,
    inverse_propensities,
    join,
    macro_by_bin,
    measure,
    measure_labels,
    paired_differences,
)
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, GOLD_SCHEMA, RANKINGS_SCHEMA, flat, lengths

Lists = list[NDArray[np.int32]]


@dataclass(frozen=True)
class LabelCounts:
    """How many documents each label is gold for: ``counts``, int64 [labels], of ``documents`` of one split in all.

    Zero-shot tagging has no train labels, so these are the gold labels that evaluation has: those of the train
    documents if any are given (``counted_from`` is "train"), else those of the test documents themselves ("test").
    """

    counted_from: str
    documents: int
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """An encoder's ranking of the test documents that have gold labels, in the order of the shards.

    ``measurement`` has a row for each of them; ``first``: int32 [documents, 10], the labels that lead, padded with -1;
    ``gold``: an int32 array for each.
    """

    measurement: Measurement
    first: NDArray[np.int32]
    gold: Lists


def gold_of(storage: Storage, shard: int, rows: pa.ChunkedArray) -> Lists:
    """The gold labels of a shard's ``rows`` (int32), int32 [g] each (0 of them where none are given).

    A document's excluded labels do not count as gold.
    """
    truth = storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"].take(rows).to_pylist()
    documents = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["excluded"])
    excluded = documents["excluded"].take(rows).to_pylist()
    return [
        np.array(sorted(set(one or []) - set(out)), dtype=np.int32) for one, out in zip(truth, excluded, strict=True)
    ]


def label_counts(storage: Storage, shards: int, labels: int) -> LabelCounts:
    """How many documents each of ``labels`` labels is gold for; documents without given gold labels do not count."""
    train = _counted(storage, shards, labels, "train")
    return train if train.counts.any() else _counted(storage, shards, labels, "test")


def _counted(storage: Storage, shards: int, labels: int, split: str) -> LabelCounts:
    counts, documents = np.zeros(labels, np.int64), 0
    for shard in range(shards):
        splits = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["split"])["split"]
        given = pc.is_valid(storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"])
        rows = np.flatnonzero(pc.and_(pc.equal(splits, split), given).to_numpy())
        for gold in gold_of(storage, shard, pa.array(rows)):
            counts[gold] += 1
        documents += len(rows)
    return LabelCounts(split, documents, counts)


def read_ranking(storage: Storage, encoder: int, shards: int, inverse: NDArray[np.float64]) -> Ranking:
    """The ranking of encoder number ``encoder``; ``inverse``: float64 [labels], of inverse_propensities."""
    parts = [_ranking_of_shard(storage, encoder, shard, inverse) for shard in range(shards)]
    return Ranking(
        join([part.measurement for part in parts]),
        np.concatenate([part.first for part in parts]),
        [gold for part in parts for gold in part.gold],
    )


def _ranking_of_shard(storage: Storage, encoder: int, shard: int, inverse: NDArray[np.float64]) -> Ranking:
    table = storage.read_shard(layout.ranking(encoder), shard, RANKINGS_SCHEMA)
    gold = gold_of(storage, shard, table["row"])
    ranked, has_gold = padded(table["labels"]), np.array([len(labels) > 0 for labels in gold], dtype=bool)
    first = np.full((len(ranked), 10), -1, np.int32)
    first[:, : ranked.shape[1]] = ranked[:, :10]
    return Ranking(measure(ranked, gold, inverse), first[has_gold], [labels for labels in gold if len(labels)])


def padded(lists: pa.ChunkedArray) -> NDArray[np.int32]:
    """A list column as int32 [rows, longest list], padded with -1."""
    counts = lengths(lists)
    table = np.full((len(counts), counts.max(initial=0)), -1, np.int32)
    table[np.arange(table.shape[1]) < counts[:, None]] = flat(lists)
    return table


def measure_encoders(
    storage: Storage, names: Sequence[str], shards: int, labels: int, settings: EvaluateConfig, seed: int
) -> dict[str, Any]:
    """All measures of the encoders ``names`` (numbers 0, 1, …; the first is the untrained one); keys: docs/report.md.

    ``labels``: how many there are. ``seed``: of the bootstrap.
    """
    counted = label_counts(storage, shards, labels)
    inverse = inverse_propensities(counted.counts, counted.documents, settings.propensity_a, settings.propensity_b)
    bins = bin_of_labels(counted.counts)
    found: dict[str, Any] = {"metrics": {}, "intervals": {}, "over_untrained": {}, "label_bins": []}
    for encoder, name in enumerate(names):
        ranking = read_ranking(storage, encoder, shards, inverse)
        measured = ranking.measurement
        found["metrics"][name] = measured.named() | {"documents": len(measured)}
        found["intervals"][name] = measured.intervals(seed)
        if encoder == 0:
            untrained = measured
            found["label_bins"] = _describe_bins(bins, counted.counts, ranking.gold)
        else:
            found["over_untrained"][name] = paired_differences(untrained, measured, seed)
        macro = macro_by_bin(measure_labels(ranking.first, ranking.gold), bins, seed)
        for row, measures in zip(found["label_bins"], macro, strict=True):
            row["encoders"][name] = measures
    model = {"propensity_a": settings.propensity_a, "propensity_b": settings.propensity_b}
    return found | {"label_counts": {"counted_from": counted.counted_from, "documents": counted.documents, **model}}


def _describe_bins(bins: NDArray[np.int64], counts: NDArray[np.int64], gold: Lists) -> list[dict[str, Any]]:
    """A row for each bin: its labels, in how many counted documents they are gold, and what the test documents have."""
    tested = np.bincount(np.concatenate([np.zeros(0, np.int32), *gold]), minlength=len(bins))
    rows = []
    for number, name in enumerate(BINS):
        inside = bins == number
        row: dict[str, Any] = {"bin": name, "labels": int(inside.sum())}
        row["min_documents"] = int(counts[inside].min()) if inside.any() else None
        row["max_documents"] = int(counts[inside].max()) if inside.any() else None
        row["test_labels"] = int((tested[inside] > 0).sum())
        row["test_assignments"] = int(tested[inside].sum())
        rows.append(row | {"encoders": {}})
    return rows

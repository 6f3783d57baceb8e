"""What the encoders of a run are worth: their rankings of the test documents, measured against gold labels.

Comes in: ``evaluation/encoder-N``, ``gold`` and ``documents`` of a run directory. Goes out: measurements, and the
plain dicts that the stage evaluate puts into its manifest. A task measures some shards; what it brings back adds up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import starmap
from operator import add
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ezxmc_ray import layout
from ezxmc_ray.config import EvaluateConfig
from ezxmc_ray.context import RunTasks, shard_groups
from ezxmc_ray.metrics import (
    BINS,
    MAX_DRAWN,
    LabelTallies,
    Measurement,
    MeasurementSums,
    bin_of_labels,
    inverse_propensities,
    join,
    macro_by_bin,
    measure,
    paired_differences,
    tally_labels,
)
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, GOLD_SCHEMA, RANKINGS_SCHEMA, flat, lengths

Lists = list[NDArray[np.int32]]
SPLITS = ("train", "test")


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
    """An encoder's ranking of a shard's test documents that have gold labels.

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


@dataclass(frozen=True)
class _GoldCounts:
    """Of some shards' documents of one split that have gold labels given: how many, and of these with one at least;
    ``labels`` int32 [m], rising, the labels that are gold, and ``counts`` int64 [m], how often each is."""

    documents: int
    labelled: int
    labels: NDArray[np.int32]
    counts: NDArray[np.int64]


def label_counts(storage: Storage, shards: int, labels: int) -> LabelCounts:
    """How many documents each of ``labels`` labels is gold for; documents without given gold labels do not count."""
    return _count_gold(storage, shards, labels, starmap)[0]


def _count_gold(storage: Storage, shards: int, labels: int, run_tasks: RunTasks) -> tuple[LabelCounts, int]:
    """The counts, and the test documents that have gold labels."""
    counts = {split: np.zeros(labels, np.int64) for split in SPLITS}
    documents, labelled = Counter[str](), Counter[str]()
    for found in run_tasks(count_gold, [(storage, group) for group in shard_groups(shards)]):
        for split, one in found.items():
            counts[split][one.labels] += one.counts
            documents[split] += one.documents
            labelled[split] += one.labelled
    split = "train" if counts["train"].any() else "test"
    return LabelCounts(split, documents[split], counts[split]), labelled["test"]


def count_gold(storage: Storage, shards: range) -> dict[str, _GoldCounts]:
    """Task: the gold labels of ``shards``, by split."""
    gold: dict[str, Lists] = {split: [] for split in SPLITS}
    for shard in shards:
        splits = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["split"])["split"]
        given = pc.is_valid(storage.read_shard(layout.GOLD, shard, GOLD_SCHEMA)["labels"])
        for split in SPLITS:
            rows = np.flatnonzero(pc.and_(pc.equal(splits, split), given).to_numpy())
            gold[split] += gold_of(storage, shard, pa.array(rows)) if len(rows) else []
    return {
        split: _GoldCounts(
            len(lists),
            sum(len(one) > 0 for one in lists),
            *np.unique(np.concatenate([np.zeros(0, np.int32), *lists]), return_counts=True),
        )
        for split, lists in gold.items()
    }


def read_measurement(storage: Storage, encoder: int, shards: int, inverse: NDArray[np.float64]) -> Measurement:
    """Of encoder number ``encoder``, the shards in their order; ``inverse``: float64 [labels], inverse_propensities."""
    return join([ranking_of_shard(storage, encoder, shard, inverse).measurement for shard in range(shards)])


def ranking_of_shard(storage: Storage, encoder: int, shard: int, inverse: NDArray[np.float64]) -> Ranking:
    """The ranking of encoder number ``encoder``; ``inverse``: float64 [labels], of inverse_propensities."""
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
    storage: Storage,
    names: Sequence[str],
    shards: int,
    labels: int,
    settings: EvaluateConfig,
    seed: int,
    run_tasks: RunTasks = starmap,
) -> dict[str, Any]:
    """All measures of the encoders ``names`` (numbers 0, 1, …; the first is the untrained one); keys: docs/report.md.

    ``labels``: how many there are. ``seed``: of the bootstrap. Of more documents than MAX_DRAWN only sums are kept.
    """
    counted, documents = _count_gold(storage, shards, labels, run_tasks)
    storage.write_table(layout.LABEL_COUNTS, pa.table({"documents": counted.counts}))
    model = Propensities(counted.documents, settings.propensity_a, settings.propensity_b)
    tasks = [(storage, len(names), group, model, documents > MAX_DRAWN) for group in shard_groups(shards)]
    groups: list[MeasuredGroup] = []
    tallies = [LabelTallies(np.zeros(0, np.int32), np.zeros((4, 0), np.int32))] * len(names)
    for group in run_tasks(measure_group, tasks):
        tallies = [one + more for one, more in zip(tallies, group.tallies, strict=True)]
        groups.append(replace(group, tallies=[]))
    storage.remove(layout.LABEL_COUNTS)
    found = _in_words(names, sorted(groups, key=lambda group: group.first_shard), seed)
    bins = bin_of_labels(counted.counts)
    found["label_bins"] = _describe_bins(bins, counted.counts, tallies[0])
    for name, one in zip(names, tallies, strict=True):
        for row, measures in zip(found["label_bins"], macro_by_bin(one.measures(), bins, seed), strict=True):
            row["encoders"][name] = measures
    knobs = {"propensity_a": settings.propensity_a, "propensity_b": settings.propensity_b}
    return found | {"label_counts": {"counted_from": counted.counted_from, "documents": counted.documents, **knobs}}


@dataclass(frozen=True)
class Propensities:
    """Of the propensity model: the ``documents`` that labels are counted on, and its constants."""

    documents: int
    a: float
    b: float


@dataclass(frozen=True)
class MeasuredGroup:
    """What some shards add to the measures: of every encoder its ``measurements``, or of all of them the ``sums``, and
    of every encoder the tallies of its labels."""

    first_shard: int
    measurements: list[Measurement]
    sums: MeasurementSums | None
    tallies: list[LabelTallies]


def measure_group(
    storage: Storage, encoders: int, shards: range, model: Propensities, only_sums: bool
) -> MeasuredGroup:
    """Task: measure every encoder on the test documents of ``shards``."""
    counts = storage.read_table(layout.LABEL_COUNTS)["documents"].to_numpy()
    inverse = inverse_propensities(counts, model.documents, model.a, model.b)
    measurements, tallies = [], []
    for encoder in range(encoders):
        rankings = [ranking_of_shard(storage, encoder, shard, inverse) for shard in shards]
        measurements.append(join([one.measurement for one in rankings]))
        gold = [labels for one in rankings for labels in one.gold]
        tallies.append(tally_labels(np.concatenate([one.first for one in rankings]), gold))
    if only_sums:
        return MeasuredGroup(shards.start, [], MeasurementSums.of(measurements), tallies)
    return MeasuredGroup(shards.start, measurements, None, tallies)


def _in_words(names: Sequence[str], groups: Sequence[MeasuredGroup], seed: int) -> dict[str, Any]:
    """Measures, intervals, and differences to the first encoder; ``groups`` in the order of their shards."""
    found: dict[str, Any] = {"metrics": {}, "intervals": {}, "over_untrained": {}}
    if sums := [group.sums for group in groups if group.sums is not None]:
        whole = reduce(add, sums)
        for number, name in enumerate(names):
            found["metrics"][name] = whole.named(number) | {"documents": len(whole)}
            found["intervals"][name] = whole.intervals(number)
            if number:
                found["over_untrained"][name] = whole.differences(0, number)
        return found
    measured = [join([group.measurements[number] for group in groups]) for number in range(len(names))]
    for name, one in zip(names, measured, strict=True):
        found["metrics"][name] = one.named() | {"documents": len(one)}
        found["intervals"][name] = one.intervals(seed)
        if one is not measured[0]:
            found["over_untrained"][name] = paired_differences(measured[0], one, seed)
    return found


def _describe_bins(bins: NDArray[np.int64], counts: NDArray[np.int64], tallies: LabelTallies) -> list[dict[str, Any]]:
    """A row for each bin: its labels, in how many counted documents they are gold, and what the test documents have."""
    tested = np.zeros(len(bins), np.int64)
    tested[tallies.labels] = tallies.counts[0]
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

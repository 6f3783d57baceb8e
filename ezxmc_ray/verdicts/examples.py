"""The examples of a cycle: its shortlists joined with their verdicts, calibrated. No question to the teacher.

In: cycle-c/shortlist/, documents/, verdicts/<teacher key>/ (of two keys where a pair asks twice). Out:
cycle-c/examples/ and its summary; the measures of the calibrated verdicts (scale, threshold of yes, histogram) for the
manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import to_dict
from ezxmc_ray.context import Context, RunTasks, StageResult, shard_groups
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.summary import Counts, SummaryPart, write_summary
from ezxmc_ray.student.targets import SCALES, TargetSums, scale_of, sums_of
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, LABELS_SCHEMA, SHORTLIST_SCHEMA, flat
from ezxmc_ray.verdicts.calibration import additive, calibrate, yes_threshold
from ezxmc_ray.verdicts.second_readout import LIKELIHOOD, SECOND, SecondReadout
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs
from ezxmc_ray.verdicts.store import VerdictStore

HISTOGRAM_BINS = 256
#: Tasks that the shards are joined in, at most: each reads what all labels score by themselves.
MAX_TASKS = 256


def example_groups(shards: int) -> list[range]:
    """The shards that a task joins, and that share a file of the summary."""
    return shard_groups(shards, MAX_TASKS)


@dataclass(frozen=True)
class Reading:
    """How a teacher's answers become verdicts.

    ``key``: of its raw scores' store; ``readout`` and ``calibration`` of them; ``second``: what else counts.
    """

    key: str
    readout: str
    calibration: str
    second: SecondReadout | None = None


def make_examples(
    context: Context, cycle: int, reading: Reading, run_tasks: RunTasks, second_key: str | None = None
) -> StageResult:
    """Join and measure; returns pairs, files and details of the manifest.

    ``second_key``: of the store that the second read-out's raw scores are in; None: a pair asks once.
    """
    storage, config = context.storage, context.teacher
    groups = example_groups(context.shards)
    if reading.calibration == "label_prior":
        list(run_tasks(write_label_priors, [(storage, reading.key, cycle)]))
    if second_key is not None:
        reading = replace(reading, second=_second_readout(context, cycle, reading, second_key, run_tasks))
    tasks = [(storage, cycle, number, group, reading) for number, group in enumerate(groups)]
    done = sorted(run_tasks(join_examples, tasks), key=lambda one: int(one[0]))
    storage.remove(layout.label_priors(cycle))
    (summary,) = run_tasks(write_summary, [(storage, cycle, [counts for _, counts, _ in done])])
    joined = [shard for _, _, shards in done for shard in shards]
    sums, own = (sum((one[name] for one in joined), TargetSums()) for name in ("sums", "own"))
    pairs = sums.pairs
    low, high = (min(one["low"] for one in joined), max(one["high"] for one in joined)) if pairs else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), HISTOGRAM_BINS + 1)
    histograms = run_tasks(histogram_of, [(storage, cycle, group, edges) for group in groups])
    histogram = np.sum(list(histograms), axis=0)
    threshold = config.yes_threshold
    if threshold is None:
        threshold = yes_threshold(histogram, edges) if pairs else 0.0
    yes = sum(run_tasks(count_yes, [(storage, cycle, group, threshold) for group in groups]))
    details = {
        **{name: to_dict(scale_of(one)) for name, one in zip(SCALES, (sums, own), strict=True)},
        "yes_threshold": threshold,
        "share_yes": yes / max(1, pairs),
        "histogram": {"edges": edges.tolist(), "counts": histogram.tolist()},
        SECOND: asdict(reading.second) if reading.second else None,
    }
    files = [layout.shard_file(layout.examples(cycle), shard) for shard in range(context.shards)]
    return StageResult(pairs, files + summary, details)


def _second_readout(context: Context, cycle: int, reading: Reading, key: str, run_tasks: RunTasks) -> SecondReadout:
    """How the second read-out counts: by the pairs of cycle 0, whichever ``cycle`` it is."""
    if cycle:
        found = SecondReadout.of_manifest(context.manifest(layout.examples(0)).details)
        if found is None:
            raise RuntimeError("the teacher was read once in cycle 0")
        return replace(found, key=key)  # another one where a cycle is judged in another dtype
    tasks = [(context.storage, group, reading, key) for group in example_groups(context.shards)]
    parts = sorted(run_tasks(sums_of_readouts, tasks), key=lambda one: int(one[0]))
    return SecondReadout.of_sums(key, LIKELIHOOD, sum((sums for _, sums in parts), TargetSums()))


def sums_of_readouts(storage: Storage, shards: range, reading: Reading, key: str) -> tuple[int, TargetSums]:
    """Task: the first of ``shards``, and sums over their pairs of cycle 0, the second read-out (of the store ``key``)
    in the place of the similarity."""
    found, shortlist_pairs = TargetSums(), ShortlistPairs(storage, reading.key, 0)
    priors, second = read_label_priors(storage, reading, 0), VerdictStore(storage, key)
    for shard in shards:
        pairs = shortlist_pairs.pairs(shard)
        _, verdict = _by_the_first(shortlist_pairs, pairs, priors, shard, reading)
        found += sums_of(verdict, additive(_raw(second, shard, pairs), LIKELIHOOD))
    return shards.start, found


def write_label_priors(storage: Storage, key: str, cycle: int) -> None:
    """Task: note what every label scores by itself, by label number, in cycle-c/label_priors.parquet (NaN: not asked).

    So a pair finds its label's by a number, where the store has to be read whole and sorted to find it by a hash.
    """
    hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]
    storage.write_table(layout.label_priors(cycle), pa.table({"raw": VerdictStore(storage, key).label_priors(hashes)}))


def join_examples(
    storage: Storage, cycle: int, group: int, shards: range, reading: Reading
) -> tuple[int, Counts, list[dict[str, Any]]]:
    """Task: write cycle-c/examples/ of ``shards``; returns the ``group``'s number, its counts for the summary, and the
    sums that the scales are made of, shard by shard:

    ``sums``: of the target, whose similarity is the base encoder's; ``own``: with that of the cycle's encoder.
    """
    shortlist_pairs, priors = ShortlistPairs(storage, reading.key, cycle), read_label_priors(storage, reading, cycle)
    part, sums = SummaryPart(storage, cycle), []
    for shard in shards:
        table, found = _join_shard(shortlist_pairs, priors, shard, reading)
        part.add(shard, table)
        sums.append(found)
    return group, part.write(group), sums


def read_label_priors(storage: Storage, reading: Reading, cycle: int) -> np.ndarray | None:
    """What each label scores by itself, float32 [labels], as :func:`write_label_priors` noted it; None: no matter."""
    if reading.calibration != "label_prior":
        return None
    return storage.read_table(layout.label_priors(cycle))["raw"].to_numpy()


def verdicts_of(
    shortlist_pairs: ShortlistPairs, priors: np.ndarray | None, shard: int, reading: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """What the teacher said of the pairs of a shard, and their verdicts: float32 [pairs], in the shortlists' order.

    What it said is by the first read-out, the verdict by both. ``priors``: :func:`read_label_priors`.
    """
    pairs = shortlist_pairs.pairs(shard)
    raw, verdict = _by_the_first(shortlist_pairs, pairs, priors, shard, reading)
    if reading.second is not None:
        second = VerdictStore(shortlist_pairs.storage, reading.second.key)
        verdict = reading.second.add_to(verdict, _raw(second, shard, pairs))
    if missing := int((np.isnan(raw) | np.isnan(verdict)).sum()):
        raise RuntimeError(f"{missing} pairs of {layout.shard_name(shard)} have no verdict after judging")
    return raw, verdict


def _by_the_first(
    shortlist_pairs: ShortlistPairs,
    pairs: dict[str, list[Any]],
    priors: np.ndarray | None,
    shard: int,
    reading: Reading,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores and verdicts of a shard's ``pairs`` by the first read-out, float32; NaN where there is none."""
    raw = shortlist_pairs.raw(shard, pairs)
    by_itself = None if priors is None else priors[np.asarray(pairs["label"], np.int64)]
    return raw, calibrate(raw, by_itself, reading.readout, reading.calibration)


def _raw(store: VerdictStore, shard: int, pairs: dict[str, list[Any]]) -> np.ndarray:
    """Raw scores of a shard's ``pairs``, float32. Errors: RuntimeError where the store holds none."""
    raw = store.lookup(layout.shard_name(shard), pairs["document_hash"], pairs["label_hash"])
    if missing := int(np.isnan(raw).sum()):
        raise RuntimeError(f"{missing} pairs of {layout.shard_name(shard)} have no raw score after judging")
    return raw


def _join_shard(
    shortlist_pairs: ShortlistPairs, priors: np.ndarray | None, shard: int, reading: Reading
) -> tuple[pa.Table, dict[str, Any]]:
    """Join a shard: its examples, and what they add up to. ``priors``: as :func:`verdicts_of` has them."""
    storage, cycle = shortlist_pairs.storage, shortlist_pairs.cycle
    raw, verdict = verdicts_of(shortlist_pairs, priors, shard, reading)
    rows = storage.read_shard(layout.shortlist(cycle), shard, SHORTLIST_SCHEMA)
    held_out = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["held_out"])["held_out"].take(rows["row"])
    offsets = rows["labels"].combine_chunks().offsets
    columns = [
        rows["row"],
        held_out,
        rows["labels"],
        rows["similarity"],
        rows["base_similarity"],
        pa.ListArray.from_arrays(offsets, pa.array(raw, pa.float32())),
        pa.ListArray.from_arrays(offsets, pa.array(verdict, pa.float32())),
    ]
    table = pa.Table.from_arrays(columns, schema=EXAMPLES_SCHEMA)
    storage.write_shard(layout.examples(cycle), shard, table)
    sums, own = (sums_of(verdict, flat(rows[name])) for name in ("base_similarity", "similarity"))
    return table, {
        "sums": sums,
        "own": own,
        "low": float(verdict.min(initial=np.inf)),
        "high": float(verdict.max(initial=-np.inf)),
    }


def _verdicts(storage: Storage, cycle: int, shards: range) -> Iterator[np.ndarray]:
    for shard in shards:
        yield flat(storage.read_shard(layout.examples(cycle), shard, EXAMPLES_SCHEMA, ["verdict"])["verdict"])


def histogram_of(storage: Storage, cycle: int, shards: range, edges: np.ndarray) -> np.ndarray:
    """Task: how many of the verdicts of ``shards`` fall between ``edges``, int64 [bins]."""
    return np.sum([np.histogram(one, edges)[0] for one in _verdicts(storage, cycle, shards)], axis=0)


def count_yes(storage: Storage, cycle: int, shards: range, threshold: float) -> int:
    """Task: how many of the verdicts of ``shards`` reach ``threshold``."""
    return sum(int((one >= threshold).sum()) for one in _verdicts(storage, cycle, shards))

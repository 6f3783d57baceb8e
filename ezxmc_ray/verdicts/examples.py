"""The examples of a cycle: its shortlists joined with their verdicts, calibrated. No question to the teacher.

In: cycle-c/shortlist/, documents/, verdicts/<teacher key>/. Out: cycle-c/examples/ and its summary; the measures of the
calibrated verdicts (scale, threshold of yes, histogram) for the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig, to_dict
from ezxmc_ray.context import Context, RunTasks, StageResult, shard_groups
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.summary import Counts, SummaryPart, write_summary
from ezxmc_ray.student.targets import SCALES, TargetSums, scale_of, sums_of
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, HASH, LABELS_SCHEMA, NO_DOCUMENT, SHORTLIST_SCHEMA, flat
from ezxmc_ray.verdicts.calibration import calibrate, yes_threshold
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore

HISTOGRAM_BINS = 256
#: Tasks that the shards are joined in, at most: each reads what all labels score by themselves.
MAX_TASKS = 256


def example_groups(shards: int) -> list[range]:
    """The shards that a task joins, and that share a file of the summary."""
    return shard_groups(shards, MAX_TASKS)


def make_examples(context: Context, cycle: int, key: str, calibration: str, run_tasks: RunTasks) -> StageResult:
    """Join and measure; returns pairs, files and details of the manifest."""
    storage, config = context.storage, context.teacher
    groups = example_groups(context.shards)
    if calibration == "label_prior":
        list(run_tasks(write_label_priors, [(storage, key, cycle)]))
    tasks = [(storage, key, cycle, number, group, config, calibration) for number, group in enumerate(groups)]
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
    }
    files = [layout.shard_file(layout.examples(cycle), shard) for shard in range(context.shards)]
    return StageResult(pairs, files + summary, details)


def write_label_priors(storage: Storage, key: str, cycle: int) -> None:
    """Task: note what every label scores by itself, by label number, in cycle-c/label_priors.parquet (NaN: not asked).

    So a pair finds its label's by a number, where the store has to be read whole and sorted to find it by a hash.
    """
    hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]
    raw = VerdictStore(storage, key).lookup(PRIORS, pa.array([NO_DOCUMENT] * len(hashes), HASH), hashes)
    storage.write_table(layout.label_priors(cycle), pa.table({"raw": raw}))


def join_examples(
    storage: Storage, key: str, cycle: int, group: int, shards: range, config: TeacherConfig, calibration: str
) -> tuple[int, Counts, list[dict[str, Any]]]:
    """Task: write cycle-c/examples/ of ``shards``; returns the ``group``'s number, its counts for the summary, and the
    sums that the scales are made of, shard by shard:

    ``sums``: of the target, whose similarity is the base encoder's; ``own``: with that of the cycle's encoder.
    """
    shortlist_pairs, priors = ShortlistPairs(storage, key, cycle), None
    if calibration == "label_prior":
        priors = storage.read_table(layout.label_priors(cycle))["raw"].to_numpy()
    part, sums = SummaryPart(storage, cycle), []
    for shard in shards:
        table, found = _join_shard(shortlist_pairs, priors, shard, config, calibration)
        part.add(shard, table)
        sums.append(found)
    return group, part.write(group), sums


def verdicts_of(
    shortlist_pairs: ShortlistPairs, priors: np.ndarray | None, shard: int, readout: str, calibration: str
) -> tuple[np.ndarray, np.ndarray]:
    """What the teacher said of the pairs of a shard, and their verdicts: float32 [pairs], in the shortlists' order.

    ``priors``: float32 [labels], what each label scores by itself, None for no calibration by it.
    """
    pairs = shortlist_pairs.pairs(shard)
    raw = shortlist_pairs.raw(shard, pairs)
    by_itself = None if priors is None else priors[np.asarray(pairs["label"], np.int64)]
    verdict = calibrate(raw, by_itself, readout, calibration)
    if missing := int((np.isnan(raw) | np.isnan(verdict)).sum()):
        raise RuntimeError(f"{missing} pairs of {layout.shard_name(shard)} have no verdict after judging")
    return raw, verdict


def _join_shard(
    shortlist_pairs: ShortlistPairs, priors: np.ndarray | None, shard: int, config: TeacherConfig, calibration: str
) -> tuple[pa.Table, dict[str, Any]]:
    """Join a shard: its examples, and what they add up to. ``priors``: as :func:`verdicts_of` has them."""
    storage, cycle = shortlist_pairs.storage, shortlist_pairs.cycle
    raw, verdict = verdicts_of(shortlist_pairs, priors, shard, config.readout, calibration)
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


def label_scores(shortlist_pairs: ShortlistPairs, pairs: dict[str, list[Any]], calibration: str) -> np.ndarray | None:
    """What the labels of ``pairs`` score by themselves, float [pairs], as ``calibration`` wants it; None for none."""
    if calibration == "label_prior":
        return shortlist_pairs.store.lookup(PRIORS, [NO_DOCUMENT] * len(pairs["label_hash"]), pairs["label_hash"])
    return None


def _verdicts(storage: Storage, cycle: int, shards: range) -> Iterator[np.ndarray]:
    for shard in shards:
        yield flat(storage.read_shard(layout.examples(cycle), shard, EXAMPLES_SCHEMA, ["verdict"])["verdict"])


def histogram_of(storage: Storage, cycle: int, shards: range, edges: np.ndarray) -> np.ndarray:
    """Task: how many of the verdicts of ``shards`` fall between ``edges``, int64 [bins]."""
    return np.sum([np.histogram(one, edges)[0] for one in _verdicts(storage, cycle, shards)], axis=0)


def count_yes(storage: Storage, cycle: int, shards: range, threshold: float) -> int:
    """Task: how many of the verdicts of ``shards`` reach ``threshold``."""
    return sum(int((one >= threshold).sum()) for one in _verdicts(storage, cycle, shards))

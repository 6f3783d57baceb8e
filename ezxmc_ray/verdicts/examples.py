"""The examples of a cycle: its shortlists joined with their verdicts, calibrated. No question to the teacher.

In: cycle-c/shortlist/, documents/, verdicts/<teacher key>/. Out: cycle-c/examples/; the measures of the calibrated
verdicts (scale, threshold of yes, histogram) for the manifest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig, to_dict
from ezxmc_ray.context import Context, RunTasks, StageResult
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import SCALES, TargetSums, scale_of, sums_of
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, NO_DOCUMENT, SHORTLIST_SCHEMA, flat
from ezxmc_ray.verdicts.calibration import calibrate, yes_threshold
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs
from ezxmc_ray.verdicts.store import PRIORS

HISTOGRAM_BINS = 256


def make_examples(context: Context, cycle: int, key: str, calibration: str, run_tasks: RunTasks) -> StageResult:
    """Join and measure; returns pairs, files and details of the manifest."""
    storage, shards, config = context.storage, range(context.shards), context.teacher
    joined = list(run_tasks(join_examples, [(storage, key, cycle, shard, config, calibration) for shard in shards]))
    sums, own = (sum((one[name] for one in joined), TargetSums()) for name in ("sums", "own"))
    pairs = sums.pairs
    low, high = (min(one["low"] for one in joined), max(one["high"] for one in joined)) if pairs else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), HISTOGRAM_BINS + 1)
    histograms = run_tasks(histogram_of, [(storage, cycle, shard, edges) for shard in shards])
    histogram = np.sum(list(histograms), axis=0)
    threshold = config.yes_threshold
    if threshold is None:
        threshold = yes_threshold(histogram, edges) if pairs else 0.0
    yes = sum(run_tasks(count_yes, [(storage, cycle, shard, threshold) for shard in shards]))
    details = {
        **{name: to_dict(scale_of(one)) for name, one in zip(SCALES, (sums, own), strict=True)},
        "yes_threshold": threshold,
        "share_yes": yes / max(1, pairs),
        "histogram": {"edges": edges.tolist(), "counts": histogram.tolist()},
    }
    return StageResult(pairs, [layout.shard_file(layout.examples(cycle), shard) for shard in shards], details)


def join_examples(
    storage: Storage, key: str, cycle: int, shard: int, config: TeacherConfig, calibration: str
) -> dict[str, Any]:
    """Task: write cycle-c/examples/ of one shard; returns the sums that the scales are made of:

    ``sums``: of the target, whose similarity is the base encoder's; ``own``: with that of the cycle's encoder.
    """
    shortlist_pairs = ShortlistPairs(storage, key, cycle)
    pairs = shortlist_pairs.pairs(shard)
    raw = shortlist_pairs.raw(shard, pairs)
    if missing := int(np.isnan(raw).sum()):
        raise RuntimeError(f"{missing} pairs of {layout.shard_name(shard)} have no verdict after judging")
    verdict = calibrate(raw, label_scores(shortlist_pairs, pairs, calibration), config.readout, calibration)
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
    storage.write_shard(layout.examples(cycle), shard, pa.Table.from_arrays(columns, schema=EXAMPLES_SCHEMA))
    sums, own = (sums_of(verdict, flat(rows[name])) for name in ("base_similarity", "similarity"))
    return {
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


def _verdicts(storage: Storage, cycle: int, shard: int) -> np.ndarray:
    return flat(storage.read_shard(layout.examples(cycle), shard, EXAMPLES_SCHEMA, ["verdict"])["verdict"])


def histogram_of(storage: Storage, cycle: int, shard: int, edges: np.ndarray) -> np.ndarray:
    """Task: how many of a shard's verdicts fall between ``edges``, int64 [bins]."""
    return np.histogram(_verdicts(storage, cycle, shard), edges)[0]


def count_yes(storage: Storage, cycle: int, shard: int, threshold: float) -> int:
    """Task: how many of a shard's verdicts reach ``threshold``."""
    return int((_verdicts(storage, cycle, shard) >= threshold).sum())

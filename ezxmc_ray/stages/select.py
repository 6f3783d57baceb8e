"""Stage ``select``: choose the encoder to ship, by the teacher's judgment of the held-out documents, never by gold.

    ezxmc select conf.yaml

In: the held-out documents of every cycle (each encoder's own shortlist, all judged; beside its examples), the encoders.
Out: student/, a copy of the chosen encoder: the base encoder if no cycle was better. Inside the curriculum the same
comparison says whether the newest encoder is worth another cycle (cycles.py has the rule): cycle-c/selection/.

How: for each held-out document, the labels that any encoder shortlisted form a pool. A label's gain is the share that
the target gives it in the pool: softmax(target / target_temperature); the target is the verdict alone for
student.target=verdict, else its fusion with the similarity (half the base encoder's, half the students'). An
encoder's score is the mean nDCG@5 of its own order under those gains. Same pool and same gains for every encoder; only
the order differs. Where trainings stop by held-out documents (student.patience), they have one half of them, and what
is chosen and fitted here goes by the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.cluster.pools import run_with_encoder
from ezxmc_ray.cluster.session import run_tasks
from ezxmc_ray.config import Config
from ezxmc_ray.context import Context, RunTasks, StageResult, encoder_name, shard_groups
from ezxmc_ray.cycles import cycles_end_by, held_out_judged, least_lead, stops
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.metrics import MIN_DOCUMENTS
from ezxmc_ray.metrics.thresholds import fit_scores
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.shortlist import load_encoder
from ezxmc_ray.storage import Storage, copy_into
from ezxmc_ray.student.summary import half_of
from ezxmc_ray.student.targets import TargetScale, compared_by, target_scores
from ezxmc_ray.student.validation import SCORED_AT, gains_of, graded_ndcg
from ezxmc_ray.tables import HELD_OUT_SCHEMA, flat
from ezxmc_ray.verdicts.costs import pairs_asked
from ezxmc_ray.verdicts.examples import example_groups

#: What a judge manifest counts of the engines' work, and what adds up where a cycle is judged in two parts.
ADDED_UP = (
    "pairs_asked",
    "prior_pairs_asked",
    "second_pairs_asked",
    "prompt_tokens",
    "computed_tokens",
    "truncated_documents",
    "truncated_labels",
    "engine_start_seconds",
    "engine_seconds",
    "worker_seconds",
    "map_seconds",
)


def select(context: Context) -> StageResult:
    """Choose and copy the student; returns rows (held-out documents), files and details of the manifest."""
    config, storage = context.config, context.storage
    encoders = context.cycles + 1
    judged = [context.judged(number) for number in range(encoders)]
    outcome = _compare(context, encoders, "select")
    scores = outcome["scores"]
    if 0 < outcome["documents"] < MIN_DOCUMENTS:
        say(
            f"The encoders are compared by {outcome['documents']} held-out documents only, which is mostly chance: "
            "raise prepare.held_out_share."
        )
    # Nothing to select by: the last student is shipped, and the manifest says that nothing was compared.
    chosen = int(np.argmax([one["score"] for one in scores])) if outcome["documents"] else encoders - 1
    run_with_encoder(ship, storage, config, context.encoder_folder(chosen))
    shards, yes = context.shards, judged[chosen].yes_threshold
    thresholds = fit_thresholds(storage, chosen, shards, yes, run_tasks, context.halves_held_out)
    details = {
        "encoder": chosen,
        "chosen": encoder_name(chosen),
        "chosen_cycle": chosen - 1 if chosen else None,
        "compared_by": f"nDCG@{SCORED_AT} under the teacher's judgment of the held-out documents",
        "scores": scores,
        "documents": outcome["documents"],
        **thresholds,
        "pairs": {
            "budget": config.curriculum.pair_budget or None,
            "judged": sum(one.pairs for one in judged),
            "asked": sum(one.pairs_asked for one in judged),
        },
    }
    files = [name for name in storage.list(layout.STUDENT, recursive=True) if name != layout.manifest(layout.STUDENT)]
    return StageResult(outcome["documents"], files, details)


def compare_newest(context: Context, cycle: int) -> StageResult:
    """Compare the encoders 0 to ``cycle``, before the cycle's train documents are judged; as :func:`select` returns.

    ``asked``: what the engines did in the cycle so far, and the seconds of that stage; :func:`with_asked` adds it to
    what they do afterwards.
    """
    manifest = context.manifest(layout.examples(cycle))
    judged = manifest.details
    outcome = _compare(context, cycle + 1, f"cycle {cycle} select")
    lead = outcome["lead"]
    if stops(lead, least_lead(context.config, cycle)):
        say(
            f"The cycles end: {encoder_name(cycle)} leads {lead['over']} by {lead['difference']:.2f} points (standard "
            f"error {lead['standard_error']:.2f}) by the teacher's judgment, see {cycles_end_by(context.config)}."
        )
    asked = {name: judged.get(name, 0) for name in ADDED_UP} | {"seconds": manifest.seconds}
    return StageResult(outcome["documents"], [], {**outcome, "encoder": encoder_name(cycle), "asked": asked})


def with_asked(details: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """``details`` of a judge manifest with what was ``asked`` in the same cycle for its selection added up.

    ``seconds_before``: that the stage took for it, which are not in the manifest's seconds.
    """
    added = {name: details.get(name, 0) + asked.get(name, 0) for name in ADDED_UP}
    pairs = pairs_asked(added) or 0
    return {
        **details,
        **added,
        "seconds_before": asked.get("seconds", 0.0),
        "pairs_held": max(0, details["pairs_held"] - asked["pairs_asked"]),
        "engine_pairs_per_s": pairs / added["engine_seconds"] if added["engine_seconds"] else None,
    }


def _compare(context: Context, encoders: int, name: str) -> dict[str, Any]:
    scales = [context.judged(number).own_scale for number in range(encoders)]
    compared = held_out_judged(context.config, context.prepared.held_out)
    with StageProgress(name, "documents", compared) as progress:
        storage, config, shards = context.storage, context.config, context.shards
        outcome = score_encoders(storage, config, shards, scales, run_tasks, context.halves_held_out)
        progress.advance(outcome["documents"])
    return outcome


def ship(storage: Storage, config: Config, folder: str | None) -> None:
    """Task: make student/ a SentenceTransformer directory of the chosen encoder."""
    encoder = load_encoder(storage, config.encoder, folder)
    with temporary_folder() as scratch:
        encoder.save(str(scratch))
        copy_into(storage, scratch, layout.STUDENT)


def score_encoders(
    storage: Storage,
    config: Config,
    shards: int,
    scales: list[TargetScale],
    run_tasks: RunTasks = starmap,
    is_half: bool = False,
) -> dict[str, Any]:
    """The mean nDCG@5 of every encoder over the held-out documents, standard errors, and paired differences.

    ``scales``: of the cycles' examples, one an encoder. ``lead``: of the last encoder over the best one before it.
    ``is_half``: cycles.halves_held_out.
    """
    tasks = [(storage, config, groups, scales, is_half) for groups in shard_groups(len(example_groups(shards)))]
    parts = sorted(run_tasks(score_group, tasks), key=lambda part: int(part[0]))
    return summarize(np.concatenate([table for _, table in parts]))


def score_group(
    storage: Storage, config: Config, groups: range, scales: list[TargetScale], is_half: bool
) -> tuple[int, np.ndarray]:
    """Task: the first of ``groups`` of shards, and nDCG@5 of their held-out documents by every encoder, float64
    [documents, encoders]."""
    kind = compared_by(config.student.target)
    values: list[list[float]] = []
    for group in groups:
        for lists in _held_out_lists(storage, len(scales), group, is_half):
            pool = sorted({label for shortlist in lists for label in shortlist.labels.tolist()})
            if not pool:
                continue
            gains = gains_of(pool_target(pool, lists, kind, scales), config.student.target_temperature)
            gain = dict(zip(pool, gains, strict=True))
            orders = [[gain[label] for label in shortlist.labels.tolist()] for shortlist in lists]
            values.append([graded_ndcg(order, list(gains)) for order in orders])
    return groups.start, np.array(values, dtype=np.float64).reshape(-1, len(scales))


def pool_target(pool: list[int], lists: Sequence[Shortlist], kind: str, scales: Sequence[TargetScale]) -> np.ndarray:
    """The target of a document's pooled labels, float32 [len(pool)]; ``lists`` and ``scales``: one an encoder.

    The similarity in it is each encoder's, standardized by its own scale: half of it the base encoder's (the first),
    half the mean of the students', which are much alike and would outvote it. A label that an encoder did not shortlist
    counts as similar as the last one that it did.
    """
    verdicts: dict[int, float] = {}
    similarity = np.zeros(len(pool))
    for number, (shortlist, scale) in enumerate(zip(lists, scales, strict=True)):
        verdicts.update(zip(shortlist.labels.tolist(), shortlist.verdict.tolist(), strict=True))
        standard = (shortlist.similarity.astype(np.float64) - scale.similarity_mean) / scale.similarity_std
        listed = dict(zip(shortlist.labels.tolist(), standard, strict=True))
        last = standard[-1] if len(standard) else 0.0
        weight = 1.0 if len(lists) == 1 else 0.5 if number == 0 else 0.5 / (len(lists) - 1)
        similarity += weight * np.array([listed.get(label, last) for label in pool])
    verdict = np.array([verdicts[label] for label in pool], np.float32)
    of_verdicts = dataclasses.replace(scales[0], similarity_mean=0.0, similarity_std=1.0)
    return target_scores(verdict, similarity, kind, of_verdicts)


def summarize(table: np.ndarray) -> dict[str, Any]:
    """Scores of the encoders, and the last one's lead, in percent; ``table``: nDCG@5, float64 [documents, encoders]."""
    newest = table.shape[1] - 1
    best = int(np.argmax(table[:, :newest].mean(axis=0))) if newest and len(table) else 0
    difference, error = mean_and_error(table[:, newest] - table[:, best])
    lead = {"over": encoder_name(best), "difference": difference, "standard_error": error, "documents": len(table)}
    return {
        "documents": len(table),
        "scores": [_summary(table, number) for number in range(newest + 1)],
        "lead": lead,
    }


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of ``values`` (float64 [documents], shares) and its standard error, in percent; of none: zeros."""
    if not len(values):
        return 0.0, 0.0
    return 100 * float(values.mean()), 100 * float(values.std() / np.sqrt(max(1, len(values) - 1)))


def _summary(table: np.ndarray, encoder: int) -> dict[str, Any]:
    """Mean score of one encoder in percent, standard error, and the paired difference to the base encoder; of no
    document a score of None."""
    if not len(table):
        return {"encoder": encoder_name(encoder), "score": None, "documents": 0}
    score, error = mean_and_error(table[:, encoder])
    difference, difference_error = mean_and_error(table[:, encoder] - table[:, 0])
    return {
        "encoder": encoder_name(encoder),
        "score": score,
        "standard_error": error,
        "difference": difference,
        "difference_standard_error": difference_error,
        "documents": len(table),
    }


@dataclass(frozen=True)
class Shortlist:
    """What an encoder shortlisted for a document: ``labels`` int32 [k], ``similarity`` and ``verdict`` float32 [k]."""

    labels: np.ndarray
    similarity: np.ndarray
    verdict: np.ndarray


def _held_out_lists(storage: Storage, encoders: int, group: int, is_half: bool) -> Iterator[list[Shortlist]]:
    """The shortlists, one an encoder, of each held-out document that every encoder has one of; by shard and row."""
    found: list[dict[tuple[int, int], Shortlist]] = []
    for encoder in range(encoders):
        table = _held_out(storage, encoder, group, is_half)
        columns = [[one.values.to_numpy() for one in table[name]] for name in ("labels", "similarity", "verdict")]
        shortlists = (Shortlist(*arrays) for arrays in zip(*columns, strict=True))
        places = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
        found.append(dict(zip(places, shortlists, strict=True)))
    for place in sorted(found[0]):
        if all(place in one for one in found):
            yield [one[place] for one in found]


def _held_out(storage: Storage, encoder: int, group: int, is_half: bool) -> pa.Table:
    """The held-out documents of a group of shards of cycle ``encoder``; ``is_half``: those no training stopped by."""
    table = storage.read_table(layout.held_out(encoder, group), HELD_OUT_SCHEMA)
    return half_of(table, of_training=False) if is_half else table


def fit_thresholds(
    storage: Storage,
    chosen: int,
    shards: int,
    yes_threshold: float,
    run_tasks: RunTasks = starmap,
    is_half: bool = False,
) -> dict[str, Any]:
    """What the chosen encoder's similarities are worth by the teacher's yes on the held-out pairs: as fit_scores."""
    tasks = [(storage, chosen, groups, is_half) for groups in shard_groups(len(example_groups(shards)))]
    # In the order of the shards, by which a document's pairs are beside each other.
    parts = sorted(run_tasks(held_out_pairs, tasks), key=lambda part: int(part[0]))
    scores, verdicts = (np.concatenate([part[number] for part in parts]) for number in (1, 2))
    return fit_scores(scores, verdicts >= yes_threshold)


def held_out_pairs(storage: Storage, chosen: int, groups: range, is_half: bool) -> tuple[int, np.ndarray, np.ndarray]:
    """Task: the first of ``groups`` of shards, and similarities and verdicts of their held-out pairs, float32 [pairs]
    each."""
    tables = [_held_out(storage, chosen, group, is_half) for group in groups]
    similarity, verdict = (
        np.concatenate([flat(table[name]) for table in tables]) for name in ("similarity", "verdict")
    )
    return groups.start, similarity, verdict

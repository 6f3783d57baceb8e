"""Stage ``judge``: the teacher judges the pairs of the shortlists that the verdict store does not hold yet.

    ezxmc judge conf.yaml

In: cycle-c/shortlist/, documents/, labels.parquet, the teacher's model. Out: verdicts/<teacher key>/… (shared by all
cycles) and cycle-c/examples/, the shortlist joined with its verdicts. Items: ranges of shortlist rows; actors:
engines (judge_worker.py), with several items at hand each. Whatever dies, no committed pair is judged again. A second
read-out (teacher.second_readout) has a teacher key and engines of its own, after those of the first.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import watched
from ezxmc_ray.cluster.pools import Pool, WorkItem, free_gpus, map_over_engines
from ezxmc_ray.cluster.session import node_cpus, node_gpus, pool_gpus, run_task, run_tasks
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation.first_pairs import FirstPairs, lacking_shards
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.judge_worker import LABEL_PRIORS, PAIRS, Counts, JudgeWorker
from ezxmc_ray.storage import Storage
from ezxmc_ray.teacher.engine import describe, teacher_key
from ezxmc_ray.verdicts.calibration import resolve_calibration
from ezxmc_ray.verdicts.costs import step_of, with_all_starts, with_second
from ezxmc_ray.verdicts.examples import Reading, example_groups, make_examples
from ezxmc_ray.verdicts.relocate import relocate
from ezxmc_ray.verdicts.second_readout import SECOND
from ezxmc_ray.verdicts.shortlist_pairs import count_pending, plan_priors
from ezxmc_ray.verdicts.store import BY_HAND, PRIORS, VerdictStore

#: Documents a work item at most, and items an engine is to have at least, so that engines end together. An item reads
#: its shard's files once and commits a file, so that few large ones are better where there is enough to share out.
ITEM_DOCUMENTS, ITEMS_PER_ENGINE = 4096, 16
#: The same of the labels whose priors are asked for; each item reads all the files that others have written.
MIN_PRIOR_LABELS, MAX_PRIOR_LABELS = 8192, 65536


def judge(context: Context, cycle: int) -> StageResult:
    """Judge what is pending in ``cycle``, join the examples; returns pairs, files and details of the manifest."""
    config, storage = context.teacher, context.storage
    first = _ask(context, cycle, f"cycle {cycle} judge")
    again = context.read_again
    second = _ask(again, cycle, f"cycle {cycle} judge, {again.teacher.readout}", first) if again else None
    reading = Reading(first.key, config.readout, first.calibration)
    made = make_examples(context, cycle, reading, run_tasks, second.key if second else None)
    details = {"pairs": made.rows, **first.of_all_starts(storage, cycle, made.rows)}
    if second:
        details = with_second(details, second.of_all_starts(storage, cycle, made.rows))
        made.details[SECOND] |= {"first_pairs": second.details["first_pairs"]}
    details["teacher"] = {**run_task(describe, config), "key": first.key, "calibration": first.calibration}
    if any(VerdictStore(storage, one.key).is_by_hand() for one in (first, second) if one):
        details["teacher"][BY_HAND] = True
    storage.remove(layout.pending_priors(cycle))
    return StageResult(made.rows, made.files, details | made.details)


@dataclass(frozen=True)
class _Asked:
    """What the engines did for one read-out; ``pending``: pairs that the store of its ``key`` did not hold before."""

    key: str
    calibration: str
    pending: int
    details: dict[str, Any]

    def of_all_starts(self, storage: Storage, cycle: int, pairs: int) -> dict[str, Any]:
        """The manifest's details, of all starts of this step, which has so many ``pairs``."""
        details = self.details | {"pairs_held": pairs - self.pending}
        return with_all_starts(details, storage, self.key, step_of(storage, cycle), run_tasks)


def _ask(context: Context, cycle: int, name: str, before: _Asked | None = None) -> _Asked:
    """Let the engines judge what the stores do not hold, by the read-out of ``context``.

    ``name``: of the progress; ``before``: what the first read-out was asked, where this is the second.
    """
    config, storage = context.teacher, context.storage
    key = run_task(start_store, storage, config)
    relocate(context, key, run_tasks)
    calibration = resolve_calibration(config)
    pending = sum(run_tasks(count_pending, [(storage, key, cycle, some) for some in example_groups(context.shards)]))
    if before is not None and not cycle:
        _tell_again(context, key, pending - before.pending, before.pending)
    first = FirstPairs(context, key, cycle, run_task, is_second=before is not None)
    details = _run_engines(context, cycle, key, calibration, pending, first, name)
    if calibration == "label_prior":
        run_task(compact_priors, storage, key)
    return _Asked(key, calibration, pending, details)


def _tell_again(context: Context, key: str, held: int, asked: int) -> None:
    """Say it where most pairs had a verdict, and the first of them are about to be asked a second time.

    So it is in a run of an older version, and with verdicts of one read-out that were imported. ``held``: pairs that
    had one; ``asked``: that had none.
    """
    if held > asked and not VerdictStore(context.storage, key).folders():
        say(
            f"{held:,} pairs of cycle 0 that the run holds verdicts of are asked a second time, by "
            f"{context.teacher.readout}; teacher.second_readout=none leaves that out."
        )


def _run_engines(
    context: Context, cycle: int, key: str, calibration: str, pending: int, first: FirstPairs, name: str
) -> dict[str, Any]:
    """Start the engines for what is ``pending``, the ``first`` pairs first; what they did, for the manifest."""
    config, storage = context.teacher, context.storage
    free_gpus()
    pool = engine_pool(config)
    first_items, items = _items(context, cycle, pool.size, dict(first.rows)) if pending else ([], [])
    if calibration == "label_prior":
        priors, ahead = run_task(plan_priors, storage, key, cycle, range(context.shards), first.rows)
        first_items = prior_items(0, ahead, priors, pool.size) + first_items
        items = prior_items(ahead, priors, priors, pool.size) + items
        pending += priors
    lacking = run_task(lacking_shards, storage, key, first.rows) if first.rows else set()
    first.wait_for([item for item in first_items if item["kind"] == LABEL_PRIORS or item["shard"] in lacking])
    items = first_items + items
    work = (storage, config, key, cycle)
    return run_engines(work, pool, items, StageProgress(name, "pairs", pending), first.done) | {
        "first_pairs": first.found
    }


def run_engines(
    work: tuple[Storage, TeacherConfig, str, int],
    pool: Pool,
    items: list[WorkItem],
    progress: StageProgress,
    note: Callable[[WorkItem], None],
) -> dict[str, Any]:
    """Let the engines of ``pool`` do ``items``, and ``note`` each that is done; what they did, for the manifest.

    ``work``: of a JudgeWorker. Errors: those of ``note``, and of a teacher that gives no finite score.
    """
    counts = {kind: Counts() for kind in (PAIRS, LABEL_PRIORS)}
    began = time.monotonic()
    with watched(progress):
        for done in map_over_engines(items, JudgeWorker, work, pool):
            item: WorkItem = {name: done.pop(name) for name in items[0]}  # type: ignore[assignment, misc]
            counts[item["kind"]].add(done)
            progress.advance(done["pairs"])
            note(item)
    engines = pool.capped(len(items)).size if items else 0
    return engine_details(counts, engines, time.monotonic() - began)


def start_store(storage: Storage, config: TeacherConfig) -> str:
    """Task: resolve the teacher, note its description in the verdict store, and return its key."""
    key = teacher_key(config)
    VerdictStore(storage, key).write_description(describe(config))
    return key


def compact_priors(storage: Storage, key: str) -> None:
    """Task: make one file of the priors, which every task of the examples reads whole."""
    store = VerdictStore(storage, key)
    if len(store.files(PRIORS)) > 1:
        store.compact(PRIORS, store.read(PRIORS))


def engine_details(counts: dict[str, Counts], engines: int, seconds: float) -> dict[str, Any]:
    """What the engines did, for the manifest; ``seconds``: wall time of the mapping, starts of the engines included."""
    asked = Counts()
    for one in counts.values():
        asked.add(vars(one))
    return {
        "pairs_asked": counts[PAIRS].pairs,
        "prior_pairs_asked": counts[LABEL_PRIORS].pairs,
        "prompt_tokens": asked.prompt_tokens,
        "computed_tokens": asked.computed_tokens,
        "truncated_documents": counts[PAIRS].truncated_documents,
        "truncated_labels": asked.truncated_labels,
        "engines": engines,
        "engine_start_seconds": asked.start_seconds,
        "engine_seconds": asked.seconds,
        "engine_pairs_per_s": asked.pairs / asked.seconds if asked.seconds else None,
        "worker_seconds": asked.worker_seconds,
        "busy_share": asked.seconds / asked.worker_seconds if asked.worker_seconds else None,
        "map_seconds": seconds,
    }


def engine_pool(config: TeacherConfig) -> Pool:
    """The engines: as many as configured, else one for each tensor-parallel group of GPUs, or one on a CPU machine.

    GPUs that Ray's autoscaler may bring count: engines that find no room yet are what it brings them for.
    """
    gpus = pool_gpus()
    if config.tensor_parallel > max(node_gpus(), 1):
        raise UserError(
            f"teacher.tensor_parallel is {config.tensor_parallel}, but no node has more than {node_gpus()} GPUs."
        )
    if gpus:
        return Pool(config.engines or gpus // config.tensor_parallel, 1, config.tensor_parallel)
    engines = config.engines or 1
    return Pool(engines, max(1, node_cpus() // engines))


def _items(
    context: Context, cycle: int, engines: int, first_rows: dict[int, int]
) -> tuple[list[WorkItem], list[WorkItem]]:
    """Ranges of shortlist rows, none across shards: the first rows of shards, as many as ``first_rows`` says, and all
    others."""
    storage, config = context.storage, context.teacher
    rows = storage.rows_of([layout.shard_file(layout.shortlist(cycle), shard) for shard in range(context.shards)])
    size = item_documents(sum(rows), engines, config)
    first = [item for shard, count in first_rows.items() for item in work_items(PAIRS, 0, count, size, shard)]
    others = (work_items(PAIRS, first_rows.get(shard, 0), count, size, shard) for shard, count in enumerate(rows))
    return first, list(itertools.chain.from_iterable(others))


def prior_items(start: int, stop: int, priors: int, engines: int) -> list[WorkItem]:
    """Items of the labels ``start`` to ``stop`` of a plan of so many ``priors``, for so many ``engines``."""
    size = max(MIN_PRIOR_LABELS, min(MAX_PRIOR_LABELS, priors // (ITEMS_PER_ENGINE * engines)))
    return work_items(LABEL_PRIORS, start, stop, size, 0)


def item_documents(documents: int, engines: int, config: TeacherConfig) -> int:
    """Documents of a work item where ``engines`` judge so many."""
    return max(config.batch_documents, min(ITEM_DOCUMENTS, documents // (ITEMS_PER_ENGINE * engines)))


def work_items(kind: str, start: int, stop: int, size: int, shard: int) -> list[WorkItem]:
    """Items of ``size`` rows of ``shard``, or labels, from ``start`` to ``stop``."""
    starts = range(start, stop, size)
    return [{"kind": kind, "shard": shard, "start": one, "stop": min(stop, one + size)} for one in starts]

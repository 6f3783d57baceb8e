"""What a run's verdict store holds, teacher by teacher, and how its many small files become few. Needs no Ray.

    ezxmc verdicts show RUN
    ezxmc verdicts compact RUN

In: verdicts/, documents/, the manifests of judge. Out: a table; of ``compact`` one file a folder of the store.
Verdicts as a file to take elsewhere: transfer.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.context import Context, judged_dtype
from ezxmc_ray.cycles import planned_cycles
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import AUTO, machine_dtype
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage, read_manifest
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.verdicts.calibration import calibrate, yes_threshold_of
from ezxmc_ray.verdicts.dtypes import held_dtypes, with_dtype_by_hand
from ezxmc_ray.verdicts.placement import ShardLookup, compact_store, each_pair_once
from ezxmc_ray.verdicts.store import FOLDERS_AT_ONCE, PRIORS, VerdictStore, teacher_keys

#: Stands for the key of the teacher that the run's configuration names.
CONFIGURED = "configured"


def summary(context: Context, teacher: str | None = None) -> list[dict[str, Any]]:
    """A row for one teacher (None: for each): key, model, prompt, read-out, pairs, priors, share of yes, cost, files.

    Each pair counts once, wherever its copies lie. ``share of yes``: of a teacher that judged shortlists of this run,
    as its cycles' manifests say (the mean over their pairs); of another one, by Otsu's split of the scores held.
    """
    lookup, shares = lookup_of(context), _yes_shares(context)
    return [_row(store, lookup, shares.get(store.key)) for store in _stores(context, teacher)]


def _row(store: VerdictStore, lookup: ShardLookup, share_yes: float | None) -> dict[str, Any]:
    description = store.description() or {}
    raw, pairs, priors, prompt_tokens = [], 0, 0, 0
    for folder, table in each_pair_once(store, lookup):
        prompt_tokens += int(table["prompt_tokens"].to_numpy().sum())
        if folder == PRIORS:
            priors += len(table)
            continue
        pairs += len(table)
        if share_yes is None:
            raw.append(table["raw"].to_numpy())
    if raw and pairs and "readout" in description:
        share_yes = _share_yes(np.concatenate(raw), description["readout"])
    counts = list(at_once(store.counts, store.folders(), FOLDERS_AT_ONCE))
    return {
        "teacher": store.key,
        "model": description.get("model"),
        "prompt": description.get("prompt"),
        "readout": description.get("readout"),
        "pairs": pairs,
        "priors": priors,
        "share of yes": None if share_yes is None else f"{share_yes:.1%}",
        "engine seconds": sum(one.get("engine_ms", 0) for one in counts) / 1000,
        "prompt tokens": prompt_tokens,
        "computed tokens": sum(one.get("computed_tokens", 0) for one in counts),
        "files": _files(store),
    }


def _share_yes(raw: np.ndarray, readout: str) -> float:
    """The share of scores, float32 [n], on the upper side of their split."""
    verdicts = calibrate(raw, None, readout, "none")
    return float((verdicts >= yes_threshold_of(verdicts)).mean())


def _yes_shares(context: Context) -> dict[str, float]:
    """By teacher key the share of yes over the pairs of all cycles whose shortlists it judged."""
    yes: dict[str, float] = {}
    pairs: dict[str, int] = {}
    for cycle in range(context.cycles + 1):
        manifest = read_manifest(context.storage, layout.examples(cycle))
        if manifest and manifest.rows:
            key = manifest.details["teacher"]["key"]
            yes[key] = yes.get(key, 0.0) + manifest.details["share_yes"] * manifest.rows
            pairs[key] = pairs.get(key, 0) + manifest.rows
    return {key: yes[key] / pairs[key] for key in yes}


def compact(context: Context, teacher: str | None = None) -> tuple[int, int]:
    """Compact the verdicts of one teacher (None: of all); returns how many files there were and are.

    Errors: UserError if the run is in use, or holds no verdicts of the teacher.
    """
    with run_lock(context.storage):
        stores = _stores(context, teacher)
        before = sum(_files(store) for store in stores)
        lookup = lookup_of(context)
        for store in stores:
            compact_store(store, lookup)
        return before, sum(_files(store) for store in stores)


def _stores(context: Context, teacher: str | None) -> list[VerdictStore]:
    keys = teacher_keys(context.storage) if teacher is None else [held_key(context, teacher)]
    return [VerdictStore(context.storage, key) for key in keys]


def _files(store: VerdictStore) -> int:
    return sum(map(len, at_once(store.files, store.folders())))


def lookup_of(context: Context) -> ShardLookup:
    """Where the run's documents lie; nowhere, if it is not prepared. Errors: UserError for a damaged manifest."""
    is_prepared = context.storage.exists(layout.manifest(layout.DOCUMENTS))
    return ShardLookup.of_shards(context.storage, context.shards if is_prepared else 0)


def held_key(context: Context, teacher: str | None) -> str:
    """The key of ``teacher``: a key, or ``configured``; None: the teacher that judged the run's shortlists, or the only
    one. UserError if the run holds no verdicts of it, or of several.
    """
    keys, run = teacher_keys(context.storage), context.storage.root
    if not keys:
        raise UserError(f"The run {run} holds no verdicts: judge with `ezxmc run`, or import some.")
    if teacher is None:
        own = sorted(_yes_shares(context).keys() & set(keys)) or keys
        if len(own) > 1:
            raise UserError(f"The run {run} holds verdicts of {len(own)} teachers: give --teacher {' or '.join(own)}.")
        return own[0]
    key = teacher_key(configured_teacher(context)) if teacher == CONFIGURED else teacher
    if key not in keys:
        raise UserError(f"The run {run} holds no verdicts of the teacher {key}, only those of {', '.join(keys)}.")
    return key


def configured_teacher(context: Context) -> TeacherConfig:
    """The teacher that a run is configured with, for commands that ask nobody: auto is the dtype of its verdicts.

    That is the one that verdicts made by hand were imported in, the one that its last cycle was judged in, or the only
    one that it holds; of a run without verdicts the one of this machine. Errors: UserError where that leaves several.
    """
    storage = context.storage
    config = with_dtype_by_hand(storage, context.teacher)
    if config.dtype != AUTO:
        return config
    held = held_dtypes(storage, config)
    judged = [dtype for dtype in _dtypes_judged_in(storage, planned_cycles(context.config)) if dtype in held]
    if len(held) > 1 and not judged:
        raise UserError(
            f"The run {storage.root} holds verdicts of its teacher in {' and '.join(held)}: set teacher.dtype in its "
            "configuration, or give a teacher key (`ezxmc verdicts show` lists them)."
        )
    return replace(config, dtype=(judged or held or [machine_dtype()])[0])


def _dtypes_judged_in(storage: Storage, cycles: int) -> list[str]:
    """The dtypes that the cycles were judged in, the last cycle first."""
    found = (judged_dtype(storage, layout.examples(cycle)) for cycle in range(cycles, -1, -1))
    return [dtype for dtype in found if dtype]

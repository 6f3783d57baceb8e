"""The first few hundred pairs of cycle 0: judged before all others, and looked at before those are paid for.

In: cycle-0/shortlist/, the verdict store. Out: which rows those pairs are in; how their verdicts go with the similarity
(weakness.py), for the manifest. Gold labels are not looked at. ``teacher.on_weak`` says what follows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.context import Context, RunTask
from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation.weakness import DOCUMENTS, PAIRS, weakness
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import SHORTLIST_SCHEMA, flat
from ezxmc_ray.teacher.readout import second_teacher
from ezxmc_ray.verdicts.calibration import calibrate, resolve_calibration
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs


class FirstPairs:
    """What the driver knows of them: which rows they are in, which items are not done yet, and what they have shown.

    ``rows``: (shard, rows from its first on) of the shortlists, none after cycle 0. ``found``: None until the items
    are done, and where they are too few to say anything. ``is_second``: the teacher is read a second time.
    """

    def __init__(self, context: Context, key: str, cycle: int, run_task: RunTask, is_second: bool = False) -> None:
        self._is_second = is_second
        self._run_task, self.storage, self.key = run_task, context.storage, key
        teacher = context.teacher
        # A given threshold is of both read-outs together.
        self.config = replace(teacher, yes_threshold=None) if second_teacher(teacher) else teacher
        wanted = max(DOCUMENTS, -(-PAIRS // context.config.shortlist.size))
        self.rows = run_task(spread_rows, self.storage, context.shards, wanted) if cycle == 0 else []
        self.found: dict[str, Any] | None = None
        self._open: list[Mapping[str, Any]] = []

    def wait_for(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Look at the pairs when ``items`` are done: now, if there are none. Errors: as :meth:`done`."""
        self._open = list(items)
        self._look()

    def done(self, item: Mapping[str, Any]) -> None:
        """One item is done. Errors: UserError where the teacher looks weak and ``teacher.on_weak`` is fail."""
        if item in self._open:
            self._open.remove(item)
            self._look()

    def _look(self) -> None:
        if self._open or not self.rows:
            return
        # No CPUs: the engines have them all where there is no GPU, and the task would wait for their end.
        about = self.storage, self.key, self.rows, self.config, self._is_second
        self.found = self._run_task(audit_first_pairs, *about, cpus=0)
        act_on(self.found, self.config)


def spread_rows(storage: Storage, shards: int, wanted: int) -> list[tuple[int, int]]:
    """(shard, rows from its first on), ``wanted`` rows in all or as many as there are, spread over the shards."""
    rows = dict(enumerate(storage.rows_of([layout.shard_file(layout.shortlist(0), n) for n in range(shards)])))
    filled = [shard for shard, count in rows.items() if count]
    # Shards at even distances, the same number of rows of each; what is short is taken from the ones that have more.
    some = filled[:: max(1, len(filled) // max(1, wanted))][:wanted]
    taken: Counter[int] = Counter()
    while sum(taken.values()) < wanted and (open_shards := [shard for shard in some if taken[shard] < rows[shard]]):
        taken.update(open_shards[: wanted - sum(taken.values())])
    return sorted(taken.items())


def lacking_shards(storage: Storage, key: str, rows: list[tuple[int, int]]) -> set[int]:
    """Task: the shards whose ``rows`` (shard, rows from its first on) have pairs that the store does not hold yet."""
    shortlist_pairs = ShortlistPairs(storage, key, 0) if rows else None
    return {shard for shard, count in rows if shortlist_pairs and shortlist_pairs.of_shard(shard, 0, count).size}


def audit_first_pairs(
    storage: Storage, key: str, rows: list[tuple[int, int]], config: TeacherConfig, is_second: bool = False
) -> dict[str, Any] | None:
    """Task: what the verdicts on ``rows`` say of the teacher, by one read-out; None if they are too few.

    Documents that lack a verdict are left out.
    """
    calibration = resolve_calibration(config)
    shortlist_pairs = ShortlistPairs(storage, key, 0)
    verdicts: list[np.ndarray] = []
    similarities: list[np.ndarray] = []
    for shard, count in rows:
        pairs = shortlist_pairs.pairs(shard, 0, count)
        priors = shortlist_pairs.store.label_priors(pairs["label_hash"]) if calibration == "label_prior" else None
        verdict = calibrate(shortlist_pairs.raw(shard, pairs), priors, config.readout, calibration)
        shortlist = storage.read_shard(layout.shortlist(0), shard, SHORTLIST_SCHEMA).slice(0, count)
        ends = np.cumsum([len(labels) for labels in shortlist["labels"].to_pylist()])[:-1]
        verdicts += np.split(verdict, ends)
        similarities += np.split(flat(shortlist["similarity"]), ends)
    whole = [not np.isnan(one).any() for one in verdicts]
    of_whole = [list(itertools.compress(lists, whole)) for lists in (verdicts, similarities)]
    found = weakness(of_whole[0], of_whole[1], config.readout, config.yes_threshold, is_second)
    return asdict(found) if found else None


def act_on(found: dict[str, Any] | None, config: TeacherConfig) -> None:
    """Say what :func:`audit_first_pairs` has found, or end the run with it: a UserError, where on_weak is fail."""
    sentence = found["sentence"] if found else None
    if sentence is None:
        return
    if config.on_weak == "fail":
        raise UserError(f"{sentence.rstrip('.')} (the run ends here since teacher.on_weak=fail).")
    say(sentence)

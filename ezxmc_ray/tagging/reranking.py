"""Reranking by the teacher: whether a run can, with which teacher and on which scale, and the order that verdicts give.

Comes in: a run directory, overrides; label lists with similarities and verdicts. Goes out: what ``ezxmc tag --rerank``
works by (stages/rerank.py), and the lists in their new order.

The rule: a label stays where the teacher says yes to it (its verdict reaches the run's threshold of yes, or
``teacher.yes_threshold``). Those that stay are ordered by what the student's target is made of (student/targets.py):
the sum of verdict and similarity, both standardized, or the verdict alone where ``student.target`` is verdict. The
scale is the run's own, of the pairs that its chosen encoder shortlisted, so a label is worth the same in every file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.config import Config, TeacherConfig, knobs
from ezxmc_ray.context import Context, open_context, stored_configuration
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import AUTO
from ezxmc_ray.models import is_hub_id, pinned
from ezxmc_ray.storage import Manifest, Storage, read_manifest
from ezxmc_ray.student.targets import SCALES, TargetScale, compared_by, target_scores
from ezxmc_ray.tagging.bundle import is_bundle
from ezxmc_ray.tagging.opening import checked_settings
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.teacher.engine import keys_of, teacher_key
from ezxmc_ray.teacher.readout import second_teacher
from ezxmc_ray.verdicts.examples import Reading
from ezxmc_ray.verdicts.second_readout import SecondReadout

#: Knobs of the teacher that may be others than the run's beside those of performance: engines answer the same, the
#: threshold is no part of the question, and verdicts in another number format, which differ a little, are asked anew.
OWN_KNOBS = ("engine", "yes_threshold", "dtype")
#: The teacher ranks what the similarity proposes, by which its scale was fitted.
WITHOUT_CROSS_ENCODER = ("predict.rerank=0",)
#: Candidates for each label that is kept at most, where predict.rerank_candidates does not say.
CANDIDATES_PER_LABEL = 2


@dataclass(frozen=True)
class Reranking:
    """How a run's teacher reranks.

    ``teacher``: read-out and dtype resolved; ``again``: the same as it is asked a second time, None if it is not;
    ``reading``: how their answers become verdicts. ``kind`` and ``scale``: of what a label is worth
    (targets.target_scores). ``candidates``: labels a document that are asked about, of at least the similarity
    ``min_score``; ``top_k`` of them are kept at most, those whose verdict is ``yes_threshold`` at least.
    """

    teacher: TeacherConfig
    again: TeacherConfig | None
    reading: Reading
    scale: TargetScale
    kind: str
    yes_threshold: float
    candidates: int
    min_score: float
    top_k: int

    @property
    def asked(self) -> list[tuple[TeacherConfig, str, str]]:
        """The teacher as it is asked first, and a second time if it is: with the key and calibration of its scores."""
        asked = [(self.teacher, self.reading.key, self.reading.calibration)]
        if self.again is not None and self.reading.second is not None:
            asked.append((self.again, self.reading.second.key, self.again.calibration))
        return asked

    @property
    def proposed_by(self) -> list[Any]:
        """What the labels that are asked about depend on, beside the tagger."""
        return [self.candidates, repr(self.min_score)]

    @property
    def decided_by(self) -> list[Any]:
        """What the tags depend on, beside the tagger."""
        scale = [self.reading.calibration, asdict(self.scale), self.kind, self.yes_threshold, self.top_k]
        second = [asdict(self.reading.second)] if self.reading.second else []
        return [self.reading.key, *second, *scale, *self.proposed_by]


@dataclass(frozen=True)
class Reranked:
    """Lists of documents after one another: ``counts`` int64 [documents] labels of each, int32 ``labels``, and float32
    ``scores`` (what they are worth, falling), ``similarities`` and ``verdicts``."""

    counts: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    similarities: np.ndarray
    verdicts: np.ndarray


def rerank(
    counts: np.ndarray, labels: np.ndarray, similarity: np.ndarray, verdict: np.ndarray, how: Reranking
) -> Reranked:
    """The labels that stay, in their new order; of equal worth those come first that were before.

    ``counts`` int64 [documents]: candidates of each; the others [sum of counts], aligned: label numbers int32, float32.
    """
    document = np.repeat(np.arange(len(counts)), counts)
    worth = target_scores(verdict, similarity, how.kind, how.scale)
    kept = np.flatnonzero(verdict >= how.yes_threshold)
    kept = kept[np.lexsort((kept, -worth[kept], document[kept]))]
    of_each = np.bincount(document[kept], minlength=len(counts))
    rank = np.arange(len(kept)) - np.repeat(np.cumsum(of_each) - of_each, of_each)
    kept = kept[rank < how.top_k]
    return Reranked(np.minimum(of_each, how.top_k), labels[kept], worth[kept], similarity[kept], verdict[kept])


def open_reranking(where: str, overrides: Sequence[str] = ()) -> tuple[Context, TagSettings, Reranking]:
    """The run ``where`` with ``overrides``, how it tags, and how its teacher reranks.

    Errors: UserError for what is no run, a run that cannot tag or has judged nothing, a teacher that is not the one
    that judged it, and knobs that would change what is asked.
    """
    if is_hub_id(where) or is_bundle(Storage(where)):
        raise UserError(
            f"--rerank asks the run's teacher, which an export does not know, and {where} is no run here: give the "
            "directory or URI of the run."
        )
    context = open_context(where, [*overrides, *WITHOUT_CROSS_ENCODER])
    settings = checked_settings(context)
    stored = stored_configuration(context.storage)
    _check_knobs(stored, context.config)
    judged = _judged(context)
    teacher, again, reading = _teacher(stored.teacher, context, judged.details)
    predict, own = context.config.predict, context.config.teacher.yes_threshold
    how = Reranking(
        teacher,
        again,
        reading,
        TargetScale(**judged.details[SCALES[1]]),
        compared_by(context.config.student.target),
        float(judged.details["yes_threshold"] if own is None else own),
        _candidates(context.config),
        # A fitted one foretells the teacher's yes, which is asked for here.
        float("-inf") if predict.min_score is None else predict.min_score,
        predict.top_k,
    )
    return context, settings, how


def _candidates(config: Config) -> int:
    given = config.predict.rerank_candidates
    if given is not None:
        return given
    wanted = CANDIDATES_PER_LABEL * config.predict.top_k
    return min(wanted, config.lexical.candidates) if config.lexical.weight else wanted


def _check_knobs(stored: Config, config: Config) -> None:
    """Errors: UserError for knobs that are others than the run's and have no use, or would change what is asked."""
    if config.predict.precision != stored.predict.precision:
        raise UserError(
            "predict.precision fits a similarity that foretells the teacher's yes, and --rerank asks for the yes "
            "itself: leave it out (teacher.yes_threshold says what counts as a yes)."
        )
    free = {knob.key for knob in knobs() if knob.performance} | {f"teacher.{name}" for name in OWN_KNOBS}
    for one in fields(TeacherConfig):
        changed = getattr(config.teacher, one.name) != getattr(stored.teacher, one.name)
        if changed and f"teacher.{one.name}" not in free:
            raise UserError(
                f"teacher.{one.name} changes what the teacher is asked or how its answer is read, and what counts as a "
                "yes was fitted to what it was asked in the run: leave it out, or make a run with it."
            )


def _judged(context: Context) -> Manifest:
    """The manifest of the newest judging up to the chosen encoder's that has any pairs: its scale is what a label is
    worth by. Errors: UserError where there is none."""
    chosen = int(context.manifest(layout.STUDENT).details["encoder"])
    for cycle in range(chosen, -1, -1):
        found = read_manifest(context.storage, layout.examples(cycle))
        if found is not None and found.rows:
            return found
    raise UserError(
        f"The run {context.config.run} has no verdicts, by whose scale --rerank could order labels: finish it with "
        "`ezxmc run`."
    )


def _teacher(
    stored: TeacherConfig, context: Context, details: Mapping[str, Any]
) -> tuple[TeacherConfig, TeacherConfig | None, Reading]:
    """The teacher that is asked, the same as it is asked a second time, and how both are read as in the judging of the
    manifest's ``details``. Errors: UserError for another one than the run's.

    Where auto decides on a second read-out it decided when the run was judged: older versions knew none.
    """
    run, asked, judged_by = context.config.run, context.teacher, details["teacher"]
    second = SecondReadout.of_manifest(details)
    if second is None and stored.second_readout == AUTO:
        asked = replace(asked, second_readout="none")
    known = [judged_by["key"], *([second.key] if second else [])]
    if keys_of(replace(asked, dtype=judged_by["dtype"])) != known:
        what = f"The teacher {asked.model}" if asked.model != stored.model else "The teacher that it names now"
        raise UserError(
            f"{what} is not the one that judged the run {run} (other weights, another prompt, other worked examples), "
            "and what counts as a yes was fitted to that one: give the one that judged it, or finish a run with this "
            "one with `ezxmc run`."
        )
    dtype = judged_by["dtype"] if asked.dtype in (AUTO, stored.dtype) else asked.dtype
    teacher = replace(asked, dtype=dtype, model=pinned(asked.model))
    again = second_teacher(teacher)
    if second is not None and again is not None:
        second = replace(second, key=teacher_key(again))
    return teacher, again, Reading(teacher_key(teacher), asked.readout, judged_by["calibration"], second)

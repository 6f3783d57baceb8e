"""How many cycles a run goes through, and on how many documents each: the stop rule and the budget of pairs.

Comes in: a configuration, counts of documents, what the selection inside a cycle found. Goes out: numbers. The
curriculum, its stages, the estimate and the report all ask here, so that they mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.config import Config
from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics import MIN_DOCUMENTS
from ezxmc_ray.storage import Storage, read_manifest

#: Train documents of a cycle where nothing else is asked for: with small teachers more of them taught no more
#: (docs/experiments.md).
DOCUMENTS_PER_CYCLE = 300
#: ``curriculum.pair_budget=auto``: cycles at most where ``curriculum.cycles`` asks for one, train documents of the
#: first, and the standard errors by which a student must lead the best encoder before it.
AUTO, AUTO_CYCLES, AUTO_DOCUMENTS, AUTO_LEAD = "auto", 8, 100, 1.0
#: Documents that a training takes at least: a batch of fewer has no in-batch negatives to speak of.
MIN_LEARNED = 2
#: Judged held-out documents from which on they are halved (:func:`halves_held_out`); of fewer a half says too little.
HALVED_FROM = 4 * MIN_DOCUMENTS
#: Held-out documents that a cross-encoder's scores are looked at on, at most: each has a shortlist of pairs.
FITTED_DOCUMENTS = 1000


def planned_cycles(config: Config) -> int:
    """Cycles at most: as configured, or as ``curriculum.pair_budget=auto`` has them."""
    cycles = config.curriculum.cycles
    return AUTO_CYCLES if cycles == 1 and config.curriculum.pair_budget == AUTO else cycles


def numeric_budget(config: Config) -> int:
    """Pairs that the shortlists of all cycles may have; 0: no number bounds them."""
    budget = config.curriculum.pair_budget
    return budget if isinstance(budget, int) else 0


def least_lead(config: Config, cycle: int) -> float | None:
    """Standard errors by which the encoder of ``cycle`` must lead the best one before it; None: any will do.

    With ``curriculum.pair_budget=auto`` the first student goes on unless it is worse beyond noise than the untrained
    encoder: few documents may teach too little to be seen.
    """
    given = config.curriculum.min_lead
    if config.curriculum.pair_budget != AUTO:
        return given
    return -AUTO_LEAD if cycle == 1 else AUTO_LEAD


def cycles_end_by(config: Config) -> str:
    """The knob that decides when the cycles end."""
    return "curriculum.pair_budget" if config.curriculum.pair_budget == AUTO else "curriculum.min_lead"


def compares(config: Config, cycle: int) -> bool:
    """Whether ``cycle`` begins with the stop rule: all but the first and the last, where there is one."""
    return least_lead(config, cycle) is not None and 0 < cycle < planned_cycles(config)


def stops(lead: Mapping[str, Any], min_lead: float | None) -> bool:
    """Whether the newest encoder leads the best one before it by too little for another cycle.

    ``lead``: mean of the paired ``difference`` d of the two over the held-out documents, its ``standard_error`` s, and
    the number of ``documents``. The rule: stop where d <= min_lead * s, on MIN_DOCUMENTS documents at least.
    Two encoders that order every document alike (d = s = 0) stop it with any ``min_lead``.
    """
    if min_lead is None or lead["documents"] < MIN_DOCUMENTS:
        return False
    return bool(lead["difference"] <= min_lead * lead["standard_error"])


def stopped_at(storage: Storage, config: Config) -> int | None:
    """The cycle that the stop rule ended the run at, before its train documents were judged; None: it did not."""
    for cycle in range(planned_cycles(config)):
        if compares(config, cycle):
            manifest = read_manifest(storage, layout.selection(cycle))
            if manifest and stops(manifest.details["lead"], least_lead(config, cycle)):
                return cycle
    return None


def cycles_run(storage: Storage, config: Config) -> int:
    """Cycles that end with a student: as planned, or fewer where the stop rule has ended them."""
    stopped = stopped_at(storage, config)
    return planned_cycles(config) if stopped is None else stopped


def pairs_per_document(config: Config, labels: int) -> int:
    """The most pairs that a document's shortlist has."""
    return min(config.shortlist.size, labels)


def held_out_judged(config: Config, held_out: int) -> int:
    """Of so many held-out documents those that are shortlisted and judged, the same ones in every cycle."""
    return min(held_out, config.shortlist.held_out_documents or held_out)


def stops_by_held_out(config: Config) -> bool:
    """Whether trainings choose their weights by held-out documents (``student.patience``)."""
    student = config.student
    return bool(student.validate_every_steps and student.patience and planned_cycles(config))


def halves_held_out(config: Config, held_out: Callable[[], int]) -> bool:
    """Whether trainings choose their weights by one half of the held-out documents, so that the other is the
    selection's: from HALVED_FROM judged ones on. ``held_out``: says how many there are, asked where it matters."""
    return stops_by_held_out(config) and held_out_judged(config, held_out()) >= HALVED_FROM


def documents_per_cycle(config: Config, train: int, held_out: int, labels: int, cycle: int) -> int:
    """Train documents (held-out ones apart) of ``cycle``: as configured, and as ``curriculum.pair_budget`` allows.

    With auto each cycle has twice as many as the one before, or all.
    With n cycles a budget also pays for the held-out documents' shortlists by n + 1 encoders; the rest is shared out
    evenly. Label priors are apart: which of them are needed is known only when shortlists are.
    Errors: UserError for a budget that leaves a cycle less than a batch, and for auto without held-out documents enough
    to compare students by.
    """
    there, held_out = train - held_out, held_out_judged(config, held_out)
    asked = config.shortlist.documents_per_cycle
    if config.curriculum.pair_budget == AUTO:
        if held_out < MIN_DOCUMENTS:
            raise UserError(
                f"curriculum.pair_budget=auto compares students by held-out documents, and there are {held_out:,}, of "
                f"{MIN_DOCUMENTS} that it takes: set prepare.held_out_share or shortlist.held_out_documents higher, or "
                "give a number."
            )
        asked = (AUTO_DOCUMENTS if asked is None else asked) * 2 ** min(cycle, 30)
    elif asked is None:
        asked = 0 if config.curriculum.pair_budget else DOCUMENTS_PER_CYCLE
    wanted = min(asked or there, there)
    budget, cycles = numeric_budget(config), planned_cycles(config)
    if not budget:
        return wanted
    each = pairs_per_document(config, labels)
    batch = min(config.student.batch_size, wanted)
    least = each * (held_out * (cycles + 1) + batch * cycles)
    if budget < least:
        raise UserError(
            f"curriculum.pair_budget is {budget:,}, but {held_out:,} held-out documents by {cycles + 1} encoders and a "
            f"batch of {batch:,} train documents a cycle have {least:,} pairs: give so many at least, or set "
            "shortlist.held_out_documents, shortlist.size or curriculum.cycles lower."
        )
    return min(wanted, (budget // each - held_out * (cycles + 1)) // cycles) if cycles else wanted


def check_counts(config: Config, train: int, held_out: int, labels: int, trains: bool = True) -> None:
    """Refuse so few documents, before any is judged, that the first cycle could not be gone through as is configured.

    ``held_out``: of the ``train`` documents. ``trains``: whether the command comes to a training, which alone needs
    some of them. Errors: UserError, also as :func:`documents_per_cycle`.
    """
    student, least = config.student, min(MIN_LEARNED, config.student.batch_size)
    trains = trains and planned_cycles(config) > 0
    if trains and train - held_out < least:
        raise UserError(
            f"Of {train:,} train documents {held_out:,} are held out, and a training takes {least} others at least: "
            "bring more documents, or lower prepare.test_share and prepare.held_out_share."
        )
    if trains and student.validate_every_steps and not held_out:
        raise UserError(
            f"student.validate_every_steps is {student.validate_every_steps}, but none of {train:,} train documents is "
            "held out to evaluate on: raise prepare.held_out_share, or set student.validate_every_steps and "
            "student.patience to 0."
        )
    if config.predict.rerank and not (planned_cycles(config) and held_out):
        what = "cycle was trained" if not planned_cycles(config) else "document is held out"
        raise UserError(
            f"predict.rerank is {config.predict.rerank}, and a cross-encoder learns from a cycle's verdicts and is "
            f"fitted on held-out documents, but no {what}: raise curriculum.cycles or prepare.held_out_share, or set "
            "predict.rerank to 0."
        )
    taken = documents_per_cycle(config, train, held_out, labels, 0)
    if trains and taken < least:
        raise UserError(
            f"shortlist.documents_per_cycle is {taken}, and a training takes {least} documents at least: set it so "
            "high, or to 0 for all."
        )

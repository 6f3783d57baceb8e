"""Compares runs: what each one's student is worth on the test documents, and what it cost.

Comes in: directories of evaluated runs. Goes out: a Comparison of plain values, for report/compare_page.py. Everything
is measured anew from the rankings in ``evaluation``, all runs with the label frequencies of the first one, so that runs
of different versions can be compared; a difference is paired where both runs ranked the same test documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation.rankings import LabelCounts, label_counts
from ezxmc_ray.metrics import Interval, Measurement, inverse_propensities, paired_differences
from ezxmc_ray.report.compared_run import UNTRAINED, ComparedRun, open_runs
from ezxmc_ray.storage import Manifest
from ezxmc_ray.verdicts.second_readout import SECOND


@dataclass(frozen=True)
class Student:
    """One ranking of one run: its measures (percent, by name) with 95 % intervals, and the pairs judged for it.

    It is an encoder's, or what a cross-encoder made of the chosen one's. ``pairs``: distinct (document, label) pairs
    judged up to the end of its cycle, of the last one for a cross-encoder; 0 for the untrained encoder. ``shipped``:
    whether the run's tags are of it. ``measurement``: documents in the order of their ids.
    """

    name: str
    pairs: int
    shipped: bool
    values: dict[str, float]
    intervals: dict[str, Interval]
    measurement: Measurement


@dataclass(frozen=True)
class Entry:
    """An entry of the table: a run with the student that it ships, or an untrained encoder, which cost nothing.

    ``pairs``: judged in the whole run, for the selection too. ``teacher_seconds``: in which the engines judged, all
    engines together; None where a run of an earlier version does not say. ``training_seconds``: of the stages train
    and cross_encoder; where one was killed and went on, the steps up to the last checkpoint count as well.
    ``over_first``: by measure ``difference`` to the first run's student and its paired ``interval``; None for that one
    itself, and on other test documents. ``shipped_by``: names of the runs that ship the student.
    """

    name: str
    student: Student
    shipped_by: list[str]
    pairs: int
    teacher_seconds: float | None
    training_seconds: float
    over_first: dict[str, dict[str, Any]] | None


@dataclass(frozen=True)
class Comparison:
    """The ``entries`` of the table, every student of each run by its name, and ``notes``, sentences for the reader."""

    first: str
    entries: list[Entry]
    students: dict[str, list[Student]]
    notes: list[str]

    def plain(self) -> dict[str, Any]:
        """All of it as JSON has it, but for what every document gained."""
        return {
            "first": self.first,
            "entries": [asdict(replace(one, student=None)) | {"student": _plain(one.student)} for one in self.entries],  # type: ignore[arg-type]
            "students": {name: [_plain(one) for one in students] for name, students in self.students.items()},
            "notes": self.notes,
        }


def _plain(student: Student) -> dict[str, Any]:
    told = {name: getattr(student, name) for name in ("name", "pairs", "shipped", "values", "intervals")}
    return told | {"intervals": {name: interval and list(interval) for name, interval in student.intervals.items()}}


def compare_runs(roots: Sequence[str]) -> Comparison:
    """Compare the runs in the directories (or URIs) ``roots``; differences are to the first one's student.

    Errors: UserError as open_runs, and for runs over different label sets.
    """
    runs = open_runs(roots)
    first = runs[0]
    for run in runs[1:]:
        _check_labels(first, run)
    counted = label_counts(first.storage, first.shards, first.labels)
    settings = first.settings
    inverse = inverse_propensities(counted.counts, counted.documents, settings.propensity_a, settings.propensity_b)
    students = {run.name: _students(run, inverse) for run in runs}
    baseline = students[first.name][first.shipped].measurement
    paired = {run.name: baseline if run.documents == first.documents else None for run in runs}
    shipped = [_entry(run, students[run.name][run.shipped], paired[run.name], first) for run in runs]
    return Comparison(
        first=first.name,
        entries=[*_untrained(runs, students, paired), *shipped],
        students=students,
        notes=_notes(runs, counted, shipped),
    )


def _check_labels(first: ComparedRun, run: ComparedRun) -> None:
    if run.label_ids != first.label_ids:
        raise UserError(
            f"The runs {first.storage.root} and {run.storage.root} have different label sets, or in another order "
            f"({first.labels:,} and {run.labels:,} labels), so their measures cannot be compared; compare runs over "
            "the same labels."
        )


def _students(run: ComparedRun, inverse: NDArray[np.float64]) -> list[Student]:
    """Every ranking of ``run``, the untrained encoder's first."""
    pairs = [0, *run.pairs_by_cycle]
    found = []
    for number, name in enumerate(run.rankings):
        measured = run.measurement(number, inverse)
        found.append(
            Student(
                name=name,
                pairs=pairs[min(number, run.encoders - 1)],
                shipped=number == run.shipped,
                values=measured.named(),
                intervals=measured.intervals(run.seed),  # in the shards' order: the same as in the run's report
                measurement=measured.take(run.order),
            )
        )
    return found


def _entry(run: ComparedRun, student: Student, baseline: Measurement | None, first: ComparedRun) -> Entry:
    """The entry of ``run``; ``baseline``: the first run's student, None if it is not on the same test documents."""
    return Entry(
        name=run.name,
        student=student,
        shipped_by=[run.name],
        pairs=run.pairs_by_cycle[-1],
        teacher_seconds=_teacher_seconds(run),
        training_seconds=sum(map(_training_seconds, run.trained)),
        over_first=None if run is first or baseline is None else _over(baseline, student, first.seed),
    )


def _teacher_seconds(run: ComparedRun) -> float | None:
    seconds = [manifest.details.get("engine_seconds") for manifest in run.judged]
    known = [float(one) for one in seconds if one is not None]
    return sum(known) if len(known) == len(seconds) else None


def _training_seconds(trained: Manifest) -> float:
    """Of a stage that trains; its own seconds are those since its last start."""
    details = trained.details
    return max(trained.seconds, details.get("start_seconds", 0.0) + details.get("training_seconds", 0.0))


def _over(baseline: Measurement, student: Student, seed: int) -> dict[str, dict[str, Any]]:
    return paired_differences(baseline, student.measurement, seed)


def _untrained(
    runs: list[ComparedRun], students: dict[str, list[Student]], paired: dict[str, Measurement | None]
) -> list[Entry]:
    """An entry for each untrained encoder; runs whose untrained encoders gain the same on every document share one."""
    entries: list[Entry] = []
    for run in runs:
        student, baseline = students[run.name][0], paired[run.name]
        if any(_gain_the_same(student, entry.student) for entry in entries):
            continue
        sharing = [other for other in runs if _gain_the_same(student, students[other.name][0])]
        shipped_by = [other.name for other in sharing if students[other.name][0].shipped]
        name = f"{UNTRAINED} of {run.name}" if entries else UNTRAINED
        over = None if baseline is None else _over(baseline, student, runs[0].seed)
        entries.append(Entry(name, replace(student, shipped=bool(shipped_by)), shipped_by, 0, 0.0, 0.0, over))
    return entries


def _gain_the_same(one: Student, other: Student) -> bool:
    return np.array_equal(one.measurement.gains, other.measurement.gains)


def _notes(runs: list[ComparedRun], counted: LabelCounts, entries: list[Entry]) -> list[str]:
    """What the reader has to know to read the table rightly."""
    first = runs[0]
    documents = "train documents" if counted.counted_from == "train" else "test documents themselves"
    notes = [
        f"Differences are to {first.name}, with the paired 95 % interval over the same test documents.",
        f"PSP and PSnDCG: by how often a label is gold in the {counted.documents:,} {documents} of {first.name}.",
    ]
    for run, entry in zip(runs, entries, strict=True):
        if run.documents != first.documents:
            notes.append(
                f"{run.name} was measured on other test documents, or other gold or excluded labels, than "
                f"{first.name}, so there is no paired difference."
            )
        if run.depth != first.depth:
            notes.append(f"{run.name} ranked {run.depth} labels a document, {first.name} {first.depth}.")
        if run.is_reranked:
            notes.append(
                f"The first labels of {run.name} are ranked anew by a cross-encoder (reranked), whose training is in "
                "the training seconds."
            )
        notes += _held(run, entry.pairs)
    return notes


def _held(run: ComparedRun, pairs: int) -> Iterator[str]:
    """What the run's teacher seconds leave out: of its ``pairs`` those whose verdicts were there before, by either
    read-out."""
    judged = [manifest.details for manifest in run.judged]
    counts = {"pairs_asked": "were in its verdict store before, or are of the same texts as others"}
    if all(details.get(SECOND) for details in judged):
        counts["second_pairs_asked"] = "had been asked a second time before, or are of the same texts as others"
    for name, how in counts.items():
        asked = sum(details.get(name) or 0 for details in judged)
        if asked < pairs:
            yield f"{pairs - asked:,} of the {pairs:,} pairs of {run.name} {how}: its teacher seconds leave them out."

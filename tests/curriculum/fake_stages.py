"""Stages that only write down what they were asked for, in place of the real ones, which need Ray and models."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ezxmc_ray import curriculum, hardware
from ezxmc_ray.cluster import teacher_dtype
from ezxmc_ray.config import TeacherConfig, load_config
from ezxmc_ray.context import StageResult
from ezxmc_ray.metrics import MIN_DOCUMENTS
from ezxmc_ray.stages.select import ADDED_UP
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage
from ezxmc_ray.teacher.engine import dtype_here, teacher_key

HELD_OUT = 2 * MIN_DOCUMENTS
#: Of the vectors of the encoder, which is looked at and not loaded.
DIMENSION = 24
PREPARED = {
    "documents": 300,
    "train": 200,
    "held_out": HELD_OUT,
    "test": 100,
    "labels": 50,
    "shards": 2,
    "shard_rows": [150, 150],
    "document_fingerprint": "d",
    "label_fingerprint": "l",
    "gold_fingerprint": None,
}
ENDING = ["select", "index", "predict", "evaluate", "report"]


def cycle(number: int) -> list[str]:
    """A whole cycle without the question of the stop rule."""
    return [f"shortlist {number}", f"judge {number}", f"train {number}"]


def held_out(number: int) -> list[str]:
    return [f"held-out shortlist {number}", f"judge {number}"]


@dataclass
class FakeStages:
    """Stands in for RunPlan._run.

    ``leads``: of the cycles' encoders, in standard errors; ``dies_at``: the call that is killed. Judging leaves a
    verdict behind, also where it is killed.
    """

    leads: dict[int, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    dies_at: str = ""

    def __call__(self, work: RunPlan, stage: str, *arguments: int) -> StageResult:
        name = " ".join([stage, *map(str, arguments[:1])])
        if stage == "shortlist" and arguments[1]:
            name = f"held-out {name}"
        self.calls.append(name)
        if stage == "judge":
            key = teacher_key(work.context.config.teacher)
            work.storage.write_bytes(f"verdicts/{key}/shard-00000/batch.parquet", b"")
        if name == self.dies_at:
            raise KeyboardInterrupt
        details: dict[str, Any] = {}
        if stage == "prepare":
            details = PREPARED
        elif stage == "judge":
            teacher = {"dtype": work.context.config.teacher.dtype}
            details = dict.fromkeys(ADDED_UP, 10) | {"pairs_held": 20, "teacher": teacher}
        elif stage == "compare":
            lead = {"over": "untrained", "difference": self.leads.get(arguments[0], 5.0), "standard_error": 1.0}
            details = {"lead": lead | {"documents": HELD_OUT}, "asked": dict.fromkeys(ADDED_UP, 7)}
        return StageResult(1, [], details)

    def took(self) -> list[str]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls


@dataclass
class WritingStages(FakeStages):
    """Writes the same two files in every execution of a stage, those that are not there; ``salt``: or others."""

    salt: str = ""

    def __call__(self, work: RunPlan, stage: str, *arguments: int) -> StageResult:
        done = super().__call__(work, stage, *arguments)
        folder = {"prepare": "documents"}.get(stage, "/".join([f"cycle-{n}" for n in arguments[:1]] + [stage]))
        folder = folder.replace("judge", "examples").replace("train", "student")
        folder = {"select": "student", "predict": "predictions", "evaluate": "evaluation"}.get(folder, folder)
        files = [f"{folder}/part-{number}" for number in range(2)]
        for file in files:
            if not work.storage.exists(file):
                work.storage.write_bytes(file, f"{file}{self.salt}".encode())
        return replace(done, files=files)


def machine(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    """From now on runs go on on a machine whose CPU computes in bfloat16, or does not."""

    def of_cluster(config: TeacherConfig) -> TeacherConfig:
        return replace(config, dtype=dtype_here(config))

    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(teacher_dtype, "of_cluster", of_cluster)  # which asks this process in a task of Ray


def run(settings: list[str], *more: str) -> None:
    curriculum.run(load_config(None, [*settings, *more]))


def run_until_killed(stages: FakeStages, where: str, settings: list[str], *more: str) -> None:
    """Run, and be killed at the call ``where``, as any later run is until ``dies_at`` is another."""
    stages.dies_at = where
    with pytest.raises(KeyboardInterrupt):
        run(settings, *more)


def states(settings: list[str]) -> dict[str, str]:
    return {row["step"]: row["state"] for row in curriculum.status(settings[0].removeprefix("run="))}


def storage_of(settings: list[str]) -> Storage:
    return Storage(settings[0].removeprefix("run="))


WHOLE = [
    "prepare",
    *cycle(0),
    *held_out(1),
    "compare 1",
    *cycle(1),
    *held_out(2),
    "compare 2",
    *cycle(2),
    *held_out(3),
    *ENDING,
]
STOPPED_AT_2 = [*WHOLE[: WHOLE.index("compare 2") + 1], *ENDING]

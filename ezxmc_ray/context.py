"""What every stage gets and gives back: configuration and run directory, what earlier stages say, and its result.

Where files lie is in layout.py: those of cycle ``c`` below ``cycle-c``. Encoder number ``c`` makes the shortlists of
cycle ``c``: encoder 0 is the base encoder, encoder ``c`` the student of cycle ``c - 1``. So ``cycles`` cycles have
``cycles + 1`` encoders, and the last one's shortlists, made of the held-out documents only, serve the selection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.config import Config, TeacherConfig, apply_overrides, fingerprinted_settings, from_dict
from ezxmc_ray.cycles import cycles_run, halves_held_out
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import NO_MANIFEST, read_configuration
from ezxmc_ray.integrity import RunTasks as RunTasks
from ezxmc_ray.models import pinned
from ezxmc_ray.storage import Manifest, Storage, damage_error, read_manifest
from ezxmc_ray.student.targets import SCALES, TargetScale
from ezxmc_ray.teacher.readout import resolve_readout, second_teacher

#: As cluster.session.run_task; a plain call is another, which needs no Ray.
RunTask = Callable[..., Any]

#: Tasks that a table of all shards is measured in, at most: what each brings back is held by the driver.
MAX_GROUPS = 64


def shard_groups(shards: int, most: int = MAX_GROUPS) -> list[range]:
    """The shards, in order, in ``most`` ranges at most, of about the same length."""
    bounds = np.linspace(0, shards, min(shards, most) + 1).astype(int).tolist()
    return [range(start, stop) for start, stop in pairwise(bounds)]


@dataclass(frozen=True)
class StageResult:
    """What a stage gives back for its manifest: rows that it worked on, files that it wrote, and what it found.

    ``details``: JSON; what several others read of them are fields of :class:`Prepared` and :class:`JudgedCycle`.
    """

    rows: int
    files: list[str]
    details: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` says of a run's documents and labels; fingerprints change with what they are of, nothing else.

    ``held_out``: of the ``train`` documents. ``shard_rows``: documents by shard. ``gold_fingerprint``: None without
    gold labels. ``alternatives``: texts that labels have beside their preferred one (older runs: none).
    """

    documents: int
    train: int
    held_out: int
    test: int
    labels: int
    shards: int
    shard_rows: list[int]
    document_fingerprint: str
    label_fingerprint: str
    gold_fingerprint: str | None
    alternatives: int = 0

    @property
    def label_texts(self) -> int:
        """Texts of all labels, which have a vector each."""
        return self.labels + self.alternatives

    @property
    def counts(self) -> tuple[int, int, int]:
        """Train documents, those of them that are held out, and labels: what decides how many a cycle takes."""
        return self.train, self.held_out, self.labels

    @property
    def learnable(self) -> int:
        """Train documents that are not held out."""
        return self.train - self.held_out


@dataclass(frozen=True)
class JudgedCycle:
    """What ``judge`` says of a cycle.

    ``scale``: of its targets, whose similarity is the base encoder's; ``own_scale``: with that of the cycle's encoder.
    """

    pairs: int
    pairs_asked: int
    yes_threshold: float
    scale: TargetScale
    own_scale: TargetScale
    readout: str


@dataclass(frozen=True)
class Context:
    """Configuration and run directory of one command; ``trains``: whether it comes to a training."""

    config: Config
    storage: Storage
    trains: bool = True

    def manifest(self, folder: str) -> Manifest:
        """The manifest of a stage that has been done before this one; RuntimeError if it has not.

        Errors: UserError for one that is damaged.
        """
        found = read_manifest(self.storage, folder)
        if found is None and self.storage.exists(layout.manifest(folder)):
            raise damage_error(self.storage.path(layout.manifest(folder)), NO_MANIFEST)
        if found is None:
            raise RuntimeError(f"{folder} has no manifest: its stage was not run before this one")
        return found

    @property
    def prepared(self) -> Prepared:
        """What ``prepare`` says of documents and labels."""
        details = self.manifest(layout.DOCUMENTS).details
        return Prepared(**{field.name: details[field.name] for field in fields(Prepared) if field.name in details})

    @property
    def shards(self) -> int:
        """Number of document shards."""
        return self.prepared.shards

    def judged(self, cycle: int) -> JudgedCycle:
        """What ``judge`` says of a cycle."""
        manifest = self.manifest(layout.examples(cycle))
        details = manifest.details
        scale, own_scale = (TargetScale(**details[name]) for name in SCALES)
        asked, threshold, readout = details["pairs_asked"], details["yes_threshold"], details["teacher"]["readout"]
        return JudgedCycle(manifest.rows, asked, threshold, scale, own_scale, readout)

    @property
    def cycles(self) -> int:
        """Cycles that end with a student, once the stop rule has been asked."""
        return cycles_run(self.storage, self.config)

    @property
    def halves_held_out(self) -> bool:
        """As cycles.halves_held_out."""
        return halves_held_out(self.config, lambda: self.prepared.held_out)

    @property
    def teacher(self) -> TeacherConfig:
        """The configured teacher, its read-outs resolved, so that no task looks at the model for them."""
        teacher = replace(self.config.teacher, readout=resolve_readout(self.config.teacher))
        second = second_teacher(teacher)
        return replace(teacher, second_readout=second.readout if second else "none")

    @property
    def read_again(self) -> Context | None:
        """The same run with the teacher as every pair asks it a second time; None: a pair asks once."""
        teacher = second_teacher(self.teacher)
        return None if teacher is None else replace(self, config=replace(self.config, teacher=teacher))

    @property
    def encoder_settings(self) -> dict[str, Any]:
        """How documents and labels become vectors: the encoder's settings, the weights and the speed apart."""
        return fingerprinted_settings(self.config, "encoder")

    @property
    def match_settings(self) -> dict[str, Any]:
        """How labels are found for documents: the encoder's settings, and what words count beside it."""
        return {"encoder": self.encoder_settings, "lexical": fingerprinted_settings(self.config, "lexical")}

    @staticmethod
    def counting_for(encoder: int, match_settings: dict[str, Any]) -> dict[str, Any]:
        """Of :attr:`match_settings` what counts for encoder ``encoder``: not students' knobs for the base one."""
        lexical = match_settings.get("lexical", {})
        kept = {name: value for name, value in lexical.items() if encoder or name != "student_weight"}
        return match_settings | {"lexical": kept}

    def encoder_folder(self, encoder: int) -> str | None:
        """Where encoder number ``encoder`` lies in the run; None: it is the base encoder of the configuration."""
        return None if encoder == 0 else layout.cycle_student(encoder - 1)


def with_commits(context: Context) -> Context:
    """``context`` with the commits that its models of the hub stand for now, which every process then loads.

    Errors: UserError for a model that is not there.
    """
    encoder, teacher = context.config.encoder, context.config.teacher
    encoder = replace(encoder, model=pinned(encoder.model))
    teacher = replace(teacher, model=pinned(teacher.model))
    return replace(context, config=replace(context.config, encoder=encoder, teacher=teacher))


def stored_configuration(storage: Storage) -> Config:
    """The configuration that a run was made with. Errors: UserError for a file that is damaged, or of a version with
    other knobs."""
    values, path = read_configuration(storage), storage.path(layout.CONFIG)
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(
            f"The configuration of the run, {path}, cannot be used: {str(error).rstrip('.')}; give `ezxmc run` with "
            "the configuration that the run was made with, which writes it anew."
        ) from error


def open_context(run: str, overrides: Sequence[str] = ()) -> Context:
    """A run that exists already, with its own configuration and ``overrides``. Errors: UserError if it is none."""
    storage = Storage(run)
    if not storage.exists(layout.CONFIG):
        raise UserError(f"{run} is not a run: it has no {layout.CONFIG}; give the directory that `ezxmc run` wrote.")
    config = replace(stored_configuration(storage), run=run)
    return Context(apply_overrides(config, list(overrides)), storage)


def judged_dtype(storage: Storage, folder: str) -> str | None:
    """The teacher's dtype that the step of ``folder`` (judge or a cycle's select) was done in; None: it is not done."""
    found = read_manifest(storage, folder)
    return found.details.get("teacher", {}).get("dtype") if found else None


#: The ranking of the chosen encoder whose first labels the cross-encoder ranks anew, as reports call it.
RERANKED = "reranked"


def encoder_name(encoder: int) -> str:
    """Encoder number ``encoder`` as reports call it: ``untrained``, ``cycle_0`` (the student of cycle 0), …"""
    return "untrained" if encoder == 0 else f"cycle_{encoder - 1}"

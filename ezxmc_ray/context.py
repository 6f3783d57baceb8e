"""What every stage gets: the configuration, the run directory, and the names of the files in it.

Files of cycle ``c`` lie below ``cycle-c``. Encoder number ``c`` makes the shortlists of cycle ``c``: encoder 0 is the
base encoder, encoder ``c`` the student of cycle ``c - 1``. So ``cycles`` cycles have ``cycles + 1`` encoders, and the
last one's shortlists, made of the held-out documents only, serve the selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.config import Config, TeacherConfig, fingerprinted_settings
from ezxmc_ray.cycles import cycles_run
from ezxmc_ray.storage import Manifest, Storage, read_manifest
from ezxmc_ray.teacher.readout import resolve_readout

#: As cluster.session.run_task and run_tasks; a plain call and itertools.starmap are others, which need no Ray.
RunTask = Callable[..., Any]
RunTasks = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]


@dataclass(frozen=True)
class Context:
    """Configuration and run directory of one command."""

    config: Config
    storage: Storage

    def manifest(self, folder: str) -> Manifest:
        """The manifest of a stage that has been done before this one; RuntimeError if it has not."""
        found = read_manifest(self.storage, folder)
        if found is None:
            raise RuntimeError(f"{folder} has no manifest: its stage was not run before this one")
        return found

    @property
    def documents(self) -> Manifest:
        """Manifest of ``prepare``."""
        return self.manifest(layout.DOCUMENTS)

    @property
    def shards(self) -> int:
        """Number of document shards."""
        return int(self.documents.details["shards"])

    @property
    def cycles(self) -> int:
        """Cycles that end with a student, once the stop rule has been asked."""
        return cycles_run(self.storage, self.config)

    @property
    def teacher(self) -> TeacherConfig:
        """The configured teacher, its read-out resolved, so that no task looks at the model for it."""
        return replace(self.config.teacher, readout=resolve_readout(self.config.teacher))

    @property
    def min_score(self) -> float:
        """The least score of a predicted label: as configured, else as fitted by the selection."""
        given = self.config.predict.min_score
        return float(self.manifest(layout.STUDENT).details["min_score"] if given is None else given)

    @property
    def encoder_settings(self) -> dict[str, Any]:
        """How documents and labels become vectors: the encoder's settings, the weights and the speed apart."""
        return fingerprinted_settings(self.config, "encoder")

    @property
    def match_settings(self) -> dict[str, Any]:
        """How labels are found for documents: the encoder's settings, and what words count beside it."""
        return {"encoder": self.encoder_settings, "lexical": fingerprinted_settings(self.config, "lexical")}

    def encoder_folder(self, encoder: int) -> str | None:
        """Where encoder number ``encoder`` lies in the run; None: it is the base encoder of the configuration."""
        return None if encoder == 0 else layout.cycle_student(encoder - 1)


def judged_dtype(storage: Storage, folder: str) -> str | None:
    """The teacher's dtype that the step of ``folder`` (judge or a cycle's select) was done in; None: it is not done."""
    found = read_manifest(storage, folder)
    return found.details.get("teacher", {}).get("dtype") if found else None


def encoder_name(encoder: int) -> str:
    """Encoder number ``encoder`` as reports call it: ``untrained``, ``cycle_0`` (the student of cycle 0), …"""
    return "untrained" if encoder == 0 else f"cycle_{encoder - 1}"

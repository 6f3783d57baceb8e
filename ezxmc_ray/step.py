"""A step of a run: one stage at one place of the curriculum, and what its rows are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ezxmc_ray.config import fingerprint
from ezxmc_ray.context import StageResult

#: What a stage's manifest counts as its rows.
UNITS = {
    "prepare": "documents",
    "shortlist": "documents",
    "judge": "pairs",
    "train": "documents",
    "select": "held-out documents compared",
    "cross_encoder": "documents",
    "index": "labels",
    "predict": "documents",
    "evaluate": "documents ranked",
    "report": "documents shown",
}


@dataclass(frozen=True)
class Step:
    """One stage at one place of the curriculum: its name, where its manifest lies, what it depends on, how it runs.

    ``tidy``: removes what a killed execution would have gone on from, once the manifest is there. ``made_of``: what the
    files depend on, where that is less than ``inputs``, since the rest enters what the manifest alone says.
    """

    name: str
    stage: str
    folder: str
    inputs: Callable[[], list[Any]]
    run: Callable[[], StageResult]
    tidy: Callable[[], None] = lambda: None
    made_of: Callable[[], list[Any]] | None = None

    def fingerprint(self) -> str:
        """Of the step's inputs and settings as they are now; the steps before it must be done."""
        return fingerprint([self.stage, *self.inputs()])

    def files_fingerprint(self) -> str:
        """Of what the step's files are made of: files that were begun with the same are kept."""
        return self.fingerprint() if self.made_of is None else fingerprint([self.stage, "files", *self.made_of()])

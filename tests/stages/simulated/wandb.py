"""Weights & Biases, simulated: notes its calls in the folder SIMULATED_WANDB, and does not begin if it is down."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Run:
    """A run; the first one of the folder is called ``first``."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.id = given.get("id", "first")
        note({"id": given.get("id"), "resume": given.get("resume")})

    def log(self, figures: dict[str, float], step: int) -> None:
        """Takes figures of a step."""
        note({"step": step, "figures": sorted(figures)})

    def finish(self) -> None:
        """The end."""
        note({"finished": True})


def note(call: dict[str, Any]) -> None:
    """Adds a line to what has been called."""
    with Path(os.environ["SIMULATED_WANDB"], "calls.jsonl").open("a") as file:
        file.write(json.dumps(call) + "\n")


def init(**given: Any) -> Run:
    """Begins a run."""
    if Path(os.environ["SIMULATED_WANDB"], "down").exists():
        raise ConnectionError("the simulated server is down.")
    return Run(given)

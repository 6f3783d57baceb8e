"""What all benchmarks share: a published command names no path outside the project."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from common import ROOT, command


def test_of_a_path_outside_the_project_a_command_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", "../shared/mini", "--runs", "runs/x", "encoder.model=/tmp/m/mpnet", "a.b=c", "--labels=/d/l.gz"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "quality.py"), *words])
    assert command().endswith("quality.py --data mini --runs runs/x encoder.model=mpnet a.b=c --labels=l.gz")

"""What all benchmarks share: the command that a result names, and processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.publish import ROOT, command, run_module


def test_of_a_path_outside_the_project_a_command_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", "../shared/mini", "--runs", "runs/x", "encoder.model=/tmp/m/mpnet", "a.b=c", "--labels=/d/l.gz"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "quality.py"), *words])
    assert command().endswith("quality.py --data mini --runs runs/x encoder.model=mpnet a.b=c --labels=l.gz")


def test_a_module_below_benchmarks_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # publish.py writes nothing when it is run; a module that is not found ends with status 1.
    assert run_module("common.publish", [], tmp_path / "out", log) == {"error": "its process ended with status 0"}
    assert run_module("common.nothing", [], tmp_path / "out", log) == {"error": "its process ended with status 1"}
    assert "common.nothing" in log.read_text()

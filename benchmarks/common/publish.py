"""Where results go, with a description of the machine; and how a method runs in a process of its own.

A call of a benchmark prints one JSON object as its last line and writes the same to benchmarks/results/NAME.json, in
place of what was there; ``python benchmarks/make_results.py`` makes benchmarks/RESULTS.md from those files.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ezxmc_ray.errors import one_line

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


#: What decides how fast a CPU multiplies, by torch's names and as one writes them.
INSTRUCTIONS = {"avx2": "avx2", "avx512_f": "avx512f", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx_bf16"}


def machine() -> str:
    """Processor, cores, instruction sets and memory of this machine, and its GPUs if torch sees any."""
    import psutil
    import torch

    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    memory = round(psutil.virtual_memory().total / 2**30)
    cores = f"{len(os.sched_getaffinity(0))} cores ({names[0]}: {instructions()})"
    return ", ".join([cores, f"{memory} GiB", *gpus])


def instructions() -> str:
    """Which of :data:`INSTRUCTIONS` this CPU has; says so where it only behaves like one (simulated_avx2/)."""
    import torch

    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # not in every torch
    names = [name for key, name in INSTRUCTIONS.items() if found.get(key)]
    return ("simulated " if found.get("simulated") else "") + " ".join(names)


def command() -> str:
    """The command line of this process; of a path outside the project its name, since where it lies means nothing."""
    return shlex.join(["python", os.path.relpath(sys.argv[0], ROOT), *map(_named, sys.argv[1:])])


def _named(word: str) -> str:
    """``word`` of a command line, or its value where it is ``key=value``: of a path outside the project the name."""
    if Path(word).is_absolute() or word.startswith("../"):
        return Path(word).name
    key, equals, value = word.partition("=")
    return f"{key}={_named(value)}" if equals else word


def run_module(module: str, words: list[str], output: Path, log: Path, python: str | None = None) -> dict[str, Any]:
    """Run a module below benchmarks/ with ``words`` and ``output`` in a process of its own, which speaks to ``log``.

    ``python``: another environment's. Returns the JSON object that it wrote to ``output``; of a process that wrote
    none, ``error``.
    """
    status = start_module(module, words, output, log, python).wait()
    if not output.exists():
        return {"error": f"its process ended with status {status}"}
    result: dict[str, Any] = json.loads(output.read_text())
    return result


def write_answer(output: str, work: Callable[[], Any]) -> None:
    """In such a process: write what ``work`` gives to ``output``; an error is written too, and raised."""
    try:
        answer = work()
    except Exception as error:
        Path(output).write_text(json.dumps({"error": f"{type(error).__name__}: {one_line(error)}"}))
        raise
    Path(output).write_text(json.dumps(answer))


def start_module(
    module: str, words: list[str], output: Path, log: Path, python: str | None = None, own_session: bool = False
) -> subprocess.Popen[bytes]:
    """Begin what :func:`run_module` runs; what ``output`` held is gone.

    ``own_session``: a process group of its own, by which all that it starts can be ended, and this project on its path
    even where it is not installed.
    """
    output.unlink(missing_ok=True)
    # -P: nothing of the working directory's
    command = [python or sys.executable, "-P", "-m", module, *words, str(output)]
    own = [str(ROOT)] if own_session else []
    paths = filter(None, (str(ROOT / "benchmarks"), *own, os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("w") as sink:
        return subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=own_session
        )


def publish(name: str, title: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write ``result`` with machine, date and command to results/NAME.json, and print it as one line."""
    about = {"machine": machine(), "command": command(), "date": f"{datetime.date.today()}"}
    whole = {"name": name, "title": title, **about, **result}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=2) + "\n")
    print(json.dumps(whole))

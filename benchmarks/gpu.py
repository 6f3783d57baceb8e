"""What does this project reach on the GPU of this machine, part by part, in minutes and without a network?

    python benchmarks/gpu.py                                  # the most telling first, as far as 470 seconds go
    python benchmarks/gpu.py --parts device,packed-smollm2    # some parts
    python benchmarks/gpu.py --tiny --parts device,search     # toy sizes, on a CPU as well: only to see that it runs

Parts: the GPU's ceilings (``device``); the judge's engine over vLLM (``teacher-…``), compiled, packed and the reference
(``compiled-…``, ``packed-…``, ``transformers-…``); ``encoder``; exact ``search``; the ``student``'s training step; a
whole ``ezxmc run`` (``run``). Each is a process of its own with a limit. One that fails or outlasts its limit is told,
what it measured before counts, and the next one begins; what would not fit into the seconds left is skipped.

Teachers named ``random-…`` have the shape of a published model and random weights: their speed is that of the shape,
their answers mean nothing. ``smollm2`` is the bundled one.

What each part found and said lies in --runs (PART.json, PART.log, summary.json). The result, gpu-CARD.json, goes into
benchmarks/results, or where --out says; of toy sizes only where --out says. vLLM, FAISS or Ray may be missing: their
parts fail then, and the others do not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.arguments import choice
from common.publish import RESULTS, ROOT, publish, start_module
from gpu_bench.plan import PARTS, Part, Settings
from gpu_bench.summary import Found, in_a_line, summary
from make_results import table

MODULE = "gpu_bench.parts"
TITLE = "On one GPU: judge, encoder, search, training, a run"
TOY = "toy sizes: no GPU figures"
SECONDS = 470
#: Of the log of a part that failed.
LAST_WORDS = 600
#: On a CPU toy sizes take longer than the limits, which are a GPU's.
TINY_LIMIT_S = 1800.0


def main() -> int:
    """Run the parts and publish; returns the exit status (2 for what the user can mend)."""
    given = parse()
    card = gpu_name()
    if card is None and not given.tiny:
        print("error: torch sees no GPU here: --tiny runs the parts at toy sizes on a CPU.", file=sys.stderr)
        return 2
    folder = given.runs.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(str(folder), given.tiny, _absolute(given.tokenizer), _absolute(given.faiss))
    settings.write()
    results = run_parts(given.parts, settings, given.seconds or (math.inf if given.tiny else SECONDS))
    result = summary(results)
    print("\n".join(table(result)))
    if given.tiny:
        print(f"{'GPU' if card else 'CPU'}, {TOY}")
    if given.out or not given.tiny:
        name = given.name or ("gpu-toy" if given.tiny else f"gpu-{_slug(card or '')}")
        about = {"gpu": card, "tiny": given.tiny}
        title = f"{TITLE}, {TOY}" if given.tiny else TITLE
        publish(name, title, about | result, given.out or RESULTS)
    return 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=choice(PARTS), default=list(PARTS), help=f"by commas: {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, help=f"for all parts; without it {SECONDS}, of toy sizes no limit")
    parser.add_argument("--name", help="of the result file; without it gpu-CARD")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on a CPU as well; publishes nothing")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark" / "gpu", help="where the parts write")
    parser.add_argument("--out", type=Path, help="where the result goes; without it benchmarks/results")
    parser.add_argument("--tokenizer", type=Path, help="directory, for random-…; without it the bundled teacher's")
    parser.add_argument("--faiss", type=Path, help="directory with another FAISS, taken where it searches on the GPU")
    return parser.parse_args(words)


def gpu_name() -> str | None:
    """What torch calls the first GPU; None: it sees none. Another process asks, so that this one holds no GPU."""
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    told = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True, check=True).stdout
    return told.strip() or None


def run_parts(
    names: Sequence[str],
    settings: Settings,
    seconds: float,
    run: Callable[[str, Settings, float], Found] | None = None,
) -> dict[str, Found]:
    """What each part wrote, in order; summary.json in the folder has it after each of them.

    ``run``: what runs a part within so many seconds, :func:`run_part` without it.
    """
    began = time.monotonic()
    results: dict[str, Found] = {}
    for name in names:
        left = seconds - (time.monotonic() - began)
        results[name] = skipped(PARTS[name], left) or (run or run_part)(name, settings, _limit(name, settings, left))
        print(f"[{time.monotonic() - began:6.1f} s] {name}: {in_a_line(results[name])}", flush=True)
        Path(settings.folder, "summary.json").write_text(json.dumps(results, indent=1))
    return results


def skipped(part: Part, left: float) -> Found | None:
    """What is written of a part that ``left`` seconds are too few for; None: it may begin."""
    if left >= part.min_s:
        return None
    return {"skipped": True, "error": f"{max(0.0, left):.0f} s were left, and it needs {part.min_s:.0f}"}


def _limit(name: str, settings: Settings, left: float) -> float:
    return min(TINY_LIMIT_S if settings.tiny else PARTS[name].limit_s, left)


def run_part(name: str, settings: Settings, limit_s: float, module: str = MODULE) -> Found:
    """One part in a process of its own, ended at ``limit_s`` with all that it started; what it wrote so far counts."""
    output, log = settings.path(f"{name}.json"), settings.path(f"{name}.log")
    began = time.monotonic()
    process = start_module(module, [name, settings.folder], output, log, own_session=True)
    ended = ""
    try:
        status = process.wait(timeout=limit_s)
        ended = f"its process ended with status {status}" if status else ""
    except subprocess.TimeoutExpired:
        ended = f"it was ended after {limit_s:.0f} s"
    finally:
        _end(process)
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    if ended:
        words = " ".join(log.read_text(errors="replace")[-LAST_WORDS:].split())
        found.setdefault("error", f"{ended}; its last words: {words}")
    return found | {"part_seconds": round(time.monotonic() - began, 1)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process's group: what it left behind would hold the GPU."""
    with contextlib.suppress(ProcessLookupError):  # it and all that it started have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _slug(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower().removeprefix("nvidia")).strip("-")


if __name__ == "__main__":
    sys.exit(main())

"""What does it cost to tag: from the command to the first tag, a text by itself, many documents?

    python benchmarks/tagging.py RUN [before=CHECKOUT] [rounds=5]

Whole processes, one after the other, each as often as ``rounds`` says, in turns; medians. Of a run, of an export of it
(ONNX Runtime), and of the same run by an older checkout of this project (``before``) if one is named. ``command``:
`ezxmc tag` with one text on its standard input. The Python rows are of a process that loads a tagger and tags: a text
after the other, then 512 documents at once (the labels' own texts, put together by threes).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.publish import ROOT, publish

TEXTS, DOCUMENTS = 60, 512
PROGRAM = f"""
import json, sys, time
began = time.perf_counter()
from ezxmc_ray import Tagger
tagger = Tagger.load(sys.argv[1])
loaded = time.perf_counter()
names = tagger.labels["text"].to_pylist()
texts = [", ".join(names[step * i % len(names)] for step in (1, 7, 31)) for i in range({DOCUMENTS})]
tagger.tag(texts[:1])
first = time.perf_counter()
alone = []
for text in texts[:{TEXTS}]:
    start = time.perf_counter()
    tagger.tag([text])
    alone.append(time.perf_counter() - start)
start = time.perf_counter()
tagger.tag(texts)
print(json.dumps({{
    "load_s": loaded - began,
    "first_tag_s": first - began,
    "text_ms": 1000 * sorted(alone)[len(alone) // 2],
    "documents_per_s": len(texts) / (time.perf_counter() - start),
}}))
"""


def command_s(checkout: Path, where: str) -> dict[str, float]:
    """Seconds, and seconds of CPU, of a whole `ezxmc tag` with one text, by the project in ``checkout``."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ezxmc_ray.cli", "tag", where, "predict.min_score=-1"],
        input="a text editor\n",
        text=True,
        check=True,
        capture_output=True,
        cwd=checkout,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"command_s": time.perf_counter() - began, "command_cpu_s": spent}


def in_python(where: str) -> dict[str, float]:
    """What PROGRAM measures."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, where], check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(run: str, before: str = "", rounds: str = "5") -> None:
    """Measure and publish."""
    run = str(Path(run).resolve())
    with tempfile.TemporaryDirectory() as folder:
        export = [sys.executable, "-m", "ezxmc_ray.cli", "export", run, f"{folder}/bundle"]
        subprocess.run(export, check=True, capture_output=True, cwd=ROOT)
        kinds = {"run": (ROOT, run), "export of it": (ROOT, f"{folder}/bundle")}
        if before:
            kinds = {"run, before": (Path(before), run), **kinds}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for number in range(int(rounds)):
            for name, (checkout, where) in kinds.items():
                one = command_s(checkout, where) | (in_python(where) if checkout == ROOT else {})
                found[name].append(one)
                print(number, name, {key: round(value, 3) for key, value in one.items()}, flush=True)
    rows: list[dict[str, Any]] = []
    for name, several in found.items():
        medians = {key: round(statistics.median(one[key] for one in several), 3) for key in several[0]}
        rows.append({"tagged by": name, **medians})
    notes = [f"Medians of {rounds} rounds in turns; {TEXTS} texts alone, {DOCUMENTS} at once; MiniLM."]
    publish("tagging", "From the command to the tags", {"rows": rows, "notes": notes})


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if "=" not in word]
    main(*words, **dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word))

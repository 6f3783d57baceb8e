"""One engine over documents that lie in a file, on so many cores: a process of its own, for ceiling.py.

    python -m scale_bench.ceiling_engine ENGINE CORES FOLDER OUTPUT

It imports what older versions of this project have too, by which one of them can be measured (ceiling.py --before).
"""

from __future__ import annotations

import cProfile
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ezxmc_ray
from common.measures import in_batches
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.teacher.start import start_engine

#: In FOLDER: the model, the documents of the two runs (the second one under a profiler) and a few others, and what a
#: teacher is.
MODEL, DOCUMENTS, SETTINGS = "model", "documents.json", "settings.json"


def main() -> None:
    """Measure and write."""
    name, cores, place, output = sys.argv[1:]
    folder = Path(place)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-int(cores) :])
    settings = json.loads((folder / SETTINGS).read_text())
    teacher = settings["teacher"] | {"model": str(folder / MODEL), "threads": int(cores), "engine": name}
    config = TeacherConfig(**teacher)
    engine = start_engine(config)
    batches, again, first = (in_batches(rows, config.batch_documents) for rows in documents_in(folder))
    list(engine.judge_many(first))  # other documents: none is to be in a cache when the clock starts
    result = timed(engine, batches)
    if settings["profile"]:
        profile = cProfile.Profile()
        profile.runcall(timed, engine, again)
        profile.dump_stats(f"{settings['profile']}-{name}-{cores}")
    engine.close()
    Path(output).write_text(json.dumps(result | {"tree": str(Path(ezxmc_ray.__file__).parents[1])}))


def documents_in(folder: Path) -> list[list[DocumentPairs]]:
    """Those of the timed run, of the one under a profiler, and to warm up with."""
    return [list(map(document_in, rows)) for rows in json.loads((folder / DOCUMENTS).read_text())]


def document_in(row: list[Any]) -> DocumentPairs:
    """A document of five fields, hashes in hexadecimal digits."""
    key, title, text, keys, labels = row
    return DocumentPairs(bytes.fromhex(key), title, text, tuple(map(bytes.fromhex, keys)), tuple(labels))


def timed(engine: Any, batches: list[list[DocumentPairs]]) -> dict[str, Any]:
    """Judge ``batches``; the figures."""
    cpu, began = time.process_time(), time.perf_counter()
    judged = list(engine.judge_many(batches))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    pairs = sum(len(document.labels) for batch in batches for document in batch)
    return {
        "pairs": pairs,
        "pairs_per_s": pairs / wall,
        "cpu_us_per_pair": 1e6 * cpu / pairs,
        "tokens a prompt": sum(one.prompt_tokens for one in judged) / pairs,
        "tokens computed a pair": sum(one.computed_tokens for one in judged) / pairs,
    }


if __name__ == "__main__":
    main()

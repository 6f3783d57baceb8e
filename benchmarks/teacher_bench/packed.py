"""One engine over a task's pairs, in a process of its own, for benchmarks/packed.py:

    python -m teacher_bench.packed ENGINE FOLDER OUTPUT

ENGINE: ``packed``, ``vllm``, ``one_forward`` (transformers, a forward a pair, the task's first slow_pairs), or
``float32`` (the same in float32, its first reference_pairs). Loading and a warm-up batch are not timed. Goes out: a
JSON object with speed, tokens computed, the most memory that the process had, and the raw scores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.measures import in_batches, memory
from common.publish import write_answer
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.teacher.start import start_engine
from teacher_bench.figures import tokens_of
from teacher_bench.task import Task, read_task


def main() -> None:
    """Ask one engine and write what it gave; an error is written too, and raised."""
    engine, folder, output = sys.argv[1:]
    write_answer(output, lambda: asked(engine, read_task(folder)))


def asked(name: str, task: Task) -> dict[str, Any]:
    """The figures of one engine.

    ``tokens_over_ideal``: what all prompts begin with is computed before. The prompts' line breaks, by which vLLM's
    blocks fit, are no part of it, but of ``tokens_over_ideal_of_the_padded``: verdicts of both engines are one
    teacher's, so both read them.
    """
    config, documents = asked_by(name, task)
    engine: Any = start_engine(config)
    list(engine.judge_many([task.warm_up()]))
    batches = in_batches(documents, config.batch_documents)
    began = time.perf_counter()
    judged = list(engine.judge_many(batches))
    seconds = time.perf_counter() - began
    needed = tokens_of(config, documents)
    ideal = needed["ideal"] - len(engine.teacher.plan.head)
    engine.close()
    raw = [value for one in judged for value in one.table["raw"].to_pylist()]
    computed = sum(one.computed_tokens for one in judged)
    return {
        "pairs": len(raw),
        "pairs_per_s": len(raw) / seconds,
        "computed_tokens_per_pair": computed / len(raw),
        "tokens_over_ideal": computed / ideal,
        "tokens_over_ideal_of_the_padded": computed / (ideal + needed["padding"]),
        "most_memory_gib": memory("VmHWM"),
        "raw": raw,
    }


def asked_by(name: str, task: Task) -> tuple[TeacherConfig, Sequence[DocumentPairs]]:
    """The configuration that ``name`` stands for, and the documents that it is asked about."""
    teacher = task.config.teacher
    if name == "float32":
        return replace(teacher, engine="transformers", dtype="float32"), task.documents(task.reference_pairs)
    if name == "one_forward":
        return replace(teacher, engine="transformers"), task.documents(task.slow_pairs)
    return replace(teacher, engine=name), task.documents()


if __name__ == "__main__":
    main()

"""How fast an engine judges: pairs and tokens a second, the share of the GPU's peak, tokens computed over the ideal.

Comes in: an engine of the project, and documents that it has not seen. Goes out: the fields of a row.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from common.measures import in_batches
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import DocumentPairs, load_teacher
from gpu_bench.device import Utilisation, on_gpu, peak
from gpu_bench.models import LABELS_PER_DOCUMENT, weights_per_token
from gpu_bench.texts import documents_of
from teacher_bench.figures import tokens_of

#: Tokens of the documents that are made before the clock starts: while it runs, making them would take time from fast
#: engines.
MADE_BEFORE, TINY_MADE_BEFORE = 2_000_000, 200
#: Documents over which the ideal is counted.
SAMPLE, TINY_SAMPLE = 64, 2


def judge_for(
    engine: Any, config: TeacherConfig, seconds: float, seed: int, labels: int = LABELS_PER_DOCUMENT
) -> dict[str, Any]:
    """Judge documents for ``seconds``, one batch more than that; ``config``: its batches. The figures."""
    configure(engine, config)
    stream = documents_of(config.max_document_tokens, labels, seed)
    ready = (MADE_BEFORE if on_gpu() else TINY_MADE_BEFORE) // config.max_document_tokens
    documents = itertools.chain(list(itertools.islice(stream, ready)), stream)
    list(engine.judge_many([list(itertools.islice(documents, config.batch_documents))]))
    pairs = prompt = computed = 0
    with Utilisation() as used:
        began = time.perf_counter()
        for judged in engine.judge_many(batches_for(documents, config.batch_documents, seconds)):
            pairs += len(judged.raw)
            prompt += judged.prompt_tokens
            computed += judged.computed_tokens
        took = time.perf_counter() - began
    found = rates(pairs, prompt, computed, took, weights_per_token(engine.teacher.resolved))
    about = {"engine": config.engine, "document_tokens": config.max_document_tokens, "labels": labels}
    return {**about, **found, "gpu_utilisation": used.mean}


def configure(engine: Any, config: TeacherConfig) -> None:
    """Let an engine judge in other batches, or documents of another length, not above the one it was started for."""
    if engine.teacher.config.max_document_tokens == config.max_document_tokens:
        engine.teacher = replace(engine.teacher, config=config)
    else:
        engine.teacher = load_teacher(config)


def batches_for(
    documents: Iterator[DocumentPairs], size: int, seconds: float, least: int = 1
) -> Iterator[list[DocumentPairs]]:
    """Batches of ``size`` documents, ``least`` of them and then until ``seconds`` are over."""
    until = time.perf_counter() + seconds
    for number in itertools.count():
        if number >= least and time.perf_counter() > until:
            return
        yield list(itertools.islice(documents, size))


def rates(pairs: int, prompt: int, computed: int, seconds: float, weights: float) -> dict[str, Any]:
    """Figures of so many pairs and tokens; ``mfu``: of the data sheet's bfloat16 peak, by the products with weights."""
    flops = computed / seconds * 2 * weights
    top = peak()
    return {
        "pairs_per_s": pairs / seconds,
        "computed_tokens_per_pair": computed / max(1, pairs),
        "prompt_tokens_per_pair": prompt / max(1, pairs),
        "computed_tokens_per_s": computed / seconds,
        "tflops": flops / 1e12,
        "mfu": flops / top if top else None,
        "pairs": pairs,
        "seconds": seconds,
    }


def sample_of(config: TeacherConfig, count: int, seed: int, labels: int = LABELS_PER_DOCUMENT) -> list[DocumentPairs]:
    """The first ``count`` documents of a seed."""
    return list(itertools.islice(documents_of(config.max_document_tokens, labels, seed), count))


def tokens_over_ideal(engine: Any, config: TeacherConfig, documents: Sequence[DocumentPairs]) -> float:
    """Tokens that the engine computes for ``documents``, which it must not have seen, over those that are needed.

    What all prompts begin with has been computed before.
    """
    configure(engine, config)
    batches = in_batches(documents, config.batch_documents)
    computed = sum(judged.computed_tokens for judged in engine.judge_many(batches))
    return float(computed / (tokens_of(config, documents)["ideal"] - len(engine.teacher.plan.head)))

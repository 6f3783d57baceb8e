"""The judge's engine over vLLM: pairs/s, computed tokens, share of the peak; what the settings change; where time goes.

Comes in: the name of a teacher (models). Goes out: a row for each setting, the project's defaults first.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ezxmc_ray.config import TeacherConfig
from gpu_bench import models, speed
from gpu_bench.inside import busy_kernels, one_call, where_time_goes
from gpu_bench.models import REAL
from gpu_bench.plan import Settings
from gpu_bench.report import Report

SECONDS, TINY_SECONDS = 7.0, 0.2
#: The seed of the documents that every engine judges first with its defaults.
DEFAULTS_SEED = 100
#: (batches in flight, documents a batch) beside the defaults.
IN_FLIGHT, TINY_IN_FLIGHT = ((1, 32), (8, 32), (2, 128), (4, 256)), ((1, 2),)


def teacher_part(settings: Settings, report: Report, name: str) -> None:
    """One engine with the project's defaults, asked in several ways; then an engine for each other setting."""
    base = models.teacher_config(settings, name)
    seconds = TINY_SECONDS if settings.tiny else SECONDS
    report.note(model=name, random_weights=name != REAL, document_tokens=base.max_document_tokens)
    report.attempt("project's defaults", lambda: _defaults(settings, report, base, name, seconds))
    for number, (what, config, options) in enumerate(_variants(settings, base, name)):
        report.attempt(
            what, partial(_variant, report, what, config, options, name, seconds, DEFAULTS_SEED + 50 + number)
        )


def _defaults(settings: Settings, report: Report, base: TeacherConfig, name: str, seconds: float) -> None:
    engine, started = models.start(base, name)
    cache = engine.llm.llm_engine.vllm_config.cache_config
    report.note(start_seconds=started, block_tokens=cache.block_size, blocks=cache.num_gpu_blocks)
    report.note(weights_per_token=models.weights_per_token(engine.teacher.resolved))
    flight = f"{base.batches_in_flight} batches of {base.batch_documents} in flight"
    report.row(f"project's defaults ({flight})", **speed.judge_for(engine, base, seconds, DEFAULTS_SEED))
    for number, (batches, documents) in enumerate(TINY_IN_FLIGHT if settings.tiny else IN_FLIGHT, 1):
        what = f"{batches} batches of {documents} in flight"
        config = replace(base, batches_in_flight=batches, batch_documents=documents)
        report.attempt(what, partial(_asked, report, what, engine, config, seconds, DEFAULTS_SEED + number))
    report.attempt("where the time goes", lambda: where_time_goes(report, engine, base, seconds))
    what = "LLM.generate over all full prompts, same engine"
    report.attempt(what, lambda: report.row(what, **one_call(engine.llm, base, seconds)))
    report.attempt("kernels under the profiler", lambda: busy_kernels(report, engine, base))
    models.stop(engine)


def _asked(report: Report, what: str, engine: Any, config: TeacherConfig, seconds: float, seed: int) -> None:
    report.row(what, **speed.judge_for(engine, config, seconds, seed))


def _variants(settings: Settings, base: TeacherConfig, name: str) -> list[tuple[str, TeacherConfig, dict[str, Any]]]:
    """What each is called, its configuration, and vLLM's options; of the largest shape the first three."""
    best = base if settings.tiny else replace(base, batches_in_flight=4, batch_documents=128)
    flight = f"{best.batches_in_flight}x{best.batch_documents}"
    all_variants: list[tuple[str, TeacherConfig, dict[str, Any]]] = [
        (f"head in the model's dtype, {flight}", replace(best, head_dtype="model"), {}),
        (flight, best, {}),
        (
            f"steps of 65,536 tokens, 1,024 sequences, {flight}",
            best,
            {"max_num_batched_tokens": 65536, "max_num_seqs": 1024},
        ),
        (f"steps of 8,192 tokens, {flight}", best, {"max_num_batched_tokens": 8192}),
        (f"1,024 sequences a step, {flight}", best, {"max_num_seqs": 1024}),
        (f"blocks of 32 tokens, {flight}", replace(best, block_tokens=32), {}),
    ]
    if settings.tiny:
        return all_variants[:1]
    return all_variants[:3] if name == "random-7b" else all_variants


def _variant(
    report: Report, what: str, config: TeacherConfig, options: dict[str, Any], name: str, seconds: float, seed: int
) -> None:
    engine, started = models.start(config, name, **options)
    report.row(what, **speed.judge_for(engine, config, seconds, seed), start_seconds=started)
    models.stop(engine)

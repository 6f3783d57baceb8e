"""vLLM as it comes, compiled and with CUDA graphs, beside the project's engine compiled; and the slow reference engine.

Comes in: the name of a teacher. Goes out: rows as those of the part ``teacher``.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ezxmc_ray.teacher.engine import load_teacher
from gpu_bench import models, speed
from gpu_bench.device import on_gpu
from gpu_bench.inside import one_call
from gpu_bench.models import REAL
from gpu_bench.plan import Settings
from gpu_bench.report import Report
from gpu_bench.teacher import DEFAULTS_SEED, SECONDS, TINY_SECONDS


def compiled_part(settings: Settings, report: Report, name: str) -> None:
    """The project's engine with ``teacher.enforce_eager=false``, then ``LLM.generate`` with vLLM's own settings."""
    document_tokens = models.teacher_config(settings, name).max_document_tokens
    report.note(model=name, random_weights=name != REAL, document_tokens=document_tokens)
    what = "project's engine, compiled, 4 batches of 128 in flight"
    report.attempt(what, lambda: _ours(settings, report, what, name))
    what = "LLM.generate, vLLM's own defaults (compiled)"
    report.attempt(what, lambda: _as_it_comes(settings, report, what, name))


def _ours(settings: Settings, report: Report, what: str, name: str) -> None:
    config = replace(models.teacher_config(settings, name), enforce_eager=settings.tiny)  # a CPU would compile minutes
    if not settings.tiny:
        config = replace(config, batches_in_flight=4, batch_documents=128)
    engine, started = models.start(config, name)
    found = speed.judge_for(engine, config, TINY_SECONDS if settings.tiny else SECONDS, DEFAULTS_SEED)
    report.row(what, **found, start_seconds=started)
    models.stop(engine)


def _as_it_comes(settings: Settings, report: Report, what: str, name: str) -> None:
    from vllm import LLM

    config = models.teacher_config(settings, name)
    teacher = load_teacher(config)
    memory = {"gpu_memory_utilization": config.gpu_memory_share} if on_gpu() else {"kv_cache_memory_bytes": 1 << 30}
    began = time.perf_counter()
    llm = LLM(
        teacher.resolved,
        tokenizer=teacher.resolved,
        skip_tokenizer_init=True,
        load_format="auto" if name == REAL else "dummy",
        dtype="auto" if on_gpu() else "float32",
        max_model_len=teacher.plan.max_prompt_tokens + 1,
        enforce_eager=settings.tiny,
        **memory,
    )
    started = time.perf_counter() - began
    found = one_call(llm, config, TINY_SECONDS if settings.tiny else SECONDS)
    report.row(what, **found, start_seconds=started)
    llm.llm_engine.engine_core.shutdown()


def transformers_part(settings: Settings, report: Report, name: str) -> None:
    """The reference engine: a forward a pair."""
    report.note(model=name, random_weights=name != REAL)
    config = replace(models.teacher_config(settings, name), engine="transformers")
    config = replace(config, batch_documents=min(16, config.batch_documents))
    engine, started = models.start(config, name)
    found = speed.judge_for(engine, config, TINY_SECONDS if settings.tiny else SECONDS, DEFAULTS_SEED)
    report.row("transformers engine, a forward a pair", **found, start_seconds=started)

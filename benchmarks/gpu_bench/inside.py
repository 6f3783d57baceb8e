"""Inside vLLM's engine, which lies in this process: where a step's time goes, which kernels work, a plain ``generate``.

Comes in: an engine of the project over vLLM, or vLLM itself. Goes out: figures. The methods that are timed are vLLM's
own and differ by its version: one that is not there is left out.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import build_prompts, load_teacher
from gpu_bench.device import Utilisation, on_gpu, sync
from gpu_bench.models import LABELS_PER_DOCUMENT, weights_per_token
from gpu_bench.report import Report
from gpu_bench.speed import batches_for, configure, rates, sample_of
from gpu_bench.texts import documents_of

#: With asynchronous scheduling the second and third only start the GPU's work; the rest of a step waits for it.
OF_A_STEP = ("schedule", "execute_model", "sample_tokens", "update_from_output", "process_outputs")
ALL_OF_IT = "step"
#: What vLLM is asked for where it is asked as its documentation does.
PLAIN = {"max_tokens": 1, "temperature": 0.0, "logprobs": 20, "detokenize": False}
TOP_KERNELS = 8
SEED = 77


def where_time_goes(report: Report, engine: Any, config: TeacherConfig, seconds: float) -> None:
    """A row of shares of wall time, percent: of the spots in the engine's step, of waiting, of what is outside."""
    configure(engine, config)
    llm_engine = engine.llm.llm_engine
    core = llm_engine.engine_core.engine_core
    spots = {
        "schedule": core.scheduler,
        "execute_model": core.model_executor,
        "sample_tokens": core.model_executor,
        "update_from_output": core.scheduler,
        "process_outputs": llm_engine.output_processor,
        "add_request": llm_engine,
        ALL_OF_IT: llm_engine,
    }
    stream = documents_of(config.max_document_tokens, LABELS_PER_DOCUMENT, SEED)
    documents = itertools.chain(list(itertools.islice(stream, 3000 if on_gpu() else 8)), stream)
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    with ExitStack() as timed:
        for method, owner in spots.items():
            if hasattr(owner, method):
                timed.enter_context(_timed(owner, method, spent, calls))
        began = time.perf_counter()
        batches = batches_for(documents, config.batch_documents, seconds)
        pairs = sum(len(judged.raw) for judged in engine.judge_many(batches))
        took = time.perf_counter() - began
    waiting = spent[ALL_OF_IT] - sum(spent[spot] for spot in OF_A_STEP)
    outside = took - spent[ALL_OF_IT] - spent["add_request"]
    shares = {**spent, "rest of step: waiting": waiting, "outside the engine: prompts, scores": outside}
    report.row(
        "where the time goes (defaults)",
        pairs_per_s=pairs / took,
        steps=calls[ALL_OF_IT],
        ms_per_step=1000 * spent[ALL_OF_IT] / max(1, calls[ALL_OF_IT]),
        us_per_pair_not_waiting=1e6 * (took - waiting) / max(1, pairs),
        **{f"{spot} %": 100 * value / took for spot, value in shares.items()},
    )


@contextmanager
def _timed(owner: Any, method: str, spent: Counter[str], calls: Counter[str]) -> Iterator[None]:
    original: Callable[..., Any] = getattr(owner, method)

    def timed(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*args, **more)
        finally:
            spent[method] += time.perf_counter() - began  # type: ignore[assignment]
            calls[method] += 1

    with mock.patch.object(owner, method, timed):
        yield


def busy_kernels(report: Report, engine: Any, config: TeacherConfig) -> None:
    """Seconds of kernels against the clock in four batches; torch's profiler, which slows the CPU, is on."""
    configure(engine, config)
    kind = torch.profiler.ProfilerActivity.CUDA if on_gpu() else torch.profiler.ProfilerActivity.CPU
    field = "self_device_time_total" if on_gpu() else "self_cpu_time_total"
    size = config.batch_documents
    documents = sample_of(config, 4 * size if on_gpu() else size, SEED + 2)
    with torch.profiler.profile(activities=[kind]) as profile:
        began = time.perf_counter()
        list(engine.judge_many([documents[start : start + size] for start in range(0, len(documents), size)]))
        sync()
        took = time.perf_counter() - began
    found = [(one.key, getattr(one, field, 0) / 1e6) for one in profile.key_averages()]
    total = sum(seconds for _, seconds in found)
    report.row("kernels under the profiler", seconds=took, kernel_seconds=total, busy_share=total / took)
    top = sorted(found, key=lambda one: -one[1])[:TOP_KERNELS]
    report.note(kernels={name[:80]: round(seconds / max(total, 1e-9), 3) for name, seconds in top})


def one_call(llm: Any, config: TeacherConfig, seconds: float) -> dict[str, Any]:
    """vLLM as its documentation asks it: all prompts, without padding, in one ``generate`` of about ``seconds``."""
    from vllm import SamplingParams

    teacher = load_teacher(replace(config, pad_prefix_tokens=0))
    parameters = SamplingParams(**PLAIN)

    def ask(count: int, seed: int) -> tuple[int, int, int, float]:
        prompts = [pair.tokens for pair in build_prompts(teacher.plan, sample_of(config, count, seed)).pairs]
        requests = [{"prompt_token_ids": tokens} for tokens in prompts]
        began = time.perf_counter()
        answers = llm.generate(requests, parameters, use_tqdm=False)
        took = time.perf_counter() - began
        total = sum(map(len, prompts))
        return len(prompts), total, total - sum(one.num_cached_tokens or 0 for one in answers), took

    few = min(8, config.batch_documents)
    took = ask(few, SEED + 3)[3]
    with Utilisation() as used:
        found = ask(max(few, min(4096, int(seconds * few / max(took, 1e-3)))), SEED + 4)
    return {**rates(*found, weights_per_token(teacher.resolved)), "gpu_utilisation": used.mean}

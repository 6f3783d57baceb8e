"""The vLLM engine: offline, automatic prefix caching, one step a pair.

Comes in: a batch of documents with their labels. Goes out: raw scores in the batch's order. ``yes_no`` allows only the
answers' tokens and reads their exact softmax. ``likelihood`` asks for prompt log probabilities. vLLM then computes each
prompt whole by default; here it may read its prefix cache, since only the label's tokens are wanted: the values of
cached positions are garbage, those of computed ones are right. The logit that predicts token i stands at position
i - 1, so a pair counts if at most label_start - 1 of its tokens were cached, and is asked again without the cache
otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ezxmc_ray.models import load_error
from ezxmc_ray.teacher.engine import DocumentPairs, Judged, PairPrompt, Teacher, build_prompts, judged
from ezxmc_ray.teacher.readout import mean_log_likelihood, probability_of_yes

#: The smallest block that vLLM's CPU attention takes: least of a shared prefix is computed again.
_CPU_BLOCK_TOKENS = 32
#: Prompt tokens a step. On a CPU small steps lose nothing and bound the activations' memory.
_STEP_TOKENS_CPU, _STEP_TOKENS_GPU = 2048, 16384
#: vLLM replaces torch.set_num_threads once it runs; its own CPU threads are these.
_set_threads = torch.set_num_threads


class VllmEngine:
    """See the module's text; errors at the start are UserErrors where model, memory or configuration cause them.

    ``llm``: a vLLM that runs already, with the same weights and room for this teacher's prompts, so that one model
    serves two prompts or read-outs.
    """

    def __init__(self, teacher: Teacher, llm: Any | None = None) -> None:
        self.teacher = teacher
        _set_environment(teacher)
        self._block_tokens = teacher.config.block_tokens or (0 if torch.cuda.is_available() else _CPU_BLOCK_TOKENS)
        self._use_threads()
        self.llm = llm or self._start()

    def judge(self, batch: Sequence[DocumentPairs]) -> Judged:
        """Judge a batch; errors of a dead engine (vllm's EngineDeadError) pass through."""
        started = time.perf_counter()
        self._use_threads()
        prompts = build_prompts(self.teacher.plan, batch)
        if self.teacher.answers is not None:
            raw, computed = self._yes_no(prompts.pairs)
        else:
            raw, computed = self._likelihood(prompts.pairs)
        return judged(prompts, raw, computed, time.perf_counter() - started, self.teacher.config)

    def close(self) -> None:
        """Shut the engine down, worker processes included."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def _yes_no(self, pairs: list[PairPrompt]) -> tuple[list[float], int]:
        from vllm import SamplingParams

        answers = self.teacher.answers
        assert answers is not None
        parameters = SamplingParams(
            max_tokens=1,
            temperature=1.0,
            logprobs=len(answers.all),
            allowed_token_ids=answers.all,
            flat_logprobs=True,
            detokenize=False,
        )
        raw, computed = [], 0
        for output in self._generate(pairs, parameters):
            flat = output.outputs[0].logprobs
            raw.append(probability_of_yes(dict(zip(flat.token_ids, flat.logprobs, strict=True)), answers))
            computed += len(output.prompt_token_ids) - output.num_cached_tokens
        return raw, computed

    def _likelihood(self, pairs: list[PairPrompt]) -> tuple[list[float], int]:
        """Read the cache where the label can still be read, then ask again, whole, for the pairs where it could not."""
        raw = np.full(len(pairs), np.nan)
        # A prefix that ends with a block is cached whole by its first pair: the first label token's logit is lost then.
        aligned = [bool(self._block_tokens) and pair.label_start % self._block_tokens == 0 for pair in pairs]
        computed = self.read_likelihood(pairs, [i for i, skip in enumerate(aligned) if not skip], raw, False)
        again = [int(i) for i in np.flatnonzero(np.isnan(raw))]
        computed += self.read_likelihood(pairs, again, raw, True)
        return raw.tolist(), computed

    def read_likelihood(self, pairs: list[PairPrompt], rows: list[int], raw: np.ndarray, whole: bool) -> int:
        """Fill ``raw[rows]`` where it can be read; returns the tokens computed. ``whole``: without the cache."""
        from vllm import SamplingParams

        parameters = SamplingParams(
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=whole,
        )
        computed = 0
        for row, output in zip(rows, self._generate([pairs[i] for i in rows], parameters), strict=True):
            pair = pairs[row]
            computed += len(pair.tokens) - output.num_cached_tokens
            if output.num_cached_tokens < pair.label_start:
                raw[row] = _label_score(pair, output.prompt_logprobs)
        return computed

    def _generate(self, pairs: list[PairPrompt], parameters: Any) -> list[Any]:
        if not pairs:
            return []
        prompts = [{"prompt_token_ids": pair.tokens} for pair in pairs]
        return list(self.llm.generate(prompts, parameters, use_tqdm=False))

    def _use_threads(self) -> None:
        """OpenMP's thread count belongs to a thread, and Ray sets it to 1: set it in whichever thread calls."""
        if not torch.cuda.is_available():
            _set_threads(self.teacher.config.threads or len(os.sched_getaffinity(0)))

    def _start(self) -> Any:
        from vllm import LLM

        config, teacher = self.teacher.config, self.teacher
        gpu = torch.cuda.is_available()
        context = teacher.plan.max_prompt_tokens + 1
        options: dict[str, Any] = {
            "model": teacher.resolved,
            "tokenizer": teacher.resolved,
            "skip_tokenizer_init": True,  # prompts are token ids, and nothing is turned back into text
            "dtype": config.dtype,
            "quantization": config.quantization,
            "max_model_len": context,
            "max_num_batched_tokens": max(context, _STEP_TOKENS_GPU if gpu else _STEP_TOKENS_CPU),
            "max_logprobs": max(20, len(teacher.answers.all) if teacher.answers else 0),
            "logprobs_mode": "processed_logprobs",
            "enforce_eager": config.enforce_eager,
            "enable_prefix_caching": True,
            "tensor_parallel_size": config.tensor_parallel,
            "disable_log_stats": False,  # the count of cached tokens comes with the statistics
            "seed": 0,
        }
        if self._block_tokens:
            options["block_size"] = self._block_tokens
        if gpu:
            options["gpu_memory_utilization"] = config.gpu_memory_share
        else:
            options["kv_cache_memory_bytes"] = config.cpu_kv_cache_gib << 30
        try:
            return LLM(**options)
        except (OSError, ValueError, MemoryError, RuntimeError) as error:
            raise load_error(teacher.reference, error) from error


def _label_score(pair: PairPrompt, flat: Any) -> float:
    """Mean log probability of the label's tokens.

    Rows are counted from the end: of a prompt read from the cache, one of vLLM's two model runners returns a row for
    every prompt token (garbage where cached), the other rows for the computed ones only.
    """
    first, last = pair.label_start - len(pair.tokens), pair.label_stop - len(pair.tokens)
    starts = flat.start_indices[first : last or None]
    if [flat.token_ids[start] for start in starts] != pair.tokens[pair.label_start : pair.label_stop]:
        raise RuntimeError("vLLM returned log probabilities of other tokens than the label's")
    return mean_log_likelihood([flat.logprobs[start] for start in starts])


def _set_environment(teacher: Teacher) -> None:
    """vLLM reads these when it is imported or started; what the user has set stays."""
    config = teacher.config
    values = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # In this process, so that no process is left behind (which of the two is faster was not measured).
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.tensor_parallel == 1 else "1",
    }
    if os.path.isdir(teacher.resolved):
        values["HF_HUB_OFFLINE"] = "1"
    for name, value in values.items():
        os.environ.setdefault(name, value)

"""The vLLM engine: offline, automatic prefix caching, one step a pair, more than one batch in flight.

Comes in: batches of documents with their labels. Goes out: raw scores in the batches' order. ``yes_no`` asks for the
answers' tokens and reads their exact softmax, whatever other token the model would say. ``classify`` runs the
checkpoint's classification head. ``likelihood`` asks for prompt log probabilities. vLLM then computes each prompt whole
by default; here it may read its prefix cache, since only the label's tokens are wanted: the values of cached positions
are garbage, those of computed ones are right. The logit that predicts token i stands at position i - 1, so a pair
counts if at most label_start - 1 of its tokens were cached, and is asked again without the cache otherwise.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.models import LOAD_ERRORS, hub_place
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.tables import NO_DOCUMENT
from ezxmc_ray.teacher.engine import (
    BatchPrompts,
    DocumentPairs,
    JudgedBatch,
    PairPrompt,
    TeacherSpec,
    build_prompts,
    dtype_here,
    head_dtype,
    to_judged_batch,
)
from ezxmc_ray.teacher.engine_watch import wake_when_dead
from ezxmc_ray.teacher.memory import start_error, teacher_memory
from ezxmc_ray.teacher.readout import AnswerTokens, mean_log_likelihood, probability_of_yes
from ezxmc_ray.teacher.transformers_engine import chances_of_relevant

#: The smallest block that vLLM's CPU attention takes: least of a shared prefix is computed again.
_CPU_BLOCK_TOKENS = 32
#: Prompt tokens a step. On a CPU small steps lose nothing and bound the activations' memory.
_STEP_TOKENS_CPU, _STEP_TOKENS_GPU = 2048, 16384
#: vLLM replaces torch.set_num_threads once it runs; its own CPU threads are these.
_set_threads = torch.set_num_threads
#: The first steps of an engine compile and allocate: they belong to its start. Longer than most blocks of a cache.
_WARM_UP = DocumentPairs(b"warm-up", "", "word " * 300, (NO_DOCUMENT, NO_DOCUMENT), ("a", "b"))
#: Names of requests, never the same twice in an engine.
_NUMBERS = itertools.count()


class VllmEngine:
    """See the module's text; errors at the start are UserErrors where model, memory or configuration cause them.

    Comparing prompts: ``others``, the same model with other prompts or read-outs, whose prompts must find room as well
    (not classify and another read-out: they run different heads); ``llm``, the vLLM of another engine, to be shared.
    """

    def __init__(self, teacher: TeacherSpec, others: Sequence[TeacherSpec] = (), llm: Any | None = None) -> None:
        self.teacher = teacher
        _set_environment(teacher)
        self._use_threads()
        self.llm = llm or _start(teacher, [teacher, *others])
        self._requests = _requests(teacher, self.llm.llm_engine)
        if llm is None:
            wake_when_dead(self.llm.llm_engine.engine_core)
            self._warm_up()

    def _warm_up(self) -> None:
        """The first steps; RuntimeError for a vLLM that does not say what its cache had: scores could not be read.

        The cache holds whole blocks, which vLLM makes longer than the prompt for models with a state (Mamba's).
        """
        self.judge([_WARM_UP])
        again, cache = self.judge([_WARM_UP]), self.llm.llm_engine.vllm_config.cache_config
        has_blocks = cache.enable_prefix_caching and again.prompt_tokens > len(again.raw) * cache.block_size
        if has_blocks and again.computed_tokens == again.prompt_tokens:
            raise RuntimeError("this version of vLLM does not count the cached tokens of a prompt")

    def prompts(self, batch: Sequence[DocumentPairs]) -> BatchPrompts:
        """The prompts of a batch; may be called in another thread."""
        return build_prompts(self.teacher.plan, batch)

    def judge(self, batch: Sequence[DocumentPairs]) -> JudgedBatch:
        """Judge a batch; errors of a dead engine (vllm's EngineDeadError) pass through."""
        return next(self.judge_many([batch]))

    def judge_many(self, batches: Iterable[Sequence[DocumentPairs]]) -> Iterator[JudgedBatch]:
        """Judge batch after batch, the prompts of the next one being made in a thread meanwhile."""
        yield from self.judge_stream(prefetch(self.prompts, batches))

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        """Judge what comes: ``batches_in_flight`` at once; where there is room, what comes is asked before every step.

        ``seconds`` of a batch: those that the engine worked until it was done, since the batch before was.
        """
        self._use_threads()
        stream = _Stream(self.llm.llm_engine, self._requests, self.teacher.config)
        try:
            for prompts in coming:
                if prompts is not None:
                    stream.add(prompts)
                    if len(stream.waiting) < self.teacher.config.batches_in_flight:
                        continue
                yield from map(self._judged, stream.step())
                while len(stream.waiting) >= self.teacher.config.batches_in_flight:
                    yield from map(self._judged, stream.step())
            while stream.waiting:
                yield from map(self._judged, stream.step())
        finally:
            stream.abort()

    def close(self) -> None:
        """Shut the engine down, worker processes included."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def _judged(self, done: _OpenBatch) -> JudgedBatch:
        return to_judged_batch(done.prompts, done.raw, done.computed_tokens, done.seconds, self.teacher.config)

    def _use_threads(self) -> None:
        """OpenMP's thread count belongs to a thread, and Ray sets it to 1: set it in whichever thread calls."""
        if not torch.cuda.is_available():
            _set_threads(self.teacher.config.threads or len(os.sched_getaffinity(0)))


class _Requests(Protocol):
    """What a read-out asks the engine for, and how it reads the answer."""

    def parameters(self, pair: PairPrompt, again: bool) -> Any:
        """vLLM's parameters of a pair; ``again``: of one whose first answer could not be read."""
        ...

    def score(self, pair: PairPrompt, output: Any) -> float | None:
        """The raw score; None: the pair must be asked again."""
        ...


class _YesNo:
    def __init__(self, answers: AnswerTokens) -> None:
        from vllm import SamplingParams

        self._answers = answers
        self._parameters = SamplingParams(
            max_tokens=1,
            temperature=0.0,  # which token would be drawn does not matter, and drawing costs as much as a softmax
            ignore_eos=True,
            logprob_token_ids=self._answers.all,  # these alone: no mask over the vocabulary, and no sorting of it
            flat_logprobs=True,
            detokenize=False,
            skip_clone=True,
        )

    def parameters(self, pair: PairPrompt, again: bool) -> Any:
        return self._parameters

    def score(self, pair: PairPrompt, output: Any) -> float | None:
        flat = output.outputs[0].logprobs
        return probability_of_yes(dict(zip(flat.token_ids, flat.logprobs, strict=True)), self._answers)


class _Classify:
    def parameters(self, pair: PairPrompt, again: bool) -> Any:
        from vllm import PoolingParams

        return PoolingParams(task="classify", use_activation=False)  # a checkpoint may ask for none, or another one

    def score(self, pair: PairPrompt, output: Any) -> float | None:
        return float(chances_of_relevant(output.outputs.data.double()))


class _Likelihood:
    def parameters(self, pair: PairPrompt, again: bool) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=again,
            skip_clone=True,
        )

    def score(self, pair: PairPrompt, output: Any) -> float | None:
        if output.num_cached_tokens >= pair.label_start:
            return None
        return _label_score(pair, output.prompt_logprobs)


class _LabelRows:
    """The likelihood where vLLM can leave out what the prompt's other tokens would have been.

    The vocabulary's logits are computed from the label on; ``_Likelihood`` has them of all that is computed.
    """

    def parameters(self, pair: PairPrompt, again: bool) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprob_token_ids=np.asarray(pair.tokens[pair.label_start :], np.int64)[:, None],
            prompt_logprob_start=pair.label_start - 1,
            detokenize=False,
            skip_reading_prefix_cache=again,
            skip_clone=True,
        )

    def score(self, pair: PairPrompt, output: Any) -> float | None:
        if output.prompt_token_id_logprobs is None:  # a part of the label was cached, or computed before it was put off
            return None
        return mean_log_likelihood(output.prompt_token_id_logprobs[: pair.label_stop - pair.label_start, 0])


def _requests(teacher: TeacherSpec, engine: Any) -> _Requests:
    if teacher.config.readout == "likelihood":
        return _LabelRows() if _has_label_rows(engine) else _Likelihood()
    if teacher.config.readout == "classify":
        return _Classify()
    assert teacher.answers is not None
    return _YesNo(teacher.answers)


def _has_label_rows(engine: Any) -> bool:
    """Whether this vLLM scores some tokens of a prompt: its second model runner does, from 0.32 on."""
    from vllm import SamplingParams

    return hasattr(SamplingParams, "prompt_logprob_token_ids") and engine.vllm_config.use_v2_model_runner


class _OpenBatch:
    """A batch in the engine: its raw scores so far, and how many are missing."""

    def __init__(self, prompts: BatchPrompts) -> None:
        self.prompts = prompts
        self.raw = np.full(len(prompts.pairs), np.nan)
        self.missing = len(prompts.pairs)
        self.computed_tokens = 0
        self.seconds = 0.0


class _Stream:
    """Batches that go through vLLM's engine one after the other, with no pause between them."""

    def __init__(self, engine: Any, requests: _Requests, config: TeacherConfig) -> None:
        from vllm.inputs import tokens_input

        self._to_input, self._config = tokens_input, config
        self.waiting: deque[_OpenBatch] = deque()
        self._engine, self._requests = engine, requests
        self._places: dict[str, tuple[_OpenBatch, int]] = {}
        self._seconds = 0.0

    def add(self, prompts: BatchPrompts) -> None:
        """Hand a batch's pairs to the engine."""
        batch = _OpenBatch(prompts)
        self.waiting.append(batch)
        started = time.perf_counter()
        for row in range(len(prompts.pairs)):
            self._ask(batch, row)
        self._seconds += time.perf_counter() - started

    def step(self) -> list[_OpenBatch]:
        """Let the engine work a step; take out the first batches that are done then, in their order."""
        started = time.perf_counter()
        with teacher_memory(self._config):
            outputs = self._engine.step()
        for output in outputs:
            self._read(output)
        self._seconds += time.perf_counter() - started
        done = []
        while self.waiting and not self.waiting[0].missing:
            self.waiting[0].seconds, self._seconds = self._seconds, 0.0
            done.append(self.waiting.popleft())
        return done

    def abort(self) -> None:
        """Take back what has no answer yet, so that the engine is free for others."""
        if self._places:
            self._engine.abort_request(list(self._places))
            self._places.clear()

    def _ask(self, batch: _OpenBatch, row: int, again: bool = False) -> None:
        name, pair = str(next(_NUMBERS)), batch.prompts.pairs[row]
        self._engine.add_request(name, self._to_input(pair.tokens), self._requests.parameters(pair, again))
        self._places[name] = batch, row

    def _read(self, output: Any) -> None:
        batch, row = self._places.pop(output.request_id)
        pair = batch.prompts.pairs[row]
        batch.computed_tokens += len(pair.tokens) - output.num_cached_tokens
        score = self._requests.score(pair, output)
        if score is None:
            self._ask(batch, row, again=True)
        else:
            batch.raw[row] = score
            batch.missing -= 1


def _start(teacher: TeacherSpec, all_teachers: Sequence[TeacherSpec]) -> Any:
    from vllm import LLM

    config = teacher.config
    gpu = torch.cuda.is_available()
    context = max(one.plan.max_prompt_tokens for one in all_teachers) + 1
    block_tokens = config.block_tokens or (0 if gpu else _CPU_BLOCK_TOKENS)
    place, revision = hub_place(teacher.resolved)
    options: dict[str, Any] = {
        "model": place,
        "tokenizer": place,
        "revision": revision,
        "tokenizer_revision": revision,
        # Prompts are token ids, and nothing is turned back into text; a classification head is made of two words.
        "skip_tokenizer_init": config.readout != "classify",
        # Models that also read images would want a tokenizer for them, and memory (Gemma 3 4B, Mistral Small 3.1).
        "language_model_only": True,
        "dtype": dtype_here(config),
        "quantization": config.quantization,
        "max_model_len": context,
        "max_num_batched_tokens": max(context, _STEP_TOKENS_GPU if gpu else _STEP_TOKENS_CPU),
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": True,
        "tensor_parallel_size": config.tensor_parallel,
        "disable_log_stats": True,  # nobody reads them; the count of cached tokens comes without
        "seed": 0,
        "hf_overrides": {"head_dtype": head_dtype(config)},
    }
    if config.readout == "classify":
        options |= {"runner": "pooling", "convert": "classify"}
        if not teacher.classifier:
            options["hf_overrides"] |= _head_overrides(teacher)
    else:
        options["logprobs_mode"] = "raw_logprobs"
    if block_tokens:
        options["block_size"] = block_tokens
    if gpu:
        options["gpu_memory_utilization"] = config.gpu_memory_share
    else:
        options["kv_cache_memory_bytes"] = config.cpu_kv_cache_gib << 30
    try:
        return LLM(**options)
    except LOAD_ERRORS as error:
        raise start_error(config, error) from error


def _head_overrides(teacher: TeacherSpec) -> dict[str, Any]:
    """Makes vLLM turn a causal model into a classifier whose logit is logit(yes) - logit(no)."""
    from transformers import AutoTokenizer

    assert teacher.answers is not None
    place, revision = hub_place(teacher.resolved)
    tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
    return {
        "architectures": [teacher.architecture.replace("ForCausalLM", "ForSequenceClassification")],
        "classifier_from_token": tokenizer.convert_ids_to_tokens([teacher.answers.no[0], teacher.answers.yes[0]]),
        "method": "from_2_way_softmax",
    }


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


def _set_environment(teacher: TeacherSpec) -> None:
    """vLLM reads these when it is imported or started; what the user has set stays."""
    config = teacher.config
    values = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # Eight random characters for each request's name, which are never the same twice here anyway.
        "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "1",
        # In this process, so that no process is left behind (which of the two is faster was not measured).
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.tensor_parallel == 1 else "1",
    }
    if config.enforce_eager and not torch.cuda.is_available():
        values["TORCHDYNAMO_DISABLE"] = "1"  # else its sampler compiles one small function, with a C++ compiler
    if os.path.isdir(teacher.resolved):
        values["HF_HUB_OFFLINE"] = "1"
    for name, value in values.items():
        os.environ.setdefault(name, value)

"""The methods that benchmarks/teacher.py compares, each in a process of its own:

    python -m teacher_bench.methods METHOD FOLDER OUTPUT

Comes in: the folder of a task (task.Task). Goes out: OUTPUT, a JSON object: a :class:`Timing`, the reference's raw
scores, or, for a method that cannot run here, ``error``. Loading a model and a warm-up batch are not timed; where a
method has no place for a warm-up batch (the stage, and the bare loop that it is compared with) it goes without.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from common.measures import in_batches
from common.publish import write_answer
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.models import resolve_model
from ezxmc_ray.teacher.engine import DocumentPairs, TeacherSpec, build_prompts, dtype_here, load_teacher
from ezxmc_ray.teacher.readout import probability_of_yes
from ezxmc_ray.teacher.start import start_engine
from teacher_bench.task import Task, read_task

#: Pairs a forward of the two methods that use transformers.
BATCH_PAIRS = 16
#: What the published recipe lets the model write.
NEW_TOKENS = 4
#: Ray Data's default, and that of its documentation's first example.
RAY_BATCH_PAIRS = 32
#: Batches that go through Ray Data before the pairs, and how long the pairs wait for them at most.
WARM_UP_BATCHES, GATE_SECONDS = 2, 900
#: GiB that vLLM gets for its cache on a CPU where this project does not set it; its default takes the whole machine.
CPU_KV_CACHE_GIB = 4
#: One token and the likeliest ones beside it, as many as vLLM gives without being set up for more.
ONE_TOKEN = {"max_tokens": 1, "temperature": 0.0, "logprobs": 20}


@dataclass(frozen=True)
class Timing:
    """``pairs`` in ``seconds`` by the clock, and ``start_seconds`` until it could begin.

    ``computed_tokens``: token positions that went through the model for these pairs, padding and written tokens
    included; None where the method does not tell. ``unreadable``: pairs whose answer is neither yes nor no.
    """

    pairs: int
    seconds: float
    start_seconds: float
    computed_tokens: int | None
    unreadable: int
    details: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Run one method and write what it gave; an error is written too, and raised."""
    method, folder, output = sys.argv[1:]
    os.environ.update(VLLM_NO_USAGE_STATS="1", TOKENIZERS_PARALLELISM="false")
    write_answer(output, lambda: _run(method, folder))


def _run(method: str, folder: str) -> dict[str, Any]:
    task = read_task(folder)
    if os.path.isdir(resolve_model(task.config.teacher.model)):
        os.environ["HF_HUB_OFFLINE"] = "1"
    result = METHODS[method](task)
    return result if isinstance(result, dict) else asdict(result)


def published(task: Task) -> Timing:
    """The recipe of LMTX (arXiv 2406.09288): a full prompt a pair, ``generate``, and the answer's text is parsed."""
    started = time.perf_counter()
    config = task.config.teacher
    model, tokenizer = _transformers(config)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def answers(prompts: list[str]) -> tuple[list[str], int]:
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template)
        written = model.generate(**inputs.to(model.device), max_new_tokens=NEW_TOKENS, do_sample=False)
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts, written.numel() - len(prompts)  # the last token that is written goes through no model

    prompts, warm_up = (
        _published_prompts(tokenizer, documents) for documents in (task.documents(task.slow_pairs), task.warm_up())
    )
    texts, timing = _timed(answers, prompts, warm_up, started)
    unreadable = sum(re.search(r"\b(yes|no)\b", text.lower()) is None for text in texts)
    return replace(timing, unreadable=unreadable, details={"first_answers": texts[:5]})


def one_forward(task: Task) -> Timing:
    """One forward a pair over the whole prompt, logits at its last position only."""
    import torch

    started = time.perf_counter()
    teacher = _plain_teacher(task)
    model, _ = _transformers(teacher.config)
    answers = teacher.answers
    assert answers is not None

    def probabilities(prompts: list[list[int]]) -> tuple[list[float], int]:
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        tokens, mask = (torch.tensor(rows, device=model.device) for rows in (padded, mask))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = model(
                tokens, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
            ).logits
        rows = logits[:, -1, answers.all].double().tolist()
        return [probability_of_yes(dict(zip(answers.all, row, strict=True)), answers) for row in rows], tokens.numel()

    prompts, warm_up = (_prompts(teacher, documents) for documents in (task.documents(task.slow_pairs), task.warm_up()))
    return _timed(probabilities, prompts, warm_up, started)[1]


def ray_data_llm_all_cores(task: Task) -> Timing:
    """:func:`ray_data_llm`; on a CPU vLLM computes with every core."""
    _take_all_cores()
    return ray_data_llm(task)


def ray_data_llm(task: Task) -> Timing:
    """``ray.data.llm``'s vLLM processor over the pairs' prompts as texts: tokenize, vLLM, detokenise.

    Warm-up pairs and pairs go through one pipeline, since its actors do not outlive it: the pairs wait before it until
    the last warm-up pair has come out, and from then on the clock runs.
    """
    import ray
    import torch
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    from transformers import AutoTokenizer

    started = time.perf_counter()
    teacher = _plain_teacher(task)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
    # Logical CPUs: each of the processor's stages is an actor that wants one, however few cores there are.
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=True)
    on_cpu = {} if torch.cuda.is_available() else {"placement_group_config": {"bundles": [{"CPU": 1}]}}
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=teacher.resolved,
            engine_kwargs={"dtype": dtype_here(teacher.config), "max_model_len": teacher.plan.max_prompt_tokens + 1},
            concurrency=1,
            batch_size=RAY_BATCH_PAIRS,
            chat_template_stage=False,  # the prompts are rendered already
            log_engine_metrics=False,  # which needs Ray Serve
            **on_cpu,
        ),
        preprocess=_ray_request,
        postprocess=_ray_answer,
    )
    tokenizer = AutoTokenizer.from_pretrained(teacher.resolved)
    texts, warm_up = (
        tokenizer.batch_decode(_prompts(teacher, documents), clean_up_tokenization_spaces=False)
        for documents in (task.documents(), task.warm_up())
    )
    gate = Gate(tempfile.mkdtemp(dir=task.folder), WARM_UP_BATCHES * RAY_BATCH_PAIRS)
    first = [
        {"prompt": text, "mark": f"{gate.folder}/{i}"} for i, text in enumerate(islice(cycle(warm_up), gate.marks))
    ]
    rest = [{"prompt": text, "mark": ""} for text in texts]
    blocks = math.ceil(len(rest) / RAY_BATCH_PAIRS)
    waiting = ray.data.from_items(rest, override_num_blocks=blocks).map(gate.wait, concurrency=1)
    done = processor(ray.data.from_items(first, override_num_blocks=WARM_UP_BATCHES).union(waiting)).take_all()
    ray.shutdown()
    began = max(row["done_at"] for row in done if row["mark"])
    counted = [row for row in done if not row["mark"]]
    seconds = max(row["done_at"] for row in counted) - began
    unreadable = sum(not _answered(row["tokens"], teacher) for row in counted)
    details = {"prompt_tokens": sum(row["prompt_tokens"] for row in counted)}
    return Timing(len(counted), seconds, began - _wall(started), None, unreadable, details)


@dataclass(frozen=True)
class Gate:
    """Opens when ``marks`` files are in ``folder``."""

    folder: str
    marks: int

    def wait(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return ``row`` when the gate is open; errors: RuntimeError if it stays shut."""
        until = time.monotonic() + GATE_SECONDS
        while len(os.listdir(self.folder)) < self.marks:
            if time.monotonic() > until:
                raise RuntimeError(f"the warm-up pairs did not come out of the pipeline in {GATE_SECONDS} s")
            time.sleep(0.05)
        return row


def vllm_all_cores(task: Task) -> Timing:
    """:func:`vllm_default`; on a CPU it computes with every core."""
    _take_all_cores()
    return vllm_default(task)


def vllm_default(task: Task) -> Timing:
    """vLLM's ``LLM.generate`` over the list of the pairs' prompts, with its default settings."""
    from vllm import LLM, SamplingParams

    started = time.perf_counter()
    teacher = _plain_teacher(task)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
    llm = LLM(teacher.resolved, dtype=dtype_here(teacher.config))
    parameters = SamplingParams(**ONE_TOKEN)
    llm.generate(_token_prompts(teacher, task.warm_up()), parameters, use_tqdm=False)
    prompts = _token_prompts(teacher, task.documents())
    began = time.perf_counter()
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    seconds = time.perf_counter() - began
    computed = sum(len(one.prompt_token_ids) - (one.num_cached_tokens or 0) for one in outputs)
    unreadable = sum(not _answered(list(one.outputs[0].logprobs[0]), teacher) for one in outputs)
    return Timing(len(outputs), seconds, began - started, computed, unreadable)


def ezxmc(task: Task) -> Timing:
    """This project's judge stage (``ezxmc judge``), timed by its own manifest.

    The clock runs while the engine's actor is at it: from the engine's start to the end of its last item, what it
    waits for Ray between the items included.
    """
    manifest = task.judge_again()
    known = manifest.details
    names = ("map_seconds", "engine_seconds", "busy_share", "prompt_tokens", "share_yes")
    details = {name: known[name] for name in names} | {"stage_seconds": manifest.seconds}
    seconds, start = known["worker_seconds"], known["engine_start_seconds"]
    return Timing(known["pairs_asked"], seconds, start, known["computed_tokens"], 0, details)


def bare(task: Task) -> Timing:
    """The stage's engine without Ray, tables and verdict store, over the same batches."""
    started = time.perf_counter()
    batches = task.batches()
    engine = start_engine(task.config.teacher)
    began = time.perf_counter()
    judged = list(engine.judge_many(batches))
    seconds = time.perf_counter() - began
    engine.close()
    pairs = sum(len(one.table) for one in judged)
    return Timing(pairs, seconds, began - started, sum(one.computed_tokens for one in judged), 0)


def reference(task: Task) -> dict[str, list[float]]:
    """``raw``: float32 scores of the task's first pairs by transformers, over the very prompts of the stage."""
    engine = start_engine(replace(task.config.teacher, engine="transformers", dtype="float32"))
    judged = engine.judge(task.documents(task.reference_pairs))
    return {"raw": judged.table["raw"].to_pylist()}


METHODS: dict[str, Callable[[Task], Timing | dict[str, list[float]]]] = {
    method.__name__: method
    for method in (
        published,
        one_forward,
        ray_data_llm,
        ray_data_llm_all_cores,
        vllm_default,
        vllm_all_cores,
        ezxmc,
        bare,
        reference,
    )
}


def _ray_request(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["prompt"], "mark": row["mark"], "sampling_params": dict(ONE_TOKEN)}


def _ray_answer(row: dict[str, Any]) -> dict[str, Any]:
    if row["mark"]:
        Path(row["mark"]).touch()
    return {
        "done_at": time.time(),
        "mark": row["mark"],
        "prompt_tokens": row["num_input_tokens"],
        "tokens": [int(token) for token in row["logprobs"][0]],
    }


def _take_all_cores() -> None:
    """By default vLLM on a CPU leaves a core to its own other processes: of two cores one."""
    os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"


def _published_prompts(tokenizer: Any, documents: Sequence[DocumentPairs]) -> list[str]:
    """In the recipe's order: document, label, question."""
    prompts = []
    for document in documents:
        for label in document.labels:
            text = (
                f"Document: {document.text}\n\nLabel: {label}\n\n"
                "Question: Is this label relevant to the document above? Answer with yes or no."
            )
            if tokenizer.chat_template:
                turns = [{"role": "user", "content": text}]
                prompts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
            else:
                prompts.append(f"{text}\nAnswer:")
    return prompts


def _plain_teacher(task: Task) -> TeacherSpec:
    """The stage's prompts without its padding, which pays only where it is meant for the engine."""
    return load_teacher(replace(task.config.teacher, pad_prefix_tokens=0))


def _prompts(teacher: TeacherSpec, documents: Sequence[DocumentPairs]) -> list[list[int]]:
    return [pair.tokens for pair in build_prompts(teacher.plan, documents).pairs]


def _token_prompts(teacher: TeacherSpec, documents: Sequence[DocumentPairs]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": tokens} for tokens in _prompts(teacher, documents)]


def _answered(tokens: list[int], teacher: TeacherSpec) -> bool:
    """Whether a yes or a no is among the tokens."""
    assert teacher.answers is not None
    return not set(teacher.answers.all).isdisjoint(tokens)


def _transformers(config: TeacherConfig) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    resolved = resolve_model(config.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, dtype_here(config))
    model = AutoModelForCausalLM.from_pretrained(resolved, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(resolved)


def _timed(
    answer: Callable[[list[Any]], tuple[list[Any], int]], prompts: list[Any], warm_up: list[Any], started: float
) -> tuple[list[Any], Timing]:
    """What ``answer`` gives for ``prompts`` (a batch: answers and token positions), after a batch of ``warm_up``."""
    answer(in_batches(warm_up, BATCH_PAIRS)[0])
    answers: list[Any] = []
    began, computed = time.perf_counter(), 0
    for batch in in_batches(prompts, BATCH_PAIRS):
        some, positions = answer(batch)
        answers, computed = answers + some, computed + positions
    return answers, Timing(len(answers), time.perf_counter() - began, began - started, computed, 0)


def _wall(moment: float) -> float:
    """``moment`` of time.perf_counter() as time.time() would have it."""
    return moment - time.perf_counter() + time.time()


if __name__ == "__main__":
    main()

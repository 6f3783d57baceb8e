"""A teacher that finds too little memory is told in one sentence with its knobs, whichever engine, whenever."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher import memory, vllm_engine
from ezxmc_ray.teacher.engine import DocumentPairs, load_teacher
from ezxmc_ray.teacher.memory import start_error
from ezxmc_ray.teacher.packed_engine import PackedEngine
from ezxmc_ray.teacher.start import start_engine
from ezxmc_ray.teacher.transformers_engine import TransformersEngine
from tests.teacher.tiny import save_tiny_llm

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 16 GiB.")
#: What vLLM 0.32 raises: others have the GPU; its first step finds nothing left; weights or one prompt do not fit.
TAKEN = ValueError(
    "Free memory on device cuda:0 (3.1/16.0 GiB) on startup is less than desired GPU memory utilization (0.9, 14.4 "
    "GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
WARMING_UP = RuntimeError(
    "CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try lowering `max_num_seqs` "
    "or `gpu_memory_utilization` when initializing the engine."
)
NO_BLOCKS = ValueError(
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)
NO_PROMPT = ValueError(
    "To serve at least one request with the model's max seq len (40000), (8.5 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (1.0 GiB). Try increasing `gpu_memory_utilization`."
)
ENDED = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}")
LOWER, HIGHER = "set teacher.gpu_memory_share lower than 0.9", "set teacher.gpu_memory_share higher than 0.9"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            TAKEN,
            rf"^The teacher org/m finds too little free memory \(Free memory on .*4 GiB\)\): {LOWER}, end what",
        ),
        (WARMING_UP, rf"^The teacher org/m finds too little free memory \(CUDA out .* requests\): {LOWER}"),
        (NO_BLOCKS, rf"^The teacher org/m does not fit into memory \(No available .* cache blocks\): {HIGHER}, divide"),
        (NO_PROMPT, rf"^The teacher org/m does not fit into memory \(To serve .*1\.0 GiB\)\): {HIGHER}"),
        (
            FULL,
            rf"^The teacher org/m does not fit into memory \(CUDA out of memory\): {HIGHER}, .*teacher\.tensor",
        ),
        (
            ENDED,
            rf"^The engine of the teacher org/m did not start: .* if they are of memory, {HIGHER}",
        ),
        (ValueError("no such thing"), r"^The model org/m cannot be loaded: no such thing;"),
    ],
)
def test_an_engine_without_memory_does_not_start(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=sentence):
        raise start_error(TeacherConfig(model="org/m"), error)


def test_on_a_cpu_the_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"set teacher\.cpu_kv_cache_gib higher or teacher\.max_document_tokens lower"):
        raise start_error(TeacherConfig(model="org/m"), NO_PROMPT)


def test_vllm_still_says_what_is_looked_for() -> None:
    """Its source is read: to import it takes long."""
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None and vllm.submodule_search_locations
    files = ("core/kv_cache_utils.py", "worker/utils.py", "worker/gpu_model_runner.py", "engine/utils.py")
    source = "".join((Path(vllm.submodule_search_locations[0]) / "v1" / name).read_text() for name in files)
    for words in (*memory._SHARE_TOO_LARGE, *memory._SHARE_TOO_SMALL, memory._PROCESSES_ENDED):
        assert words in source, words


def fake_full_device(*_: object, **__: object) -> None:
    raise FULL


@pytest.fixture
def config(tmp_path: Path, small_teacher_directory: str) -> TeacherConfig:
    """A tiny teacher of random weights."""
    model = save_tiny_llm(tmp_path, small_teacher_directory, AutoModelForCausalLM)
    return TeacherConfig(model=model, dtype="float32", readout="yes_no")


@pytest.mark.parametrize("engine", ["transformers", "packed"])
def test_memory_that_runs_out_when_a_model_is_loaded_or_asked_first(
    config: TeacherConfig, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    config.engine = engine
    sentence = r"^The teacher .* does not fit into memory \(CUDA out of memory\): take a smaller or a quantized"
    with monkeypatch.context() as patched, pytest.raises(UserError, match=sentence):
        patched.setattr(AutoModelForCausalLM, "from_pretrained", fake_full_device)
        start_engine(config)
    monkeypatch.setattr(PackedEngine, "_check_probe", fake_full_device)
    monkeypatch.setattr(TransformersEngine, "_widen_head", fake_full_device)
    with pytest.raises(UserError, match=sentence):
        start_engine(config)


@pytest.mark.parametrize(("engine", "forward"), [(TransformersEngine, "_logits"), (PackedEngine, "_hidden")])
def test_memory_that_runs_out_while_a_teacher_judges(
    config: TeacherConfig, monkeypatch: pytest.MonkeyPatch, engine: Callable[..., Any], forward: str
) -> None:
    config.engine = "packed" if engine is PackedEngine else "transformers"
    one = engine(load_teacher(config))
    monkeypatch.setattr(engine, forward, fake_full_device)
    with pytest.raises(UserError, match=r"^Memory ran out while the teacher .* judged: set teacher\.max_document"):
        one.judge([DocumentPairs(b"d", "", "text", (b"l",), ("label",))])


def test_memory_that_runs_out_in_a_step_of_vllm(config: TeacherConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine is a fake, and so is what its start raises."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    modules = {"vllm": SimpleNamespace(LLM=fake_full_device), "vllm.inputs": SimpleNamespace(tokens_input=None)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    teacher = load_teacher(config)
    with pytest.raises(UserError, match=rf"^The teacher .* does not fit into memory .*: {HIGHER}"):
        vllm_engine._start(teacher, [teacher])
    stream = vllm_engine._Stream(SimpleNamespace(step=fake_full_device), None, config)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"^Memory ran out while the teacher .* judged: {LOWER}, end what else is on"):
        stream.step()


def test_what_to_do_is_asked_for_where_memory_runs_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[bool]()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append(True) or True)
    with memory.teacher_memory(TeacherConfig(engine="vllm")):
        assert asked == []
    with pytest.raises(UserError, match=LOWER), memory.teacher_memory(TeacherConfig(engine="vllm")):
        raise FULL
    assert asked == [True]

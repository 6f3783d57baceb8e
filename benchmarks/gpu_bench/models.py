"""The teachers that the parts ask: the bundled one with its weights, and published shapes with random weights.

Comes in: the name that a part has behind its kind. Goes out: a configuration and an engine. A name that begins with
``random-`` is a shape: its speed is that of the published model of this shape, its answers mean nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.models import resolve_model
from ezxmc_ray.teacher.start import start_engine
from gpu_bench.device import device, free_memory, on_gpu
from gpu_bench.plan import Settings

#: Tokens of a document that a teacher reads, and of one at toy sizes.
DOCUMENT_TOKENS, TINY_TOKENS = 250, 32
#: Documents a batch at toy sizes, where a CPU judges some pairs a second.
TINY_BATCH = 2
LABELS_PER_DOCUMENT = 10
REAL = "smollm2"
#: Shapes of Qwen2.5's 7B, 1.5B and 0.5B.
SHAPES: dict[str, dict[str, Any]] = {
    "random-7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "vocab_size": 152064,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "random-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "random-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
    },
}
TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 49152,
}
#: What the shapes have in common unless they say otherwise.
COMMON = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "dtype": "bfloat16",
}
#: Of a model's directory, what belongs to its tokenizer is all but weights and these.
NOT_OF_THE_TOKENIZER = {"config.json", "generation_config.json", "model.safetensors.index.json"}


def teacher_config(settings: Settings, name: str) -> TeacherConfig:
    """What all parts ask the teacher ``name`` with; a shape's directory is made in the folder."""
    config = TeacherConfig(
        model=TeacherConfig().model if name == REAL else _shape_directory(settings, name),
        readout="yes_no",
        calibration="none",
        max_document_tokens=TINY_TOKENS if settings.tiny else DOCUMENT_TOKENS,
        gpu_memory_share=0.4,
    )
    if settings.tiny:
        config = replace(config, batch_documents=TINY_BATCH)
    return config if on_gpu() else replace(config, dtype="float32", threads=1)


def start(config: TeacherConfig, name: str, **options: Any) -> tuple[Any, float]:
    """The engine of ``config``, whose weights are random for a shape, and its start's seconds; ``options``: vLLM's."""
    began = time.perf_counter()
    with ExitStack() as changes:
        if config.engine == "vllm":
            options |= {} if name == REAL else {"load_format": "dummy"}
            changes.enter_context(vllm_options(options))
        elif name != REAL:
            changes.enter_context(_random_transformers())
        engine = start_engine(config)
    seconds = time.perf_counter() - began
    print(f"engine started in {seconds:.1f} s", flush=True)
    return engine, seconds


def stop(engine: Any) -> None:
    """Give the engine's memory back, for the next one in this process."""
    llm = getattr(engine, "llm", None)
    core = getattr(llm.llm_engine.engine_core, "engine_core", None) if llm is not None else None
    engine.close()
    if llm is not None:
        from vllm.distributed import cleanup_dist_env_and_memory

        if core is not None:
            core.model_executor = core.scheduler = None
        del core, llm
        cleanup_dist_env_and_memory()
    free_memory()


@contextmanager
def vllm_options(options: dict[str, Any]) -> Iterator[None]:
    """For as long as the block runs, vLLM is started with ``options`` over those that it is given."""
    import vllm

    plain = vllm.LLM
    with mock.patch.object(vllm, "LLM", lambda **given: plain(**(given | options))):
        yield


@contextmanager
def _random_transformers() -> Iterator[None]:
    """For as long as the block runs, causal models of transformers are made of their configuration, not loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def made(directory: str, **options: Any) -> Any:
        with torch.device(device()):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), **options)

    with mock.patch.object(AutoModelForCausalLM, "from_pretrained", made):
        yield


def _shape_directory(settings: Settings, name: str) -> str:
    """A directory with the configuration of a shape and a tokenizer, without weights."""
    folder = settings.path(f"models/{name}")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(settings.tokenizer or resolve_model(TeacherConfig().model))
    for file in source.iterdir():
        if file.suffix in {".json", ".jinja", ".txt", ".model"} and file.name not in NOT_OF_THE_TOKENIZER:
            (folder / file.name).write_bytes(file.read_bytes())
    shape = COMMON | (TINY if settings.tiny else SHAPES[name])
    (folder / "config.json").write_text(json.dumps(shape, indent=1))
    return str(folder)


def weights_per_token(directory: str) -> float:
    """Weights that a prompt's token goes through: neither the embedding nor the last layer, asked once a pair."""
    config = json.loads(Path(directory, "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * head * (heads + config["num_key_value_heads"])
    return float(config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"]))

"""What the tests of a run with a cross-encoder share: its knobs, its models, and what is damaged of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from common.simulated_ray import simulated_ray
from ezxmc_ray import cli
from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.models import resolve_model
from ezxmc_ray.stages import cross_encoder as stage

Project = Any  # tests.stages.conftest.Project
FIRST = 6
TEACHER = ["teacher.engine=transformers", "teacher.readout=yes_no", "teacher.second_readout=none"]
KNOBS = [f"predict.rerank={FIRST}", "cross_encoder.epochs=2", "cross_encoder.batch_size=8"]


def call(*arguments: str) -> str:
    """``ezxmc`` in this process, with Ray simulated; what it printed."""
    with simulated_ray(), redirect_stdout(StringIO()) as said, redirect_stderr(said), pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert left.value.code == 0, said.getvalue()[-3000:]
    return said.getvalue()


def save_small_bert(folder: Path) -> Path:
    """An encoder with random weights and MiniLM's tokenizer: what is shown here does not depend on what it knows."""
    AutoTokenizer.from_pretrained(resolve_model(EncoderConfig.model)).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(max_position_embeddings=192, initializer_range=0.2, **sizes)).save_pretrained(folder)
    return folder


def steps_of(output: str) -> list[str]:
    return re.findall(r"^([a-z0-9_ ]+): [\d,]+ [a-z -]+ in [\d,.]+ s$", output, re.M)


def run_counted(project: Project, *knobs: str) -> tuple[list[str], list[str], str]:
    """Run ``project`` with ``knobs``: the steps that were done, what of the stage was, in order, and what was said."""
    did: list[str] = []

    def told(name: str) -> Callable[..., Any]:
        function = getattr(stage, name)
        return lambda *arguments: did.append(name) or function(*arguments)

    with ExitStack() as stack:
        for name in ("train_at", "HeldOutWorker", "fit_reranking"):
            stack.enter_context(mock.patch.object(stage, name, told(name)))
        said = call("run", *project.arguments, *TEACHER, *KNOBS, *knobs)
    return steps_of(said), did, " ".join(said.split())


def files_of(project: Project) -> dict[str, bytes]:
    """What the network and the held-out scores are, by file."""
    there = sorted((project.run / "cross_encoder").rglob("*"))
    wanted = [file for file in there if file.parent.name == "network" or file.suffix == ".parquet"]
    return {str(file.relative_to(project.run)): file.read_bytes() for file in wanted if file.is_file()}


def damage(project: Project, how: str) -> None:
    """``how``: what is damaged of the cross-encoder; a flipped bit leaves a file's size as it was."""
    weights = project.run / "cross_encoder/network/model.safetensors"
    scores = project.run / "cross_encoder/held-out-00000.parquet"
    if how == "no scores":
        scores.unlink()
    elif how == "cut scores":
        scores.write_bytes(scores.read_bytes()[:-9])
    elif how == "no network":
        weights.unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-3] ^= 255
        weights.write_bytes(bytes(content))

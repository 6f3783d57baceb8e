from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder import encoder as encoder_module
from ezxmc_ray.encoder.encoder import Encoder, unit_vectors
from ezxmc_ray.encoder.precision import autocast, chosen_dtype, copy_in
from ezxmc_ray.hardware import cpu_has_bfloat16
from tests.encoder.texts import cosines

CPU = torch.device("cpu")
LABELS = ["Rivers of Europe", "Law", "", "The fatigue of steel bridges under heavy loads"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/cpuinfo")
def test_the_cpu_is_what_the_system_says() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert cpu_has_bfloat16() == ("avx512_bf16" in flags or "amx_bf16" in flags)


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_bfloat16_where_there_is_hardware_for_it(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("ezxmc_ray.hardware.cpu_has_bfloat16", lambda: there)
    assert chosen_dtype(CPU, "auto") == (torch.bfloat16 if there else torch.float32)
    for name in ("float32", "bfloat16", "float16"):
        assert chosen_dtype(CPU, name) == getattr(torch, name)
    assert isinstance(autocast(CPU, "auto"), nullcontext) == (not there)
    assert isinstance(autocast(CPU, "float32"), nullcontext)
    assert not isinstance(autocast(CPU, "bfloat16"), nullcontext)


@pytest.mark.parametrize(("there", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_takes_float16(
    monkeypatch: pytest.MonkeyPatch, there: bool, expected: torch.dtype
) -> None:
    """Where there is no GPU its answer is all that is stood in for."""
    monkeypatch.setattr("ezxmc_ray.hardware.gpu_has_bfloat16", lambda: there)
    assert chosen_dtype(torch.device("cuda"), "auto") == expected


@pytest.mark.parametrize("family", ["bert", "qwen"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_float32(tiny: Callable[[str], Path], family: str, dtype: str) -> None:
    exact = Encoder.load(str(tiny(family)), EncoderConfig(max_document_tokens=64, dtype="float32"), "cpu")
    half = Encoder.load(str(tiny(family)), EncoderConfig(max_document_tokens=64, dtype=dtype), "cpu")
    vectors = half.encode_labels(LABELS).vectors
    assert vectors.dtype == np.float32
    assert cosines(vectors, exact.encode_labels(LABELS).vectors).min() > 0.999


def test_a_copy_has_other_weights_and_the_same_buffers(tiny: Callable[[str], Path]) -> None:
    module = Encoder.load(str(tiny("qwen")), EncoderConfig(max_document_tokens=64, dimensions=5), "cpu").module.train()
    copied = copy_in(module, torch.bfloat16)
    assert {weight.dtype for weight in copied.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for weight in copied.parameters())
    assert not copied.training and module.training
    buffers = dict(module.named_buffers())
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in copied.named_buffers():
        assert buffer is not buffers[name] and torch.equal(buffer, buffers[name])
    for name, weight in copied.named_parameters():
        assert torch.equal(weight, module.get_parameter(name).to(torch.bfloat16))


def test_a_copy_is_made_once_and_again_when_the_weights_change(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.dtype] = []

    def counting(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        made.append(dtype)
        return copy_in(module, dtype)

    monkeypatch.setattr(encoder_module, "copy_in", counting)
    encoder = Encoder.load(str(tiny_bert), EncoderConfig(max_document_tokens=64, dtype="bfloat16"), "cpu")
    first = encoder.encode_labels(LABELS).vectors
    np.testing.assert_array_equal(encoder.encode_documents([""] * 4, LABELS).vectors, first)
    assert made == [torch.bfloat16]

    before = {name: weight.clone() for name, weight in encoder.module.state_dict().items()}
    optimizer = torch.optim.AdamW(encoder.module.parameters(), lr=0.1)
    features = encoder.features(encoder.label_tokens(LABELS).token_ids)
    unit_vectors(encoder.module, features)[:, 0].sum().backward()
    optimizer.step()
    trained = encoder.encode_labels(LABELS).vectors
    assert len(made) == 2 and np.abs(trained - first).max() > 0.01

    encoder.module.load_state_dict(before)
    np.testing.assert_array_equal(encoder.encode_labels(LABELS).vectors, first)
    assert len(made) == 3

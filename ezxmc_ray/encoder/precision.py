"""The number format of the network: autocast for training, weights in half precision for encoding.

Encoding in half precision runs on a copy of the weights in that format, made once: autocast would convert every weight
again in each forward pass, which costs a CPU more than half precision gains.
"""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import nn

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[object]:
    """Autocast on ``device`` for training (auto: bfloat16 where there is hardware for it; float32 is none)."""
    chosen = chosen_dtype(device, dtype)
    if chosen == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=chosen)


def chosen_dtype(device: torch.device, dtype: str) -> torch.dtype:
    """The format on ``device`` that ``dtype`` names (auto: bfloat16 where there is hardware for it, else float32)."""
    if dtype == "auto":
        fast = _gpu_has_bfloat16(device) or (device.type == "cpu" and cpu_has_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    return _DTYPES[dtype]


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def copy_in(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of ``module`` in evaluation mode whose weights are ``dtype``; without gradients.

    Buffers keep their format: the frequencies of rotary positions, for one, are no longer right in half precision.
    """
    weights = {
        id(weight): nn.Parameter(weight.detach().to(dtype), requires_grad=False) for weight in module.parameters()
    }
    # deepcopy takes what is in its memo for copied: so the weights are never there a second time in float32.
    return copy.deepcopy(module, weights).eval()  # type: ignore[arg-type]


def weights_state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """What changes when ``module``'s weights do: where each lies, and how often it was written to."""
    return tuple((weight.data_ptr(), weight._version) for weight in module.parameters())


def _gpu_has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

"""The number format of the network: autocast for training, weights in half precision for encoding.

Encoding in half precision runs on a copy of the weights in that format, made once: autocast would convert every weight
again in each forward pass, which costs a CPU more than half precision gains.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable

import torch
from torch import nn

from ezxmc_ray.hardware import AUTO, fast_dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[object]:
    """Autocast on ``device`` for training (auto: as :func:`chosen_dtype`; float32 is none)."""
    chosen = chosen_dtype(device, dtype)
    if chosen == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=chosen)


def chosen_dtype(device: torch.device, dtype: str) -> torch.dtype:
    """The format on ``device`` that ``dtype`` names (auto: the one that it computes in fast)."""
    return _DTYPES[fast_dtype(device.type) if dtype == AUTO else dtype]


def dtype_name(device: torch.device, dtype: str) -> str:
    """As :func:`chosen_dtype`, by its name (float32)."""
    return str(chosen_dtype(device, dtype)).removeprefix("torch.")


def common_dtype(chosen: Iterable[str]) -> str:
    """The format that processes which share their gradients compute in, where each alone would take one of ``chosen``.

    float32 where these differ: float16 scales gradients and bfloat16 does not, so that their mean would be neither.
    """
    names = set(chosen)
    return names.pop() if len(names) == 1 else "float32"


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

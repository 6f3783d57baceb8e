"""Which number format the processors of this machine compute in fast, and what their memory's end looks like.

Comes in: a kind of device. Goes out: the name of a dtype. What ``dtype: auto`` means is decided here, for the teacher,
the encoder and the student alike. PyTorch is imported when one asks.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from ezxmc_ray.errors import UserError

AUTO = "auto"
#: What libraries say where memory ends, in errors of kinds that say other things too: CUDA's and ROCm's, the CPU's of
#: PyTorch and of ONNX Runtime, that of libraries which CUDA leaves no room for, and FAISS's.
_FULL = ("out of memory", "DefaultCPUAllocator", "Failed to allocate memory", "STATUS_ALLOC_FAILED", "alloc fail")

#: What they say where a GPU has failed: PyTorch's and vLLM's, FAISS's, ROCm's.
_FAULT = ("CUDA error", "CUDA driver error", "err == cudaSuccess", "HIP error", "device-side assert")

#: Of these what any other process would meet as well: a GPU that the libraries are not built for, or a driver too old.
_EVERYWHERE = ("no kernel image", "invalid device function", "driver version is insufficient", "no CUDA-capable device")


def fast_dtype(device: str) -> str:
    """The format for weights and activations on a device of the kind ``device`` (cuda, cpu, …).

    bfloat16 where it is computed in hardware. Without it a GPU takes float16 (T4, V100), which has the same speed and
    a smaller range, and everything else float32: a CPU that emulates bfloat16 is 5 to 9 times slower in it.
    """
    if device == "cuda":
        return "bfloat16" if gpu_has_bfloat16() else "float16"
    return "bfloat16" if device == "cpu" and cpu_has_bfloat16() else "float32"


def machine_dtype() -> str:
    """The format of this process's GPU, if it sees one, else of the CPU."""
    import torch

    return fast_dtype("cuda" if torch.cuda.is_available() else "cpu")


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def gpu_has_bfloat16() -> bool:
    """Whether this process's GPU computes bfloat16 in hardware (NVIDIA: from Ampere on)."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def release_memory() -> None:
    """Give back what no object holds any more; of a GPU too, where PyTorch keeps it from everything but itself."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, a device's or the machine's; a UserError never does."""
    if isinstance(error, UserError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error) for words in _FULL)


def is_device_fault(error: BaseException) -> bool:
    """Whether ``error`` says that a GPU failed under this process, which can then do nothing more with it.

    Such errors (an illegal access, an uncorrectable ECC error, a GPU that is gone) stay with a process: whatever it
    asks of the GPU afterwards fails too, and another process may find it well. Memory that ran out is none of them.
    """
    told = type(error).__name__ == "AcceleratorError" or any(words in str(error) for words in _FAULT)
    lasts = any(words in str(error) for words in _EVERYWHERE)
    return told and not lasts and not isinstance(error, UserError) and not is_out_of_memory(error)


def end_process(error: BaseException) -> NoReturn:
    """End this process at once, saying why: for one that cannot work any more, in whose place Ray starts another."""
    with suppress(OSError):
        print(f"this process ends: {error}", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def ends_with_its_gpu() -> Iterator[None]:
    """End this process where the block meets a GPU that failed under it (:func:`is_device_fault`)."""
    try:
        yield
    except Exception as error:
        if is_device_fault(error):
            end_process(error)
        raise


@contextmanager
def memory_errors(where: str, remedy: str | Callable[[], str]) -> Iterator[None]:
    """Tell as a UserError that memory ran out inside the block; ``where``: with its preposition ("at step 3").

    ``remedy``: what to do, or a function that is asked for it then.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        told = remedy if isinstance(remedy, str) else remedy()
        raise UserError(f"Memory ran out {where}: {told}.") from error

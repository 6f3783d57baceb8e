"""What errors of a GPU mean for the process that meets them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ezxmc_ray.encoder.precision import common_dtype
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import is_device_fault


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("Faiss assertion 'err == cudaSuccess' failed in void faiss::gpu::runL2Norm"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (UserError("CUDA error: told already"), False),
        (torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"), False),
        (ValueError("another thing"), False),
    ],
)
def test_a_gpu_that_failed_is_told_from_one_that_is_full(error: Exception, is_fault: bool) -> None:
    assert is_device_fault(error) == is_fault


@pytest.mark.parametrize(("text", "status"), [("CUDA error: unspecified launch failure", 1), ("another thing", 3)])
def test_a_process_ends_with_its_gpu_and_with_nothing_else(text: str, status: int) -> None:
    code = f"""
from ezxmc_ray.hardware import ends_with_its_gpu
try:
    with ends_with_its_gpu():
        raise RuntimeError({text!r})
except RuntimeError:
    raise SystemExit(3)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stderr == (f"this process ends: {text}\n" if status == 1 else "")


def test_workers_of_several_kinds_train_in_float32() -> None:
    assert common_dtype(["bfloat16", "bfloat16"]) == "bfloat16"
    assert common_dtype(["float16"]) == "float16"
    assert common_dtype(["bfloat16", "float16", "bfloat16"]) == "float32"

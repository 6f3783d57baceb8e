"""A simulated CPU with AVX2 only, for machines that have more: Python loads this file where its folder is on the path.

    PYTHONPATH=benchmarks/simulated_avx2 python benchmarks/teacher.py …

In: nothing. Out: every Python process below the command, Ray's workers and vLLM's included, has PyTorch's own kernels,
oneDNN, MKL and FAISS kept to AVX2, and the questions after AVX-512 and AMX that PyTorch answers are answered with no,
by which vLLM takes its AVX2 kernels and ``dtype: auto`` float32. Simulated: clock, caches and memory are this
machine's, and NumPy, pyarrow and the tokenizers still use what is there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

LIMITS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FAISS_OPT_LEVEL": "avx2",
}
BEYOND = ("avx512", "amx", "avx10")


class _Answers(importlib.abc.Loader):
    """Loads torch.cpu as it is, then changes what it says of the CPU."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Run the module, and put other answers in the place of its own."""
        self._loader.exec_module(module)
        real = module.get_capabilities

        def get_capabilities() -> dict[str, Any]:
            found = {name: value and not name.startswith(BEYOND) for name, value in real().items() if value is True}
            return real() | found | {"simulated": True}

        module.get_capabilities = get_capabilities
        for name in dir(module):
            if name.startswith(("_is_avx512", "_is_amx", "_is_vnni")):
                setattr(module, name, lambda: False)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds torch.cpu for :class:`_Answers`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The real module, with the other loader; None for any other."""
        if name != "torch.cpu":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Answers(spec.loader)
        return spec


os.environ.update(LIMITS)
sys.meta_path.insert(0, _Finder())

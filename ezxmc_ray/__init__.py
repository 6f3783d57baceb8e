"""ezxmc-ray: extreme zero-shot multi-label classification on Ray (LMTX, arXiv 2406.09288, and beyond).

    from ezxmc_ray import Tagger, load_config, run

    result = run(load_config("mine.yaml"))
    with Tagger.load(result.path) as tagger:
        print(tagger.tag(["a text"], k=5))

What a name needs is imported when it is asked for: ``import ezxmc_ray`` costs nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from ezxmc_ray.version import __version__

if TYPE_CHECKING:
    from ezxmc_ray.config import Config, load_config
    from ezxmc_ray.curriculum import RunResult, run
    from ezxmc_ray.errors import UserError
    from ezxmc_ray.tagging.tagger import Tagged, Tagger

__all__ = ["Config", "RunResult", "Tagged", "Tagger", "UserError", "__version__", "load_config", "run"]

_PLACES = {
    "Config": "config",
    "load_config": "config",
    "RunResult": "curriculum",
    "run": "curriculum",
    "UserError": "errors",
    "Tagged": "tagging.tagger",
    "Tagger": "tagging.tagger",
}

# What is said stands on the terminal already: the package's logger is silent until EZXMC_LOG names a file (cli.py).
logging.getLogger(__name__).addHandler(logging.NullHandler())
logging.getLogger(__name__).propagate = False


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)

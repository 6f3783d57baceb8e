"""The templates of this package."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ezxmc_ray.metrics import MIN_DOCUMENTS


def templates(**options: Any) -> Environment:
    """An environment that loads them; a name that is not there is an error. ``options``: Jinja's, on top."""
    found = Environment(
        loader=PackageLoader("ezxmc_ray.report", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.globals["FEW_DOCUMENTS"] = MIN_DOCUMENTS
    return found

"""Figures of methods that ran one after the other in several rounds; None stands for what could not run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any


def rate(timing: Mapping[str, Any], unit: str) -> float | None:
    """How many of ``unit`` (a field of ``timing``) a second."""
    return None if "error" in timing else timing[unit] / timing["seconds"]


def median(values: Iterable[float | None]) -> float | None:
    """Of the values that are there."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def quotient(one: float | None, other: float | None) -> float | None:
    """``one`` over ``other``."""
    return None if one is None or not other else one / other


def ratio(done: Mapping[str, Mapping[str, Any]], one: str, other: str, unit: str) -> float | None:
    """How many times as fast the method ``one`` was as ``other`` in the round ``done``."""
    return quotient(rate(done[one], unit), rate(done[other], unit))

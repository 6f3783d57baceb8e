"""What came out of a run, in a few sentences: for the end of the command and the head of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ezxmc_ray.context import RERANKED, encoder_name

_NO_MEASURES = "No test document has gold labels, so no measures are shown."


def measures(evaluated: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of each ranking, by its name; empty where no test document has gold labels.

    ``evaluated``: the details of the stage evaluate, which measures NaN where only train documents have them.
    """
    metrics = evaluated.get("metrics") or {}
    return {name: values for name, values in metrics.items() if values.get("documents")}


def chosen_name(cycle: int | None) -> str:
    """The encoder that a run ships: the student of ``cycle``; None: the untrained one."""
    return encoder_name(0 if cycle is None else cycle + 1)


def shipped_name(metrics: Mapping[str, Any], cycle: int | None) -> str:
    """The ranking that a run's tags come from: the cross-encoder's, where ``metrics`` has it, else the encoder's of
    :func:`chosen_name`."""
    return RERANKED if RERANKED in metrics else chosen_name(cycle)


def shipped(cycle: int | None, cycles: int, metrics: Mapping[str, Any], rerank: int = 0) -> str:
    """Which encoder the run ships, and what it is worth.

    ``cycle``: whose student, of so many ``cycles``; None: the untrained encoder. ``metrics``: :func:`measures`.
    ``rerank``: labels of a document that a cross-encoder ranks anew.
    """
    if not cycles:
        ships = "Nothing was trained (curriculum.cycles=0): this run ships the untrained encoder."
    elif cycle is None:
        ships = (
            "No cycle made a better encoder than the untrained one, which is therefore what this run ships: more "
            "documents, more labels or another teacher.model may help."
        )
    else:
        ships = f"The student of cycle {cycle} is what this run ships."
    ships += f" A cross-encoder ranks the first {rerank} labels of a document anew." if rerank else ""
    found = metrics.get(shipped_name(metrics, cycle))
    return f"{ships} {_worth(found, metrics, cycle)}" if found else f"{ships} {_NO_MEASURES}"


def _worth(found: Mapping[str, Any], metrics: Mapping[str, Any], cycle: int | None) -> str:
    """``found``: the measures of what is shipped."""
    is_reranked = RERANKED in metrics
    others = {"without it": chosen_name(cycle)} if is_reranked else {}
    others |= {"with the untrained encoder": encoder_name(0)} if cycle is not None else {}
    beside = [f"{metrics[name]['P@1']:.1f} % {how}" for how, name in others.items() if "P@1" in metrics.get(name, {})]
    against = f", against {' and '.join(beside)}" if beside else ""
    first = "The first label is then" if is_reranked else "Its first label is"
    return f"{first} a gold one for {found['P@1']:.1f} % of {found['documents']:,} test documents{against}."

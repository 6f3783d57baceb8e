"""What came out of a run, in two sentences: for the end of the command and the head of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def measures(evaluated: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of each encoder, by its name; empty where no test document has gold labels.

    ``evaluated``: the details of the stage evaluate, which measures NaN where only train documents have them.
    """
    metrics = evaluated.get("metrics") or {}
    return {name: values for name, values in metrics.items() if values.get("documents")}


def shipped(cycle: int | None, cycles: int, chosen: dict[str, Any] | None, untrained: dict[str, Any] | None) -> str:
    """Which encoder the run ships, and what it is worth.

    ``cycle``: whose student, of so many ``cycles``; None: the untrained encoder. ``chosen``, ``untrained``: their
    :func:`measures`; None or empty: there are none.
    """
    if not cycles:
        ships = "Nothing was trained (curriculum.cycles=0): this run ships the untrained encoder"
    elif cycle is None:
        ships = (
            "No cycle made a better encoder than the untrained one, which is therefore what this run ships: more "
            "documents, more labels or another teacher.model may help"
        )
    else:
        ships = f"The student of cycle {cycle} is what this run ships"
    if not chosen:
        return f"{ships}. No test document has gold labels, so no measures are shown."
    before = (untrained or {}).get("P@1")
    against = "" if cycle is None or before is None else f", against {before:.1f} % with the untrained encoder"
    share, documents = chosen["P@1"], chosen["documents"]
    return f"{ships}. Its first label is a gold one for {share:.1f} % of {documents:,} test documents{against}."

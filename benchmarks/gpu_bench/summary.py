"""From what the parts wrote to the result: a table a part, the figures of the headline, and sentences.

Comes in: by part the JSON object that it wrote, with ``error`` where it failed or was skipped. Goes out: the fields of
a result, as make_results.py reads them. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Found: TypeAlias = "dict[str, Any]"

RANDOM = (
    "Teachers named random-… have the shape of Qwen2.5's 7B, 1.5B and 0.5B and random weights: their speed is that of "
    "the shape, their answers mean nothing."
)
ABOUT = (
    "Texts are made of this project's own words. mfu: of the data sheet's dense bfloat16 peak, by the products with "
    "weights that computed tokens go through. tokens_over_ideal: what prompts share is counted once. gpu_utilisation: "
    "percent of the time with a kernel at work, as the driver tells it. Every figure is of one measurement."
)
#: Facts of a part that are no rows and no part of a sentence of their own.
NOT_TOLD = ("rows", "error", "kernels", "versions", "part_seconds")


def summary(results: Mapping[str, Found]) -> Found:
    """``tables``, ``figures``, ``notes``; ``parts``: the facts of each beside its rows."""
    tables = [
        {"title": title_of(part, found), "rows": list(map(shown, found["rows"]))}
        for part, found in results.items()
        if found.get("rows")
    ]
    facts = {part: {name: one for name, one in found.items() if name != "rows"} for part, found in results.items()}
    return {"tables": tables, "figures": figures(results), "parts": facts, "notes": notes(results)}


def shown(row: Found) -> Found:
    """``row`` with small numbers to four digits, of which a page would show two decimals."""
    return {name: f"{one:.4g}" if isinstance(one, float) and abs(one) < 10 else one for name, one in row.items()}


def title_of(part: str, found: Found) -> str:
    """The part, and that its weights are random where they are."""
    return f"{part} (random weights)" if found.get("random_weights") else part


def notes(results: Mapping[str, Found]) -> list[str]:
    """What does not fit into the tables: how to read them, what failed, what each part says of itself."""
    told = [ABOUT]
    if any(found.get("random_weights") for found in results.values()):
        told.append(RANDOM)
    told += [f"{part} {in_a_line(found)}" for part, found in results.items() if "error" in found]
    for part, found in results.items():
        about = [f"{name} {value}" for name, value in found.items() if name not in NOT_TOLD and value is not None]
        told += [f"{part}: {', '.join(about)}."] * bool(about)
        if "versions" in found:
            told.append(", ".join(f"{name} {one}" for name, one in found["versions"].items() if one) + ".")
        if "kernels" in found:
            shares = (f"{name} {share:.0%}" for name, share in found["kernels"].items())
            told.append(f"{part}, share of the kernels' time: {'; '.join(shares)}.")
    return told


def in_a_line(found: Found) -> str:
    """How a part ended."""
    rows = len(found.get("rows", []))
    if "error" not in found:
        return f"done in {found['part_seconds']} s, {rows} rows"
    kept = f" after {rows} rows, which are kept" if rows else ""
    if found.get("skipped"):
        return f"was skipped: {found['error']}."
    return f"failed{kept}: {' '.join(str(found['error']).split())}"


def figures(results: Mapping[str, Found]) -> Found:
    """The best of each kind, as far as it was measured.

    ``pairs_per_s``: by model and engine, over the settings that judge the usual documents; ``agreement``: of packed
    with vLLM.
    """
    judged: dict[str, dict[str, float]] = {}
    for part, found in results.items():
        kind, _, model = part.partition("-")
        if kind in ("teacher", "packed", "compiled"):
            usual = {"document_tokens": found.get("document_tokens"), "labels": 10}
            rows = [row for row in found.get("rows", []) if all(row.get(name) == one for name, one in usual.items())]
            for row in rows:
                engines = judged.setdefault(model, {})
                engines[row["engine"]] = max(row["pairs_per_s"], engines.get(row["engine"], 0.0))
    packed = results.get("packed-smollm2", {}).get("rows", [])
    beside: Found = next(
        (row for row in packed if row["what"] == "scores of packed beside vllm" and "error" not in row), {}
    )
    runs = [row["seconds"] for row in results.get("run", {}).get("rows", []) if row.get("status") == 0]
    return {
        "pairs_per_s": judged,
        "agreement": {
            name: beside[name] for name in ("decision_agreement", "share_within_tolerance") if name in beside
        },
        "encoder_documents_per_s": _best(results, "encoder", "documents_per_s", ("project's Encoder",)),
        "student_documents_per_s": _best(results, "student", "documents_per_s", ("project's training step",)),
        "search_queries_per_s": _best(results, "search", "queries_per_s", ("project's ShardedIndex",)),
        "run_seconds": runs[0] if runs else None,
    }


def _best(results: Mapping[str, Found], part: str, field: str, begins: tuple[str, ...]) -> float | None:
    rows: Iterable[Found] = results.get(part, {}).get("rows", [])
    return max((row[field] for row in rows if row["what"].startswith(begins) and field in row), default=None)

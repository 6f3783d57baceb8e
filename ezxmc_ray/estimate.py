"""What a run would do and how long it may take, before it does it (``ezxmc run --dry-run``).

Comes in: counts of documents and labels, and the rates of what this run has done already. Goes out: a row a step.
Rates that this run has not measured are those of a 2-core machine without a GPU, and the answer says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ezxmc_ray.config import Config

#: Units a second, measured on 2 CPU cores with all-MiniLM-L6-v2 and SmolLM2-135M (documents of about 100 tokens).
REFERENCE_RATES = {"prepare": 500.0, "shortlist": 12.0, "judge": 20.0, "train": 8.0, "predict": 12.0, "evaluate": 12.0}
#: Tokens of a prompt that are neither the document's nor the label's, and of a label.
PROMPT_TOKENS, LABEL_TOKENS = 60, 8


@dataclass(frozen=True)
class Amounts:
    """What there is to work on; ``document_tokens``: mean, as the teacher reads them."""

    documents: int
    train: int
    held_out: int
    test: int
    labels: int
    document_tokens: float


def estimate(config: Config, amounts: Amounts, rates: dict[str, float], done: dict[str, bool]) -> list[dict[str, Any]]:
    """A row for every step: name, whether it is done, documents, pairs, prompt tokens, and seconds that it may take.

    ``rates`` units a second by stage, where measured; ``done`` by step name. Pairs are the most that a step can ask:
    what the verdict store holds is not asked again.
    """
    cycles = config.curriculum.cycles
    wanted = config.shortlist.documents_per_cycle or amounts.train
    judged = min(amounts.train, wanted + amounts.held_out)
    trained = round((judged - amounts.held_out) * config.student.epochs)
    rows = [_row("prepare", "prepare", amounts.documents)]
    for cycle in range(cycles + 1):
        documents = judged if cycle < cycles else amounts.held_out
        rows.append(_row(f"cycle {cycle} shortlist", "shortlist", documents))
        rows.append(_judge(f"cycle {cycle} judge", documents * min(config.shortlist.size, amounts.labels), amounts))
        if cycle < cycles:
            rows.append(_row(f"cycle {cycle} train", "train", trained))
    rows.append(_row("predict", "predict", amounts.documents))
    rows.append(_row("evaluate", "evaluate", amounts.test * (cycles + 1)))
    for row in rows:
        stage, units = row.pop("stage"), row.pop("units")
        row["done"] = done.get(row["step"], False)
        row["seconds"] = 0.0 if row["done"] else units / rates.get(stage, REFERENCE_RATES[stage])
    return rows


def _row(step: str, stage: str, documents: int) -> dict[str, Any]:
    return {"step": step, "stage": stage, "units": documents, "documents": documents, "pairs": None, "tokens": None}


def _judge(step: str, pairs: int, amounts: Amounts) -> dict[str, Any]:
    tokens = round(pairs * (amounts.document_tokens + PROMPT_TOKENS + LABEL_TOKENS))
    return {"step": step, "stage": "judge", "units": pairs, "documents": None, "pairs": pairs, "tokens": tokens}

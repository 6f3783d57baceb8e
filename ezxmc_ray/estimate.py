"""What a run would do and how long it may take, before it does it (``ezxmc run --dry-run``).

Comes in: counts of documents and labels, and the rates of what this run has done already. Goes out: a row a step.
Rates that this run has not measured are those of a 2-core machine without a GPU, and the answer says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ezxmc_ray.config import Config
from ezxmc_ray.cycles import compares, documents_a_cycle, held_out_judged, pairs_a_document

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


def estimate(
    config: Config, amounts: Amounts, rates: dict[str, float], done: dict[str, bool], cycles: int
) -> list[dict[str, Any]]:
    """A row for every step: name, whether it is done, documents, pairs, prompt tokens, and seconds that it may take.

    ``rates`` units a second by stage, where measured; ``done`` by step name; ``cycles`` of the run, fewer than
    configured where the stop rule has ended them. A cycle's select is with the shortlists and verdicts of the held-out
    documents that it compares by. Pairs are the most that a step can ask: what the verdict store holds is not asked
    again.
    """
    held_out, pairs = held_out_judged(config, amounts.held_out), pairs_a_document(config, amounts.labels)
    trained = documents_a_cycle(config, amounts.train, amounts.held_out, amounts.labels)
    rows = [_row("prepare", {"prepare": amounts.documents}, amounts.documents)]
    for cycle in range(cycles + 1):
        new = held_out  # documents of the cycle whose pairs are still to be judged
        if compares(config, cycle):
            work = {"shortlist": encodings(cycle) * held_out, "judge": held_out * pairs}
            rows.append(_row(f"cycle {cycle} select", work, held_out, held_out * pairs))
            new = 0
        documents = held_out + (trained if cycle < cycles else 0)
        asked = (documents - held_out + new) * pairs
        rows.append(_row(f"cycle {cycle} shortlist", {"shortlist": encodings(cycle) * documents}, documents))
        rows.append(_row(f"cycle {cycle} judge", {"judge": asked}, None, asked))
        if cycle < cycles:
            seen = round(_taught(config, trained, amounts.train - amounts.held_out, cycle) * config.student.epochs)
            rows.append(_row(f"cycle {cycle} train", {"train": seen}, seen))
    rows.append(_row("predict", {"predict": amounts.documents}, amounts.documents))
    rows.append(_row("evaluate", {"evaluate": amounts.test * (cycles + 1)}, amounts.test * (cycles + 1)))
    for row in rows:
        work = row.pop("work")
        row["tokens"] = round(row["pairs"] * prompt_tokens(amounts)) if row["pairs"] is not None else None
        row["done"] = done.get(row["step"], False)
        seconds = (units / rates.get(stage, REFERENCE_RATES[stage]) for stage, units in work.items())
        row["seconds"] = 0.0 if row["done"] else sum(seconds)
    return rows


def encodings(cycle: int) -> int:
    """How often the shortlists of ``cycle`` embed a document: in later cycles the start encoder does as well."""
    return 2 if cycle else 1


def _taught(config: Config, trained: int, there: int, cycle: int) -> int:
    """Documents that the student of ``cycle`` learns from; with student.past_verdicts those of earlier cycles too.

    Each cycle draws ``trained`` of those ``there`` by itself, so that some are drawn again.
    """
    if not config.student.past_verdicts or trained >= there:
        return trained
    return round(there * (1 - (1 - trained / there) ** (cycle + 1)))


def prompt_tokens(amounts: Amounts) -> float:
    """Tokens of a pair's prompt."""
    return amounts.document_tokens + PROMPT_TOKENS + LABEL_TOKENS


def _row(step: str, work: dict[str, int], documents: int | None, pairs: int | None = None) -> dict[str, Any]:
    """``work``: units by the stage whose rate they have."""
    return {"step": step, "work": work, "documents": documents, "pairs": pairs}

"""What a run would do and how long it may take, before it does it (``ezxmc run --dry-run``).

Comes in: counts of documents and labels, and the rates of what this run has done already. Goes out: a row a step, each
with its seconds. Rates that this run has not measured are those of a 2-core machine without a GPU, of this one's kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezxmc_ray.config import Config
from ezxmc_ray.cycles import FITTED_DOCUMENTS, compares, documents_per_cycle, held_out_judged, pairs_per_document

#: Units a second on 2 CPU cores, with all-MiniLM-L6-v2 and SmolLM2-135M by its likelihood (documents of about 100
#: tokens): on a machine with AVX-512 BF16 or AMX, and on one without, where the network works in float32. Of a
#: shortlist the unit is a document that is encoded, and a label counts as LABEL_ENCODING of one. So it is of predict
#: and evaluate, and a pair that the cross-encoder reads counts as PAIR_ENCODING of one. It learns 10 pairs a document.
FAST_RATES = {
    "prepare": 500.0,
    "shortlist": 90.0,
    "judge": 25.0,
    "train": 8.0,
    "cross_encoder": 0.8,
    "predict": 90.0,
    "evaluate": 90.0,
}
SLOW_RATES = {
    "prepare": 500.0,
    "shortlist": 50.0,
    "judge": 8.0,
    "train": 5.0,
    "cross_encoder": 0.5,
    "predict": 50.0,
    "evaluate": 50.0,
}
LABEL_ENCODING, PAIR_ENCODING = 0.1, 1.3
#: Seconds that a stage takes before its work begins: actors, imports, models.
START_SECONDS = {
    "prepare": 2.0,
    "shortlist": 5.0,
    "judge": 25.0,
    "train": 20.0,
    "cross_encoder": 20.0,
    "predict": 1.0,
    "evaluate": 1.0,
}
#: Of the steps that the machine hardly notices: labels or documents a second, and seconds each.
_SMALL_STEPS = {"select": 500.0, "index": 20_000.0, "report": 500.0}
_SMALL_SECONDS = 1.0
#: Tokens of a prompt that are neither the document's nor the label's, and of a label.
PROMPT_TOKENS, LABEL_TOKENS = 60, 8
_CPU_FLAGS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Amounts:
    """What there is to work on; ``document_tokens``: mean, as the teacher reads them; ``alternatives``: texts that
    labels have beside their preferred one."""

    documents: int
    train: int
    held_out: int
    test: int
    labels: int
    document_tokens: float
    alternatives: int = 0


def reference_rates() -> tuple[dict[str, float], str]:
    """The reference rates of this machine's kind of CPU, and its kind in words."""
    flags = _CPU_FLAGS.read_text() if _CPU_FLAGS.is_file() else ""
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        return FAST_RATES, "2 CPU cores that compute in bfloat16 (AVX-512 BF16 or AMX)"
    return SLOW_RATES, "2 CPU cores without bfloat16 (AVX2)"


def estimate(
    config: Config,
    amounts: Amounts,
    rates: dict[str, float],
    done: dict[str, bool],
    cycles: int,
    label_priors: bool = True,
    questions: int = 1,
    has_network: bool = False,
) -> list[dict[str, Any]]:
    """A row for every step: its name, the documents, labels and pairs it works on, the label priors that it asks,
    prompt tokens, whether it is done, and the seconds that it may take.

    ``rates`` units a second by stage; ``done`` by step name; ``cycles`` of the run, fewer than configured where the
    stop rule has ended them; ``label_priors``: whether they are asked for; ``questions`` a pair; ``has_network``: the
    cross-encoder is trained, and only fitted anew. A cycle's select is with its encoder's label vectors, and what it
    compares by. Pairs are the most that a step can ask.
    """
    rows = [_row("prepare", {"prepare": amounts.documents}, documents=amounts.documents)]
    held_out, pairs = held_out_judged(config, amounts.held_out), pairs_per_document(config, amounts.labels)
    trained = _documents_of_cycles(config, amounts, cycles)
    judged = 0  # pairs of the cycles before
    for cycle in range(cycles + 1):
        documents = held_out + (trained[cycle] if cycle < cycles else 0)
        labels, texts = amounts.labels, amounts.labels + amounts.alternatives  # that are still to be encoded
        new = documents  # that are still to be judged
        if compares(config, cycle):
            priors = _new_labels(amounts.labels, judged, held_out * pairs) if label_priors else 0
            work = {"shortlist": _encoded(cycle, held_out, texts), "judge": held_out * pairs * questions + priors}
            rows.append(_row(f"cycle {cycle} select", work, held_out, labels, held_out * pairs, priors))
            labels, texts, new, judged = 0, 0, documents - held_out, judged + held_out * pairs
        asked = new * pairs
        priors = _new_labels(amounts.labels, judged, asked) if label_priors else 0
        judged += asked
        work = {"shortlist": _encoded(cycle, documents, texts)}
        rows.append(_row(f"cycle {cycle} shortlist", work, documents, labels))
        work = {"judge": asked * questions + priors} if asked + priors else {}
        rows.append(_row(f"cycle {cycle} judge", work, None, None, asked, priors))
        if cycle < cycles:
            seen = round(config.student.epochs * _taught(config, amounts, trained[: cycle + 1]))
            rows.append(_row(f"cycle {cycle} train", {"train": seen}, seen))
    rows += _ending(config, amounts, trained, cycles, has_network)
    for row in rows:
        work = row.pop("work")
        row["tokens"] = _tokens(row, amounts, questions) if row["pairs"] is not None else None
        row["done"] = done.get(row["step"], False)
        row["seconds"] = 0.0 if row["done"] else _seconds_of_all(rates, work, questions)
    return rows


def _ending(
    config: Config, amounts: Amounts, trained: Sequence[int], cycles: int, has_network: bool
) -> list[dict[str, Any]]:
    """The rows of the steps after the ``cycles``, which ``trained`` on so many documents each."""
    held_out, first = held_out_judged(config, amounts.held_out), min(config.predict.rerank, amounts.labels)
    rows = [_row("select", {"select": held_out * (cycles + 1)}, held_out)]
    if has_network:
        rows.append(_row("cross_encoder", {"select": min(held_out, FITTED_DOCUMENTS)}))
    elif config.predict.rerank:
        seen = round(config.cross_encoder.epochs * _taught(config, amounts, trained[: max(1, cycles)]))
        fitted = min(held_out, FITTED_DOCUMENTS)
        work = {"cross_encoder": seen, "predict": reranking_work(fitted, pairs_per_document(config, amounts.labels))}
        rows.append(_row("cross_encoder", work, seen))
    rows.append(_row("index", {"index": amounts.labels + amounts.alternatives}, None, amounts.labels))
    predicted = amounts.documents + reranking_work(amounts.documents, first)
    rows.append(_row("predict", {"predict": predicted}, amounts.documents))
    ranked = amounts.test * (cycles + 1 + bool(config.predict.rerank))
    rows.append(_row("evaluate", {"evaluate": ranked + reranking_work(amounts.test, first)}, ranked))
    rows.append(_row("report", {"report": config.report.documents}, min(config.report.documents, amounts.test)))
    return rows


def _documents_of_cycles(config: Config, amounts: Amounts, cycles: int) -> list[int]:
    """Train documents of each cycle; of a run without any as if there were one, which refuses a budget all the same."""
    counts = (amounts.train, amounts.held_out, amounts.labels)
    return [documents_per_cycle(config, *counts, cycle) for cycle in range(max(1, cycles))]


def encoding_work(documents: float, labels: int) -> float:
    """Documents and labels to encode, in documents."""
    return documents + labels * LABEL_ENCODING


def reranking_work(documents: float, pairs: int) -> float:
    """What the cross-encoder reads, ``pairs`` of each of the ``documents``, in documents that are encoded."""
    return documents * pairs * PAIR_ENCODING


def _encoded(cycle: int, documents: int, labels: int) -> float:
    return encoding_work(encodings(cycle) * documents, labels)


def _new_labels(labels: int, before: int, pairs: int) -> int:
    """Labels that so many pairs are the first to name, if all were equally likely: at most, since some are common."""
    return round(_named(labels, before + pairs) - _named(labels, before))


def _named(labels: int, pairs: int) -> float:
    return labels * (1 - (1 - 1 / labels) ** pairs) if labels else 0.0


def _tokens(row: dict[str, Any], amounts: Amounts, questions: int) -> int:
    """Prompt tokens of a row's pairs and other prompts, taken for as long; a prior's is shorter, without a document."""
    return round((row["pairs"] * questions + row["label priors"]) * prompt_tokens(amounts))


def _seconds_of_all(rates: dict[str, float], work: dict[str, float], questions: int) -> float:
    """Of the stages of a row's ``work``; each of a pair's ``questions`` has engines of its own."""
    again = (questions - 1) * START_SECONDS["judge"] if "judge" in work else 0.0
    return sum(_seconds(rates, stage, units) for stage, units in work.items()) + again


def _seconds(rates: dict[str, float], stage: str, units: float) -> float:
    if stage in _SMALL_STEPS:
        return _SMALL_SECONDS + units / _SMALL_STEPS[stage]
    return START_SECONDS[stage] + units / rates[stage]


def encodings(cycle: int) -> int:
    """How often the shortlists of ``cycle`` embed a document: in later cycles the base encoder does as well."""
    return 2 if cycle else 1


def _taught(config: Config, amounts: Amounts, trained: Sequence[int]) -> float:
    """Documents that a student sees in an epoch; with student.past_verdicts those of earlier cycles too.

    ``trained``: of its cycle and those before. Each draws of those there are by itself, so that some are drawn again.
    """
    there = amounts.train - amounts.held_out
    if not config.student.past_verdicts or not there:
        return trained[-1]
    return there * (1 - math.prod(1 - drawn / there for drawn in trained))


def prompt_tokens(amounts: Amounts) -> float:
    """Tokens of a pair's prompt."""
    return amounts.document_tokens + PROMPT_TOKENS + LABEL_TOKENS


def _row(
    step: str,
    work: dict[str, float],
    documents: int | None = None,
    labels: int | None = None,
    pairs: int | None = None,
    label_priors: int | None = None,
) -> dict[str, Any]:
    """``work``: units by the stage whose rate they have."""
    counts = {"documents": documents, "labels": labels or None, "pairs": pairs, "label priors": label_priors}
    return {"step": step, "work": work, **counts}

"""The tables and notes that the page of benchmarks/quality.py shows of a result.

Comes in: the rows of figures.py, of one dataset and its labels. Goes out: tables of flat rows with a title, in
which a measure and its interval are one text, and sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.headlines import with_interval
from ezxmc_ray.metrics import MEASURES
from quality_bench.figures import LMTX, OURS, PUBLISHED, Row

Table = dict[str, Any]


#: What the tables do not say.
NOTES = (
    "95 % intervals by bootstrap over the test documents (2,000 samples); differences are paired: same documents, "
    "values of several seeds averaged document by document. An interval that leaves out 0 is significant over test "
    "documents, for these trainings; how much another seed would change is not in it.",
    "pairs: (document, label) pairs that a method needs judged, those of held-out documents among them; the verdicts "
    "of all runs of a dataset are one store, so hardly any is asked again. priors: labels judged beside no document, "
    "where they calibrate; their prompts are shorter, since there is no document in them. asked twice: pairs that the "
    "teacher is asked by a second read-out too. teacher s: of the engine for all of these, start-up apart, at one rate "
    "for all methods of a dataset whose teacher is read as often: the fastest that a run of some length had, or where "
    "none had, its verdict store (later cycles ask few labels a document: slower).",
    "ships: the encoder that the run's selection chose, by the teacher's judgment and never by gold; cycle_0 is the "
    "student of the first cycle.",
    "lmtx: hinge loss, hard yes or no, every cycle from the base encoder, no fusion, no calibration, no verdicts of "
    "earlier cycles, no worked examples. Prompt, exact read-out, epochs, learning rate and batch size are those of the "
    "other methods, not the published ones; a yes is the LLM's own answer, P(yes) above P(no), or a fitted split where "
    "a table says so. lmtx_words: the same student, ranking with the words as ezxmc does.",
    "words, larger_words, lmtx_words, llm_rerank, llm_fusion and ezxmc add lexical.weight times the share of the "
    "label's words that the document names to the encoder's cosine; the other encoders rank alone. llm_rerank judges "
    "the test documents themselves, and ranks what lies beyond the shortlist as words does; llm_fusion is the same by "
    "verdict and similarity, which is what ezxmc's student learns of other documents. title and segments learn from "
    "the texts of the train documents (the pairs of MACLR and RTS, without their clustering and label "
    "regularization). tfidf counts words in train documents and labels. icxml judges the labels nearest to topics that "
    "the LLM writes of the test document, as many as a shortlist has; it writes once, without demonstrations, and "
    "judges each label by itself, where the paper's ranks a list.",
    "ezxmc_reranked: as ezxmc, and a cross-encoder that begins with its student's weights and learns from the same "
    "verdicts ranks its first 30 labels anew (predict.rerank=30). pairs/s: of its ranking, on the machine as it was.",
    "A budget's share is that of the train documents that each cycle draws, others in each; of the held-out documents "
    "the same share is kept. lmtx's last student learns from its own cycle's, ezxmc's from those of all cycles. The "
    "least pairs that reach lmtx are a comparison of values, not of intervals, and priors are apart.",
)


def tables(result: Mapping[str, Any]) -> list[Table]:
    """All tables; a part that was not measured has none."""
    found: list[Table] = []
    for title, part, show in (
        ("methods", [*result["rows"], *_of_several(result["means"])], _method),
        ("ezxmc minus the other methods, points", result["differences"], _difference),
        ("the encoders of the cycles", result["cycles"], _cycle),
        ("share of the documents that a cycle judges", result["budget"], _budget),
        (f"{OURS} minus the other at the same share, points", result["equal_shares"], _equal_share),
        ("documents judged: fixed numbers, and rounds that end themselves", result.get("rounds"), _round),
        (f"least pairs with which {OURS} is as good as {PUBLISHED}", result["reached"], _reached),
    ):
        if part:
            name = f"{part[0]['dataset']}, {part[0]['labels']}"
            found.append({"title": f"{name}: {title}", "rows": list(map(show, part))})
    return found


def _of_several(means: Sequence[Row]) -> list[Row]:
    """A mean of one seed is that seed's row."""
    return [row | {"seed": f"mean of {row['seeds']}"} for row in means if row["seeds"] > 1]


def _method(row: Row) -> Row:
    return {
        **_models(row),
        "seed": _text(row["seed"]),
        "prompt": row.get("prompt") or "",
        "cycles": row.get("cycles"),
        **_yes(row),
        "ships": row.get("chosen") or "",
        "pairs": row.get("pairs"),
        "priors": row.get("priors") or None,
        "asked twice": row.get("second") or None,
        "of them asked": row.get("pairs_asked"),
        "teacher s": _whole(row.get("teacher_seconds")),
        "training s": _whole(row.get("train_seconds")),
        **_measures(row, ".1f"),
    }


def _difference(row: Row) -> Row:
    return {**_models(row), "seeds": " and ".join(map(str, row["seeds"])), **_measures(row, "+.1f")}


def _cycle(row: Row) -> Row:
    facts = {"pairs": row["pairs"], "teacher's nDCG@5": row["teacher_ndcg"], "chosen": row["chosen"], **_yes(row)}
    return {"encoder": row["encoder"], **_models(row), "seed": _text(row["seed"]), **facts, **_measures(row, ".1f")}


def _round(row: Row) -> Row:
    lead = row.get("lead")
    return {
        "documents judged": row["rounds"],
        "seed": _text(row["seed"]),
        "encoder": row["encoder"],
        "pairs": row["pairs"],
        "teacher's nDCG@5": row["teacher_ndcg"],
        "lead": None if lead is None else f"{lead['difference']:.1f} ± {lead['standard_error']:.1f}",
        "ships": row["chosen"],
        **_measures(row, ".1f"),
    }


def _budget(row: Row) -> Row:
    facts = {"share": f"{row['share']:.2f}", "pairs": row["pairs"], "priors": row.get("priors") or None}
    facts |= {"asked twice": row.get("second") or None, "teacher s": _whole(row.get("teacher_seconds"))}
    facts |= _yes(row)
    return {**_models(row), "seed": _text(row["seed"]), **facts, **_measures(row, ".1f")}


def _equal_share(row: Row) -> Row:
    facts = {"share": f"{row['share']:.2f}", "pairs": " and ".join(f"{pairs:,.0f}" for pairs in row["pairs"])}
    return {**facts, **_difference(row)}


def _reached(row: Row) -> Row:
    models = {name: row[name] for name in ("teacher", "student")}
    least = "none that was tried" if row["pairs"] is None else f"{row['pairs']:,.0f} ({row['share']:.0%})"
    priors = None if row["pairs"] is None else row["priors"]
    return {
        "measure": row["measure"],
        **models,
        "lmtx": row["lmtx"],
        "share of lmtx": f"{row['lmtx_share']:.2f}",
        "pairs of lmtx": row["lmtx_pairs"],
        "pairs": least,
        "priors": priors,
    }


def _models(row: Row) -> Row:
    return {name: row[name] for name in ("method", "teacher", "student")}


def _yes(row: Row) -> Row:
    """Where a yes decides what is learned: what counted as one."""
    if row["method"] not in LMTX:
        return {"a yes": ""}
    return {"a yes": "fitted split" if row.get("yes_threshold") is None else "the LLM's own"}


def _measures(row: Row, form: str) -> dict[str, str]:
    return {name: with_interval(row["metrics"][name], form) for name in MEASURES}


def _text(seed: int | str | None) -> str:
    return "" if seed is None else str(seed)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)

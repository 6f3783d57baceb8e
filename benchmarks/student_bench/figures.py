"""The figures of benchmarks/student.py: medians over rounds, means over seeds, and how vectors agree.

Comes in: what each method's process gave, a dict with its figures or with ``error``. Goes out: for each part of the
benchmark its fields of the result, its rows of the table and its notes (:class:`Part`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypeAlias

import numpy as np

from common.rounds import median, rate, ratio

MEASURES = ("P@1", "P@5", "R@10", "R@100")
Figures: TypeAlias = "dict[str, Any]"
Round: TypeAlias = "Mapping[str, Figures]"
PAIRS = {
    "one": "one positive a document",
    "yes": "all positives of a document",
    "shortlist": "whole shortlist",
}


@dataclass(frozen=True)
class Part:
    """``figures``: fields of the result; ``title``, ``rows`` and ``notes``: for the page."""

    title: str
    figures: Figures
    rows: list[Figures]
    notes: list[str]


def training(rounds: Mapping[tuple[str, str], Sequence[Round]]) -> Part:
    """Documents a second of the training loops, from rounds by (dtype, which pairs); the first one is the headline."""
    found = {key: _speeds(some) for key, some in rounds.items()}
    rows = [
        {
            "method": method,
            "labels": PAIRS[pairs],
            "dtype": dtype,
            "steps": rounds[dtype, pairs][0][method].get("steps"),
            "documents": rounds[dtype, pairs][0][method].get("documents"),
            "documents/s": speed["documents_per_s"][method],
            "ezxmc is faster by": speed["ratios"][method],
            "with dropout in both by": speed.get("ratios_with_dropout", {}).get(method),
        }
        for (dtype, pairs), speed in found.items()
        for method in speed["documents_per_s"]
    ]
    headline = next(iter(found.values()))
    figures = {
        "train_documents_per_s": headline["documents_per_s"],
        "train_ratios": headline["ratios"],
        "train_ratios_with_dropout": headline.get("ratios_with_dropout"),
        "training": {f"{dtype}, {PAIRS[pairs]}": speed for (dtype, pairs), speed in found.items()},
    }
    some = next(iter(rounds.values()))
    return Part("Training", figures, rows, [*_failures(rounds.values()), *_about_training(len(some))])


def _about_training(rounds: int) -> list[str]:
    return [
        f"Training: an epoch over the same documents with the same labels, {rounds} rounds, medians, of ratios those "
        "within a round; loading and warm-up steps are not timed. Where a document has several positives, "
        "SentenceTransformers takes a row, and the document once more, for each; ezxmc takes it once.",
        "Training with the whole shortlist is what the train stage does: labels that got a no are read too.",
        "ezxmc_dropout: with the encoder's dropout, which SentenceTransformers trains with and ezxmc leaves out by "
        "default (student.dropout); the last column compares it with SentenceTransformers: both then train with it.",
        "Both cut documents to student.max_document_tokens. ezxmc cuts labels to encoder.max_label_tokens, "
        "SentenceTransformers, which has one length, to that of the documents; few labels reach either.",
    ]


def encoding(rounds: Sequence[Round], cosines: tuple[float, float]) -> Part:
    """Documents a second of the encoders; ``cosines``: the least and the mean between their vectors of a document."""
    speed = _speeds(rounds)
    rows = [
        {
            "method": method,
            "dtype": rounds[0][method]["dtype"],
            "documents": rounds[0][method]["documents"],
            "documents/s": rate,
            "ezxmc is faster by": speed["ratios"][method],
        }
        for method, rate in speed["documents_per_s"].items()
    ]
    same = median([ratio(done, "ezxmc_float32", "sentence_transformers", "documents") for done in rounds])
    figures = {
        "encode_documents_per_s": speed["documents_per_s"],
        "encode_ratio": speed["ratios"]["sentence_transformers"],
        "encode_ratio_float32": same,
        "encode_cosine": {"min": cosines[0], "mean": cosines[1]},
    }
    note = (
        f"Encoding: {len(rounds)} rounds, medians; SentenceTransformer.encode with its default batches and dtype; "
        f"both in float32, ezxmc is faster by {same:.2f}. Cosine between both vectors of a document: at least "
        f"{cosines[0]:.5f}, {cosines[1]:.5f} on average."
    )
    return Part("Encoding", figures, rows, [note])


def scaling(rounds: Sequence[Round], cores: int) -> Part:
    """Documents a second of the train stage by its number of workers."""
    speed = {workers: median([rate(done[workers], "documents") for done in rounds]) for workers in rounds[0]}
    starts = {workers: median([done[workers]["start_seconds"] for done in rounds]) for workers in rounds[0]}
    rows = [{"workers": workers, "documents/s": rate, "start s": starts[workers]} for workers, rate in speed.items()]
    faster = median([ratio(done, "2", "1", "documents") for done in rounds])
    note = (
        f"Train stage: two workers are {faster:.2f} times as fast as one. The machine has {cores} cores, which the "
        f"workers share: one worker computes with {cores}, each of two with {max(1, cores // 2)}. Start-up is "
        "not timed."
    )
    return Part("Train stage", {"scaling": {"documents_per_s": speed, "ratio": faster}}, rows, [note])


def quality(results: Mapping[str, Sequence[Figures]], facts: Figures) -> Part:
    """Measures on the ranked documents, in percent: a row a seed, and their mean."""
    rows, means = _measures("stored verdicts", results)
    note = (
        f"Quality: {facts['train_documents']:,} documents to learn from ({facts['pairs']:,} pairs, "
        f"{facts['share_yes']:.1%} yes by the fitted threshold), {facts['ranked_documents']:,} ranked against "
        f"{facts['labels']:,} labels by exact search, by the encoder alone. The shortlists are those that were judged; "
        "ezxmc learns verdicts and cosines, ezxmc_words verdicts and the similarity with the words in it (the default "
        "target), SentenceTransformers the pairs that got a yes."
    )
    figures = {"quality": means, "quality_seeds": {method: list(some) for method, some in results.items()}}
    return Part(
        "Quality", figures, rows, [*_failures([[{m: s[0] for m, s in results.items()}]]), note, *_doubts(facts)]
    )


def perfect(results: Mapping[str, Sequence[Figures]], facts: Figures) -> Part:
    """As quality, with gold labels as simulated verdicts."""
    rows, means = _measures("simulated", results)
    gain = means["ezxmc"]["P@1"] - means["untrained"]["P@1"]
    figures = {
        "perfect": {"simulated": True, **means, "gain_P@1": gain},
        "perfect_seeds": {method: list(some) for method, some in results.items()},
    }
    note = (
        f"Simulated perfect teacher: no LLM judged; the gold labels of {facts['train_documents']:,} train documents "
        "stand for a yes, the other labels of their shortlists for a no, and gold labels that the shortlist lacks are "
        f"added to it. P@1 rises by {gain:.1f} points."
    )
    return Part("Quality with a simulated perfect teacher", figures, rows, [note, *_doubts(facts)])


def cosines_of(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The least and the mean cosine between the rows of two float arrays [n, d]."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found = (first * second).sum(axis=1) / lengths
    return float(found.min()), float(found.mean())


def _measures(teacher: str, results: Mapping[str, Sequence[Figures]]) -> tuple[list[Figures], dict[str, Figures]]:
    """A row a seed and the mean; the means by method, without what could not run."""
    rows: list[Figures] = []
    means: dict[str, Figures] = {}
    for method, seeds in results.items():
        if any("error" in one for one in seeds):
            continue
        taught = {"teacher": teacher}
        means[method] = {name: mean(one[name] for one in seeds) for name in MEASURES}
        for seed, one in enumerate(seeds):
            about = {"steps": one.get("steps"), "training s": one.get("seconds")}
            which = {} if method == "untrained" else {"seed": str(seed)}
            rows.append({"method": method, **taught, **which, **{name: one[name] for name in MEASURES}, **about})
        if len(seeds) > 1:
            rows.append({"method": method, **taught, "seed": "mean", **means[method]})
    return rows, means


def _speeds(rounds: Sequence[Round]) -> Figures:
    """Medians over the rounds of documents a second, and of ezxmc's ratio to each within a round.

    Where there is ``ezxmc_dropout``, its ratios to those that train with dropout too, as ``ratios_with_dropout``.
    """
    methods = list(rounds[0])

    def ratios(ours: str, others: list[str]) -> dict[str, float | None]:
        return {name: median([ratio(done, ours, name, "documents") for done in rounds]) for name in others}

    found = {
        "documents_per_s": {name: median([rate(done[name], "documents") for done in rounds]) for name in methods},
        "ratios": ratios("ezxmc", methods),
    }
    if "ezxmc_dropout" in methods:
        found["ratios_with_dropout"] = ratios("ezxmc_dropout", [name for name in methods if name != "ezxmc"])
    return found


def _failures(rounds: Iterable[Sequence[Round]]) -> list[str]:
    """What could not run, each method once."""
    reasons = {name: one["error"] for some in rounds for done in some for name, one in done.items() if "error" in one}
    return [f"{name} could not run here: {reason}." for name, reason in reasons.items()]


def _doubts(facts: Figures) -> list[str]:
    """What a reader should know of the documents."""
    doubts = {
        "rejected_rows": "documents were left out by the stage prepare",
        "repeated_documents": "of the ranked documents have the very text of a train document",
        "held_out_documents": "train documents were held out",
    }
    return [f"{facts[name]} {what}." for name, what in doubts.items() if facts[name]]

"""Audit of the teacher: what its verdicts on judged pairs say of it, with gold labels and without. No LLM, no files.

Comes in: judged pairs as plain arrays. Goes out: dicts for report.json, of finite numbers, with None where a number is
not defined. Gold labels measure here and nothing else; all shares are 0 to 1, P@1 is in percent as in metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ezxmc_ray.metrics import (
    auc_per_document,
    bootstrap_intervals,
    equal_count_bins,
    expected_calibration_error,
    precision_at_1_of_scores,
    precision_of_highest,
)

#: Groups of pairs in the calibration curve.
BINS = 10

Floats = NDArray[np.float32]
Lists = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class AuditPairs:
    """Pairs one after the other, those of a document together and in the order of its shortlist; all arrays [pairs].

    ``document``: int64, a number that the pairs of a document, and no others, share. ``rank``: int64, place in the
    shortlist from 0. ``raw``, ``verdict``, ``similarity`` and ``fusion``: float32, finite. ``is_gold``: bool.
    """

    document: NDArray[np.int64]
    rank: NDArray[np.int64]
    raw: Floats
    verdict: Floats
    similarity: Floats
    fusion: Floats
    is_gold: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.document)

    def take(self, chosen: NDArray[np.bool_]) -> AuditPairs:
        """The pairs that ``chosen`` (bool [pairs]) marks."""
        return AuditPairs(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def by_document(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """``values`` [pairs] as one array a document."""
        return np.split(values, np.flatnonzero(np.diff(self.document)) + 1)


def join(parts: Sequence[AuditPairs]) -> AuditPairs:
    """The pairs of all ``parts`` (at least one), which have no document in common."""
    columns = ([getattr(part, field.name) for part in parts] for field in fields(AuditPairs))
    return AuditPairs(*(np.concatenate(column) for column in columns))


def count_by_rank(pairs: AuditPairs, threshold: float, size: int) -> NDArray[np.int64]:
    """Pairs (row 0) and yes among them (row 1) at each rank of shortlists of ``size`` labels, int64 [2, size].

    A verdict from ``threshold`` on is a yes. The counts of several shards add up.
    """
    yes = pairs.rank[pairs.verdict >= threshold]
    return np.stack([np.bincount(pairs.rank, minlength=size), np.bincount(yes, minlength=size)])


def share_yes_by_rank(counts: NDArray[np.int64]) -> list[float]:
    """The share of yes at each rank that has pairs, from count_by_rank."""
    asked = counts[0] > 0
    shares: list[float] = (counts[1, asked] / counts[0, asked]).tolist()
    return shares


def audit_by_gold(pairs: AuditPairs, readout: str, threshold: float, seed: int) -> dict[str, Any]:
    """What gold labels say of the teacher; ``pairs`` are those of documents that have gold labels (0 pairs or more).

    ``readout`` is the teacher's, ``threshold`` the verdict from which on a pair counts as yes, ``seed`` that of the
    bootstrap. Keys: docs/report.md.
    """
    return {
        "gold_documents": len(np.unique(pairs.document)),
        **_auc(pairs, seed),
        "P@1": _precision_at_1(pairs),
        "at_yes_threshold": _at_yes_threshold(pairs, threshold),
        "calibration_curve": _calibration_curve(pairs, readout),
        "calibration_error": _calibration_error(pairs, readout),
    }


def _auc(pairs: AuditPairs, seed: int) -> dict[str, Any]:
    """AUC within a document of verdict, similarity and fusion, what the similarity is surpassed by, and intervals."""
    is_gold = pairs.by_document(pairs.is_gold)
    scores = {"auc": pairs.verdict, "similarity_auc": pairs.similarity, "fusion_auc": pairs.fusion}
    values = {name: auc_per_document(pairs.by_document(score), is_gold) for name, score in scores.items()}
    defined = ~np.isnan(values["auc"])
    values = {name: auc[defined] for name, auc in values.items()}
    values["verdict_over_similarity"] = values["auc"] - values["similarity_auc"]
    values["fusion_over_similarity"] = values["fusion_auc"] - values["similarity_auc"]
    intervals = bootstrap_intervals(values, seed)
    means = {name: float(one.mean()) if len(one) else None for name, one in values.items()}
    return {
        "documents": int(defined.sum()),
        **{name: means[name] for name in scores},
        "intervals": {name: intervals[name] for name in scores},
        **{
            name: None if mean is None else {"difference": mean, "interval": intervals[name]}
            for name, mean in means.items()
            if name not in scores
        },
    }


def _precision_at_1(pairs: AuditPairs) -> dict[str, float] | None:
    """P@1 of the shortlists in the order of each score, in percent."""
    if not len(pairs):
        return None
    is_gold = pairs.by_document(pairs.is_gold)
    scores = {"verdict": pairs.verdict, "similarity": pairs.similarity, "fusion": pairs.fusion}
    return {
        name: float(precision_at_1_of_scores(pairs.by_document(score), is_gold).mean())
        for name, score in scores.items()
    }


def _at_yes_threshold(pairs: AuditPairs, threshold: float) -> dict[str, Any] | None:
    """How good the yes is, beside as many pairs taken by similarity; recall is of the gold labels in the shortlists."""
    if not len(pairs):
        return None
    yes = pairs.verdict >= threshold
    right, said, gold = int((yes & pairs.is_gold).sum()), int(yes.sum()), int(pairs.is_gold.sum())
    return {
        "pairs": len(pairs),
        "share_gold": gold / len(pairs),
        "share_yes": said / len(pairs),
        "precision": right / said if said else None,
        "recall": right / gold if gold else None,
        "similarity_precision": precision_of_highest(pairs.similarity, pairs.is_gold, said) if said else None,
    }


def _calibration_curve(pairs: AuditPairs, readout: str) -> list[dict[str, Any]]:
    """Groups of pairs of rising verdict: size, mean verdict, mean P(yes) (read-out yes_no) and share of gold."""
    return [
        {
            "pairs": len(group),
            "verdict": float(pairs.verdict[group].mean(dtype=np.float64)),
            "p_yes": float(pairs.raw[group].mean(dtype=np.float64)) if readout == "yes_no" else None,
            "share_gold": float(pairs.is_gold[group].mean()),
        }
        for group in equal_count_bins(pairs.verdict, BINS)
    ]


def _calibration_error(pairs: AuditPairs, readout: str) -> dict[str, float] | None:
    """Expected calibration error of P(yes) as it was read, and of the sigmoid of the calibrated verdict.

    Only the read-out yes_no gives a probability; None for another one.
    """
    if readout != "yes_no" or not len(pairs):
        return None
    probabilities = {"p_yes": pairs.raw, "verdict": expit(pairs.verdict.astype(np.float64))}
    return {
        name: expected_calibration_error(probability, pairs.is_gold, BINS)
        for name, probability in probabilities.items()
    }

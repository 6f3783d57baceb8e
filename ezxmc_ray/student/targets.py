"""What the student learns of a judged pair: the verdict, the similarity, or both, on one scale.

Comes in: the verdicts of the example shards and similarities: the base encoder's, whose errors are not the verdicts'
(those of a cycle's own encoder serve the selection only). Goes out: sums that add up over shards, the scale that
they give, and with it the standardized targets. Fusion is the standardized sum of both, since their errors differ:
it beat either alone in every measurement with a teacher that can answer (AUC within a document 0.834, against 0.813
for the verdict and 0.754 for the similarity, 1,200 library records).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

#: What a judge manifest calls the scale of the targets, and the one whose similarity is the cycle's own encoder's.
SCALES = ("scale", "own_scale")


@dataclass(frozen=True)
class TargetSums:
    """Sums over judged pairs, in float64; add those of several shards by ``+``."""

    pairs: int = 0
    verdict: float = 0.0
    verdict_squared: float = 0.0
    similarity: float = 0.0
    similarity_squared: float = 0.0

    def __add__(self, other: TargetSums) -> TargetSums:
        names = [field.name for field in fields(self)]
        return TargetSums(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class TargetScale:
    """Means and (population) standard deviations of verdicts and similarities over all judged pairs."""

    verdict_mean: float
    verdict_std: float
    similarity_mean: float
    similarity_std: float


def compared_by(target: str) -> str:
    """What labels are worth where orders are compared, by student.target: its own verdict, else the fusion."""
    return "verdict" if target == "verdict" else "fusion"


def sums_of(verdict: np.ndarray, similarity: np.ndarray) -> TargetSums:
    """The sums of the pairs (float [n], aligned) whose verdict is not NaN."""
    judged = np.isfinite(verdict)
    verdicts = verdict[judged].astype(np.float64)
    similarities = similarity[judged].astype(np.float64)
    return TargetSums(
        int(judged.sum()),
        float(verdicts.sum()),
        float(np.square(verdicts).sum()),
        float(similarities.sum()),
        float(np.square(similarities).sum()),
    )


def scale_of(sums: TargetSums) -> TargetScale:
    """The scale of ``sums``; where all values are the same (or there are none) the deviation is 1, so z is 0."""
    count = max(sums.pairs, 1)
    return TargetScale(
        sums.verdict / count,
        _deviation(sums.verdict, sums.verdict_squared, count),
        sums.similarity / count,
        _deviation(sums.similarity, sums.similarity_squared, count),
    )


def target_scores(verdict: np.ndarray, similarity: np.ndarray, kind: str, scale: TargetScale) -> np.ndarray:
    """The standardized target, float32 in the shape of ``verdict``; NaN where ``verdict`` is NaN (not judged).

    ``kind``: "verdict" or "similarity" (its z), or "fusion": (z of the verdict + z of the similarity) / sqrt(2).
    """
    z_verdict = (verdict.astype(np.float64) - scale.verdict_mean) / scale.verdict_std
    z_similarity = (similarity.astype(np.float64) - scale.similarity_mean) / scale.similarity_std
    if kind == "fusion":
        target = (z_verdict + z_similarity) / math.sqrt(2)
    else:
        target = {"verdict": z_verdict, "similarity": z_similarity}[kind]
    return np.where(np.isfinite(verdict), target, np.nan).astype(np.float32)


def _deviation(total: float, squares: float, count: int) -> float:
    variance = squares / count - (total / count) ** 2
    # Rounding leaves about 1e-16 of the mean square where all values are the same.
    return math.sqrt(variance) if variance > 1e-12 * max(squares / count, 1e-300) else 1.0

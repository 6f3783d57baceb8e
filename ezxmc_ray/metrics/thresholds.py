"""From a similarity to what it is worth: the chance of a teacher's yes, and least scores by F1 or by precision.

Comes in: similarities of pairs of held-out documents, and which of them got a yes. Goes out: thresholds, and a curve
that the tagger reads chances from. Nothing here has seen a gold label: what is promised is the teacher's yes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ezxmc_ray.errors import UserError

#: Pairs of neighboring similarity that are a point of the curve together, at least, and points at most.
MIN_PAIRS, MAX_POINTS = 20, 200
#: Parts of the pairs that the curve's error is measured on, each by the curve of the others.
FOLDS = 5
#: Bins of a chance, from 0 to 1, in which promised and found shares are compared.
ERROR_BINS = 10
#: The precisions that thresholds are fitted for.
PRECISIONS = tuple(percent / 100 for percent in range(1, 100))


@dataclass(frozen=True)
class ProbabilityCurve:
    """The chance of a teacher's yes by similarity: ``probabilities`` at the rising ``scores``, linear between."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """The chance at each similarity, float64 in its shape, 0 to 1; beyond the ends as at the ends."""
        return np.asarray(np.interp(np.asarray(similarity, np.float64), self.scores, self.probabilities))

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> ProbabilityCurve | None:
        """The curve in a manifest's details, as dataclasses.asdict wrote it; None: there was nothing to fit it on."""
        return cls(tuple(told["scores"]), tuple(told["probabilities"])) if told else None


@dataclass(frozen=True)
class LeastScores:
    """Least scores that were fitted: ``best``, of the highest F1, and ``by_precision`` (:func:`precision_thresholds`;
    None where no pair got a yes)."""

    best: float
    by_precision: tuple[float | None, ...] | None

    @classmethod
    def of(cls, selected: Mapping[str, Any]) -> LeastScores:
        """What the manifest of ``select`` says; of an older version the first alone."""
        found = selected.get("precision_thresholds")
        return cls(float(selected["min_score"]), tuple(found) if found else None)

    def choose(self, given: float | None, precision: float | None) -> float:
        """The least score by predict.min_score (``given``) and predict.precision. Errors: UserError: none has that."""
        if given is not None or precision is None:
            return float(self.best if given is None else given)
        found = threshold_of_precision(self.by_precision or [None], precision)
        if found is None:
            raise UserError(
                f"By the held-out documents no least score makes the teacher say yes to {precision:.0%} of the labels: "
                "set predict.precision lower, or null."
            )
        return found


def fit_scores(scores: ArrayLike, is_yes: ArrayLike) -> dict[str, Any]:
    """What ``scores`` (float32 [n]) are worth by the teacher's yes (``is_yes``, bool [n]); for a manifest.

    ``min_score``: of the highest F1; -1, which keeps all, where no pair got a yes. ``precision_thresholds`` and
    ``probability``: None without a yes. ``probability_error``: of the latter.
    """
    if not np.any(is_yes):
        return {"min_score": -1.0, "precision_thresholds": None, "probability": None, "probability_error": None}
    curve = fit_probability(scores, is_yes)
    return {
        "min_score": fit_min_score(scores, is_yes),
        "precision_thresholds": precision_thresholds(scores, is_yes),
        "probability": asdict(curve) if curve else None,
        "probability_error": probability_error(scores, is_yes),
    }


def fit_min_score(similarity: ArrayLike, is_yes: ArrayLike) -> float:
    """The similarity that, as a least score, predicts the teacher's yes with the highest F1; of equals the higher.

    ``similarity`` float32 [n], ``is_yes`` bool [n]; the answer is one of the similarities.
    """
    scores, counts, hits = _by_threshold(similarity, is_yes)
    f1 = 2 * hits / (counts + hits[-1])
    return float(scores[np.argmax(f1)])


def precision_thresholds(similarity: ArrayLike, is_yes: ArrayLike) -> list[float | None]:
    """For each of :data:`PRECISIONS` the lowest least score above which so many pairs got a yes; None: there is none.

    ``similarity`` float32 [n], ``is_yes`` bool [n]; the answers are similarities. A threshold is above at least
    :data:`MIN_PAIRS` pairs: one lucky pair at the top is no precision.
    """
    scores, counts, hits = _by_threshold(similarity, is_yes)
    enough = counts >= MIN_PAIRS
    precision = hits / counts
    found: list[float | None] = []
    for wanted in PRECISIONS:
        places = np.flatnonzero(enough & (precision >= wanted))
        found.append(float(scores[places[-1]]) if len(places) else None)
    return found


def threshold_of_precision(thresholds: Sequence[float | None], precision: float) -> float | None:
    """What :func:`precision_thresholds` found for ``precision``, rounded up to the next that it has."""
    place = int(np.searchsorted(np.array(PRECISIONS), precision - 1e-9))
    return thresholds[min(place, len(thresholds) - 1)]


def fit_probability(similarity: ArrayLike, is_yes: ArrayLike) -> ProbabilityCurve | None:
    """The curve of ``similarity`` (float32 [n]) and ``is_yes`` (bool [n]); None where there are too few pairs.

    Isotonic regression (Zadrozny and Elkan, KDD 2002) of the shares of yes among neighboring pairs, so many together
    that a share says something. To what it pools a pair of each kind is added (Laplace), so that no chance is 0 or 1.
    """
    scores, yes = _sorted(similarity, is_yes)
    points = min(MAX_POINTS, len(scores) // MIN_PAIRS)
    if points < 2:
        return None
    from sklearn.isotonic import IsotonicRegression  # seconds of imports, for who fits one

    parts = np.array_split(np.arange(len(scores)), points)
    centers = np.array([scores[part].mean() for part in parts])
    hits, pairs = np.array([yes[part].sum() for part in parts]), np.array([len(part) for part in parts])
    rising = IsotonicRegression().fit_transform(centers, hits / pairs, sample_weight=pairs)
    block = np.cumsum(np.diff(rising, prepend=rising[0]) > 0)
    shares = (np.bincount(block, hits) + 1) / (np.bincount(block, pairs) + 2)
    # A short block beside a long one may have come out of order by what was added.
    rising = IsotonicRegression().fit_transform(np.arange(len(shares)), shares, sample_weight=np.bincount(block, pairs))
    centers, first = np.unique(centers, return_index=True)
    return ProbabilityCurve(tuple(centers.tolist()), tuple(rising[block][first].tolist()))


def probability_error(similarity: ArrayLike, is_yes: ArrayLike) -> float | None:
    """How far the curve's chances lie from the shares of yes that were found, 0 to 1; None where there are too few.

    The expected calibration error (Naeini et al., AAAI 2015) in :data:`ERROR_BINS` bins. The pairs come in the order of
    their documents; each fifth is measured by a curve of the others.
    """
    scores, yes = np.asarray(similarity, dtype=np.float64), np.asarray(is_yes, dtype=bool)
    promised = np.full(len(scores), np.nan)
    for part in np.array_split(np.arange(len(scores)), FOLDS):
        others = np.ones(len(scores), bool)
        others[part] = False
        curve = fit_probability(scores[others], yes[others])
        if curve is None:
            return None
        promised[part] = curve(scores[part])
    bins = np.minimum((promised * ERROR_BINS).astype(int), ERROR_BINS - 1)
    gaps = np.bincount(bins, promised - yes, ERROR_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def _sorted(similarity: ArrayLike, is_yes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Both, by rising similarity."""
    scores, yes = np.asarray(similarity, dtype=np.float64), np.asarray(is_yes, dtype=bool)
    order = np.argsort(scores, kind="stable")
    return scores[order], yes[order]


def _by_threshold(
    similarity: ArrayLike, is_yes: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Each similarity as a threshold, falling: how many pairs are not below it, and how many of these got a yes."""
    scores, yes = np.asarray(similarity, dtype=np.float32), np.asarray(is_yes, dtype=bool)
    if not len(scores):
        raise ValueError("a least score needs at least one pair")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(yes[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal similarities are in or out together
    return scores[ends], ends + 1, hits[ends]

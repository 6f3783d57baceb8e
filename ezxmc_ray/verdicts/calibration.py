"""From stored raw scores to calibrated verdicts, and the thresholds that are fitted on them. Cheap, no LLM.

Comes in: raw scores, label priors. Goes out: verdicts in a space where differences mean something, and the verdict from
which on a pair counts as yes. Methods:

- ``none``: for ``yes_no`` and ``classify`` the logit of P(yes), clipped to [1e-6, 1 - 1e-6]; for ``likelihood`` the
  raw score;
- ``label_prior``: that, minus the same of the label beside no document (a content-free prompt, as in contextual
  calibration, Zhao et al., arXiv 2102.09690).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.readout import resolve_readout

#: What a teacher is read by, as teacher.readout names it.
READOUTS = ("yes_no", "likelihood", "classify")
BINS = 256
_MIN_PROBABILITY = 1e-6


def resolve_calibration(config: TeacherConfig) -> str:
    """The method that ``config.calibration`` means: auto is label_prior, but none for classify."""
    return _method(resolve_readout(config), config.calibration)


def calibrate(raw: ArrayLike, prior: ArrayLike | None, readout: str, method: str) -> NDArray[np.float32]:
    """Verdicts, float32 [n], from ``raw`` float32 [n] and what the pairs' labels score by themselves.

    ``prior`` [n]: raw scores of the labels beside no document, for label_prior. ``method`` auto is resolved by
    ``readout`` as in :func:`resolve_calibration`. NaN stays NaN.
    """
    if readout not in READOUTS or method not in ("auto", "none", "label_prior"):
        raise ValueError(f"no calibration {method!r} of the read-out {readout!r}")
    method = _method(readout, method)
    verdicts = additive(raw, readout)
    if method != "none":
        if prior is None:
            raise ValueError(f"the calibration {method} needs what the labels score by themselves")
        verdicts = verdicts - additive(prior, readout)
    return verdicts.astype(np.float32)


def _method(readout: str, method: str) -> str:
    if method != "auto":
        return method
    return "none" if readout == "classify" else "label_prior"


def yes_threshold(counts: ArrayLike, edges: ArrayLike) -> float:
    """The verdict from which on a pair counts as yes: Otsu's split of a histogram into two classes.

    ``counts`` int64 [bins] (histograms of many shards over the same edges add up), ``edges`` float64 [bins + 1]. The
    split maximizes the variance between the classes; where several do (empty bins between two heaps) their middle is
    taken. If all verdicts are in one bin, they all count as yes. Source: Otsu 1979, IEEE Trans. SMC 9(1).
    """
    weights, limits = np.asarray(counts, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    if not weights.sum():
        raise ValueError("a threshold needs at least one verdict")
    centers = (limits[:-1] + limits[1:]) / 2
    below = np.cumsum(weights)[:-1]  # of the class under each inner edge
    above = weights.sum() - below
    sums = np.cumsum(weights * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * gap**2, 0.0)
    if between.max(initial=0.0) <= 0.0:
        return float(limits[np.flatnonzero(weights)[0]])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float((limits[best[0] + 1] + limits[best[-1] + 1]) / 2)


def yes_threshold_of(verdicts: ArrayLike) -> float:
    """:func:`yes_threshold` of verdicts that are at hand, float32 [n]: 256 bins from their least to their greatest."""
    values = np.asarray(verdicts, dtype=np.float64)
    counts, edges = np.histogram(values, BINS)
    return yes_threshold(counts, edges)


def additive(raw: ArrayLike, readout: str) -> NDArray[np.float64]:
    """Raw scores, float64 [n], in a space where a difference is a log ratio: logits, or log likelihoods as they are."""
    values = np.asarray(raw, dtype=np.float64)
    if readout == "likelihood":
        return values
    clipped = np.clip(values, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return np.log(clipped) - np.log1p(-clipped)

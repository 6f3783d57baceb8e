"""Does a teacher's first few hundred verdicts look like noise? Asked without gold labels, before the rest is paid for.

Comes in: the verdicts on some documents' shortlists, and the similarities that the shortlists were made by. Goes out:
measures, and a sentence if the teacher looks weak. A similarity by an encoder knows something of which label fits, so
whoever judges on content agrees with it more than chance does, also inside a shortlist that was chosen by it. What the
limits are made of is in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ezxmc_ray.verdicts.calibration import yes_threshold_of

#: Pairs, and documents at least, that a judgment is made of. With fewer documents none is made.
PAIRS, DOCUMENTS = 300, 20
#: Standard errors by which the order must agree with the similarity's more than a random one. Of 300 pairs of teachers
#: with AUC 0.76 and 0.81 within a document 0.2 % and 0.0 % of samples have less, of gold labels taken as verdicts 0.2 %
#: and 0.4 %, of a teacher with AUC 0.52 99.8 %, of noise 96 % and 99 % (2,000 samples each).
MIN_LEAD = 2.0
#: Share of equal scores among a document's labels from which on the teacher says the same of all (0.00 and 0.01 of
#: those two; 0.91 of a constant with a little noise).
MAX_TIES = 0.5

Lists = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Weakness:
    """How far the verdicts on ``pairs`` pairs of ``documents`` documents go with the similarity.

    ``agreement``: mean Spearman correlation of the two within a document (0 where all verdicts are equal), and
    ``lead``: the same in standard errors of a random order's. ``ties``: share of equal verdicts among the pairs of
    labels of a document. ``spread``: standard deviation of a document's verdicts, the median. ``share_yes_by_rank``:
    share of yes at each place of the shortlists. ``sentence``: what is wrong, None if nothing is.
    """

    documents: int
    pairs: int
    agreement: float
    lead: float
    ties: float
    spread: float
    share_yes_by_rank: list[float]
    sentence: str | None


def weakness(
    verdicts: Lists, similarities: Lists, readout: str, threshold: float | None = None, is_second: bool = False
) -> Weakness | None:
    """Judge a teacher by some of its verdicts; None where there are too few documents to say anything.

    ``verdicts`` and ``similarities``: n float arrays, a document's labels in the order of its shortlist; documents with
    one label say nothing. ``threshold``: the verdict from which on a pair is a yes; None: Otsu's split. By the read-out
    the sentence says what to try; ``is_second``: it is the teacher's second one.
    """
    pairs = [(v, s) for v, s in zip(verdicts, similarities, strict=True) if len(v) > 1]
    if len(pairs) < DOCUMENTS:
        return None
    agreement = float(np.mean([_spearman(*one) for one in pairs]))
    # A random order of k verdicts, some of them equal or not, has the variance 1 / (k - 1); equal ones have no order.
    error = np.sqrt(sum(1 / (len(v) - 1) for v, _ in pairs if v.min() < v.max())) / len(pairs)
    found: dict[str, Any] = {
        "documents": len(pairs),
        "pairs": sum(len(v) for v, _ in pairs),
        "agreement": agreement,
        "lead": agreement / float(error) if error else 0.0,
        "ties": float(np.mean([_ties(v) for v, _ in pairs])),
        "spread": float(np.median([v.std() for v, _ in pairs])),
        "share_yes_by_rank": _share_yes_by_rank([v for v, _ in pairs], threshold),
    }
    return Weakness(**found, sentence=_sentence(found, readout, is_second) if found["lead"] < MIN_LEAD else None)


def _sentence(found: dict[str, Any], readout: str, is_second: bool) -> str:
    """What is wrong with a teacher whose order does not agree with the similarity's, and what to try."""
    documents = f"{found['documents']:,} documents"
    correlation = f"mean rank correlation {round(found['agreement'], 2) + 0.0:.2f}"  # no -0.00
    if found["ties"] >= MAX_TIES:
        what = f"gives labels of a document the same score ({found['ties']:.0%} of their pairs, in {documents})"
    elif found["lead"] < -MIN_LEAD:
        what = f"puts the labels that are least like a document first ({correlation} with the similarity, {documents})"
    else:
        what = (
            "looks like noise: its order of a document's labels has nothing to do with their similarity to it "
            f"({correlation}, {documents}; 0.3 where a teacher was of use)"
        )
    others = "another teacher.model, teacher.prompt or teacher.examples"
    tried = others if readout == "likelihood" else f"teacher.readout=likelihood (for small models), {others}"
    if is_second:
        tried = f"teacher.second_readout=none, {others}"
    teacher = f"the teacher, read a second time by its {readout}," if is_second else "the teacher"
    return f"After {found['pairs']:,} pairs {teacher} {what}: try {tried}."


def _spearman(verdict: NDArray[Any], similarity: NDArray[Any]) -> float:
    ranks = [rankdata(one) for one in (verdict, similarity)]
    if any(one.min() == one.max() for one in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ties(verdict: NDArray[Any]) -> float:
    """Share of the pairs of labels whose verdicts are equal."""
    _, counts = np.unique(verdict, return_counts=True)
    return float((counts * (counts - 1)).sum() / (len(verdict) * (len(verdict) - 1)))


def _share_yes_by_rank(verdicts: Lists, threshold: float | None) -> list[float]:
    limit = yes_threshold_of(np.concatenate(verdicts)) if threshold is None else threshold
    size = max(map(len, verdicts))
    yes = np.full((len(verdicts), size), np.nan)
    for row, verdict in zip(yes, verdicts, strict=True):
        row[: len(verdict)] = verdict >= limit
    shares: list[float] = np.nanmean(yes, axis=0).tolist()
    return shares

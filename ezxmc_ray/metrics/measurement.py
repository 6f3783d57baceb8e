"""All measures of a ranking, document by document, so that they can be taken again on any sample of the documents.

Comes in: rankings and gold labels. Goes out: values in percent, their bootstrap intervals, and paired differences of
two rankings of the same documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ezxmc_ray.metrics.bootstrap import Interval, intervals_of
from ezxmc_ray.metrics.propensity import PROPENSITY_MEASURES
from ezxmc_ray.metrics.ranking import MEASURES, Gold, Values, gold_sizes, per_document

#: What a Measurement measures, in this order.
ALL_MEASURES = (*MEASURES, *PROPENSITY_MEASURES)


@dataclass(frozen=True)
class Measurement:
    """What a ranking gains and what was to be gained, for the documents that have gold labels.

    ``gains`` and ``best``: float64 [documents, len(ALL_MEASURES)], gains in percent. The value of a measure is the sum
    of its gains over that of its best: for those of MEASURES, whose best is 1, the mean over documents.
    """

    gains: Values
    best: Values

    def __len__(self) -> int:
        return len(self.gains)

    def values(self, weights: Values) -> Values:
        """Each measure in percent, float64 [samples, measures], NaN without documents.

        ``weights``: float64 [samples, documents], how often each document counts.
        """
        gains, best = weights @ self.gains, weights @ self.best
        return np.divide(gains, best, out=np.full(gains.shape, np.nan), where=best > 0)

    def named(self) -> dict[str, float]:
        """Each measure by its name, percent."""
        return dict(zip(ALL_MEASURES, self.values(np.ones((1, len(self))))[0].tolist(), strict=True))

    def intervals(self, seed: int) -> dict[str, Interval]:
        """The 95 % interval of each measure by its name; None with too few documents."""
        return dict(zip(ALL_MEASURES, intervals_of(self.values, len(self), seed), strict=True))

    def take(self, rows: npt.NDArray[Any]) -> Measurement:
        """The documents ``rows`` (positions or bool), in that order."""
        return Measurement(self.gains[rows], self.best[rows])


def measure(ranked: npt.NDArray[Any], gold: Gold, inverse: Values) -> Measurement:
    """The measurement of ``ranked``; documents without gold labels are left out.

    ``ranked`` and ``gold`` as precision_at_k; ``inverse``: float64 [labels], of inverse_propensities.
    """
    gains = list(per_document(ranked, gold).values())
    best = [np.ones(len(gold))] * len(gains)
    for function, k in PROPENSITY_MEASURES.values():
        gained, most = function(ranked, gold, inverse, k)
        gains.append(100.0 * gained)
        best.append(most)
    return Measurement(np.stack(gains, axis=1), np.stack(best, axis=1)).take(gold_sizes(gold) > 0)


def join(parts: Sequence[Measurement]) -> Measurement:
    """The documents of all ``parts`` (at least one), one part after the other."""
    return Measurement(np.concatenate([part.gains for part in parts]), np.concatenate([part.best for part in parts]))


def paired_differences(first: Measurement, second: Measurement, seed: int) -> dict[str, dict[str, Any]]:
    """``difference`` (second minus first, points) and its paired 95 % ``interval`` by measure.

    Both must hold the same documents in the same order. The difference is significant where the interval leaves out 0.
    """
    if len(first) != len(second):
        raise ValueError(f"rankings of {len(first)} and of {len(second)} documents cannot be paired")

    def difference(weights: Values) -> Values:
        return second.values(weights) - first.values(weights)

    values = difference(np.ones((1, len(first))))[0].tolist()
    intervals = intervals_of(difference, len(first), seed)
    return {
        name: {"difference": value, "interval": interval}
        for name, value, interval in zip(ALL_MEASURES, values, intervals, strict=True)
    }

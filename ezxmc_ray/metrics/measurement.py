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

from ezxmc_ray.metrics.bootstrap import MAX_DRAWN, Interval, intervals_of
from ezxmc_ray.metrics.moments import Moments, Ratio
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
        if len(self) > MAX_DRAWN:
            return MeasurementSums.of([self]).intervals(0)
        return dict(zip(ALL_MEASURES, intervals_of(self.values, len(self), seed), strict=True))

    def take(self, rows: npt.NDArray[Any]) -> Measurement:
        """The documents ``rows`` (positions or bool), in that order."""
        return Measurement(self.gains[rows], self.best[rows])


@dataclass(frozen=True)
class MeasurementSums:
    """What several rankings of the same documents add up to, for more documents than a task is to hold.

    ``moments``: of the gains and the best of the first ranking, then of the second one, and so on.
    """

    moments: Moments

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> MeasurementSums:
        """Of the same documents in the same order."""
        return cls(Moments.of(np.concatenate([part for one in measurements for part in (one.gains, one.best)], axis=1)))

    def __len__(self) -> int:
        return self.moments.documents

    def __add__(self, other: MeasurementSums) -> MeasurementSums:
        """Of the documents of both."""
        return MeasurementSums(self.moments + other.moments)

    def named(self, ranking: int) -> dict[str, float]:
        """Each measure of ranking number ``ranking`` by its name, percent."""
        return {name: self.moments.ratio(one) for name, one in zip(ALL_MEASURES, _ratios(ranking), strict=True)}

    def intervals(self, ranking: int) -> dict[str, Interval]:
        """The 95 % interval of each measure of ranking number ``ranking`` by its name."""
        return {name: self.moments.interval([one]) for name, one in zip(ALL_MEASURES, _ratios(ranking), strict=True)}

    def differences(self, first: int, second: int) -> dict[str, dict[str, Any]]:
        """As :func:`paired_differences`, of rankings number ``first`` and ``second``."""
        terms = zip(ALL_MEASURES, _ratios(first, -1.0), _ratios(second), strict=True)
        return {
            name: {
                "difference": self.moments.ratio(minus) + self.moments.ratio(plus),
                "interval": self.moments.interval([minus, plus]),
            }
            for name, minus, plus in terms
        }


def _ratios(ranking: int, sign: float = 1.0) -> list[Ratio]:
    """Each measure of a ranking as a ratio of columns of MeasurementSums."""
    count = len(ALL_MEASURES)
    first = 2 * ranking * count
    return [Ratio(first + number, first + count + number, sign) for number in range(count)]


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
    if len(first) > MAX_DRAWN:
        return MeasurementSums.of([first, second]).differences(0, 1)

    def difference(weights: Values) -> Values:
        return second.values(weights) - first.values(weights)

    values = difference(np.ones((1, len(first))))[0].tolist()
    intervals = intervals_of(difference, len(first), seed)
    return {
        name: {"difference": value, "interval": interval}
        for name, value, interval in zip(ALL_MEASURES, values, intervals, strict=True)
    }

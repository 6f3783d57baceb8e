"""Sums that add up over shards, of which ratios of means and their intervals are made without the documents.

Comes in: values of documents, shard by shard. Goes out: 95 % intervals by the delta method (van der Vaart, Asymptotic
Statistics, 1998, section 3.1): a difference of ratios of sums is close to linear in the documents where there are very
many, so it is normal, with the variance of its influence function. The percentile bootstrap comes to the same interval
there (Efron and Tibshirani 1993, chapter 13), for 2,000 times the work and all documents at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ezxmc_ray.metrics.ranking import Values

#: Of the normal distribution 95 % lie within so many standard deviations.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Ratio:
    """The sum of column ``part`` over that of column ``whole``, times ``sign``."""

    part: int
    whole: int
    sign: float = 1.0


@dataclass(frozen=True)
class Moments:
    """Of the values of ``documents``: ``sums`` float64 [columns], and ``products`` float64 [columns, columns], the sums
    of the products of two columns."""

    documents: int
    sums: Values
    products: Values

    @classmethod
    def of(cls, values: Values) -> Moments:
        """Of ``values``, float64 [documents, columns]."""
        return cls(len(values), values.sum(axis=0), values.T @ values)

    def __add__(self, other: Moments) -> Moments:
        """Of the documents of both."""
        return Moments(self.documents + other.documents, self.sums + other.sums, self.products + other.products)

    def ratio(self, one: Ratio) -> float:
        """The value of ``one``, NaN where the whole is 0."""
        whole = self.sums[one.whole]
        return float(one.sign * self.sums[one.part] / whole) if whole else np.nan

    def interval(self, terms: Sequence[Ratio]) -> tuple[float, float]:
        """The 95 % interval of the sum of ``terms``; two documents at least."""
        influence = np.zeros(len(self.sums))  # of a document, as a weight of each of its values
        for one in terms:
            whole = self.sums[one.whole] or np.nan
            influence[one.part] += one.sign / whole
            influence[one.whole] -= one.sign * self.sums[one.part] / whole**2
        variance = float(influence @ self.products @ influence) * self.documents / (self.documents - 1)
        value, reach = sum(self.ratio(one) for one in terms), Z_95 * np.sqrt(max(variance, 0.0))
        return float(value - reach), float(value + reach)

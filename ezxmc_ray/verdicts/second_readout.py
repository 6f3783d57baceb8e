"""Two read-outs of one LLM as one verdict: what it answers, and how likely it finds the label.

Comes in: verdicts by the first read-out (examples.py), raw scores of the second, which lie in a verdict store of their
own. Goes out: their sum, on the first one's scale. The two err in different places, so together they order labels
better than either (docs/experiments.md). The scale is that of cycle 0's pairs in every cycle, and in all that the run
tags later: a verdict means the same wherever it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezxmc_ray.student.targets import TargetSums, scale_of
from ezxmc_ray.verdicts.calibration import additive

#: What a judge manifest calls it, and the one there is.
SECOND, LIKELIHOOD = "second_readout", "likelihood"


@dataclass(frozen=True)
class SecondReadout:
    """How the second read-out of a teacher counts: ``key`` of its verdict store, ``readout``, and its scale.

    A pair's verdict is the first read-out's + (the second's - ``mean``) x ``factor``: ``mean`` is the second's over the
    pairs of cycle 0, ``factor`` the ratio of the deviations there, so that both weigh the same.
    """

    key: str
    readout: str
    mean: float
    factor: float

    @classmethod
    def of_sums(cls, key: str, readout: str, sums: TargetSums) -> SecondReadout:
        """The scale by ``sums`` over cycle 0's pairs, the second read-out in the place of the similarity."""
        scale = scale_of(sums)
        return cls(key, readout, scale.similarity_mean, scale.verdict_std / scale.similarity_std)

    @classmethod
    def of_manifest(cls, details: Mapping[str, Any]) -> SecondReadout | None:
        """As the ``details`` of a judge manifest have it; None: its teacher was read once."""
        found = details.get(SECOND)
        return None if found is None else cls(found["key"], found["readout"], found["mean"], found["factor"])

    def add_to(self, verdict: NDArray[np.float32], raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Verdicts of both read-outs, float32 [n]: ``verdict`` of the first, ``raw`` of the second; NaN stays NaN."""
        both = verdict.astype(np.float64) + (additive(raw, self.readout) - self.mean) * self.factor
        return both.astype(np.float32)

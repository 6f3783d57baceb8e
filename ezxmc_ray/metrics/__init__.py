"""Measures of rankings, of scores within a shortlist and of probabilities, and bootstrap intervals. Plain NumPy.

Comes in: ranked label numbers (or scores) and gold labels of the same documents. Goes out: values, in percent for all
ranking measures. Documents without gold labels are left out of every mean; ``documents`` says how many are in it.
"""

from __future__ import annotations

from ezxmc_ray.metrics.bins import (
    BIN_MEASURES,
    BINS,
    LabelTallies,
    bin_of_labels,
    macro_by_bin,
    tally_labels,
)
from ezxmc_ray.metrics.bootstrap import MAX_DRAWN, MIN_DOCUMENTS, Interval, bootstrap_intervals
from ezxmc_ray.metrics.measurement import (
    ALL_MEASURES,
    Measurement,
    MeasurementSums,
    join,
    measure,
    paired_differences,
)
from ezxmc_ray.metrics.propensity import (
    PROPENSITY_MEASURES,
    inverse_propensities,
    propensity_ndcg_at_k,
    propensity_precision_at_k,
)
from ezxmc_ray.metrics.ranking import (
    MEASURES,
    evaluate,
    means,
    ndcg_at_k,
    per_document,
    precision_at_k,
    recall_at_k,
)
from ezxmc_ray.metrics.scores import (
    auc_per_document,
    equal_count_bins,
    expected_calibration_error,
    precision_at_1_of_scores,
    precision_of_highest,
)

__all__ = [
    "ALL_MEASURES",
    "BINS",
    "BIN_MEASURES",
    "MAX_DRAWN",
    "MEASURES",
    "MIN_DOCUMENTS",
    "PROPENSITY_MEASURES",
    "Interval",
    "LabelTallies",
    "Measurement",
    "MeasurementSums",
    "auc_per_document",
    "bin_of_labels",
    "bootstrap_intervals",
    "equal_count_bins",
    "evaluate",
    "expected_calibration_error",
    "inverse_propensities",
    "join",
    "macro_by_bin",
    "means",
    "measure",
    "ndcg_at_k",
    "paired_differences",
    "per_document",
    "precision_at_1_of_scores",
    "precision_at_k",
    "precision_of_highest",
    "propensity_ndcg_at_k",
    "propensity_precision_at_k",
    "recall_at_k",
    "tally_labels",
]

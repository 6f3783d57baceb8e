from __future__ import annotations

import math

import numpy as np
import pytest

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.verdicts.calibration import (
    calibrate,
    resolve_calibration,
    yes_threshold,
    yes_threshold_of,
)


def test_auto_goes_by_the_readout() -> None:
    assert resolve_calibration(TeacherConfig(readout="yes_no")) == "label_prior"
    assert resolve_calibration(TeacherConfig(readout="likelihood")) == "label_prior"
    assert resolve_calibration(TeacherConfig(readout="classify")) == "none"
    assert resolve_calibration(TeacherConfig(readout="yes_no", calibration="none")) == "none"


def test_against_plain_float64() -> None:
    rng = np.random.default_rng(0)
    raw, prior = rng.uniform(size=50).astype(np.float32), rng.uniform(size=50).astype(np.float32)
    logit = [math.log(float(p)) - math.log(1 - float(p)) for p in raw]
    logit_prior = [math.log(float(p)) - math.log(1 - float(p)) for p in prior]
    np.testing.assert_allclose(calibrate(raw, None, "yes_no", "none"), logit, rtol=1e-5)
    difference = [a - b for a, b in zip(logit, logit_prior, strict=True)]
    np.testing.assert_allclose(calibrate(raw, prior, "yes_no", "label_prior"), difference, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(calibrate(raw, prior, "likelihood", "none"), raw)
    np.testing.assert_array_equal(
        calibrate(raw, prior, "likelihood", "auto"), (raw.astype(float) - prior.astype(float)).astype(np.float32)
    )


def test_certain_answers_stay_finite() -> None:
    ends = calibrate([0.0, 1.0], None, "yes_no", "none")
    np.testing.assert_allclose(ends, [-math.log(1e6 - 1), math.log(1e6 - 1)], rtol=1e-5)


def test_a_missing_prior_and_an_unknown_method_are_faults() -> None:
    with pytest.raises(ValueError, match="label_prior needs what the labels score by themselves"):
        calibrate([0.5], None, "likelihood", "auto")
    with pytest.raises(ValueError, match="no calibration"):
        calibrate([0.5], None, "none", "yes_no")


def test_a_classifiers_score_is_taken_as_a_probability() -> None:
    np.testing.assert_array_equal(
        calibrate([0.3, 0.9], None, "classify", "auto"), calibrate([0.3, 0.9], None, "yes_no", "none")
    )


def test_the_threshold_lies_between_two_heaps_wherever_they_are() -> None:
    rng = np.random.default_rng(1)
    for low, high in ((-8.0, -5.0), (0.0, 9.0), (-1.0, 1.0)):
        heaps = np.concatenate([rng.normal(low, 0.2, 900), rng.normal(high, 0.2, 100)])
        assert low + 0.6 < yes_threshold_of(heaps) < high - 0.6
        assert (heaps >= yes_threshold_of(heaps)).sum() == 100


def test_the_threshold_is_otsus_by_a_plain_loop() -> None:
    values = np.random.default_rng(2).normal(size=500) ** 3
    counts, edges = np.histogram(values, 256)
    centers = np.repeat((edges[:-1] + edges[1:]) / 2, counts)
    within = [
        (centers[:k].var() * k + centers[k:].var() * (500 - k), k) for k in range(1, 500) if centers[k - 1] < centers[k]
    ]
    split = min(within)[1]
    threshold = yes_threshold(counts, edges)
    assert centers[split - 1] < threshold < centers[split]


def test_the_threshold_of_merged_histograms_is_that_of_all() -> None:
    values = np.random.default_rng(3).normal(size=1000)
    edges = np.linspace(values.min(), values.max(), 257)
    merged = sum(np.histogram(part, edges)[0] for part in np.split(values, 10))
    assert yes_threshold(merged, edges) == yes_threshold_of(values)


def test_verdicts_that_are_all_equal_all_count_as_yes() -> None:
    assert (np.full(5, 3.0) >= yes_threshold_of(np.full(5, 3.0))).all()

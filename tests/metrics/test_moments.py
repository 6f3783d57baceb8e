"""Intervals from sums against the bootstrap of the same documents, and where they are the bootstrap's successors."""

from __future__ import annotations

import numpy as np
import pytest

from ezxmc_ray import metrics
from ezxmc_ray.metrics import bootstrap, measurement
from ezxmc_ray.metrics.measurement import Measurement, MeasurementSums, paired_differences
from ezxmc_ray.metrics.moments import Moments, Ratio

DOCUMENTS = 4000


def measured(seed: int, base: np.ndarray | None = None) -> Measurement:
    """Gains from 0 to 100 of documents whose best is what a skewed chance says, as of labels by propensity."""
    draw = np.random.default_rng(seed)
    count = len(measurement.ALL_MEASURES)
    best = draw.gamma(1.0, 1.0, (DOCUMENTS, count)) if base is None else base
    return Measurement(100 * best * (draw.random((DOCUMENTS, count)) < 0.3), best)


def test_moments_of_parts_add_up_to_those_of_all() -> None:
    values = np.random.default_rng(0).normal(3, 1, (90, 4))
    whole, parts = Moments.of(values), Moments.of(values[:13]) + Moments.of(values[13:13]) + Moments.of(values[13:])
    assert whole.documents == parts.documents == 90
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-12)
    np.testing.assert_allclose(parts.products, whole.products, rtol=1e-12)


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(1).exponential(2.0, DOCUMENTS)
    found = Moments.of(np.stack([values, np.ones(DOCUMENTS)], axis=1)).interval([Ratio(0, 1)])
    reach = 1.959964 * values.std(ddof=1) / np.sqrt(DOCUMENTS)
    assert found == pytest.approx((values.mean() - reach, values.mean() + reach), rel=1e-6)


def test_ratios_and_paired_differences_have_the_intervals_of_the_bootstrap() -> None:
    first = measured(2)
    second = measured(3, first.best)
    sums = MeasurementSums.of([first, second])
    for number, one in enumerate((first, second)):
        assert sums.named(number) == pytest.approx(one.named(), rel=1e-9)
        for name, interval in one.intervals(0).items():
            assert interval is not None
            width = interval[1] - interval[0]
            assert sums.intervals(number)[name] == pytest.approx(interval, abs=width / 15)
    for name, row in paired_differences(first, second, 0).items():
        found, width = sums.differences(0, 1)[name], row["interval"][1] - row["interval"][0]
        assert found["difference"] == pytest.approx(row["difference"], abs=1e-9)
        assert found["interval"] == pytest.approx(row["interval"], abs=width / 15)


def test_above_the_bound_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    one, values = measured(4), {"x": np.random.default_rng(5).normal(size=DOCUMENTS)}
    drawn = metrics.bootstrap_intervals(values, 0)["x"]
    for module in (bootstrap, measurement):
        monkeypatch.setattr(module, "MAX_DRAWN", DOCUMENTS - 1)
    monkeypatch.setattr(bootstrap, "_samples", None)  # a call of it would raise
    assert drawn is not None and metrics.bootstrap_intervals(values, 0)["x"] == pytest.approx(drawn, abs=0.005)
    assert one.intervals(0) == MeasurementSums.of([one]).intervals(0)
    assert paired_differences(one, one, 0)["P@1"] == {"difference": 0.0, "interval": (0.0, 0.0)}


def test_tallies_of_parts_give_the_measures_of_all() -> None:
    draw = np.random.default_rng(6)
    ranked = np.array([draw.permutation(40)[:12] for _ in range(60)], np.int32)
    gold = [draw.permutation(40)[: draw.integers(0, 4)].astype(np.int32) for _ in range(60)]
    whole = metrics.tally_labels(ranked, gold).measures()
    parts = [metrics.tally_labels(ranked[start:stop], gold[start:stop]) for start, stop in ((0, 7), (7, 7), (7, 60))]
    added = (parts[0] + parts[1] + parts[2]).measures()
    for name in ("labels", "recall", "precision"):
        np.testing.assert_array_equal(getattr(added, name), getattr(whole, name))

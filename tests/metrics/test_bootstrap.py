"""Bootstrap intervals against a distribution that is known and against a slow loop."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
import scipy.stats

from ezxmc_ray import metrics


def test_bootstrap_intervals_of_shares_are_those_of_the_binomial_distribution() -> None:
    hits = np.array([1.0] * 12 + [0.0] * 28)
    low, high = metrics.bootstrap_intervals({"hits": hits}, 0)["hits"] or (0.0, 0.0)
    expected = scipy.stats.binom(40, 0.3).ppf([0.025, 0.975]) / 40
    assert (low, high) == pytest.approx(expected, abs=1 / 40 + 1e-9)


def test_bootstrap_intervals_are_paired_and_equal_a_slow_loop() -> None:
    generator = np.random.default_rng(1)
    hard = generator.random(25)
    first, second = hard + generator.normal(0.05, 0.02, 25), hard
    found = metrics.bootstrap_intervals({"first": first, "second": second, "difference": first - second}, 3)
    draw, means = random.Random(7), {"first": [], "second": [], "difference": []}
    for _ in range(6000):
        documents = [draw.randrange(25) for _ in range(25)]
        one, other = sum(first[d] for d in documents) / 25, sum(second[d] for d in documents) / 25
        for name, value in (("first", one), ("second", other), ("difference", one - other)):
            means[name].append(value)
    for name, values in means.items():
        expected = statistics.quantiles(values, n=40)
        width = expected[-1] - expected[0]
        assert found[name] == pytest.approx((expected[0], expected[-1]), abs=0.08 * width)
    widths = {name: ends[1] - ends[0] for name, ends in found.items() if ends}
    assert widths["difference"] < 0.2 * widths["first"]


def test_bootstrap_intervals_are_seeded_and_need_ten_documents() -> None:
    values = {"a": np.random.default_rng(2).random(10)}
    assert metrics.bootstrap_intervals(values, 4) == metrics.bootstrap_intervals(values, 4)
    assert metrics.bootstrap_intervals(values, 4) != metrics.bootstrap_intervals(values, 5)
    assert metrics.bootstrap_intervals({"a": np.ones(10)}, 0) == {"a": (1.0, 1.0)}
    assert metrics.bootstrap_intervals({"a": np.ones(9), "b": np.ones(9)}, 0) == {"a": None, "b": None}
    assert metrics.bootstrap_intervals({"a": np.ones(0)}, 0) == {"a": None}

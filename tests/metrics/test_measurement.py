"""Measurements: the same values as the functions they are made of, and intervals that see the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from ezxmc_ray import metrics
from tests.metrics.cases import LABELS, random_case, random_counts

INVERSE = metrics.inverse_propensities(random_counts(0), 300)


def test_values_are_those_of_evaluate_and_of_the_propensity_measures() -> None:
    ranked, gold = random_case(4)
    measured = metrics.measure(ranked, gold, INVERSE)
    named, expected = measured.named(), metrics.evaluate(ranked, gold)
    assert len(measured) == expected.pop("documents") < len(gold)
    assert list(named) == [*metrics.MEASURES, *metrics.PROPENSITY_MEASURES]
    assert {name: named[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for name, (function, k) in metrics.PROPENSITY_MEASURES.items():
        gained, best = function(ranked, gold, INVERSE, k)
        assert named[name] == pytest.approx(100 * gained.sum() / best.sum(), abs=1e-9)


def test_weights_count_documents_as_often_as_they_say() -> None:
    ranked, gold = random_case(5)
    measured = metrics.measure(ranked, gold, INVERSE)
    times = np.random.default_rng(0).integers(0, 4, len(measured))
    drawn = np.repeat(np.flatnonzero([len(labels) > 0 for labels in gold]), times)
    expected = metrics.measure(ranked[drawn], [gold[row] for row in drawn], INVERSE).named()
    found = dict(zip(expected, measured.values(times[None].astype(float))[0], strict=True))
    assert found == pytest.approx(expected, abs=1e-9)


def test_parts_are_joined_and_taken_in_order() -> None:
    ranked, gold = random_case(6)
    whole = metrics.measure(ranked, gold, INVERSE)
    joined = metrics.join(
        [metrics.measure(ranked[:9], gold[:9], INVERSE), metrics.measure(ranked[9:], gold[9:], INVERSE)]
    )
    np.testing.assert_array_equal(joined.gains, whole.gains)
    np.testing.assert_array_equal(joined.best, whole.best)
    turned = whole.take(np.arange(len(whole))[::-1])
    np.testing.assert_array_equal(turned.best, whole.best[::-1])
    assert turned.named() == pytest.approx(whole.named(), abs=1e-9)


def test_intervals_of_means_are_those_of_bootstrap_intervals() -> None:
    ranked, gold = random_case(7)
    measured = metrics.measure(ranked, gold, INVERSE)
    values = {name: array[~np.isnan(array)] for name, array in metrics.per_document(ranked, gold).items()}
    expected = metrics.bootstrap_intervals(values, 3)
    found = measured.intervals(3)
    for name in metrics.MEASURES:
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


def test_the_interval_of_a_ratio_resamples_both_its_sums() -> None:
    ranked, gold = random_case(8)
    measured = metrics.measure(ranked, gold, INVERSE)
    column = list(metrics.ALL_MEASURES).index("PSP@5")
    generator = np.random.default_rng(11)
    ratios = []
    for _ in range(4000):
        rows = generator.integers(len(measured), size=len(measured))
        ratios.append(measured.gains[rows, column].sum() / measured.best[rows, column].sum())
    low, high = measured.intervals(0)["PSP@5"] or (0.0, 0.0)
    width = high - low
    assert (low, high) == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.08 * width)


def test_paired_differences_are_narrower_than_unpaired_ones_and_find_what_is_there() -> None:
    ranked, gold = random_case(9, documents=200)
    better = ranked.copy()
    for row in range(0, 200, 2):  # half of the documents get a right first label
        if len(gold[row]):
            better[row] = np.append(gold[row][0], ranked[row][ranked[row] != gold[row][0]])[:12]
    first, second = (metrics.measure(one, gold, INVERSE) for one in (ranked, better))
    over = metrics.paired_differences(first, second, 0)["P@1"]
    assert over["difference"] == pytest.approx(second.named()["P@1"] - first.named()["P@1"], abs=1e-9)
    low, high = over["interval"]
    assert 0 < low < over["difference"] < high
    ends = [second.intervals(0)["P@1"], first.intervals(0)["P@1"]]
    assert high - low < sum(end[1] - end[0] for end in ends if end)
    backwards = metrics.paired_differences(second, first, 0)["P@1"]["interval"]
    assert (-backwards[1], -backwards[0]) == pytest.approx((low, high), abs=1e-9)


def test_a_ranking_does_not_differ_from_itself() -> None:
    measured = metrics.measure(*random_case(10), INVERSE)
    assert {tuple(one.values()) for one in metrics.paired_differences(measured, measured, 0).values()} == {
        (0.0, (0.0, 0.0))
    }


def test_rankings_of_other_documents_cannot_be_paired() -> None:
    measured = metrics.measure(*random_case(10), INVERSE)
    with pytest.raises(ValueError, match="cannot be paired"):
        metrics.paired_differences(measured, measured.take(np.arange(5)), 0)


@pytest.mark.filterwarnings("error")
def test_without_gold_nothing_is_defined() -> None:
    measured = metrics.measure(np.full((3, 4), -1, np.int32), [np.array([], np.int32)] * 3, np.ones(LABELS))
    assert len(measured) == 0
    assert all(np.isnan(value) for value in measured.named().values())
    assert set(measured.intervals(0).values()) == {None}

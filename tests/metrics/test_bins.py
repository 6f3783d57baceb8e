"""Bins of labels by frequency, and macro recall and precision against slow loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from ezxmc_ray import metrics
from tests.metrics.cases import LABELS, random_case, random_counts


def named_bins(counts: list[int]) -> list[str]:
    return [metrics.BINS[number] for number in metrics.bin_of_labels(np.array(counts))]


def test_bins_follow_thirds_of_the_assignments() -> None:
    # 12 assignments: the first label holds 5 of them, with the second 8, with the third 10.
    assert named_bins([2, 5, 0, 3, 1, 1]) == ["tail", "head", "never seen", "torso", "tail", "tail"]


def test_labels_of_the_same_frequency_are_in_the_same_bin() -> None:
    assert named_bins([4, 4, 4, 4]) == ["head"] * 4
    assert named_bins([6, 1, 1, 1, 1, 1, 1]) == ["head"] + ["torso"] * 6
    assert named_bins([0, 0]) == ["never seen"] * 2
    assert named_bins([7]) == ["head"]


@pytest.mark.parametrize("seed", range(5))
def test_bins_of_random_counts_equal_a_slow_loop(seed: int) -> None:
    counts = random_counts(seed)
    for number, count in zip(metrics.bin_of_labels(counts), counts, strict=True):
        before = sum(int(other) for other in counts if other > count) / counts.sum()
        expected = "never seen" if count == 0 else ("head", "torso", "tail")[int(3 * before)]
        assert metrics.BINS[number] == expected


@pytest.mark.parametrize("seed", range(5))
def test_recall_and_precision_of_labels_equal_scikit_learn(seed: int) -> None:
    ranked, gold = random_case(seed)
    truth, found, proposed = (np.zeros((len(gold), LABELS), bool) for _ in range(3))
    for row, (labels, wanted) in enumerate(zip(ranked, gold, strict=True)):
        truth[row, wanted] = True
        found[row, labels[:10][labels[:10] >= 0]] = True
        proposed[row, labels[:5][labels[:5] >= 0]] = True
    measured = metrics.tally_labels(ranked, gold).measures()
    assert measured.labels.tolist() == np.flatnonzero(truth.any(axis=0)).tolist()
    recall = recall_score(truth, found, average=None, zero_division=0)
    precision = precision_score(truth, proposed, average=None, zero_division=0)
    np.testing.assert_allclose(measured.recall, 100 * recall[measured.labels], rtol=0, atol=1e-9)
    np.testing.assert_allclose(measured.precision, 100 * precision[measured.labels], rtol=0, atol=1e-9)


def test_macro_is_the_mean_over_the_labels_of_a_bin_with_its_interval() -> None:
    ranked, gold = random_case(2)
    bins = np.arange(LABELS) % 2
    measured = metrics.tally_labels(ranked, gold).measures()
    even = measured.labels % 2 == 0
    rows = metrics.macro_by_bin(measured, bins, 7)
    assert [list(row) for row in rows] == [["macro-R@10", "macro-P@5"]] * 4
    assert rows[0]["macro-R@10"]["value"] == pytest.approx(measured.recall[even].mean(), abs=1e-9)
    assert rows[1]["macro-P@5"]["value"] == pytest.approx(measured.precision[~even].mean(), abs=1e-9)
    expected = metrics.bootstrap_intervals({"recall": measured.recall[even]}, 7)["recall"]
    assert rows[0]["macro-R@10"]["interval"] == pytest.approx(expected, abs=1e-9)
    assert rows[2] == {name: {"value": None, "interval": None} for name in ("macro-R@10", "macro-P@5")}


def test_a_bin_of_few_labels_has_a_value_and_no_interval() -> None:
    measured = metrics.tally_labels(np.array([[0, 1]] * 20, np.int32), [np.array([0, 2])] * 20).measures()
    (head, *_) = metrics.macro_by_bin(measured, np.zeros(3, np.int64), 0)
    assert head["macro-R@10"] == {"value": 50.0, "interval": None}
    assert head["macro-P@5"] == {"value": 50.0, "interval": None}


def test_a_label_that_is_never_proposed_has_no_precision_and_no_recall() -> None:
    measured = metrics.tally_labels(np.array([[0, 1]] * 4, np.int32), [np.array([0, 7])] * 4).measures()
    assert measured.labels.tolist() == [0, 7]
    assert measured.recall.tolist() == [100.0, 0.0] and measured.precision.tolist() == [100.0, 0.0]


def test_without_gold_no_label_is_measured() -> None:
    measured = metrics.tally_labels(np.full((3, 0), -1, np.int32), [np.array([], np.int32)] * 3).measures()
    assert len(measured.labels) == len(measured.recall) == len(measured.precision) == 0

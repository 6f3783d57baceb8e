from __future__ import annotations

import math
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.student.negatives import Namesakes, doubtful, in_batch_weights, positives
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale
from tests.student.toy import SCALE, YES_THRESHOLD, toy_batch

NAN = np.nan


def test_a_yes_is_at_or_above_the_threshold() -> None:
    verdict = np.array([[0.5, 0.49, NAN, 0.9]], np.float32)
    assert positives(verdict, 0.5).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("seed", range(40))
def test_namesakes_are_those_of_a_plain_comparison(seed: int) -> None:
    random = np.random.default_rng(seed)
    spellings = ["Sea", "SEA", "caf\u00e9", "cafe\u0301", "the  bee", "The bee ", "tax", "fen"]
    labels = [random.choice(spellings, random.integers(1, 5)).tolist() for _ in range(random.integers(1, 9))]
    same = [[unicodedata.normalize("NFC", one).casefold().split() for one in texts] for texts in labels]
    some = random.integers(0, len(labels), random.integers(0, 4))
    counts = np.array([len(texts) for texts in labels])
    found = Namesakes.among([text for texts in labels for text in texts], counts).of(some)
    assert found.tolist() == [
        any(own == this or own in rest or this in others for this, *rest in (same[other] for other in some))
        for own, *others in same
    ]


def test_a_no_is_doubtful_when_the_fused_score_calls_it_right() -> None:
    scale = TargetScale(verdict_mean=0.3, verdict_std=0.2, similarity_mean=0.0, similarity_std=1.0)
    verdict = np.array([[0.9, 0.45, 0.1, 0.1, NAN]], np.float32)
    # The threshold is one deviation above the mean, so that a target of 1 and more is a right one.
    target = np.array([[2.0, 0.2, 0.9, 1.1, NAN]], np.float32)
    assert doubtful(verdict, target, 0.5, scale).tolist() == [[False, False, False, True, False]]


def test_in_batch_weights_let_all_labels_count_alike_over_many_batches() -> None:
    """Batches of 32 of 1,000 documents; the labels of a shortlist are drawn by unlike odds."""
    random = np.random.default_rng(0)
    odds = random.permutation(np.repeat([1.0, 5.0, 40.0], [150, 40, 10]))
    has = np.zeros((1000, len(odds)), dtype=bool)
    for row in has:
        row[random.choice(len(odds), 6, replace=False, p=odds / odds.sum())] = True
    counts = has.sum(axis=0)
    plain, weighted, could = (np.zeros(len(odds)) for _ in range(3))
    for _ in range(400):
        batch = has[random.permutation(1000)[:32]]
        there = batch.any(axis=0)
        weights = np.zeros(len(odds))
        weights[there] = in_batch_weights(counts[there], 1000, 32)
        assert weights[there].mean() == pytest.approx(1.0)
        for row in batch:  # its negatives are the labels of the others that it has not
            plain += there & ~row
            weighted += weights * ~row
            could += ~row
    groups = [np.quantile(counts, [low, low + 0.2]) for low in (0.0, 0.2, 0.4, 0.6, 0.8)]
    places = [(counts >= low) & (counts <= high) for low, high in groups]
    often = np.array([(plain / could)[place].mean() for place in places])
    counted = np.array([(weighted / could)[place].mean() for place in places])
    assert often.max() > 1.8 * often.min()
    np.testing.assert_allclose(counted, counted.mean(), rtol=0.05)


@pytest.mark.parametrize(("trained", "documents"), [(20, 5), (60, 48), (100, 16), (1343, 48), (5000, 1000)])
def test_in_batch_weights_are_the_inverse_of_the_probability_of_meeting(trained: int, documents: int) -> None:
    counts = np.array([count for count in (1, 2, 3, 5, 10, 50, 400) if count < trained])
    all_ways = math.comb(trained - 1, documents - 1)
    met = np.array([1 - math.comb(trained - 1 - int(count), documents - 1) / all_ways for count in counts])
    expected = np.minimum(1 / met, 10 * np.median(1 / met))
    found = in_batch_weights(counts, trained, documents)
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=0.05 if trained < 100 else 0.03)
    assert found.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(("trained", "documents"), [(48, 48), (2, 2), (48, 1), (1, 1)])
def test_in_batch_weights_are_1_where_every_document_is_in_every_batch_or_alone(trained: int, documents: int) -> None:
    np.testing.assert_allclose(in_batch_weights(np.array([1, 2, trained]), trained, documents), 1.0)


def test_a_rare_label_counts_at_most_ten_times_as_much_as_the_median_one() -> None:
    counts = np.array([1, *[500_000] * 5, 900_000_000, 1_000_000_000])
    weights = in_batch_weights(counts, 1_000_000_000, 4096)
    assert np.isfinite(weights).all() and weights.min() > 0
    assert weights[0] == pytest.approx(10 * weights[1]) and weights[1] > weights[-1]


@pytest.mark.parametrize("loss", ["listwise", "infonce"])
def test_the_sampling_correction_weights_the_in_batch_negatives(loss: str) -> None:
    batch = toy_batch(0, documents=3)
    random = torch.Generator().manual_seed(0)
    scores = 0.5 + 0.2 * torch.rand(batch.verdict.shape, generator=random, dtype=torch.float64)
    config = StudentConfig(loss=loss, target="verdict", temperature=0.1)
    found = Objective(config, SCALE, YES_THRESHOLD).loss(scores, batch)

    judged = np.isfinite(batch.verdict)
    weights = np.where(judged, 1.0, batch.label_weights)
    terms = weights * np.exp(scores.numpy() / 0.1)
    losses = []
    for row, verdicts in enumerate(batch.verdict):
        if loss == "listwise":
            shares = terms[row] / terms[row].sum()
            goal = np.exp((verdicts - SCALE.verdict_mean) / SCALE.verdict_std / config.target_temperature)
            goal = np.nan_to_num(goal) / np.nansum(goal)
            losses.append(-(goal * np.log(shares)).sum())
        else:
            right = np.nan_to_num(verdicts) >= YES_THRESHOLD
            others = terms[row, ~right].sum()
            losses.append(-np.log(terms[row, right] / (terms[row, right] + others)).mean())
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-5)
    without = Objective(replace(config, sampling_correction=False), SCALE, YES_THRESHOLD).loss(scores, batch)
    assert abs(float(found) - float(without)) > 1e-3


@pytest.mark.parametrize("loss", ["lmtx", "bce"])
def test_the_sampling_correction_leaves_the_other_losses_as_they_are(loss: str) -> None:
    batch = toy_batch(0, documents=3)
    scores = torch.rand(batch.verdict.shape, generator=torch.Generator().manual_seed(0))
    with_it, without = (
        Objective(StudentConfig(loss=loss, sampling_correction=on), SCALE, YES_THRESHOLD).loss(scores, batch)
        for on in (True, False)
    )
    assert float(with_it) == float(without)


def test_documents_that_teach_are_counted_here_and_everywhere() -> None:
    batch = toy_batch(0, documents=4, part=slice(0, 2))
    batch.verdict[0] = np.where(np.isfinite(batch.verdict[0]), 0.0, NAN)
    batch.best_verdict[[0, 3]] = 0.0, -np.inf
    of_positives, of_all = (Objective(StudentConfig(loss=loss), SCALE, 0.5) for loss in ("infonce", "listwise"))
    assert of_positives.teaching(batch) == (1, 2)
    assert of_all.teaching(batch) == (2, 3)
    batch.excluded[:] = True
    assert of_all.teaching(batch)[0] == 0

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.student.negatives import doubtful, in_batch_weights, likely_false_negatives, positives
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale
from tests.student.toy import SCALE, YES_THRESHOLD, toy_batch

NAN = np.nan


def test_a_yes_is_at_or_above_the_threshold() -> None:
    verdict = np.array([[0.5, 0.49, NAN, 0.9]], np.float32)
    assert positives(verdict, 0.5).tolist() == [[True, False, False, True]]


def test_a_no_is_doubtful_when_it_is_near_the_threshold_or_the_fused_score_calls_it_right() -> None:
    scale = TargetScale(verdict_mean=0.3, verdict_std=0.2, similarity_mean=0.0, similarity_std=1.0)
    verdict = np.array([[0.9, 0.45, 0.1, 0.1, NAN]], np.float32)
    # The threshold is one deviation above the mean, so that a target of 1 and more is a right one.
    target = np.array([[2.0, 0.2, 0.9, 1.1, NAN]], np.float32)
    assert doubtful(verdict, target, 0.5, 0.0, scale).tolist() == [[False, False, False, True, False]]
    assert doubtful(verdict, target, 0.5, 0.5, scale).tolist() == [[False, True, False, True, False]]


def test_likely_false_negatives_are_unjudged_and_score_nearly_as_high_as_the_best_label() -> None:
    scores = torch.tensor([[0.8, 0.9, 0.77, 0.75, 0.95], [0.1, 0.9, 0.9, 0.9, 0.9]], requires_grad=True)
    target = torch.tensor([[1.0, -1.0, NAN, NAN, NAN], [NAN] * 5])
    found = likely_false_negatives(scores, target, 0.95)
    # 0.95 * 0.8 = 0.76; the second label is judged, and the second document has no judged label.
    assert found.tolist() == [[False, False, True, False, True], [False] * 5]


@pytest.mark.parametrize("loss", ["listwise", "lmtx", "bce", "infonce"])
def test_a_likely_false_negative_is_not_pushed_away(loss: str) -> None:
    batch = toy_batch(0, documents=3)
    # All within the margin of the hinge.
    scores = (0.75 + 0.2 * torch.rand(batch.verdict.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    unjudged = torch.from_numpy(np.isnan(batch.verdict))

    def pushed(ratio: float) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(
            Objective(StudentConfig(loss=loss, false_negative_ratio=ratio), SCALE, YES_THRESHOLD).loss(scores, batch),
            scores,
        )
        return (gradient > 0) & unjudged

    target = torch.from_numpy(np.where(np.isfinite(batch.verdict), batch.verdict, NAN))
    likely = likely_false_negatives(scores, target, 0.9)
    assert bool(pushed(0.0)[likely].any())
    assert not bool(pushed(0.9)[likely].any())
    assert bool(pushed(0.9)[~likely].any())


def test_in_batch_weights_let_all_labels_count_alike_over_many_batches() -> None:
    random = np.random.default_rng(0)
    shares = np.array([0.02, 0.1, 0.1, 0.5, 0.9])
    has = random.random((40_000, 8, len(shares))) < shares  # batches of eight documents and their shortlists
    met = has[:, 1:].any(axis=1)[~has[:, 0].any(axis=1)]  # by a first document that has none of them
    weights = in_batch_weights(shares, 8)
    counts = (met * weights).mean(axis=0)
    np.testing.assert_allclose(counts / counts.mean(), 1.0, atol=0.05)
    assert met.mean(axis=0).max() > 5 * met.mean(axis=0).min()  # without weights they do not
    assert weights.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(("shares", "expected"), [([0.3] * 3, [1.0] * 3), ([1.0, 0.5], [2 / 3, 4 / 3]), ([1.0], [1.0])])
def test_in_batch_weights_of_two_documents(shares: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(in_batch_weights(np.array(shares), 2), expected)


def test_in_batch_weights_of_a_label_in_one_of_a_billion_shortlists_are_finite() -> None:
    weights = in_batch_weights(np.array([1e-9, 1e-9, 0.5, 1.0]), 4096)
    assert np.isfinite(weights).all() and weights[0] == pytest.approx(2.0, rel=1e-3) and 0 < weights[3] < 1e-5


@pytest.mark.parametrize("loss", ["listwise", "infonce"])
def test_the_sampling_correction_weights_the_unjudged_labels_in_the_softmax(loss: str) -> None:
    batch = toy_batch(0, documents=3)
    random = torch.Generator().manual_seed(0)
    scores = 0.5 + 0.2 * torch.rand(batch.verdict.shape, generator=random, dtype=torch.float64)
    config = StudentConfig(loss=loss, target="verdict", temperature=0.1)
    found = Objective(config, SCALE, YES_THRESHOLD).loss(scores, batch)

    judged = np.isfinite(batch.verdict)
    weights = np.where(judged, 1.0, in_batch_weights(batch.label_shares, 3))
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
def test_the_sampling_correction_leaves_losses_without_a_softmax_as_they_are(loss: str) -> None:
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

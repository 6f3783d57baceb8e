from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ezxmc_ray.student.losses import bce_loss, infonce_loss, listwise_loss, lmtx_loss

# The references are loops over documents and labels in float64; gradients are central differences of these.


def reference_listwise(
    scores: np.ndarray, target: np.ndarray, masked: np.ndarray, temperature: float, target_temperature: float
) -> float:
    losses = []
    for s, t, out in zip(scores, target, masked, strict=True):
        judged = [j for j in range(len(s)) if not math.isnan(t[j]) and not out[j]]
        if not judged:
            continue
        partition = sum(math.exp(s[j] / temperature) for j in range(len(s)) if not out[j])
        goal = [math.exp(t[j] / target_temperature) for j in judged]
        losses.append(
            -sum(g / sum(goal) * (s[j] / temperature - math.log(partition)) for g, j in zip(goal, judged, strict=True))
        )
    return sum(losses) / len(losses) if losses else 0.0


def reference_lmtx(scores: np.ndarray, positive: np.ndarray, masked: np.ndarray) -> float:
    losses = []
    for s, yes, out in zip(scores, positive, masked, strict=True):
        positives = [s[j] for j in range(len(s)) if yes[j] and not out[j]]
        negatives = sorted((s[j] for j in range(len(s)) if not yes[j] and not out[j]), reverse=True)[:10]
        if not positives:
            continue
        weights = [math.exp(n / 0.1) for n in negatives]
        total = 0.0
        for p in positives:
            for n, weight in zip(negatives, weights, strict=True):
                total += weight / sum(weights) * max(0.0, n - p + 0.3)
        losses.append(total / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def reference_bce(
    scores: np.ndarray, probability: np.ndarray, judged: np.ndarray, masked: np.ndarray, temperature: float, bias: float
) -> float:
    losses = []
    for s, p, known, out in zip(scores, probability, judged, masked, strict=True):
        if not any(known & ~out):
            continue
        total = 0.0
        for j in range(len(s)):
            if out[j]:
                continue
            goal = p[j] if known[j] else 0.0
            likely = 1 / (1 + math.exp(-(s[j] / temperature + bias)))
            total -= goal * math.log(likely) + (1 - goal) * math.log(1 - likely)
        losses.append(total)
    return sum(losses) / len(losses) if losses else 0.0


def reference_infonce(scores: np.ndarray, positive: np.ndarray, masked: np.ndarray, temperature: float) -> float:
    losses = []
    for s, yes, out in zip(scores, positive, masked, strict=True):
        positives = [s[j] for j in range(len(s)) if yes[j] and not out[j]]
        negatives = [s[j] for j in range(len(s)) if not yes[j] and not out[j]]
        if not positives:
            continue
        against = sum(math.exp(n / temperature) for n in negatives)
        each = [-math.log(math.exp(p / temperature) / (math.exp(p / temperature) + against)) for p in positives]
        losses.append(sum(each) / len(each))
    return sum(losses) / len(losses) if losses else 0.0


class Case:
    """Random pairs: scores, judged ones, targets, and masked ones."""

    def __init__(self, documents: int, labels: int, judged: float, masked: float, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.scores = random.uniform(-0.2, 0.9, (documents, labels))
        self.judged = random.random((documents, labels)) < judged
        self.target = np.where(self.judged, random.normal(size=(documents, labels)), np.nan)
        self.positive = np.nan_to_num(self.target, nan=-9.0) > 0.3
        self.masked = random.random((documents, labels)) < masked
        self.probability = 1 / (1 + np.exp(-self.target))

    def losses(self) -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[np.ndarray], float]]]:
        target, masked = torch.tensor(self.target), torch.tensor(self.masked)
        positive, judged = torch.tensor(self.positive), torch.tensor(self.judged)
        probability = torch.tensor(self.probability)
        return {
            "listwise": (
                lambda s: listwise_loss(s, target.to(s.dtype), 0.05, 0.5, masked),
                lambda s: reference_listwise(s, self.target, self.masked, 0.05, 0.5),
            ),
            "lmtx": (
                lambda s: lmtx_loss(s, positive, masked),
                lambda s: reference_lmtx(s, self.positive, self.masked),
            ),
            "infonce": (
                lambda s: infonce_loss(s, positive, 0.05, masked),
                lambda s: reference_infonce(s, self.positive, self.masked, 0.05),
            ),
            "bce": (
                lambda s: bce_loss(s, probability.to(s.dtype), judged, 0.1, -3.0, masked),
                lambda s: reference_bce(s, self.probability, self.judged, self.masked, 0.1, -3.0),
            ),
        }


CASES = {
    "random": Case(6, 25, 0.4, 0.1),
    "more labels than ten negatives are taken of": Case(3, 40, 0.3, 0.0, seed=1),
    "fewer than ten negatives": Case(4, 6, 0.5, 0.2, seed=2),
    "all judged": Case(3, 8, 1.0, 0.0, seed=3),
    "nothing judged": Case(3, 8, 0.0, 0.0),
    "all masked": Case(3, 8, 0.5, 1.0),
    "one label": Case(4, 1, 0.6, 0.0, seed=4),
    "one document": Case(1, 12, 0.5, 0.1, seed=5),
}
ALL_POSITIVE = Case(3, 8, 1.0, 0.0)
ALL_POSITIVE.positive[:] = True
CASES["all positive"] = ALL_POSITIVE
SOME_EMPTY = Case(4, 9, 0.5, 0.1, seed=6)
SOME_EMPTY.judged[[0, 2]], SOME_EMPTY.target[[0, 2]], SOME_EMPTY.positive[[0, 2]] = False, np.nan, False
CASES["documents that teach nothing are not counted"] = SOME_EMPTY
# Label 6 has the text of label 1, so its scores too; where only label 1 was judged, the other is masked.
DUPLICATES = Case(6, 9, 0.5, 0.0, seed=7)
DUPLICATES.scores[:, 6] = DUPLICATES.scores[:, 1]
DUPLICATES.masked[:, 6] = DUPLICATES.judged[:, 1] & ~DUPLICATES.judged[:, 6]
assert 0 < DUPLICATES.masked.sum() < 6 and (DUPLICATES.judged[:, 1] & DUPLICATES.judged[:, 6]).any()
CASES["duplicates of a label"] = DUPLICATES


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", ["listwise", "lmtx", "bce", "infonce"])
def test_value_and_gradient_are_those_of_the_float64_loop(name: str, loss: str) -> None:
    case = CASES[name]
    function, reference = case.losses()[loss]
    scores = torch.tensor(case.scores, dtype=torch.float64, requires_grad=True)
    value = function(scores)
    value.backward()
    assert scores.grad is not None
    assert value.item() == pytest.approx(reference(case.scores), rel=1e-5, abs=1e-7)
    step, expected = 1e-6, np.zeros_like(case.scores)
    for place in np.ndindex(*case.scores.shape):
        moved = case.scores.copy()
        moved[place] += step
        above = reference(moved)
        moved[place] -= 2 * step
        expected[place] = (above - reference(moved)) / (2 * step)
    np.testing.assert_allclose(scores.grad.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", ["listwise", "lmtx", "bce", "infonce"])
def test_float32_is_as_good(name: str, loss: str) -> None:
    case = CASES[name]
    function, reference = case.losses()[loss]
    scores = torch.tensor(case.scores, dtype=torch.float32, requires_grad=True)
    value = function(scores)
    value.backward()
    assert value.item() == pytest.approx(reference(case.scores), rel=1e-5, abs=1e-6)
    exact = torch.tensor(case.scores, dtype=torch.float64, requires_grad=True)
    function(exact).backward()
    assert scores.grad is not None and exact.grad is not None
    np.testing.assert_allclose(scores.grad.numpy(), exact.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_in_batch_negatives_are_pushed_away_and_masked_ones_are_not() -> None:
    scores = torch.tensor([[0.5, 0.4, 0.3, 0.2]], requires_grad=True)
    target = torch.tensor([[1.0, -1.0, math.nan, math.nan]])
    masked = torch.tensor([[False, False, False, True]])
    listwise_loss(scores, target, 0.05, 0.5, masked).backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] > 0 and scores.grad[0, 3] == 0


def test_the_bias_of_bce_can_be_learned() -> None:
    bias = torch.tensor(-1.0, requires_grad=True)
    scores = torch.zeros(2, 3)
    bce_loss(scores, torch.full((2, 3), 0.5), torch.ones(2, 3, dtype=torch.bool), 0.05, bias).backward()
    assert bias.grad is not None and bias.grad < 0

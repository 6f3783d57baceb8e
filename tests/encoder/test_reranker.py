"""What a cross-encoder's scores make of an order, beside a network that is made up; all by NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.encoder.pairs import PairNetwork
from ezxmc_ray.encoder.reranker import Reordered, Reranker, RerankScale, fit_scale

TEXTS = pa.array([f"label {number}" for number in range(30)])
NONE = -1, -np.inf
#: The score itself, less the mean of all of them.
SIMPLE = RerankScale(1.0, 3)


class FakePairs(PairNetwork):
    """Gives each pair the score that ``made_up`` has for the document's text and the label's number."""

    def __init__(self, made_up: dict[str, np.ndarray]) -> None:
        self.made_up = made_up
        self.asked: list[list[str]] = []

    def read(
        self, titles: Sequence[str], texts: Sequence[str], labels: Sequence[Sequence[str]]
    ) -> tuple[list[np.ndarray], int]:
        self.asked += [list(own) for own in labels]
        assert len(titles) == len(texts) == len(labels)
        numbers = [[int(label.removeprefix("label ")) for label in own] for own in labels]
        return [self.made_up[text][own].astype(np.float32) for text, own in zip(texts, numbers, strict=True)], 0


def rerank(
    similarity: Sequence[Sequence[float]],
    labels: Sequence[Sequence[int]],
    scores: dict[int, float],
    first: int,
    scale: RerankScale = SIMPLE,
) -> Reordered:
    """One or several documents, to which the network says the same: ``scores`` by label number, else 0."""
    made_up = np.zeros(len(TEXTS))
    made_up[list(scores)] = list(scores.values())
    arrays = np.array(similarity, np.float32), np.array(labels, np.int32)
    texts = [f"text {row}" for row in range(len(labels))]
    network = FakePairs(dict.fromkeys(texts, made_up))
    found = Reranker(network, TEXTS, scale).rerank([""] * len(texts), texts, *arrays, first)
    kept = [row[: max(first, scale.anchor)] for row in arrays[1]]
    kept = [row[row >= 0] for row in kept]
    assert network.asked == [[f"label {number}" for number in row] for row in kept]
    return found


def test_the_first_labels_come_in_their_new_order_with_their_similarity() -> None:
    found = rerank([[0.9, 0.8, 0.7, 0.6]], [[7, 3, 9, 1]], {9: 3.0, 7: 0.0, 3: 0.0}, first=3)
    # The mean of 0, 0 and 3 is 1.
    assert found.labels.tolist() == [[9, 7, 3, 1]]
    np.testing.assert_allclose(found.scores, [[2.7, -0.1, -0.2, -0.2]], atol=1e-6)
    np.testing.assert_allclose(found.similarity, [[0.7, 0.9, 0.8, 0.6]])
    assert found.labels.dtype == np.int32 and found.scores.dtype == found.similarity.dtype == np.float32


def test_ties_go_by_label_number() -> None:
    found = rerank([[0.5, 0.5, 0.5, 0.5]], [[8, 2, 5, 1]], {}, first=3)
    assert found.labels.tolist() == [[2, 5, 8, 1]]
    found = rerank([[0.75, 0.5, 0.25]], [[8, 2, 5]], {8: 0.25, 2: 0.5, 5: 0.75}, first=3)
    assert found.labels.tolist() == [[2, 5, 8]]


def test_rows_with_fewer_labels_than_are_ranked_anew_and_with_none() -> None:
    none, minus = NONE
    labels = [[4, 6, none, none], [none] * 4, [1, 2, 3, none]]
    found = rerank([[0.5, 0.4, minus, minus], [minus] * 4, [0.9, 0.8, 0.7, minus]], labels, {6: 2.0, 3: 8.0}, first=3)
    assert found.labels.tolist() == [[6, 4, none, none], [none] * 4, [3, 1, 2, none]]
    assert np.isneginf(found.scores).tolist() == [[False, False, True, True], [True] * 4, [False] * 3 + [True]]
    np.testing.assert_allclose(found.scores[0, :2], [1.4, -0.5], atol=1e-6)
    assert np.isneginf(found.similarity[1]).all() and not np.isnan(found.scores).any()


def test_labels_behind_the_first_never_lead_again() -> None:
    found = rerank([[0.9, 0.8, 0.7, 0.6, -5.0]], [[1, 2, 3, 4, 5]], {1: 2.0, 2: -2.0}, first=2)
    assert found.labels.tolist() == [[1, 2, 3, 4, 5]]
    np.testing.assert_allclose(found.scores, [[2.9, -1.2, -1.2, -1.2, -5.0]], atol=1e-6)
    np.testing.assert_allclose(found.similarity, [[0.9, 0.8, 0.7, 0.6, -5.0]])


def test_a_label_scores_alike_whichever_others_are_asked_about() -> None:
    """Also where fewer are ranked anew than the mean is of."""
    draw, scale = np.random.default_rng(0), RerankScale(0.5, 4)
    made_up, texts = {"a": draw.normal(size=len(TEXTS))}, ([""], ["a"])
    labels = np.array([[5, 1, 7, 2, 9, 3]], np.int32)
    similarity = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]], np.float32)
    whole = Reranker(FakePairs(made_up), TEXTS, scale).rerank(*texts, similarity, labels, 6)
    by_label = dict(zip(whole.labels[0].tolist(), whole.scores[0].tolist(), strict=True))
    for places in ([0], [4], [1, 5], [0, 1, 2, 3, 4]):
        among = similarity[:, places], labels[:, places]
        found = Reranker(FakePairs(made_up), TEXTS, scale).rerank(*texts, *among, 6, labels[:, :4])
        for label, score in zip(found.labels[0].tolist(), found.scores[0].tolist(), strict=True):
            assert score == pytest.approx(by_label[label], abs=1e-6)
    first = Reranker(FakePairs(made_up), TEXTS, scale).rerank(*texts, similarity, labels, 2)
    for label, score in zip(first.labels[0, :2].tolist(), first.scores[0, :2].tolist(), strict=True):
        assert score == pytest.approx(by_label[label], abs=1e-6)


def test_no_documents_and_no_labels() -> None:
    network = Reranker(FakePairs({}), TEXTS, RerankScale(1.0, 10))
    empty = network.rerank([], [], np.zeros((0, 5), np.float32), np.zeros((0, 5), np.int32), 3)
    assert empty.scores.shape == empty.labels.shape == empty.similarity.shape == (0, 5)


def test_what_is_given_stays_as_it_was() -> None:
    similarity, labels = np.array([[0.5, 0.4]], np.float32), np.array([[1, 2]], np.int32)
    scores = np.zeros(len(TEXTS))
    scores[2] = 9.0
    Reranker(FakePairs({"a": scores}), TEXTS, RerankScale(1.0, 2)).rerank([""], ["a"], similarity, labels, 2)
    assert similarity.tolist() == [[0.5, np.float32(0.4)]] and labels.tolist() == [[1, 2]]


@pytest.mark.parametrize("first", [1, 4, 12, 20])
@pytest.mark.parametrize("anchor", [1, 3, 50])
def test_all_of_it_by_a_plain_loop(first: int, anchor: int) -> None:
    draw, scale = np.random.default_rng(first), RerankScale(0.3, anchor)
    texts = [f"text {row}" for row in range(40)]
    made_up = {text: draw.normal(size=len(TEXTS)) for text in texts}
    similarity = -np.sort(-draw.normal(size=(40, 12)).astype(np.float32), axis=1)
    labels = np.array([draw.permutation(len(TEXTS))[:12] for _ in texts], np.int32)
    for row in range(0, 40, 3):
        there = int(draw.integers(0, 12))
        similarity[row, there:], labels[row, there:] = -np.inf, -1
    found = Reranker(FakePairs(made_up), TEXTS, scale).rerank([""] * 40, texts, similarity, labels, first)
    for row, text in enumerate(texts):
        own = [int(label) for label in labels[row] if label >= 0]
        known = [float(np.float32(made_up[text][label])) for label in own]
        score, middle = known[:first], sum(known[:anchor]) / max(1, len(known[:anchor]))
        fused = [float(similarity[row, place]) + 0.3 * (one - middle) for place, one in enumerate(score)]
        places = [*sorted(range(len(score)), key=lambda place: -fused[place]), *range(len(score), 12)]
        assert found.labels[row].tolist() == [int(labels[row, place]) for place in places]
        np.testing.assert_array_equal(found.similarity[row], similarity[row, places])
        lowest = min(fused, default=np.inf)
        rest = np.minimum(similarity[row, len(score) :], lowest)
        np.testing.assert_allclose(found.scores[row], [*sorted(fused, reverse=True), *rest], atol=1e-5)
    with np.errstate(invalid="ignore"):  # -inf beside -inf
        assert not (np.diff(found.scores, axis=1) > 0).any()


def test_the_anchor_is_the_mean_of_the_first_labels_alone() -> None:
    similarity, score = np.array([0.9, 0.8, 0.1], np.float32), np.array([1.0, 3.0, 50.0], np.float32)
    np.testing.assert_allclose(RerankScale(2.0, 2).fuse(similarity, score), [-1.1, 2.8, 96.1], rtol=1e-6)
    # How many more are ranked anew changes nothing of those before.
    np.testing.assert_allclose(RerankScale(2.0, 2).fuse(similarity[:2], score[:2]), [-1.1, 2.8], rtol=1e-6)
    assert RerankScale(2.0, 2).fuse(similarity[:0], score[:0]).shape == (0,)
    assert RerankScale(2.0, 2).fuse(similarity, score).dtype == np.float32


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_the_scale_makes_the_spreads_as_wide_as_the_weight_says(weight: float) -> None:
    draw = np.random.default_rng(0)
    lists = [
        (
            (0.1 * draw.normal(size=size) + draw.normal()).astype(np.float32),
            (8 * draw.normal(size=size) + 100 * draw.normal()).astype(np.float32),
        )
        for size in (5, 9, 1, 0, 7)
    ]
    scale = fit_scale(lists, weight, 5)
    assert scale.anchor == 5
    spreads = []
    for kind in (0, 1):  # apart from what lies between documents
        apart = [one[kind].astype(np.float64) - one[kind].mean(dtype=np.float64) for one in lists if len(one[kind])]
        spreads.append(np.concatenate(apart).std())
    assert scale.per_score * spreads[1] == pytest.approx(weight * spreads[0], rel=1e-6)


def test_scores_that_say_nothing_count_nothing() -> None:
    draw = np.random.default_rng(1)
    lists = [(draw.random(7).astype(np.float32), np.full(7, 0.1 + row, np.float32)) for row in range(5)]
    scale = fit_scale(lists, 0.5, 10)
    assert scale == RerankScale(0.0, 10) == fit_scale([], 0.5, 10) == fit_scale([(np.zeros(0), np.zeros(0))], 0.5, 10)
    np.testing.assert_array_equal(scale.fuse(*lists[0]), lists[0][0])

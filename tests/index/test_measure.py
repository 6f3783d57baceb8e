"""How auto chooses by documents, against counts that a plain loop makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ezxmc_ray.index import measure
from ezxmc_ray.index.measure import (
    Nearest,
    build_auto,
    choose_cells,
    merge_nearest,
    nearest_labels,
    parts_of,
    reach_of,
    recall_at,
    tune,
)

DIMENSION, K = 32, 20


def grouped(rows: int, groups: int, spread: float, seed: int) -> np.ndarray:
    """Unit rows around ``groups`` directions."""
    draw = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(groups, DIMENSION))
    found = centers[draw.integers(0, groups, rows)] + spread * draw.normal(size=(rows, DIMENSION))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def nearest_of(queries: np.ndarray, labels: np.ndarray) -> Nearest:
    return Nearest(queries, np.argsort(-(queries @ labels.T), axis=1, kind="stable")[:, :K])


def share_found(index: Any, nearest: Nearest, first: int, count: int) -> float:
    """Of the nearest labels that the shard has, how many it finds: a plain loop."""
    found = index.search(nearest.queries, K)[1]
    wanted = [[label for label in row if first <= label < first + count] for row in nearest.labels]
    hits = sum(label in other for row, other in zip(wanted, found.tolist(), strict=True) for label in row)
    return hits / sum(map(len, wanted))


def test_nearest_labels_are_those_of_the_whole_whatever_the_blocks_and_slices() -> None:
    labels, queries = grouped(500, 8, 0.5, 0), grouped(30, 8, 0.5, 1)
    parts = [
        nearest_labels([labels[:120], labels[120:200]], 0, queries, K),
        nearest_labels([labels[200:490], labels[490:]], 200, queries, K),
    ]
    np.testing.assert_array_equal(merge_nearest(parts, K), nearest_of(queries, labels).labels)


def test_recall_counts_the_first_k_of_both() -> None:
    exact, found = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[1, 3, 2, -1], [9, 5, 6, -1]])
    assert recall_at(found, exact, 1) == 0.5
    assert recall_at(found, exact, 2) == pytest.approx((0.5 + 0.5) / 2)
    assert recall_at(found, exact, 4) == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_reach_counts_labels_by_the_order_of_their_cells() -> None:
    nearest = Nearest(np.zeros((2, DIMENSION), np.float32), np.array([[10, 11, 3], [12, 13, 10]]))
    cell_of, order = np.array([0, 1, 1, 2]), np.array([[1, 0, 2], [2, 0, 1]])  # of labels 10 to 13
    reach = reach_of(order, cell_of, np.array([1, 2, 1]), 10, nearest)
    np.testing.assert_allclose(reach.met, [2 / 5, 4 / 5, 1])  # 11 and 13, then 10 twice, then 12
    np.testing.assert_allclose(reach.visited, [1.5, 2.5, 4])
    assert [reach.probes_for(share) for share in (0.1, 0.4, 0.41, 0.8, 1.0)] == [1, 1, 2, 2, 3]


def test_groups_are_worth_cells_and_an_even_cloud_is_not() -> None:
    labels, even = grouped(20_000, 60, 0.15, 0), grouped(20_000, 1, 1000.0, 0)
    cells, tried = choose_cells(lambda: [labels], 0, 20_000, nearest_of(grouped(50, 60, 0.15, 1), labels), 0.95)
    assert cells > 1 and [one["cells"] for one in tried] == [1, 71, 141]
    assert tried[0] == {"cells": 1, "probes": 1, "labels_visited": 20_000}
    assert min(one["labels_visited"] for one in tried) < 5_000
    _, tried = choose_cells(lambda: [even], 0, 20_000, nearest_of(grouped(50, 1, 1000.0, 1), even), 0.999)
    assert min(one["labels_visited"] for one in tried) > 15_000


@pytest.mark.parametrize("first", [0, 3000])
def test_what_is_built_finds_what_was_asked_and_says_so(first: int) -> None:
    labels, queries = grouped(6000, 30, 0.3, 0), grouped(60, 30, 0.4, 1)
    nearest, mine = nearest_of(queries, labels), labels[first : first + 3000]
    probes = []
    for wanted in (0.8, 0.95):
        index, visited, refined, found = build_auto(
            lambda: [mine[:1000], mine[1000:]], 3000, first, 40, nearest, wanted
        )
        assert found == pytest.approx(share_found(index, nearest, first, 3000)) and found >= wanted
        cells, refining = parts_of(index)
        assert (cells.nprobe, refining.k_factor) == (visited, refined)
        probes.append(visited)
    assert probes[0] < probes[1] < 40


@pytest.mark.parametrize("cost", [0, 150, 1e5])
def test_a_choice_that_codes_spoil_gives_way_to_the_next(cost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four refined labels seem to be enough in one cell, and find 66 % in all of them."""
    monkeypatch.setattr(measure, "REFINING_COST", cost)
    labels, queries = grouped(6000, 30, 0.3, 0), grouped(60, 30, 0.4, 1)
    nearest = nearest_of(queries, labels)
    index, probes, refined, found = build_auto(lambda: [labels], 6000, 0, 40, nearest, 0.7)
    assert (probes, refined) == (1, 8.0)
    assert found == share_found(index, nearest, 0, 6000) > 0.7


@pytest.mark.parametrize(("cost", "chosen"), [(0, 77), (16, 39), (10_000, 1)])
def test_cells_are_weighed_against_their_centroids_whatever_the_slice_and_its_blocks(
    cost: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "CENTROID_COST", cost)
    labels, queries = grouped(6000, 30, 0.3, 0), grouped(60, 30, 0.4, 1)
    nearest = nearest_of(queries, labels)
    found = choose_cells(lambda: [labels], 0, 6000, nearest, 0.9)
    assert found[0] == chosen
    later = Nearest(queries, nearest.labels + 500)
    blocks = [labels[:100], labels[100:4000], labels[4000:]]
    assert choose_cells(lambda: blocks, 500, 6000, later, 0.9) == found


def test_more_than_can_be_found_ends_with_all_cells() -> None:
    labels, queries = grouped(3000, 30, 0.3, 0), grouped(60, 30, 0.4, 1)
    _, visited, refined, found = build_auto(lambda: [labels], 3000, 0, 10, nearest_of(queries, labels), 1.0)
    assert (visited, refined) == (10, 16.0) and 0.95 < found <= 1.0


def test_a_shard_without_any_of_the_nearest_labels_is_left_as_it_is() -> None:
    labels = grouped(500, 8, 0.5, 0)
    elsewhere = Nearest(labels[:3], np.full((3, K), 7_000))
    assert choose_cells(lambda: [labels], 0, 500, elsewhere, 0.98) == (22, [])
    index = build_auto(lambda: [labels], 500, 0, 4, elsewhere, 0.98)[0]
    assert tune(index, 0, elsewhere, 0.98)[2] == 1.0

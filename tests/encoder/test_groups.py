from __future__ import annotations

import numpy as np
import pytest

from ezxmc_ray.encoder.groups import length_groups


def as_lists(groups: list[np.ndarray]) -> list[list[int]]:
    return [group.tolist() for group in groups]


@pytest.mark.parametrize("max_tokens", [1, 7, 64, 1000, 10**9])
def test_every_position_is_in_one_group_that_fits(max_tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 500)
    groups = length_groups(lengths, max_tokens)
    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= max_tokens
    longest = [int(lengths[group].max()) for group in groups]
    assert longest == sorted(longest, reverse=True)


def test_a_group_takes_as_many_texts_as_fit() -> None:
    # Six of three tokens fit 20, not seven.
    assert as_lists(length_groups([3] * 8, 20)) == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert as_lists(length_groups([3] * 8, 18)) == [[0, 1, 2, 3, 4, 5], [6, 7]]
    assert as_lists(length_groups([3] * 8, 17)) == [[0, 1, 2, 3, 4], [5, 6, 7]]


def test_texts_of_like_length_are_together_and_ties_are_by_position() -> None:
    lengths = [2, 9, 2, 9, 5, 2]
    assert as_lists(length_groups(lengths, 18)) == [[1, 3], [4, 0, 2], [5]]


def test_a_text_longer_than_the_budget_is_a_group_by_itself() -> None:
    assert as_lists(length_groups([4, 100, 4, 101], 8)) == [[3], [1], [0, 2]]


def test_edges() -> None:
    assert length_groups([], 8) == []
    assert as_lists(length_groups([0, 0], 8)) == [[0, 1]]
    assert length_groups(np.array([], dtype=np.int32), 8) == []

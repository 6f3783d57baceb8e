from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ezxmc_ray.prefetch import prefetch


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order(count: int) -> None:
    assert list(prefetch(lambda n: n * n, range(count), depth=2)) == [n * n for n in range(count)]


def test_the_next_ones_are_made_while_one_is_used_and_no_more() -> None:
    made: list[int] = []
    results = prefetch(lambda n: made.append(n) or threading.current_thread(), range(9), depth=2)
    assert next(results) is not threading.current_thread()
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2]


def test_an_error_comes_in_the_place_of_its_result() -> None:
    results: Iterator[float] = prefetch(lambda n: 1 / n, [2, 1, 0, 4])
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)

from __future__ import annotations

from collections.abc import Callable

import pytest

from ezxmc_ray.student.checkpoints import CheckpointClock


def trained(every_s: float, steps: int, step_s: float, takes_s: Callable[[int], float]) -> tuple[int, float, float]:
    """Checkpoints of a simulated training whose n-th takes ``takes_s(n)``; seconds of all, and their share."""
    now = [0.0]
    clock = CheckpointClock(every_s, lambda: now[0])
    taken, seconds = 0, 0.0
    for _ in range(steps):
        now[0] += step_s
        if clock.due():
            now[0] += takes_s(taken)
            seconds += takes_s(taken)
            clock.taken(takes_s(taken))
            taken += 1
    return taken, seconds, seconds / now[0]


@pytest.mark.parametrize("step_s", [0.05, 1.0, 40.0])
def test_checkpoints_come_by_seconds_whatever_a_step_takes(step_s: float) -> None:
    taken, _, share = trained(300, round(30_000 / step_s), step_s, lambda number: 1.0)
    assert 90 <= taken <= 100 and share < 0.004


def test_slow_checkpoints_are_taken_less_often() -> None:
    taken, seconds, share = trained(60, 100_000, 1.0, lambda number: 30.0)
    # The first one, after 60 s, does not know yet how long it takes.
    assert taken == pytest.approx(100_000 / 1470, abs=2) and seconds == 30 * taken
    assert share == pytest.approx(0.02, abs=0.0005)


def test_checkpoints_that_become_fast_again_come_as_wanted() -> None:
    taken, _, _ = trained(60, 10_000, 1.0, lambda number: 60.0 if number == 0 else 0.5)
    assert taken == pytest.approx(1 + (10_000 - 60 - 2940) / 60, abs=3)


def test_zero_seconds_are_every_step() -> None:
    assert trained(0, 7, 0.1, lambda number: 5.0)[0] == 7

"""What ends a training without workers: no room, or workers that fail while they are set up. No Ray is started."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RunningState,
    SchedulingState,
)

from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import train_wait
from ezxmc_ray.stages.train_wait import TrainingWait

FAILED = WorkerGroupStartupFailedError("no module named transformers\nand more")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``wait(*failures)``: one try after the other ends in these, 30 s apart; cluster.wait_s is 60."""
    now = iter(range(0, 10_000, 30))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(train_wait, "report_waiting", lambda what: None)

    def no_room(seconds: float, what: str) -> None:
        if seconds >= 60:
            raise UserError(f"no room: {what}")

    monkeypatch.setattr(train_wait, "check_wait", no_room)
    callback = TrainingWait(ClusterConfig(wait_s=60), 2)

    def tried(*failures: Exception | None, again: int = 0) -> None:
        for failure in failures:
            state = RunningState() if failure is None else ReschedulingState(ControllerError(failure))
            callback.after_controller_state_update(SchedulingState(None), state)  # type: ignore[arg-type]
        for _ in range(again):
            callback.after_controller_state_update(state, state)

    return tried


def test_workers_that_fail_while_they_are_set_up_are_told_as_such(wait: Any) -> None:
    with pytest.raises(UserError) as error:
        wait(FAILED, FAILED, FAILED, FAILED)
    assert str(error.value).startswith("Within 60 s (cluster.wait_s) no training worker began: they fail while they")
    assert "WorkerGroupStartupFailedError: no module named transformers. See" in str(error.value)


def test_workers_without_room_are_told_as_such_whatever_came_before(wait: Any) -> None:
    with pytest.raises(UserError, match="no room: waiting for room for 2 training workers"):
        wait(FAILED, *[WorkerGroupStartupTimeoutError(2)] * 3)


def test_a_controller_that_asks_for_no_workers_has_no_room(wait: Any) -> None:
    """As it is with student.min_workers, after a worker's node has died while it was set up."""
    with pytest.raises(UserError, match="no room: waiting for room for 2 training workers"):
        wait(FAILED, again=4)


def test_workers_that_began_in_between_set_the_clock_anew(wait: Any) -> None:
    wait(FAILED, None, FAILED, None, FAILED)

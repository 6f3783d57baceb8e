"""What an error is told as: a user's mistake, the machine's doing, or a fault of this program. No Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import WorkerCrashedError

from ezxmc_ray.cluster.session import user_errors
from ezxmc_ray.errors import UserError


@pytest.mark.parametrize("handled", [WorkerCrashedError(), UserError("A mistake.")])
def test_a_fault_in_the_handling_of_another_error_stays_a_fault(handled: Exception) -> None:
    with pytest.raises(KeyError, match="lost"), user_errors():
        try:
            raise handled
        except type(handled):
            raise KeyError("lost")  # noqa: B904 - as a fault does it


def test_a_mistake_and_the_machines_doing_are_told_behind_what_was_raised_from_them() -> None:
    with pytest.raises(UserError, match=r"^A mistake\.$"), user_errors():
        raise RuntimeError("in a task") from UserError("A mistake.")
    with pytest.raises(UserError, match=r"^Ray lost a worker or a node"), user_errors():
        raise RuntimeError("in a task") from WorkerCrashedError()


def test_a_log_that_somebody_tidied_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^A mistake\.$"), user_errors(str(tmp_path / "gone.log")):
        raise UserError("A mistake.")

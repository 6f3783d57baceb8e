"""How long a training waits for room on the cluster: ``cluster.wait_s``, at its start and after it has lost workers.

Ray Train waits without end. It gives up a placement group after 60 s, which counts as a failure of its controller. Of
these it allows any number (``FailureConfig.controller_failure_limit`` is -1; it counts those of a whole training). With
``student.min_workers`` it asks for no group until there is room. So a callback in its controller looks at the time.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

from ray.train.v2._internal.constants import (
    DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    ResizingState,
    RestartingState,
    SchedulingState,
)

from ezxmc_ray.cluster.board import report_waiting
from ezxmc_ray.cluster.session import check_wait, joined_as
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.progress import WAITING

#: States of Ray Train's controller in which no worker is there.
WITHOUT_WORKERS = (InitializingState, SchedulingState, ReschedulingState, RestartingState, ResizingState)


class TrainingWait(ControllerCallback):
    """Ends a training whose workers found no room for ``cluster.wait_s``, and tells what they wait for meanwhile.

    Workers that found room and failed before they began, again and again, are told apart from those that found none.
    """

    def __init__(self, config: ClusterConfig, workers: int) -> None:
        self.config = config
        self.what = f"{WAITING} room for {workers} training worker{'s' * (workers > 1)}"
        self.since: float | None = None
        self.told = ""
        self.failure: Exception | None = None

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Ray Train in the controller's process."""
        joined_as(self.config)
        self.since = time.monotonic()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train, also where the state stays the same. Errors: UserError, which ends the training."""
        if not isinstance(current_state, WITHOUT_WORKERS):
            self.since = self.failure = None
            return
        # The same state again: it decided that there is no room yet, and asks for none. Otherwise Ray tells.
        is_again = type(previous_state) is type(current_state)
        self.failure = None if is_again else self._failure_of(current_state)
        what = self.what if is_again else ""
        if self.since is None or what != self.told:
            report_waiting(what)
        self.told, self.since = what, self.since or time.monotonic()
        seconds = time.monotonic() - self.since
        if self.failure is not None and seconds >= self.config.wait_s:
            raise UserError(
                f"Within {self.config.wait_s} s (cluster.wait_s) no training worker began: they fail while they are "
                f"set up, the last time by {type(self.failure).__name__}: {one_line(self.failure)}. See the logs of "
                "Ray's workers; what is done is kept."
            )
        check_wait(seconds, self.what)

    def _failure_of(self, state: Any) -> Exception | None:
        """Why workers were given up last, if not for want of room; a ``state`` that knows of none changes nothing."""
        failure = getattr(getattr(state, "training_failed_error", None), "controller_failure", None)
        if failure is None:
            return self.failure
        return None if isinstance(failure, WorkerGroupStartupTimeoutError) else failure


def bound_tries(wait_s: int) -> None:
    """Let Ray Train give up each of its placement groups so that ``wait_s`` is over when one is given up.

    It looks at the time between two of them only. What stands in the environment is passed to the controller.
    """
    tries = math.ceil(wait_s / DEFAULT_WORKER_GROUP_START_TIMEOUT_S)
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(wait_s / tries)

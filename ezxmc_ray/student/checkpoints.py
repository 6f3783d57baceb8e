"""When a training takes a checkpoint: by time, so that a step's length does not decide what a failure costs.

Comes in: the seconds between two checkpoints, and how long each took. Goes out: whether one is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: The most of a training's time that goes into checkpoints.
MAX_SHARE = 0.02


class CheckpointClock:
    """``every_s``: seconds between two checkpoints, and more where one takes long (:data:`MAX_SHARE`); 0: each step."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._last, self._seconds = clock(), 0.0

    def due(self) -> bool:
        """Whether a checkpoint is to be taken now."""
        if not self._every_s:
            return True
        return self._clock() - self._last >= max(self._every_s, self._seconds * (1 - MAX_SHARE) / MAX_SHARE)

    def taken(self, seconds: float) -> None:
        """A checkpoint was taken just now, and took so many seconds."""
        self._last, self._seconds = self._clock(), seconds

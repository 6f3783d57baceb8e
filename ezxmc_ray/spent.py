"""The seconds that a step took in starts that were killed: its manifest is to say what all of them took.

In: a run directory, and the step that begins. Out: the seconds of its earlier starts. A thread notes every half minute
how long the step has been at it, so that a kill loses no more than that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage

NOTE_EVERY_S = 30.0


@contextmanager
def seconds_spent(storage: Storage, folder: str, mark: str) -> Iterator[float]:
    """The seconds that earlier starts took of the step that writes ``folder`` with the fingerprint ``mark``.

    A block that ends well ends the account; one that does not adds to it.
    """
    noted = _noted(storage)
    before = noted.get(folder, {})
    earlier = float(before["seconds"]) if before.get("mark") == mark else 0.0
    others = {name: value for name, value in noted.items() if name != folder}
    began, ended = time.monotonic(), threading.Event()

    def note() -> None:
        now = {"mark": mark, "seconds": earlier + time.monotonic() - began}
        # An account that cannot be written must not cost the step.
        with suppress(OSError, UserError):
            storage.write_json(layout.SPENT, others | {folder: now})

    def keep_noting() -> None:
        while not ended.wait(NOTE_EVERY_S):
            note()

    keeper = threading.Thread(target=keep_noting, daemon=True)
    keeper.start()
    try:
        yield earlier
    except BaseException:
        ended.set()
        keeper.join()
        note()
        raise
    ended.set()
    keeper.join()
    if others:
        storage.write_json(layout.SPENT, others)
    else:
        storage.remove(layout.SPENT)


def _noted(storage: Storage) -> dict[str, Any]:
    """By folder the fingerprint and the seconds of a step that was not finished; of a damaged note nothing."""
    try:
        noted = storage.read_json(layout.SPENT) if storage.exists(layout.SPENT) else {}
        return {name: one for name, one in noted.items() if one["mark"] and float(one["seconds"]) >= 0}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}

"""Which of the formats that ``teacher.dtype: auto`` may stand for a run's verdicts are in.

Comes in: a configuration, a run directory. Goes out: names of dtypes. The teacher key holds the format, so verdicts of
two formats never lie in one folder; what ``auto`` is on a machine, hardware.py says.
"""

from __future__ import annotations

from dataclasses import replace

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.hardware import AUTO
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.verdicts.store import VerdictStore, teacher_keys

DTYPES = tuple(one for one in TeacherConfig.__dataclass_fields__["dtype"].metadata["choices"] if one != AUTO)


def held_dtypes(storage: Storage, config: TeacherConfig) -> list[str]:
    """The formats in which ``storage`` holds verdicts of the teacher ``config``, whatever its dtype says."""
    return list(_held(storage, config))


def with_dtype_by_hand(storage: Storage, config: TeacherConfig) -> TeacherConfig:
    """``config`` with the format, where its dtype is auto, in which alone files made by hand were imported for it.

    Auto is another format on a machine of another kind, such as a cluster's head without a GPU. People's verdicts
    depend on none, and whoever imported them meant them to count.
    """
    if config.dtype != AUTO:
        return config
    by_hand = [dtype for dtype, store in _held(storage, config).items() if store.is_by_hand()]
    return replace(config, dtype=by_hand[0]) if len(by_hand) == 1 else config


def told_dtype_by_hand(storage: Storage, config: TeacherConfig) -> TeacherConfig:
    """As :func:`with_dtype_by_hand`, for a command that judges; it says so where that settles the format."""
    settled = with_dtype_by_hand(storage, config)
    if settled != config:
        say(
            f"Verdicts made by hand were imported for this teacher in {settled.dtype}, so teacher.dtype=auto is "
            f"{settled.dtype}; in another one the teacher is asked for these pairs too."
        )
    return settled


def _held(storage: Storage, config: TeacherConfig) -> dict[str, VerdictStore]:
    """The stores, by format, that hold verdicts of the teacher ``config``."""
    held = teacher_keys(storage)
    keys = {dtype: teacher_key(replace(config, dtype=dtype)) for dtype in DTYPES} if held else {}
    stores = {dtype: VerdictStore(storage, key) for dtype, key in keys.items() if key in held}
    return {dtype: store for dtype, store in stores.items() if store.folders()}


def change_of_dtype(cycle: int, others: list[str], dtype: str) -> str:
    """What a run says before it judges ``cycle`` in ``dtype`` and holds verdicts of another machine in ``others``."""
    keeping = " or ".join(f"teacher.dtype={one}" for one in others)
    return (
        f"The verdicts of this run are in {' and '.join(others)}, but teacher.dtype=auto is {dtype} on this machine: "
        f"cycle {cycle} asks for its pairs in {dtype}, and takes none of those; {keeping} keeps to them."
    )

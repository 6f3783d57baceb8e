"""Which of the formats that ``teacher.dtype: auto`` may stand for a run's verdicts are in.

Comes in: a configuration, a run directory. Goes out: names of dtypes. The teacher key holds the format, so verdicts of
two formats never lie in one folder; what ``auto`` is on a machine, hardware.py says.
"""

from __future__ import annotations

from dataclasses import replace

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.hardware import AUTO
from ezxmc_ray.storage import Storage
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.verdicts.store import VerdictStore, teacher_keys

DTYPES = tuple(one for one in TeacherConfig.__dataclass_fields__["dtype"].metadata["choices"] if one != AUTO)


def held_dtypes(storage: Storage, config: TeacherConfig) -> list[str]:
    """The formats in which ``storage`` holds verdicts of the teacher ``config``, whatever its dtype says."""
    held = teacher_keys(storage)
    keys = {dtype: teacher_key(replace(config, dtype=dtype)) for dtype in DTYPES} if held else {}
    return [dtype for dtype, key in keys.items() if key in held and VerdictStore(storage, key).folders()]


def change_of_dtype(cycle: int, others: list[str], dtype: str) -> str:
    """What a run says before it judges ``cycle`` in ``dtype`` and holds verdicts of another machine in ``others``."""
    keeping = " or ".join(f"teacher.dtype={one}" for one in others)
    return (
        f"The verdicts of this run are in {' and '.join(others)}, but teacher.dtype=auto is {dtype} on this machine: "
        f"cycle {cycle} asks for its pairs in {dtype}, and takes none of those; {keeping} keeps to them."
    )

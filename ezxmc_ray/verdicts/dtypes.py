"""Which of the formats that ``teacher.dtype: auto`` may stand for a run's verdicts are in.

Comes in: a configuration, a run directory. Goes out: names of dtypes. The teacher key holds the format, so verdicts of
two formats never lie in one folder; what ``auto`` is on a machine, hardware.py says.
"""

from __future__ import annotations

from dataclasses import replace

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import AUTO
from ezxmc_ray.models import is_quantized
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


def told_dtype_by_hand(storage: Storage, config: TeacherConfig, machines: str) -> TeacherConfig:
    """``config`` with the format to judge in: that of verdicts made by hand, which it says, else ``machines``.

    ``machines``: what auto is where the engines work. Errors: UserError where they cannot compute in the other one. To
    judge in ``machines`` instead would ask for the pairs that people have answered, and keep the teacher's answers.
    """
    settled = with_dtype_by_hand(storage, config)
    if settled.dtype in (AUTO, machines):
        return replace(config, dtype=machines)
    if why := _not_computed(settled, machines):
        raise UserError(
            f"Verdicts made by hand were imported for this teacher in {settled.dtype}, {why}: set "
            f"teacher.dtype={machines} in the configuration, give ezxmc prepare with it, and import them again by "
            "`ezxmc verdicts import RUN FILE --teacher configured`."
        )
    say(
        f"Verdicts made by hand were imported for this teacher in {settled.dtype}, so teacher.dtype=auto is "
        f"{settled.dtype}; in another one the teacher is asked for these pairs too."
    )
    return settled


def _not_computed(config: TeacherConfig, machines: str) -> str:
    """Why the engines cannot compute in the format of ``config`` where auto is ``machines``; empty if they can.

    vLLM refuses bfloat16 on GPUs before Ampere. Its kernels for quantized weights take 16-bit activations.
    """
    if config.dtype == "bfloat16" and machines == "float16":
        return "which the GPUs of this cluster do not compute"
    if config.dtype == "float32" and (config.quantization or is_quantized(config.model)):
        return "in which a quantized teacher is not computed"
    return ""


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

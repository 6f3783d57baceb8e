"""Starting the engine that a configuration names.

Comes in: a teacher's configuration. Goes out: an engine, loaded and ready. The engines' libraries are imported here and
nowhere else, since each takes seconds.
"""

from __future__ import annotations

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.hardware import is_out_of_memory
from ezxmc_ray.teacher.engine import Engine, TeacherSpec, load_teacher


def start_engine(config: TeacherConfig) -> Engine:
    """Load the teacher; takes seconds to minutes.

    Errors: UserError for a model or prompt that cannot be used, and for one that finds too little memory.
    """
    teacher = load_teacher(config)
    try:
        return _engine_of(teacher)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        from ezxmc_ray.teacher.memory import start_error  # it imports torch

        raise start_error(config, error) from error


def _engine_of(teacher: TeacherSpec) -> Engine:
    config = teacher.config
    if config.engine == "vllm":
        from ezxmc_ray.teacher.vllm_engine import VllmEngine  # it imports vLLM

        return VllmEngine(teacher)
    if config.engine == "packed":
        from ezxmc_ray.teacher.packed_engine import PackedEngine

        return PackedEngine(teacher)
    from ezxmc_ray.teacher.transformers_engine import TransformersEngine

    return TransformersEngine(teacher)

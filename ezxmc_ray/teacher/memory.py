"""What to do where a teacher finds too little memory: when its engine starts, and while it judges.

Comes in: a teacher's configuration and what its engine raised. Goes out: one sentence that names the knobs, or a
context in which memory that runs out is raised as one. vLLM takes a share of a GPU beforehand, which its weights and
its key-value cache fill; what it computes with beside them is in the rest.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import torch

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import is_out_of_memory, memory_errors
from ezxmc_ray.models import load_error

#: vLLM's words where the share is too large: others have some of the GPU's memory, or its first step found none left.
_SHARE_TOO_LARGE = ("Free memory on device", "lowering `max_num_seqs`")
#: And where nothing, or not one prompt's keys and values, fits beside the weights.
_SHARE_TOO_SMALL = (
    "No available memory for the cache blocks",
    "cache is needed, which is larger",
    "to serve even a single token",
)
#: And where engine processes of their own (tensor parallelism) end at their start: they keep the reason to themselves.
_PROCESSES_ENDED = "Engine core initialization failed"


def start_error(config: TeacherConfig, error: BaseException) -> UserError:
    """The sentence for ``error``, which an engine raised when it started."""
    told, model = str(error), config.model
    reason = one_line(error).split(". ")[0].rstrip(".")
    if any(words in told for words in _SHARE_TOO_LARGE):
        return UserError(f"The teacher {model} finds too little free memory ({reason}): {_smaller_share(config)}.")
    if is_out_of_memory(error) or any(words in told for words in _SHARE_TOO_SMALL):
        return UserError(f"The teacher {model} does not fit into memory ({reason}): {_larger_share(config)}.")
    if _PROCESSES_ENDED in told:
        return UserError(
            f"The engine of the teacher {model} did not start: its processes' last words are in Ray's logs "
            f"(worker-*.err); if they are of memory, {_larger_share(config)}."
        )
    return load_error(model, error)


def teacher_memory(config: TeacherConfig) -> AbstractContextManager[None]:
    """While the teacher judges: memory that runs out is a UserError that names the knobs."""
    return memory_errors(f"while the teacher {config.model} judged", partial(_smaller_share, config))


def _smaller_share(config: TeacherConfig) -> str:
    """Remedies where what the engine took beforehand leaves too little."""
    if config.engine != "vllm":
        return "set teacher.max_document_tokens lower, or take a smaller teacher.model"
    if not torch.cuda.is_available():
        return "set teacher.cpu_kv_cache_gib or teacher.engines lower, or take a smaller teacher.model"
    share = f"set teacher.gpu_memory_share lower than {config.gpu_memory_share:g}"
    return f"{share}, end what else is on the GPU, or take a smaller teacher.model"


def _larger_share(config: TeacherConfig) -> str:
    """Remedies where what the engine may take is too little."""
    smaller = "take a smaller or a quantized teacher.model"
    if config.engine != "vllm":
        return smaller
    if not torch.cuda.is_available():
        return f"set teacher.cpu_kv_cache_gib higher or teacher.max_document_tokens lower, or {smaller}"
    return (
        f"set teacher.gpu_memory_share higher than {config.gpu_memory_share:g}, divide it over more GPUs than "
        f"teacher.tensor_parallel={config.tensor_parallel}, or {smaller}"
    )

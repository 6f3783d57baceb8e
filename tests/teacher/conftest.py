"""The engines that the tests of the teacher share: one vLLM for all, and the float32 reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import load_teacher
from ezxmc_ray.teacher.transformers_engine import TransformersEngine
from ezxmc_ray.teacher.vllm_engine import VllmEngine


def config_of(model: str, readout: str) -> TeacherConfig:
    """Small limits, so that prompts are cheap; float32, so that two engines' numbers can be compared closely."""
    return TeacherConfig(
        model=model, readout=readout, dtype="float32", max_document_tokens=64, max_label_tokens=48, cpu_kv_cache_gib=1
    )


@pytest.fixture(scope="module")
def vllm_engines(small_teacher: str, one_engine: Any) -> Iterator[dict[str, VllmEngine]]:
    """By read-out: two engines over one vLLM."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    # vLLM would take the group of a test that failed for its own, and wait for the others of it without end.
    assert not torch.distributed.is_initialized()
    environment = dict(os.environ)
    other = load_teacher(config_of(small_teacher, "likelihood"))
    with one_engine():
        yes_no = VllmEngine(load_teacher(config_of(small_teacher, "yes_no")), [other])
        likelihood = VllmEngine(other, llm=yes_no.llm)
        yield {"yes_no": yes_no, "likelihood": likelihood}
        yes_no.close()
        cleanup_dist_env_and_memory()  # other tests of this process have process groups of their own
    os.environ.clear()  # what vLLM puts there is not for the processes that later tests start
    os.environ.update(environment)


@pytest.fixture(scope="session")
def reference_engines(small_teacher: str) -> dict[str, TransformersEngine]:
    """By read-out: transformers in float32."""
    return {
        readout: TransformersEngine(load_teacher(config_of(small_teacher, readout)))
        for readout in ("yes_no", "likelihood")
    }

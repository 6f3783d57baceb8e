"""The configuration of a run: its knobs (schema.py, prepare.py), and how it is read, checked, written (loading.py)."""

from __future__ import annotations

from ezxmc_ray.config.addresses import cluster_address
from ezxmc_ray.config.knobs import Knob
from ezxmc_ray.config.lexical import LexicalConfig
from ezxmc_ray.config.loading import (
    DEEPEST_RANK,
    apply_overrides,
    differences,
    fingerprint,
    fingerprinted_settings,
    from_dict,
    literal,
    load_config,
    to_dict,
)
from ezxmc_ray.config.predict import CrossEncoderConfig, PredictConfig
from ezxmc_ray.config.prepare import PrepareConfig
from ezxmc_ray.config.schema import (
    ClusterConfig,
    Config,
    CurriculumConfig,
    EncoderConfig,
    EvaluateConfig,
    IndexConfig,
    ReportConfig,
    ShortlistConfig,
    StudentConfig,
    TeacherConfig,
    knobs,
)

__all__ = [
    "DEEPEST_RANK",
    "ClusterConfig",
    "Config",
    "CrossEncoderConfig",
    "CurriculumConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "IndexConfig",
    "Knob",
    "LexicalConfig",
    "PredictConfig",
    "PrepareConfig",
    "ReportConfig",
    "ShortlistConfig",
    "StudentConfig",
    "TeacherConfig",
    "apply_overrides",
    "cluster_address",
    "differences",
    "fingerprint",
    "fingerprinted_settings",
    "from_dict",
    "knobs",
    "literal",
    "load_config",
    "to_dict",
]

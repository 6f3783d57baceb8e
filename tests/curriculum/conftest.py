"""A run whose stages are fakes; the steps, their manifests and what makes them stale are the real ones."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from ezxmc_ray import ready
from ezxmc_ray.cluster import session as cluster
from ezxmc_ray.stages import cross_encoder, shortlist, train
from ezxmc_ray.steps import RunPlan
from tests.curriculum.fake_stages import DIMENSION, FakeStages, WritingStages, machine


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fake = FakeStages()
    monkeypatch.setattr(RunPlan, "_run", lambda work, *call: fake(work, *call))
    monkeypatch.setattr(ready, "load_teacher", lambda config: None)
    monkeypatch.setattr(cluster, "ray_cluster", lambda config: nullcontext())
    monkeypatch.setattr(train, "check_training", lambda config: None)
    monkeypatch.setattr(shortlist, "check_encoder", lambda config: DIMENSION)
    machine(monkeypatch, has_bfloat16=True)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Overrides for a run of three cycles; its models are directories with enough in them to have a fingerprint."""
    for name in ("encoder", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("documents", "labels"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "1", "text": name}) + "\n")
    return [
        f"run={tmp_path}/run",
        f"prepare.documents={tmp_path}/documents.jsonl",
        f"prepare.labels={tmp_path}/labels.jsonl",
        f"encoder.model={tmp_path}/encoder",
        f"teacher.model={tmp_path}/teacher",
        "curriculum.cycles=3",
    ]


@pytest.fixture
def writing(stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> WritingStages:
    """Fakes that write; ``settings`` are then of a run of one cycle."""
    fake = WritingStages()
    monkeypatch.setattr(RunPlan, "_run", lambda work, *call: fake(work, *call))
    settings[-1] = "curriculum.cycles=1"
    return fake


@pytest.fixture
def reranking(writing: WritingStages, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> WritingStages:
    """Fakes that write; ``settings`` are then of a run of one cycle with a cross-encoder."""
    monkeypatch.setattr(cross_encoder, "check_cross_encoder", lambda config: None)
    settings.append("predict.rerank=30")
    return writing

"""Which files a step keeps that is done anew: those that are made of the same, and whole. The stages are fakes that
write (test_damage.py)."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from ezxmc_ray.stages import cross_encoder
from ezxmc_ray.steps import RunPlan
from tests.curriculum.fake_stages import FakeStages, run, run_until_killed, states, storage_of
from tests.curriculum.test_damage import WritingStages


@pytest.fixture
def writing(stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> WritingStages:
    """Of a finished run of one cycle with a cross-encoder, whose knobs ``settings`` are."""
    writing = WritingStages()
    monkeypatch.setattr(RunPlan, "_run", lambda work, *call: writing(work, *call))
    monkeypatch.setattr(cross_encoder, "check_cross_encoder", lambda config: None)
    settings[-1] = "curriculum.cycles=1"
    settings.append("predict.rerank=30")
    run(settings)
    writing.took()
    return writing


def test_another_weight_keeps_its_files_and_every_other_knob_none(writing: WritingStages, settings: list[str]) -> None:
    storage, file = storage_of(settings), "cross_encoder/part-0"
    before, writing.salt = storage.read_bytes(file), "another"
    run_until_killed(writing, "cross_encoder", settings, "cross_encoder.weight=2")
    assert states(settings)["cross_encoder"] == "missing"
    writing.dies_at = ""
    writing.took()
    run(settings, "cross_encoder.weight=3")
    assert writing.took() == ["cross_encoder", "predict", "evaluate", "report"] and storage.read_bytes(file) == before
    storage.write_bytes(file, b"")
    run(settings, "cross_encoder.weight=4")
    assert storage.read_bytes(file) not in (b"", before) and storage.read_bytes("cross_encoder/part-1")
    now, writing.salt = storage.read_bytes(file), ""
    run(settings, "cross_encoder.weight=4", "cross_encoder.epochs=3")
    assert storage.read_bytes(file) == before != now


def test_a_kill_before_a_step_begins_anew_leaves_no_damaged_file_that_nothing_tells(
    writing: WritingStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, file = storage_of(settings), "predictions/part-0"
    whole = storage.read_bytes(file)
    storage.write_bytes(file, b"")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunPlan, "_keep_only", Mock(side_effect=KeyboardInterrupt))
        run(settings)
    run(settings)
    assert storage.read_bytes(file) == whole

"""Which files a step keeps that is done anew: those that are made of the same, and whole. The stages are fakes that
write (fake_stages.py)."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from ezxmc_ray.steps import RunPlan
from tests.curriculum.fake_stages import WritingStages, run, run_until_killed, states, storage_of


@pytest.fixture
def finished(reranking: WritingStages, settings: list[str]) -> WritingStages:
    """Of a finished run with a cross-encoder."""
    run(settings)
    reranking.took()
    return reranking


def test_another_weight_keeps_its_files_and_every_other_knob_none(finished: WritingStages, settings: list[str]) -> None:
    storage, file = storage_of(settings), "cross_encoder/part-0"
    before, finished.salt = storage.read_bytes(file), "another"
    run_until_killed(finished, "cross_encoder", settings, "cross_encoder.weight=2")
    assert states(settings)["cross_encoder"] == "missing"
    finished.dies_at = ""
    finished.took()
    run(settings, "cross_encoder.weight=3")
    assert finished.took() == ["cross_encoder", "predict", "evaluate", "report"] and storage.read_bytes(file) == before
    storage.write_bytes(file, b"")
    run(settings, "cross_encoder.weight=4")
    assert storage.read_bytes(file) not in (b"", before) and storage.read_bytes("cross_encoder/part-1")
    now, finished.salt = storage.read_bytes(file), ""
    run(settings, "cross_encoder.weight=4", "cross_encoder.epochs=3")
    assert storage.read_bytes(file) == before != now


def test_a_kill_before_a_step_begins_anew_leaves_no_damaged_file_that_nothing_tells(
    finished: WritingStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, file = storage_of(settings), "predictions/part-0"
    whole = storage.read_bytes(file)
    storage.write_bytes(file, b"")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunPlan, "_keep_only", Mock(side_effect=KeyboardInterrupt))
        run(settings)
    run(settings)
    assert storage.read_bytes(file) == whole

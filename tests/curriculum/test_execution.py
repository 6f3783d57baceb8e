"""One execution of a step: what it keeps until it has something better, what it counts, what it tidies up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from ezxmc_ray.storage import read_manifest, write_manifest
from tests.curriculum.fake_stages import FakeStages, WritingStages, run, run_until_killed, storage_of
from tests.curriculum.test_damage import finished

__all__ = ["finished"]  # a fixture


def test_a_first_run_speaks_of_no_damage(
    stages: FakeStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings)
    assert "damaged" not in capsys.readouterr().out


def test_what_was_prepared_stays_until_something_else_is_whole(
    finished: WritingStages, settings: list[str], tmp_path: Path
) -> None:
    storage = storage_of(settings)
    before = read_manifest(storage, "documents")
    (tmp_path / "documents.jsonl").write_text('{"id": "2", "text": "another"}\n')
    run_until_killed(finished, "prepare", settings)
    assert read_manifest(storage, "documents") == before and storage.exists("documents/part-0")
    finished.dies_at = ""
    run(settings)
    after = read_manifest(storage, "documents")
    assert before is not None and after is not None and after.fingerprint != before.fingerprint


def test_any_other_step_that_is_begun_anew_leaves_nothing_of_the_last(
    finished: WritingStages, settings: list[str]
) -> None:
    storage = storage_of(settings)
    run_until_killed(finished, "predict", settings, "predict.top_k=3")
    assert read_manifest(storage, "predictions") is None and not storage.exists("predictions/part-0")


def test_a_manifest_counts_the_seconds_of_starts_that_were_killed(
    finished: WritingStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [*settings, "predict.top_k=3"]
    finished.dies_at = "predict"
    with monkeypatch.context() as slow:
        real = WritingStages.__call__
        slow.setattr(WritingStages, "__call__", lambda *call: (time.sleep(0.3), real(*call))[1])
        with pytest.raises(KeyboardInterrupt):
            run(again)
    finished.dies_at = ""
    run(again)
    manifest = read_manifest(storage_of(settings), "predictions")
    assert manifest is not None and 0.3 <= manifest.seconds < 30


def test_a_repair_adds_to_the_seconds_that_the_step_took(finished: WritingStages, settings: list[str]) -> None:
    storage = storage_of(settings)
    before = read_manifest(storage, "predictions")
    assert before is not None
    write_manifest(storage, "predictions", replace(before, seconds=1000.0))
    storage.write_bytes("predictions/part-1", b"")
    run(settings)
    after = read_manifest(storage, "predictions")
    assert after is not None and 1000 < after.seconds < 1030 and after.stage == "predict"


def test_a_repair_keeps_the_name_of_what_comes_out_as_before(finished: WritingStages, settings: list[str]) -> None:
    """Of an older version's run too, whose names were drawn: later steps are not stale."""
    storage = storage_of(settings)
    before = read_manifest(storage, "evaluation")
    assert before is not None
    for salt, kept in (("", True), ("another", False)):
        write_manifest(storage, "evaluation", replace(before, commit="drawn"))
        storage.write_bytes("evaluation/part-1", b"")
        finished.salt = salt
        run(settings)
        after = read_manifest(storage, "evaluation")
        assert after is not None and (after.commit == "drawn") is kept


def test_what_is_done_with_other_settings_is_no_repair(
    finished: WritingStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a file of the old one is damaged: nothing of it is kept, and its seconds do not count."""
    storage = storage_of(settings)
    before = read_manifest(storage, "predictions")
    assert before is not None
    write_manifest(storage, "predictions", replace(before, seconds=1000.0))
    storage.write_bytes("predictions/part-1", b"")
    capsys.readouterr()
    run(settings, "predict.top_k=3")
    after = read_manifest(storage, "predictions")
    assert after is not None and after.seconds < 30
    assert "made anew" not in capsys.readouterr().out


def test_what_a_training_would_have_gone_on_from_goes_when_it_is_done(
    finished: WritingStages, settings: list[str]
) -> None:
    storage = storage_of(settings)
    storage.write_bytes("cycle-0/training-1/checkpoint", b"")
    storage.write_bytes("cycle-0/training-1.json", b"{}")
    storage.write_bytes("cycle-0/student/part-1", b"")
    run(settings)
    assert finished.took() == ["train 0"]
    assert not [name for name in storage.list("cycle-0", recursive=True) if "training-" in name]

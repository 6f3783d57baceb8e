"""A run with a cross-encoder (predict.rerank): its step in the order, the status and the dry run; what is damaged of it
is made anew; and what a finished run says. The stages are fakes (fake_stages.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray import curriculum, verification
from ezxmc_ray.config import load_config
from ezxmc_ray.estimate import PAIR_ENCODING, START_SECONDS
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest
from tests.curriculum.fake_stages import ENDING, WritingStages, cycle, held_out, run, states, storage_of

RERANKED = ["select", "cross_encoder", *ENDING[1:]]


def test_it_is_trained_between_the_selection_and_the_index(reranking: WritingStages, settings: list[str]) -> None:
    run(settings)
    assert reranking.took() == ["prepare", *cycle(0), *held_out(1), *RERANKED]
    assert list(states(settings).items())[-6:] == [(step, "done") for step in RERANKED]
    run(settings)
    assert reranking.took() == []


def test_a_finished_run_can_be_given_one_and_left_without(reranking: WritingStages, settings: list[str]) -> None:
    run(settings, "predict.rerank=0")
    assert "cross_encoder" not in states(settings)
    assert reranking.took()[-5:] == ENDING
    run(settings)
    assert reranking.took() == ["cross_encoder", "predict", "evaluate", "report"]
    run(settings, "predict.rerank=20")
    assert reranking.took() == ["predict", "evaluate", "report"]
    run(settings, "predict.rerank=0")
    assert reranking.took() == ["predict", "evaluate", "report"]
    assert "cross_encoder" not in states(settings)


@pytest.mark.parametrize("how", ["verified", "emptied", "manifest"])
def test_what_is_damaged_of_it_is_made_anew(
    reranking: WritingStages, settings: list[str], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run(settings)
    reranking.took()
    storage, file = storage_of(settings), "cross_encoder/manifest.json" if how == "manifest" else "cross_encoder/part-1"
    whole = storage.read_bytes(file)
    storage.write_bytes(file, b"" if how == "emptied" else whole[:-1] + b"?")
    if how == "verified":
        found = verification.verify(storage.root).damaged
        assert [name for name in found if not name.startswith("verdicts/")] == [file]
    assert set(verification.known_damage(storage.root)) == {file}
    assert states(settings)["cross_encoder"] == "damaged"
    capsys.readouterr()
    run(settings)
    said = " ".join(capsys.readouterr().out.split())
    assert ("cross_encoder: damaged, and made anew: cross_encoder/part-1" in said) == (how != "manifest")
    assert reranking.took() == ["cross_encoder"]
    assert set(states(settings).values()) == {"done"}


def test_the_dry_run_takes_its_rate_and_those_of_what_it_ranked(reranking: WritingStages, settings: list[str]) -> None:
    def planned(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
        plan = curriculum.dry_run(load_config(None, [*settings, *overrides]))
        return plan, {step["step"]: step for step in plan["steps"]}

    plan, steps = planned()
    assert "cross_encoder" in plan["estimated_from"] and not steps["cross_encoder"]["done"]
    assert "cross_encoder" not in planned("predict.rerank=0")[0]["estimated_from"]
    run(settings)
    storage = storage_of(settings)
    # 300 documents were tagged in 100 s, and 100 ranked three times; of each 30 pairs were read, in the last ranking.
    rankings = ("untrained", "cycle_0", "reranked")
    told: dict[str, tuple[int, dict[str, Any]]] = {
        "cross_encoder": (800, {"documents_per_s": 2.5}),
        "predictions": (300, {"rerank": 30}),
        "evaluation": (300, {"rerank": 30, "metrics": {name: {} for name in rankings}}),
    }
    for folder, (rows, details) in told.items():
        manifest = read_manifest(storage, folder)
        assert manifest is not None
        seconds = 100.0 + START_SECONDS["predict"]
        write_manifest(storage, folder, replace(manifest, rows=rows, seconds=seconds, details=details))
    again, found = planned("student.epochs=2")
    measured = again["estimated_from"].partition("the rates of")[0]
    assert all(stage in measured for stage in ("cross_encoder", "predict", "evaluate"))
    assert found["predict"]["seconds"] == pytest.approx(101) and found["evaluate"]["seconds"] == pytest.approx(101)
    each = 100 / (300 * (1 + 30 * PAIR_ENCODING))  # seconds of a document that is encoded
    fitted = START_SECONDS["predict"] + 20 * 10 * PAIR_ENCODING * each
    learned = START_SECONDS["cross_encoder"] + found["cross_encoder"]["documents"] / 2.5
    assert found["cross_encoder"]["seconds"] == pytest.approx(learned + fitted)
    # Without a cross-encoder the same rates are of encoding alone.
    assert planned("student.epochs=2", "predict.rerank=0")[1]["predict"]["seconds"] == pytest.approx(1 + 300 * each)


def test_a_finished_run_tells_what_is_shipped_and_what_the_student_alone_reaches(tmp_path: Path) -> None:
    storage, config = Storage(str(tmp_path)), load_config(None, [f"run={tmp_path}", "predict.rerank=30"])
    student = (
        "The student of cycle 0 is what this run ships. A cross-encoder ranks the first 30 labels of a document anew"
    )
    write_manifest(storage, "student", Manifest("select", "f", 9, 1.0, details={"chosen_cycle": 0}))
    no_measures = f"{student}. No test document has gold labels, so no measures are shown."
    assert curriculum._shipped(storage, 1, 30) == no_measures
    shares = {"untrained": 32.5, "cycle_0": 44.54, "reranked": 47.06}
    metrics = {name: {"P@1": share, "documents": 1200} for name, share in shares.items()}
    write_manifest(storage, "evaluation", Manifest("evaluate", "f", 9, 1.0, details={"metrics": metrics}))
    assert curriculum._shipped(storage, 1, 30) == (
        f"{student}. The first label is then a gold one for 47.1 % of 1,200 test documents, against 44.5 % without it "
        "and 32.5 % with the untrained encoder."
    )
    result = curriculum._result(config)
    assert (result.metrics, result.untrained_metrics) == (metrics["reranked"], metrics["untrained"])

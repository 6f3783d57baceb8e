"""What is refused, and what a dry run says, before anything is done.

The stages are fakes (fake_stages.py); tests/stages/test_stop_rule.py has a real run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ezxmc_ray import curriculum, hub, layout, ready
from ezxmc_ray.cluster import session as cluster
from ezxmc_ray.config import TeacherConfig, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import train
from ezxmc_ray.storage import read_manifest, write_manifest
from tests.curriculum.fake_stages import (
    PREPARED,
    FakeStages,
    run,
    run_until_killed,
    states,
    storage_of,
)


@pytest.mark.parametrize("where", ["train 0", "compare 1", "train 1", "select"])
def test_a_dry_run_of_a_run_that_was_killed_shows_what_is_left(
    stages: FakeStages, settings: list[str], where: str
) -> None:
    run_until_killed(stages, where, settings)
    plan = curriculum.dry_run(load_config(None, settings))
    done = {step["step"]: step["done"] for step in plan["steps"]}
    assert done["prepare"] and done["cycle 0 judge"] and not done["predict"]
    assert done["cycle 0 train"] == (where != "train 0")


@pytest.mark.parametrize("where", ["judge 1", "compare 1"])
def test_held_out_documents_alone_are_not_a_cycle_that_is_judged(
    stages: FakeStages, settings: list[str], where: str
) -> None:
    run_until_killed(stages, where, settings)
    left = {step["step"]: step for step in curriculum.dry_run(load_config(None, settings))["steps"]}
    for name in ("cycle 1 shortlist", "cycle 1 judge"):
        assert not left[name]["done"] and left[name]["seconds"]
        assert states(settings)[name] in ("missing", "stale")
    run_until_killed(stages, "train 1", settings)
    assert states(settings)["cycle 1 shortlist"] == states(settings)["cycle 1 judge"] == "done"
    (storage := storage_of(settings)).remove("cycle-1/selection")
    assert storage.exists("cycle-1/examples/manifest.json")
    assert states(settings)["cycle 1 judge"] == "done"  # of all its documents, which serve the comparison too


def test_a_budget_that_is_refused_is_not_written_down(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    with pytest.raises(UserError, match="give so many at least"):
        run(settings, "curriculum.pair_budget=5")
    assert open_budget(settings) == 0


def test_a_budget_is_refused_before_ray_starts_where_documents_are_counted(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until_killed(stages, "shortlist 0", settings)
    monkeypatch.setattr(cluster, "ray_cluster", lambda config: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match="give so many at least"):
        run(settings, "curriculum.pair_budget=5")
    assert open_budget(settings) == 0


def test_documents_that_are_to_be_counted_anew_are_no_reason_to_refuse_a_budget(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings)
    stages.took()
    with pytest.raises(UserError, match="give so many at least"):
        run(settings, "curriculum.pair_budget=5", "prepare.held_out_share=0.3")
    assert stages.took() == ["prepare"]


def open_budget(settings: list[str]) -> int | str:
    return curriculum.open_run(load_config(None, settings).run).config.curriculum.pair_budget


@pytest.mark.parametrize("mistake", ["encoder.model=/typo", "teacher.prompt=nosuch", "prepare.labels=gone.jsonl"])
def test_what_is_refused_leaves_a_finished_run_and_its_configuration_as_they_were(
    stages: FakeStages, settings: list[str], mistake: str
) -> None:
    run(settings)
    stages.took()
    with pytest.raises(UserError):
        run(settings, "encoder.max_document_tokens=32", mistake)
    assert open_tokens(settings) == 128
    assert set(states(settings).values()) == {"done"}


@pytest.mark.parametrize("refused", ["ray_cluster", "check_training", "load_teacher"])
def test_what_is_refused_when_work_begins_is_not_written_down_either(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(config: object) -> None:
        raise UserError("no.")

    run(settings)
    place = {"ray_cluster": cluster, "check_training": train, "load_teacher": ready}[refused]
    monkeypatch.setattr(place, refused, refuse)
    with pytest.raises(UserError, match="no"):
        run(settings, "encoder.max_document_tokens=32")
    assert open_tokens(settings) == 128


def test_documents_that_prepare_refuses_leave_the_configuration_of_a_finished_run(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings)
    run_until_killed(stages, "prepare", settings, "encoder.max_document_tokens=32", "prepare.test_share=0.5")
    assert open_tokens(settings) == 128


def test_what_differs_is_told_and_written_down_when_the_work_begins(
    stages: FakeStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings)
    capsys.readouterr()
    stages.took()
    run_until_killed(stages, "shortlist 0", settings, "encoder.max_document_tokens=32")
    assert "differs from the one this run was made with: encoder.max_document_tokens: 128 -> 32" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    assert open_tokens(settings) == 32


def test_inputs_that_cannot_be_read_are_refused_before_ray_starts(
    stages: FakeStages, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ray_cluster", lambda config: pytest.fail("Ray was started"))
    (tmp_path / "labels.csv").write_text("number,text\n1,first\n")
    with pytest.raises(UserError, match="no column 'id'"):
        run(settings, f"prepare.labels={tmp_path}/labels.csv")
    (tmp_path / "documents.parquet").write_text("not Parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        run(settings, f"prepare.documents={tmp_path}/documents.parquet")


def test_the_bundled_teacher_is_said_to_be_for_trying(
    stages: FakeStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bundled = TeacherConfig().model
    stages.dies_at = "prepare"
    for readout, words in (("auto", "teacher.readout=likelihood;"), ("yes_no", "which it cannot answer")):
        with pytest.raises(KeyboardInterrupt):
            run(settings, f"teacher.model={bundled}", f"teacher.readout={readout}")
        said = " ".join(capsys.readouterr().out.split())
        assert "for trying" in said and words in said and "teacher.model=" in said
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert "for trying" not in capsys.readouterr().out


def open_tokens(settings: list[str]) -> int:
    return curriculum.open_run(load_config(None, settings).run).config.encoder.max_document_tokens


def test_a_budget_that_is_too_small_is_told_before_anything_is_judged(stages: FakeStages, settings: list[str]) -> None:
    with pytest.raises(UserError, match="give so many at least"):
        run(settings, "curriculum.pair_budget=10")
    assert stages.took() == ["prepare"]


def test_documents_that_are_too_few_to_learn_from_are_told_before_anything_is_judged(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they were prepared for a run that trains nothing, or by an older version."""
    monkeypatch.setitem(PREPARED, "held_out", 199)
    run(settings, "curriculum.cycles=0")
    stages.took()
    with pytest.raises(UserError, match="Of 200 train documents 199 are held out, and a training takes 2 others"):
        run(settings)
    assert stages.took() == []


def test_documents_that_are_too_few_to_learn_from_are_prepared_and_judged(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PREPARED, "held_out", 199)
    for stage in ("prepare", "shortlist", "judge"):
        curriculum.run_stage(load_config(None, settings), stage)
        assert stages.took()[-1].startswith(stage)
    for stage in ("train", "index"):  # the one for its own sake, the other for what was not done before it
        with pytest.raises(UserError, match="training takes 2 others" if stage == "train" else "needs cycle 0 train"):
            curriculum.run_stage(load_config(None, settings), stage)


def test_a_dry_run_names_the_teacher_how_it_is_read_and_what_its_time_is_made_of(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = curriculum.dry_run(load_config(None, settings))
    assert "/teacher, read-out yes_no, dtype " in plan["teacher"] and "label_prior" in plan["teacher"]
    assert "judge is that of the bundled 135M model" in plan["estimated_from"]
    assert "second read-out likelihood (two questions a pair)" in plan["teacher"]
    once = curriculum.dry_run(load_config(None, [*settings, "teacher.second_readout=none"]))
    assert "second" not in once["teacher"]
    tokens = [sum(step["tokens"] or 0 for step in one["steps"]) for one in (once, plan)]
    assert once["pairs"] == plan["pairs"] and tokens[1] > tokens[0]
    bundled = curriculum.dry_run(load_config(None, [*settings, f"teacher.model={TeacherConfig().model}"]))
    assert "read-out likelihood" in bundled["teacher"] and "for trying" in bundled["teacher"]
    assert "CPU cores" in bundled["estimated_from"] and "larger" not in bundled["estimated_from"]
    monkeypatch.setattr(hub, "hub_commit", refuse_hub)
    unknown = curriculum.dry_run(load_config(None, [*settings, "teacher.model=org/name"]))
    assert unknown["teacher"] == "org/name, which cannot be looked at: No hub here."


def test_a_dry_run_takes_no_rates_of_another_teacher_or_encoder(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    storage, teacher = storage_of(settings), load_config(None, settings).teacher
    told = {"model": teacher.model, "max_document_tokens": teacher.max_document_tokens}
    for folder in (layout.shortlist(0), *map(layout.examples, range(4))):
        manifest = read_manifest(storage, folder)
        assert manifest is not None
        details = manifest.details | {"engine_pairs_per_s": 7.0, "teacher": told}
        write_manifest(storage, folder, replace(manifest, rows=1000, seconds=100.0, details=details))

    def from_run(*overrides: str) -> str:
        source = str(curriculum.dry_run(load_config(None, [*settings, *overrides]))["estimated_from"])
        return source.partition("this run's rates")[2].partition("the rates of")[0]

    assert "judge" in from_run() and "shortlist" in from_run()
    other = "teacher.model=" + load_config(None, settings).encoder.model
    assert "judge" not in from_run(other) and "shortlist" in from_run(other)
    assert "judge" not in from_run("teacher.max_document_tokens=77")
    assert "shortlist" not in from_run("encoder.max_document_tokens=77")


def test_a_dry_run_counts_alternatives_before_anything_is_prepared(
    stages: FakeStages, settings: list[str], tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,text,alternatives\na,Sea,Ocean; Brine\nb,Bees,\n")
    found = curriculum.dry_run(load_config(None, [*settings, f"prepare.labels={labels}"]))
    assert found["labels"] == "2, 2 alternatives"
    without = [*settings, f"prepare.labels={labels}", "prepare.label_alternatives_column="]
    plain = curriculum.dry_run(load_config(None, without))
    seconds, less = (next(one["seconds"] for one in plan["steps"] if one["step"] == "index") for plan in (found, plain))
    assert plain["labels"] == "2" and seconds > less


def refuse_hub(hub_id: str, revision: str) -> str:
    raise UserError("No hub here.")


def test_a_dry_run_shows_the_bounded_pairs_and_leaves_out_ended_cycles(stages: FakeStages, settings: list[str]) -> None:
    stages.leads = {1: -2.0}
    config = load_config(None, [*settings, "curriculum.pair_budget=4000"])
    curriculum.run(config)
    plan = curriculum.dry_run(config)
    assert plan["pairs"] == "at most 1,460 of a budget of 4,000"  # 10 * (20 + 106) + 10 * 20
    assert [step["step"] for step in plan["steps"] if step["step"].startswith("cycle")] == [
        "cycle 0 shortlist",
        "cycle 0 judge",
        "cycle 0 train",
        "cycle 1 select",
        "cycle 1 shortlist",
        "cycle 1 judge",
    ]
    assert all(step["done"] for step in plan["steps"])


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        (
            ["shortlist.documents_per_cycle=1"],
            r"shortlist\.documents_per_cycle is 1, and a training takes 2 documents at",
        ),
        (["predict.rerank=30", "curriculum.cycles=0"], r"predict\.rerank is 30, .* but no cycle was trained"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(settings: list[str], knobs: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        curriculum.dry_run(load_config(None, [*settings, *knobs]))

"""Which steps a run goes through: the stop rule, a run that is killed, what is redone after a change, the status.

The stages are fakes (fake_stages.py); tests/stages/test_stop_rule.py has a real run.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from ezxmc_ray import curriculum, steps
from ezxmc_ray.config import load_config
from ezxmc_ray.context import StageResult
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest
from tests.curriculum.fake_stages import (
    ENDING,
    PREPARED,
    STOPPED_AT_2,
    WHOLE,
    FakeStages,
    cycle,
    held_out,
    run,
    run_until_killed,
    states,
    storage_of,
)


def test_every_cycle_is_run_while_its_encoder_is_worth_it_and_a_second_run_does_nothing(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings)
    assert stages.took() == WHOLE
    run(settings)
    assert stages.took() == []
    assert set(states(settings).values()) == {"done"}


@pytest.mark.parametrize("name", ["SHORTLIST_SCHEMA", "EXAMPLES_SCHEMA"])
def test_tables_of_another_version_are_made_anew(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run(settings)
    stages.took()
    monkeypatch.setattr(steps, name, pa.schema([*getattr(steps, name), ("one_more", pa.int32())]))
    run(settings)
    kept = {"prepare"} | ({"shortlist 0"} if name == "EXAMPLES_SCHEMA" else set())
    assert stages.took() == [call for call in WHOLE if call not in kept]


def test_without_the_rule_no_cycle_asks_for_its_held_out_documents_first(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings, "curriculum.min_lead=null")
    assert stages.took() == ["prepare", *cycle(0), *cycle(1), *cycle(2), *held_out(3), *ENDING]
    assert not any("select" in name for name in states(settings) if name != "select")


def test_an_encoder_that_got_worse_ends_the_cycles_before_its_train_documents_are_judged(
    stages: FakeStages, settings: list[str]
) -> None:
    stages.leads = {1: 2.0, 2: -1.5}
    run(settings)
    assert stages.took() == STOPPED_AT_2
    found = states(settings)
    left_out = ["cycle 2 train", "cycle 3 shortlist", "cycle 3 judge"]
    assert [name for name, state in found.items() if state == "not run"] == left_out
    assert {state for name, state in found.items() if name not in left_out} == {"done"}
    assert RunPlan(load_config(None, settings), storage_of(settings)).context.cycles == 2
    run(settings)
    assert stages.took() == []


def test_an_automatic_budget_ends_where_a_student_is_not_better_beyond_noise(
    stages: FakeStages, settings: list[str]
) -> None:
    stages.leads = {1: -0.5, 2: 0.5}
    run(settings, "curriculum.pair_budget=auto")
    assert stages.took() == STOPPED_AT_2
    assert states(settings)["cycle 2 train"] == "not run"
    stages.leads = {1: -1.5}
    run(settings, "curriculum.pair_budget=auto", "run=" + settings[0].removeprefix("run=") + "-worse")
    assert "judge 1" in stages.calls and "train 1" not in stages.took()


@pytest.mark.parametrize("dies_at", [call for call in STOPPED_AT_2 if call != "prepare"])
def test_a_run_that_is_killed_goes_on_at_the_stage_where_it_was(
    stages: FakeStages, settings: list[str], dies_at: str
) -> None:
    stages.leads, stages.dies_at = {2: -2.0}, dies_at
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert "missing" in states(settings).values()
    before = stages.took()
    stages.dies_at = ""
    run(settings)
    assert [*before[:-1], *stages.took()] == STOPPED_AT_2


def test_another_min_lead_judges_and_trains_nothing_twice(stages: FakeStages, settings: list[str]) -> None:
    stages.leads = {1: 2.0, 2: -1.5}
    run(settings)
    stages.took()
    run(settings, "curriculum.min_lead=-2")  # go on where it ended
    assert stages.took() == [*cycle(2), *held_out(3), *ENDING]
    run(settings)  # and back: cycle 2 is judged on more documents than needed, so nothing but the choice is redone
    assert stages.took() == ENDING
    assert states(settings)["cycle 3 judge"] == "not run"


def test_the_rule_can_be_switched_on_for_a_finished_run_without_judging_anew(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings, "curriculum.min_lead=null")
    stages.took()
    run(settings)
    assert stages.took() == ["compare 1", "compare 2", "report"]


def test_the_comparison_is_made_anew_when_what_it_was_made_of_changes(stages: FakeStages, settings: list[str]) -> None:
    stages.leads = {1: -1.5}
    run(settings)
    assert stages.took() == ["prepare", *cycle(0), *held_out(1), "compare 1", *ENDING]
    stages.leads = {1: 1.5, 2: -1.5}
    run(settings, "student.epochs=2")  # another student of cycle 0
    assert stages.took() == ["train 0", *STOPPED_AT_2[4:]]
    storage_of(settings).remove("cycle-2/selection")
    assert states(settings)["cycle 3 judge"] == "missing"  # nobody knows any more that it is not needed
    run(settings, "student.epochs=2")
    assert stages.took() == ["compare 2"]


def test_a_cycle_judged_in_two_parts_counts_what_both_asked(stages: FakeStages, settings: list[str]) -> None:
    stages.leads = {2: -2.0}
    run(settings)
    asked = []
    for number in range(3):
        manifest = read_manifest(storage_of(settings), f"cycle-{number}/examples")
        assert manifest is not None
        asked.append((manifest.details["pairs_asked"], manifest.details["pairs_held"]))
    assert asked == [(10, 20), (17, 13), (10, 20)]


def test_a_cycle_shortlisted_in_two_parts_tells_the_seconds_of_both(stages: FakeStages, settings: list[str]) -> None:
    run_until_killed(stages, "compare 1", settings)
    storage, folder = storage_of(settings), "cycle-1/shortlist"
    part = read_manifest(storage, folder)
    assert part is not None and "seconds_before" not in part.details
    write_manifest(storage, folder, replace(part, seconds=90.0))
    run_until_killed(stages, "compare 2", settings)
    whole = read_manifest(storage, folder)
    assert whole is not None and whole.details["seconds_before"] == 90.0
    storage.remove("cycle-1/selection")
    with pytest.raises(KeyboardInterrupt):
        run(settings)  # compared by what is judged of all documents, whose seconds are not those of a part
    again = read_manifest(storage, "cycle-1/selection")
    assert again is not None and "shortlist_seconds" not in again.details


def test_label_vectors_are_kept_from_the_held_out_documents_to_the_others(
    stages: FakeStages, settings: list[str]
) -> None:
    stages.leads, stages.dies_at = {1: 2.0}, "shortlist 1"
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    storage = storage_of(settings)
    storage.write_bytes("cycle-1/label_vectors/shard-00000.parquet", b"made for the held-out documents")
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert storage.exists("cycle-1/label_vectors/shard-00000.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(settings, "encoder.vector_dtype=float16", "student.epochs=2")
    assert not storage.exists("cycle-1/label_vectors/shard-00000.parquet")


def test_label_vectors_of_other_labels_are_not_kept(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_until_killed(stages, "shortlist 0", settings)
    storage = storage_of(settings)
    storage.write_bytes("cycle-0/label_vectors/shard-00000.parquet", b"of the labels before")
    (tmp_path / "labels.jsonl").write_text('{"id": "1", "text": "others"}\n')
    monkeypatch.setitem(PREPARED, "label_fingerprint", "of others")
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert stages.took() == ["prepare", "shortlist 0", "prepare", "shortlist 0"]
    assert not storage.exists("cycle-0/label_vectors/shard-00000.parquet")


def test_a_stage_by_itself_names_what_comes_next(
    stages: FakeStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("prepare", "shortlist", "judge", "train", "shortlist", "judge"):
        curriculum.run_stage(load_config(None, settings), stage)
    assert stages.took() == ["prepare", *cycle(0), *held_out(1)]
    assert capsys.readouterr().out.endswith("is up to date for judge; next comes cycle 1 select.\n")
    curriculum.run_stage(load_config(None, settings), "select")
    assert stages.took() == ["compare 1"]
    assert capsys.readouterr().out.endswith("is up to date for select; next comes cycle 1 shortlist.\n")


def test_a_changed_budget_redoes_the_shortlists_only_if_it_changes_the_documents(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings, "curriculum.pair_budget=4000")
    stages.took()
    run(settings, "curriculum.pair_budget=4001")
    assert stages.took() == ["report"]
    run(settings, "curriculum.pair_budget=3000")
    assert stages.took() == WHOLE[1:]


def test_other_gold_labels_redo_what_measures_by_them_and_nothing_else(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    stages.took()
    monkeypatch.setitem(PREPARED, "gold_fingerprint", "of other gold labels")
    run(settings, "prepare.labels_column=other")
    assert stages.took() == ["prepare", "evaluate", "report"]
    monkeypatch.setitem(PREPARED, "document_fingerprint", "of other documents")
    run(settings, "prepare.labels_column=another")
    assert stages.took() == WHOLE


def test_what_binds_nothing_redoes_nothing_but_the_report(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    stages.took()
    run(settings, "curriculum.pair_budget=100000000", "shortlist.documents_per_cycle=100000")
    assert stages.took() == ["report"]


def test_fewer_cycles_and_then_as_many_again_train_nothing_twice(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    stages.took()
    run(settings, "curriculum.cycles=2")
    run(settings)
    assert not [call for call in stages.took() if call.startswith("train")]


def test_a_readout_that_is_named_instead_of_found_redoes_nothing(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    stages.took()
    run(settings, "teacher.readout=yes_no", "teacher.second_readout=likelihood")
    assert stages.took() == []


@pytest.mark.parametrize(
    ("stage", "module", "function"), [("judge", "judge", "judge"), ("compare", "select", "compare_newest")]
)
def test_a_step_calls_its_stage_with_the_context_and_the_cycle(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, stage: str, module: str, function: str
) -> None:
    done = StageResult(3, [], {})
    place = importlib.import_module(f"ezxmc_ray.stages.{module}")
    monkeypatch.setattr(place, function, lambda *given: (calls.append(given), done)[1])
    calls: list[tuple[object, ...]] = []
    plan = RunPlan(load_config(None, settings), storage_of(settings))
    assert plan._run(stage, 1) is done and calls == [(plan.context, 1)]


def test_a_finished_run_says_which_encoder_it_ships_and_what_that_is_worth(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    student = "The student of cycle 0 is what this run ships"
    untrained = (
        "No cycle made a better encoder than the untrained one, which is therefore what this run ships: more doc"
    )
    assert curriculum._shipped(storage, 1).startswith(untrained)
    write_manifest(storage, "student", Manifest("select", "f", 9, 1.0, details={"chosen_cycle": 0}))
    assert curriculum._shipped(storage, 1) == f"{student}. No test document has gold labels, so no measures are shown."
    metrics = {"untrained": {"P@1": 32.5, "documents": 1200}, "cycle_0": {"P@1": 44.54, "documents": 1200}}
    write_manifest(storage, "evaluation", Manifest("evaluate", "f", 9, 1.0, details={"metrics": metrics}))
    assert curriculum._shipped(storage, 1) == (
        f"{student}. Its first label is a gold one for 44.5 % of 1,200 test documents, against 32.5 % with the "
        "untrained encoder."
    )
    write_manifest(storage, "student", Manifest("select", "f", 9, 1.0, details={"chosen_cycle": None}))
    assert curriculum._shipped(storage, 1).startswith(untrained)
    assert curriculum._shipped(storage, 1).endswith("Its first label is a gold one for 32.5 % of 1,200 test documents.")
    assert curriculum._shipped(storage, 0) == (
        "Nothing was trained (curriculum.cycles=0): this run ships the untrained encoder. Its first label is a gold "
        "one for 32.5 % of 1,200 test documents."
    )


def test_gold_labels_on_train_documents_alone_measure_nothing(tmp_path: Path) -> None:
    storage, config = Storage(str(tmp_path)), load_config(None, [f"run={tmp_path}"])
    write_manifest(storage, "student", Manifest("select", "f", 9, 1.0, details={"chosen_cycle": 0}))
    for documents, share in ((0, float("nan")), (5, 40.0)):
        metrics = {name: {"P@1": share, "documents": documents} for name in ("untrained", "cycle_0")}
        write_manifest(storage, "evaluation", Manifest("evaluate", "f", 9, 1.0, details={"metrics": metrics}))
        result, told = curriculum._result(config), curriculum._shipped(storage, 1)
        if documents:
            assert (result.metrics, result.untrained_metrics) == (metrics["cycle_0"], metrics["untrained"])
            assert "gold one for 40.0 % of 5 test documents" in told
        else:
            assert (result.metrics, result.untrained_metrics) == (None, None)
            assert told.endswith("No test document has gold labels, so no measures are shown.")

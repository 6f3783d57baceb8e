"""Which steps a run goes through: the stop rule, a run that is killed, what is redone after a change, and the status.

Stages that only write down what they were asked for stand in for the real ones, which need Ray and models; the steps,
their manifests and what makes them stale are the real ones. tests/stages/test_stop_rule.py has a real run.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray import curriculum, hardware, hub, steps
from ezxmc_ray.cluster import session as cluster
from ezxmc_ray.cluster import teacher_dtype
from ezxmc_ray.config import TeacherConfig, load_config
from ezxmc_ray.context import StageResult
from ezxmc_ray.cycles import MIN_DOCUMENTS
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import train
from ezxmc_ray.stages.select import ADDED_UP
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage, read_manifest
from ezxmc_ray.teacher.engine import dtype_here, teacher_key

HELD_OUT = 2 * MIN_DOCUMENTS
PREPARED = {
    "documents": 300,
    "train": 200,
    "held_out": HELD_OUT,
    "test": 100,
    "labels": 50,
    "shards": 2,
    "shard_rows": [150, 150],
    "document_fingerprint": "d",
    "label_fingerprint": "l",
    "gold_fingerprint": None,
}
ENDING = ["select", "index", "predict", "evaluate", "report"]


def cycle(number: int) -> list[str]:
    """A whole cycle without the question of the stop rule."""
    return [f"shortlist {number}", f"judge {number}", f"train {number}"]


def held_out(number: int) -> list[str]:
    return [f"held-out shortlist {number}", f"judge {number}"]


@dataclass
class FakeStages:
    """Stands in for RunPlan._run.

    ``leads``: of the cycles' encoders, in standard errors; ``dies_at``: the call that is killed. Judging leaves a
    verdict behind, also where it is killed.
    """

    leads: dict[int, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    dies_at: str = ""

    def __call__(self, work: RunPlan, stage: str, *arguments: int) -> StageResult:
        name = " ".join([stage, *map(str, arguments[:1])])
        if stage == "shortlist" and arguments[1]:
            name = f"held-out {name}"
        self.calls.append(name)
        if stage == "judge":
            key = teacher_key(work.context.config.teacher)
            work.storage.write_bytes(f"verdicts/{key}/shard-00000/batch.parquet", b"")
        if name == self.dies_at:
            raise KeyboardInterrupt
        details: dict[str, Any] = {}
        if stage == "prepare":
            details = PREPARED
        elif stage == "judge":
            teacher = {"dtype": work.context.config.teacher.dtype}
            details = dict.fromkeys(ADDED_UP, 10) | {"pairs_held": 20, "teacher": teacher}
        elif stage == "compare":
            lead = {"over": "untrained", "difference": self.leads.get(arguments[0], 5.0), "standard_error": 1.0}
            details = {"lead": lead | {"documents": HELD_OUT}, "asked": dict.fromkeys(ADDED_UP, 7)}
        return StageResult(1, [], details)

    def took(self) -> list[str]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    fake = FakeStages()
    monkeypatch.setattr(RunPlan, "_run", lambda work, *call: fake(work, *call))
    monkeypatch.setattr(curriculum, "load_teacher", lambda config: None)
    monkeypatch.setattr(cluster, "ray_cluster", lambda config: nullcontext())
    monkeypatch.setattr(train, "check_training", lambda config: None)
    machine(monkeypatch, has_bfloat16=True)
    return fake


def machine(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    """From now on runs go on on a machine whose CPU computes in bfloat16, or does not."""

    def of_cluster(config: TeacherConfig) -> TeacherConfig:
        return replace(config, dtype=dtype_here(config))

    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(teacher_dtype, "of_cluster", of_cluster)  # which asks this process in a task of Ray


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


def run(settings: list[str], *more: str) -> None:
    curriculum.run(load_config(None, [*settings, *more]))


def states(settings: list[str]) -> dict[str, str]:
    return {row["step"]: row["state"] for row in curriculum.status(settings[0].removeprefix("run="))}


def storage_of(settings: list[str]) -> Storage:
    return Storage(settings[0].removeprefix("run="))


WHOLE = [
    "prepare",
    *cycle(0),
    *held_out(1),
    "compare 1",
    *cycle(1),
    *held_out(2),
    "compare 2",
    *cycle(2),
    *held_out(3),
    *ENDING,
]
STOPPED_AT_2 = [*WHOLE[: WHOLE.index("compare 2") + 1], *ENDING]


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


def test_another_least_lead_judges_and_trains_nothing_twice(stages: FakeStages, settings: list[str]) -> None:
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


@pytest.mark.parametrize("where", ["train 0", "compare 1", "train 1", "select"])
def test_a_dry_run_of_a_run_that_was_killed_shows_what_is_left(
    stages: FakeStages, settings: list[str], where: str
) -> None:
    stages.dies_at = where
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    plan = curriculum.dry_run(load_config(None, settings))
    done = {step["step"]: step["done"] for step in plan["steps"]}
    assert done["prepare"] and done["cycle 0 judge"] and not done["predict"]
    assert done["cycle 0 train"] == (where != "train 0")


def test_a_budget_that_is_refused_is_not_written_down(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    with pytest.raises(UserError, match="give so many at least"):
        run(settings, "curriculum.pair_budget=5")
    assert open_budget(settings) == 0


def open_budget(settings: list[str]) -> int:
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
    place = {"ray_cluster": cluster, "check_training": train, "load_teacher": curriculum}[refused]
    monkeypatch.setattr(place, refused, refuse)
    with pytest.raises(UserError, match="no"):
        run(settings, "encoder.max_document_tokens=32")
    assert open_tokens(settings) == 128


def test_documents_that_prepare_refuses_leave_the_configuration_of_a_finished_run(
    stages: FakeStages, settings: list[str]
) -> None:
    run(settings)
    stages.dies_at = "prepare"
    with pytest.raises(KeyboardInterrupt):
        run(settings, "encoder.max_document_tokens=32", "prepare.test_share=0.5")
    assert open_tokens(settings) == 128


def test_what_differs_is_told_and_written_down_when_the_work_begins(
    stages: FakeStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings)
    capsys.readouterr()
    stages.took()
    stages.dies_at = "shortlist 0"
    with pytest.raises(KeyboardInterrupt):
        run(settings, "encoder.max_document_tokens=32")
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


def test_a_readout_that_is_named_instead_of_found_redoes_nothing(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    stages.took()
    run(settings, "teacher.readout=yes_no")
    assert stages.took() == []


def open_tokens(settings: list[str]) -> int:
    return curriculum.open_run(load_config(None, settings).run).config.encoder.max_document_tokens


def test_a_budget_that_is_too_small_is_told_before_anything_is_judged(stages: FakeStages, settings: list[str]) -> None:
    with pytest.raises(UserError, match="give so many at least"):
        run(settings, "curriculum.pair_budget=10")
    assert stages.took() == ["prepare"]


def test_a_dry_run_names_the_teacher_how_it_is_read_and_what_its_time_is_made_of(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = curriculum.dry_run(load_config(None, settings))
    assert "/teacher, read-out yes_no, dtype " in plan["teacher"] and "label_prior" in plan["teacher"]
    assert "judge is that of the bundled 135M model" in plan["estimated_from"]
    bundled = curriculum.dry_run(load_config(None, [*settings, f"teacher.model={TeacherConfig().model}"]))
    assert "read-out likelihood" in bundled["teacher"] and "for trying" in bundled["teacher"]
    assert "CPU cores" in bundled["estimated_from"] and "larger" not in bundled["estimated_from"]
    monkeypatch.setattr(hub, "hub_commit", refuse_hub)
    unknown = curriculum.dry_run(load_config(None, [*settings, "teacher.model=org/name"]))
    assert unknown["teacher"] == "org/name, which cannot be looked at: No hub here."


def refuse_hub(hub_id: str) -> str:
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


@pytest.mark.parametrize("first", [True, False])
def test_a_finished_run_stays_finished_on_a_machine_of_another_dtype(
    stages: FakeStages,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: bool,
) -> None:
    machine(monkeypatch, has_bfloat16=first)
    run(settings)
    stages.took()
    machine(monkeypatch, has_bfloat16=not first)
    monkeypatch.setattr(cluster, "ray_cluster", None)  # Ray is not asked for
    assert set(states(settings).values()) == {"done"}
    run(settings)
    assert stages.took() == [] and "Nothing to do" in capsys.readouterr().out
    run(settings, f"teacher.dtype={'bfloat16' if first else 'float32'}")  # which is what auto was
    assert stages.took() == []


def test_another_dtype_by_name_judges_anew(stages: FakeStages, settings: list[str]) -> None:
    run(settings)
    stages.took()
    run(settings, "teacher.dtype=float32")
    assert stages.took() == [call for call in WHOLE if call not in ("prepare", "shortlist 0")]


def test_a_run_that_goes_on_on_a_machine_of_another_dtype_says_so_and_keeps_what_is_judged(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.dies_at = "train 1"
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    judged = [call for call in stages.took() if call != "train 1"]
    stages.dies_at = ""
    assert "teacher.dtype=auto" not in capsys.readouterr().out
    machine(monkeypatch, has_bfloat16=False)
    run(settings)
    assert [*judged, *stages.took()] == WHOLE
    told = [line for line in capsys.readouterr().out.splitlines() if "teacher.dtype=auto" in line]
    assert told[0].endswith(
        "The verdicts of this run are in bfloat16, but teacher.dtype=auto is float32 on this machine: cycle 2 asks for "
        "its pairs in float32, and takes none of those; teacher.dtype=bfloat16 keeps to them."
    )
    assert dtypes_of(settings) == ["bfloat16", "bfloat16", "float32", "float32"]
    machine(monkeypatch, has_bfloat16=True)
    run(settings)
    assert stages.took() == []


def test_a_half_judged_cycle_goes_on_in_its_old_dtype_only_if_that_is_set(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages.dies_at = "judge 0"
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    machine(monkeypatch, has_bfloat16=False)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert "cycle 0 asks for its pairs in float32" in capsys.readouterr().out
    stages.dies_at = ""
    run(settings, "teacher.dtype=bfloat16")
    assert "teacher.dtype=auto" not in capsys.readouterr().out.replace("'auto'", "")
    assert dtypes_of(settings) == ["bfloat16"] * 4


def dtypes_of(settings: list[str]) -> list[str]:
    """In which dtype each cycle was judged."""
    found = [read_manifest(storage_of(settings), f"cycle-{number}/examples") for number in range(4)]
    return [manifest.details["teacher"]["dtype"] for manifest in found if manifest]

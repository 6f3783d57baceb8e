"""What a step is made of: which steps a changed knob, and another result of an earlier step, make stale by themselves.

What follows on from these is in test_curriculum.py. The run was made by fake stages (fake_stages.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ezxmc_ray import layout
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from tests.curriculum.fake_stages import FakeStages, run, storage_of

SHORTLISTS, TRAINS = ({f"cycle {cycle} {stage}" for cycle in range(3)} for stage in ("shortlist", "train"))
TRAINS.remove("cycle 2 train")
JUDGES = {f"cycle {cycle} judge" for cycle in range(3)}
COMPARES = {"cycle 1 select"}
#: By knob the steps whose own inputs have it.
KNOBS = {
    "seed=1": {"prepare", *SHORTLISTS, *TRAINS},
    "prepare.test_share=0.3": {"prepare"},
    "shortlist.size=5": SHORTLISTS | COMPARES,
    "shortlist.held_out_documents=40": SHORTLISTS | COMPARES,
    "encoder.max_document_tokens=99": SHORTLISTS | COMPARES | TRAINS,
    "lexical.weight=0.5": SHORTLISTS | COMPARES,
    "lexical.student_weight=0.05": SHORTLISTS - {"cycle 0 shortlist"} | COMPARES,
    "teacher.prompt=package": JUDGES | COMPARES,
    "teacher.yes_threshold=0.4": JUDGES | COMPARES,
    "teacher.dtype=float32": JUDGES | COMPARES,
    "teacher.second_readout=none": JUDGES | COMPARES,
    "teacher.second_readout=likelihood": set(),  # as auto means it
    "student.target=verdict": TRAINS | COMPARES | {"select"},
    "student.target_temperature=0.7": TRAINS | COMPARES | {"select"},
    "student.learning_rate=0.001": TRAINS,
    "index.factory=SQ8": {"index"},
    "predict.top_k=3": {"predict"},
    "evaluate.depth=200": {"evaluate"},
    "report.documents=5": {"evaluate", "report"},
    "report.title=ours": {"report"},
    "curriculum.min_lead=-3": {"report"},
    "teacher.engines=3": set(),
    "student.workers=2": set(),
    "cluster.wait_s=7": set(),
    "cluster.max_gpus=7": set(),
}
#: By folder the steps that are made of what is in it.
FOLDERS = {
    layout.DOCUMENTS: {"report"},
    layout.shortlist(0): {"cycle 0 judge"},
    layout.examples(0): {"cycle 0 train", "cycle 1 select", "select"},
    layout.examples(2): {"select"},
    layout.cycle_student(0): {"cycle 1 shortlist", "cycle 1 select"},
    layout.cycle_student(1): {"cycle 2 shortlist"},
    layout.selection(1): set(),
    layout.STUDENT: {"index", "predict", "evaluate"},
    layout.INDEX: {"predict"},
    layout.PREDICTIONS: {"evaluate"},
    layout.EVALUATION: {"report"},
    layout.REPORT: set(),
}


#: By what prepare tells of documents and labels, the steps that ask for it.
TOLD = {
    "document_fingerprint": SHORTLISTS | COMPARES | {"predict"},
    "label_fingerprint": SHORTLISTS | COMPARES | {"predict"},
    "shard_rows": SHORTLISTS | COMPARES | {"predict"},
    "gold_fingerprint": {"evaluate"},
}


def fingerprints(config: Config, storage: Storage) -> dict[str, str]:
    """Of each step by its name, of the last of those of one name."""
    plan = RunPlan(config, storage)
    return {step.name: step.fingerprint() for step in plan.steps(lambda step: False)}


def test_what_is_judged_by_a_teacher_that_is_read_once_stays_what_it_was_without_the_knob(
    stages: FakeStages, settings: list[str]
) -> None:
    settings += ["curriculum.cycles=2", "teacher.second_readout=none"]
    run(settings)
    plan = RunPlan(load_config(None, settings), storage_of(settings))
    inputs = {step.name: str(step.inputs()) for step in plan.steps() if step.name in JUDGES | COMPARES}
    assert inputs.keys() == JUDGES | COMPARES
    assert all("yes_threshold" in one and "second_readout" not in one for one in inputs.values())


def test_each_step_depends_on_what_it_is_made_of_and_on_nothing_else(
    stages: FakeStages, settings: list[str], tmp_path: Path
) -> None:
    settings[-1] = "curriculum.cycles=2"
    run(settings)
    config, storage, found = load_config(None, settings), storage_of(settings), {}
    before = fingerprints(config, storage)
    assert before.keys() == {*SHORTLISTS, *JUDGES, *TRAINS, *COMPARES} | {
        *("prepare", "select", "index", "predict", "evaluate", "report")
    }

    def stale(config: Config) -> set[str]:
        return {name for name, one in fingerprints(config, storage).items() if one != before[name]}

    assert {knob: stale(load_config(None, [*settings, knob])) for knob in KNOBS} == KNOBS
    for folder in FOLDERS:
        manifest = read_manifest(storage, folder)
        assert manifest is not None
        write_manifest(storage, folder, replace(manifest, commit="another"))
        found[folder] = stale(config)
        write_manifest(storage, folder, manifest)
    assert found == FOLDERS
    prepared, found = read_manifest(storage, layout.DOCUMENTS), {}
    assert prepared is not None
    for name in TOLD:
        other = [100, 200] if name == "shard_rows" else "another"
        write_manifest(storage, layout.DOCUMENTS, replace(prepared, details=prepared.details | {name: other}))
        found[name] = stale(config)
        write_manifest(storage, layout.DOCUMENTS, prepared)
    assert found == TOLD
    (tmp_path / "encoder" / "config.json").write_text('{"another": "model"}')
    assert stale(config) == {"cycle 0 shortlist", *TRAINS}

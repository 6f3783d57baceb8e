"""What is refused when work begins, before anything of a finished run is replaced (ready.py).

The stages are fakes (fake_stages.py); encoder and nodes are not asked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import context, curriculum, layout, models
from ezxmc_ray.cluster import shared_places
from ezxmc_ray.config import Config, EncoderConfig, load_config
from ezxmc_ray.context import StageResult
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.label_vectors import join_label_vectors
from ezxmc_ray.stages import index, shortlist, train
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tables import label_vectors_schema
from tests.curriculum.fake_stages import DIMENSION, PREPARED, FakeStages, run, states, storage_of


def test_a_precision_that_is_refused_leaves_predictions_and_configuration(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    stages.took()
    storage = storage_of(settings)
    selected = read_manifest(storage, layout.STUDENT)
    assert selected is not None
    write_manifest(storage, layout.STUDENT, replace(selected, details=selected.details | {"min_score": 0.1}))
    before = storage.read_bytes("config.yaml")
    for more in ([], ["index.shard_labels=7"]):  # alone, and where the index is to be made anew before
        with pytest.raises(UserError, match=r"makes the teacher say yes to 90% of the labels: set predict\.precision"):
            run(settings, "predict.precision=0.9", *more)
    assert storage.read_bytes("config.yaml") == before
    assert stages.took() == [] and set(states(settings).values()) == {"done"}


@pytest.mark.parametrize("more", [[], ["prepare.test_share=0.5"]])
def test_an_encoder_that_cannot_be_loaded_so_leaves_a_finished_run(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    def refuse(config: EncoderConfig) -> int:
        raise UserError(f"It has no {config.dimensions} dimensions.")

    run(settings)
    stages.took()
    before = storage_of(settings).read_bytes("config.yaml")
    monkeypatch.setattr(shortlist, "check_encoder", refuse)
    with pytest.raises(UserError, match="It has no 999 dimensions"):
        run(settings, "encoder.dimensions=999", *more)
    assert storage_of(settings).read_bytes("config.yaml") == before
    assert stages.took() == [] and set(states(settings).values()) == {"done"}


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("Flaat", "index.factory=Flaat is not a FAISS factory string for vectors of length 24"),
        ("IVF4,PQ7", "index.factory=IVF4,PQ7 is not a FAISS factory string for vectors of length 24"),
        ("IVF51,Flat", "50 labels a shard are too few to train index.factory=IVF51,Flat"),
    ],
)
@pytest.mark.parametrize("stage", [None, "index"])
def test_an_index_that_cannot_be_built_leaves_a_finished_run(
    stages: FakeStages,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    factory: str,
    sentence: str,
    stage: str | None,
) -> None:
    def go(*more: str) -> None:
        config = load_config(None, [*settings, *more])
        curriculum.run(config) if stage is None else curriculum.run_stage(config, stage)

    run(settings)
    make_label_vectors(storage_of(settings))
    stages.took()
    before = storage_of(settings).read_bytes("config.yaml")
    # That the encoder can be loaded is known, by the vectors that it has made with these settings.
    monkeypatch.setattr(shortlist, "check_encoder", lambda config: pytest.fail("the encoder was looked at"))
    with pytest.raises(UserError, match=sentence):
        go(f"index.factory={factory}")
    assert storage_of(settings).read_bytes("config.yaml") == before
    assert stages.took() == [] and set(states(settings).values()) == {"done"}
    go("index.factory=IVF50,Flat")
    assert stages.took()[0] == "index"


def make_label_vectors(storage: Storage) -> None:
    """Those that the base encoder would have made of the labels."""
    labels, folder = int(str(PREPARED["labels"])), layout.label_vectors(0)
    vectors = pa.FixedSizeListArray.from_arrays(np.ones(labels * DIMENSION, np.float32), DIMENSION)
    schema = label_vectors_schema(DIMENSION, "float32")
    table = pa.Table.from_arrays([pa.array(range(labels), pa.int32()), vectors], schema=schema)
    storage.write_table(f"{folder}/shard-00000.parquet", table)
    join_label_vectors(storage, folder)


def test_an_index_that_cannot_be_built_is_told_before_anything_is_judged(
    stages: FakeStages, settings: list[str]
) -> None:
    with pytest.raises(UserError, match=r"index\.factory=Flaat is not a FAISS factory string"):
        run(settings, "index.factory=Flaat")
    assert stages.took() == [] and not storage_of(settings).exists("config.yaml")


def test_an_index_is_looked_at_once_where_work_begins_with_it(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    make_label_vectors(storage_of(settings))
    stages.took()
    asked = list[int]()
    monkeypatch.setattr(index, "check_index", lambda config, dimension, labels: asked.append(dimension))
    run(settings, "index.factory=IVF40,Flat")
    assert asked == [DIMENSION] and stages.took()[0] == "index"


def test_labels_that_have_become_too_few_for_the_index_are_told_before_it_is_removed(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    make_label_vectors(storage_of(settings))
    stages.took()
    monkeypatch.setitem(PREPARED, "labels", 39)
    with pytest.raises(UserError, match=r"39 labels a shard are too few to train index\.factory=IVF40,Flat"):
        run(settings, "index.factory=IVF40,Flat", "prepare.test_share=0.5")
    assert stages.took() == ["prepare"] and storage_of(settings).exists("index/manifest.json")


def test_what_a_training_cannot_have_is_told_before_its_student_is_removed(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)

    def refuse(config: Config) -> None:
        raise UserError("No room.")

    monkeypatch.setattr(train, "check_training", refuse)
    with pytest.raises(UserError, match="No room"):
        curriculum.run_stage(load_config(None, [*settings, "student.epochs=2"]), "train")
    assert states(settings)["cycle 0 train"] == "done"


@pytest.mark.parametrize(
    ("stage", "knob"),
    [
        ("prepare", "prepare.test_share=0.5"),
        ("shortlist", "shortlist.size=7"),
        ("judge", "teacher.max_document_tokens=32"),
        ("train", "student.epochs=2"),
        ("index", "index.shard_labels=7"),
        ("predict", "predict.top_k=7"),
        ("evaluate", "evaluate.depth=200"),
    ],
)
def test_a_run_that_a_node_does_not_see_is_refused_by_every_stage(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, stage: str, knob: str
) -> None:
    def refuse(what: str, storage: Storage) -> None:
        raise UserError(f"{what} is {storage.path()}.")

    run(settings)
    stages.took()
    before = storage_of(settings).read_bytes("config.yaml")
    monkeypatch.setattr(shared_places, "check_seen", refuse)
    with pytest.raises(UserError, match=rf"^run is {storage_of(settings).path()}\.$"):
        curriculum.run_stage(load_config(None, [*settings, knob]), stage)
    assert storage_of(settings).read_bytes("config.yaml") == before
    assert stages.took() == [] and set(states(settings).values()) == {"done"}


def test_nodes_are_asked_once_a_command_whether_they_see_the_run(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr(shared_places, "check_seen", lambda what, storage: asked.append(storage.path()))
    run(settings)
    run(settings)  # nothing to do, and no cluster joined
    assert asked == [storage_of(settings).path()]


def test_every_stage_is_given_the_commits_that_the_hub_had_when_the_work_began(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a node that comes later loads, and the verdicts' key says, is then the same; the user's own words stay."""
    given: list[tuple[str, str]] = []

    def note(work: RunPlan, stage: str, *arguments: int) -> StageResult:
        given.append((work.context.config.encoder.model, work.context.config.teacher.model))
        return stages(work, stage, *arguments)

    monkeypatch.setattr(RunPlan, "_run", note)
    monkeypatch.setattr(context, "pinned", lambda reference: f"{reference}@commit")
    located = models._located
    monkeypatch.setattr(models, "_located", lambda reference: located(reference.removesuffix("@commit")))
    run(settings)
    config = load_config(None, settings)
    assert set(given) == {(f"{config.encoder.model}@commit", f"{config.teacher.model}@commit")} and len(given) > 5
    assert "@commit" not in storage_of(settings).read_bytes("config.yaml").decode()
    assert set(states(settings).values()) == {"done"}

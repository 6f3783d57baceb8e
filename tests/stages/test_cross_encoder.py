"""``predict.rerank`` on a finished run, through the command line.

The step that it adds, the tags that come of it in the run and in its exports, and how to leave it out. The teacher
is a real engine, of a tiny network with random weights; Ray is simulated (test_run.py has a run with Ray).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import CrossEncoder as PlainCrossEncoder
from transformers import AutoModelForCausalLM

from ezxmc_ray import curriculum
from ezxmc_ray.config import CrossEncoderConfig, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.serving.live import export_of
from ezxmc_ray.stages import cross_encoder as stage
from ezxmc_ray.stages import judge_worker
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.changes import remove_labels
from ezxmc_ray.tagging.compaction import compact_labels
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.tagger import Tagger
from ezxmc_ray.teacher.engine import load_teacher
from ezxmc_ray.teacher.transformers_engine import TransformersEngine
from ezxmc_ray.verification import verify
from tests.stages.cross_runs import (
    FIRST,
    KNOBS,
    TEACHER,
    Project,
    call,
    damage,
    files_of,
    run_counted,
    save_small_bert,
    steps_of,
)
from tests.teacher.tiny import save_tiny_llm

Ezxmc = Callable[..., Any]  # tests.conftest.ezxmc
TEXTS = ["The bishop and the pawn of the endgame.", "Yeast and flour for the oven.", ""]
WEIGHT = CrossEncoderConfig.weight
#: Their scores are sums of vectors in other batches.
CLOSE = 2e-4


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, small_teacher_directory: str, new_project: Callable[..., Project]
) -> Project:
    """A finished run without a cross-encoder; its conf.yaml has all its knobs."""
    made = new_project(tmp_path_factory.mktemp("finished") / "project")
    tiny = save_tiny_llm(tmp_path_factory.mktemp("tiny"), small_teacher_directory, AutoModelForCausalLM)
    text = (made.folder / "conf.yaml").read_text()
    text = re.sub(r"teacher: .*", f"teacher: {{model: {tiny}, max_document_tokens: 24}}", text)
    text = re.sub(r"student:\n.*?\n.*?\n", "student: {epochs: 2, batch_size: 16}\n", text)
    encoder = save_small_bert(tmp_path_factory.mktemp("encoder"))
    text = text.replace("encoder: {", f"encoder: {{model: {encoder}, ")
    (made.folder / "conf.yaml").write_text(text)
    start = mock.patch.object(judge_worker, "start_engine", lambda config: TransformersEngine(load_teacher(config)))
    with mock.patch.object(judge_worker, "start_watchdog", lambda: None), start:
        call("run", *made.arguments, *TEACHER)
    return made


@pytest.fixture(scope="module")
def reranked(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same run, given again with a cross-encoder; ``stdout``: what was printed. No engine is there to be asked."""
    made = finished.copy(tmp_path_factory.mktemp("reranked") / "project")
    (made.folder / "stdout").write_text(call("run", *made.arguments, *TEACHER, *KNOBS))
    return made


@pytest.fixture(scope="module")
def exports(reranked: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where to tag from: the run, and its exports."""
    places = {"run": str(reranked.run)}
    for encoder in ("onnx", "torch"):
        places[encoder] = str(tmp_path_factory.mktemp("exports") / encoder)
        export_bundle(str(reranked.run), places[encoder], encoder)
    return places


@pytest.fixture(scope="module", params=["run", "onnx", "torch"])
def tagger(request: pytest.FixtureRequest, exports: dict[str, str]) -> Iterator[Tagger]:
    """Of the run, and of its exports."""
    with Tagger.load(exports[request.param]) as loaded:
        yield loaded


def test_a_finished_run_does_the_new_step_and_what_follows_it(finished: Project, reranked: Project) -> None:
    assert steps_of((reranked.folder / "stdout").read_text()) == ["cross_encoder", "predict", "evaluate", "report"]
    for folder in ("student", "index", "cycle-0/examples"):
        assert reranked.manifest(folder) == finished.manifest(folder)


def test_it_is_trained_on_the_examples_and_fitted_on_held_out_documents(reranked: Project) -> None:
    found = reranked.manifest("cross_encoder")
    details, judged = found["details"], reranked.manifest("cycle-0/examples")["details"]
    trained = reranked.manifest("cycle-0/student")["details"]["examples"]
    assert (
        details["examples"] == trained > 0 and found["rows"] == 2 * trained - 2 * details["dropped_documents_per_epoch"]
    )
    held_out = reranked.rows("cross_encoder")
    assert len(held_out) == details["held_out"]["documents"] == reranked.manifest("documents")["details"]["held_out"]
    assert details["per_score"] > 0 and details["anchor"] == 4
    assert details["loss_curve"][-1]["loss"] < details["loss_curve"][0]["loss"]
    assert judged["scale"]["verdict_std"] > 0
    assert not list((reranked.run / "cross_encoder").glob("training-*"))


def test_plain_sentence_transformers_loads_it(reranked: Project) -> None:
    network = PlainCrossEncoder(str(reranked.run / "cross_encoder" / "network"), device="cpu")
    held_out = reranked.rows("cross_encoder")[0]
    document = pq.read_table(reranked.run / "documents" / f"shard-{held_out['shard']:05d}.parquet").to_pylist()
    labels = pq.read_table(reranked.run / "labels.parquet")["text"].to_pylist()
    row = document[held_out["row"]]
    text = f"{row['title']}\n{row['text']}"
    scores = network.predict([(text, labels[label]) for label in held_out["labels"]])
    np.testing.assert_allclose(scores, held_out["score"], atol=2e-3)


def test_the_tags_are_in_the_new_order(finished: Project, reranked: Project) -> None:
    before, after = finished.rows("predictions"), reranked.rows("predictions")
    assert [row["id"] for row in before] == [row["id"] for row in after]
    assert any(one["label_ids"][:3] != other["label_ids"][:3] for one, other in zip(before, after, strict=True))
    for row in after:
        assert row["scores"] == sorted(row["scores"], reverse=True)
    details = reranked.manifest("predictions")["details"]
    assert details["min_score"] == reranked.manifest("cross_encoder")["details"]["min_score"]


def test_everyone_tags_as_the_run_predicted(reranked: Project, tagger: Tagger) -> None:
    documents, predictions = reranked.rows("documents")[:12], reranked.rows("predictions")[:12]
    found = tagger.tag([row["text"] for row in documents], titles=[row["title"] for row in documents])
    assert [[label.label_id for label in row] for row in found] == [row["label_ids"] for row in predictions]
    assert any(found)
    for row, told in zip(found, predictions, strict=True):
        np.testing.assert_allclose([label.score for label in row], told["scores"], atol=CLOSE)


def test_a_tag_says_what_the_cross_encoder_added(tagger: Tagger) -> None:
    found = tagger.tag(TEXTS, k=8, min_score=-1)
    for labels, whys in zip(found, tagger.explain(TEXTS, found), strict=True):
        for label, why in zip(labels, whys, strict=True):
            assert label.similarity is not None and why.cross_encoder is not None
            assert why.cross_encoder == pytest.approx(label.score - label.similarity)
    assert found[2] == []
    assert max(abs(label.score - (label.similarity or 0)) for label in found[0]) > 1e-3


def test_labels_beyond_the_first_never_lead(tagger: Tagger) -> None:
    """Of eight labels the last two are not ranked anew."""
    whole = tagger.tag(TEXTS[:2], k=8, min_score=-1)
    for labels in whole:
        similarities = sorted((label.similarity or 0 for label in labels), reverse=True)
        assert {label.similarity for label in labels[:FIRST]} == set(similarities[:FIRST])
        assert [label.similarity for label in labels[FIRST:]] == similarities[FIRST:]
    short = tagger.tag(TEXTS[:2], k=2, min_score=-1)
    assert [labels[:2] for labels in whole] == short
    among = tagger.tag(TEXTS[:1], k=3, min_score=-1, among=["chess", "music", "law"])[0]
    assert {label.label_id for label in among} == {"chess", "music", "law"}
    order = [label.label_id for label in whole[0] if label in whole[0][:FIRST]]
    assert among[0].label_id == next(name for name in order if name in {"chess", "music", "law"})


def test_a_label_scores_alike_whichever_others_are_asked_about(tagger: Tagger) -> None:
    whole = {label.label_id: label.score for label in tagger.tag(TEXTS[:1], k=FIRST, min_score=-1)[0]}
    for among in ([name] for name in whole):
        (label,) = tagger.tag(TEXTS[:1], min_score=-1, among=among)[0]
        assert label.score == pytest.approx(whole[label.label_id], abs=CLOSE)


@pytest.mark.parametrize("among", [None, ["chess"], ["chess", "music", "law"]])
def test_a_text_costs_as_many_pairs_as_are_told(tagger: Tagger, among: list[str] | None) -> None:
    assert tagger.reranker is not None
    network = tagger.reranker.network
    with mock.patch.object(network, "read", wraps=network.read) as read:
        tagger.tag(TEXTS[:2], k=2, among=among)
    told = tagger.pairs_of_text(among and len(among))
    assert [len(labels) for labels in read.call_args.args[2]] == [told] * 2 and told >= 5


def test_other_settings_than_it_was_made_with_are_refused(reranked: Project) -> None:
    for knob, value, does in (
        ("max_document_tokens", 64, "trains another one"),
        ("weight", 1, "fits it anew, without a training"),
    ):
        with pytest.raises(UserError, match=rf"made with other settings .cross_encoder\.{knob}.* which {does}\.$"):
            Tagger.load(str(reranked.run), [f"cross_encoder.{knob}={value}"])
    with Tagger.load(str(reranked.run), ["predict.rerank=0", "cross_encoder.weight=1"]) as plain:
        assert plain.reranker is None


def test_a_server_sees_that_a_run_has_one_now(finished: Project, reranked: Project) -> None:
    before, now = (export_of(str(one.run)).split("+") for one in (finished, reranked))
    assert now[0] == before[0]  # one index
    assert (len(before), len(now)) == (2, 3) and now[-1] != before[-1]


def test_rerank_0_tags_without(finished: Project, reranked: Project) -> None:
    documents, predictions = finished.rows("documents")[:8], finished.rows("predictions")[:8]
    with Tagger.load(str(reranked.run), ["predict.rerank=0"]) as plain:
        found = plain.tag([row["text"] for row in documents], titles=[row["title"] for row in documents])
    assert [[label.label_id for label in row] for row in found] == [row["label_ids"] for row in predictions]
    assert any(found)
    assert all(label.similarity is None for row in found for label in row)


def test_a_bundle_can_be_told_to_leave_it_out(exports: dict[str, str]) -> None:
    assert json.loads((Path(exports["onnx"]) / "bundle.json").read_text())["version"] == 3
    found = []
    for where in exports.values():
        with Tagger.load(where, ["predict.rerank=0"]) as plain:
            assert plain.reranker is None
            found.append([label.label_id for label in plain.tag(TEXTS[:1], min_score=-1)[0]])
    assert found[0] and found == [found[0]] * 3


def test_a_bundle_whose_labels_are_compacted_keeps_it(exports: dict[str, str], tmp_path: Path) -> None:
    where, gone = str(shutil.copytree(exports["torch"], tmp_path / "export")), tmp_path / "gone.jsonl"
    with Tagger.load(where) as before:
        wanted = [
            [label.label_id for label in row if label.label_id != "law"] for row in before.tag(TEXTS, min_score=-1)
        ]
    gone.write_text(json.dumps({"id": "law"}) + "\n")
    remove_labels(where, [str(gone)])
    compact_labels(where)
    with Tagger.load(where) as after:
        assert after.reranker is not None and len(after.labels) == 11
        found = [[label.label_id for label in row] for row in after.tag(TEXTS, min_score=-1)]
    assert wanted[0] and wanted[1]
    assert [row[: len(told)] for row, told in zip(found, wanted, strict=True)] == wanted


def test_the_report_is_about_what_is_shipped(reranked: Project) -> None:
    report = json.loads((reranked.run / "report.json").read_text())
    assert report["metrics"]["chosen"] == report["metrics"]["reranked"]
    assert report["metrics"]["reranked"]["documents"] == 24
    assert report["cross_encoder"]["held_out"]["documents"] > 0
    assert not report["missing"]


def test_given_again_it_does_nothing(reranked: Project) -> None:
    assert "Nothing to do" in call("run", *reranked.arguments, *TEACHER, *KNOBS)


def test_another_way_to_train_redoes_it_alone(reranked: Project) -> None:
    assert done_with(reranked, *KNOBS) == {"cross_encoder": True, "select": True, "index": True, "predict": True}
    changed = done_with(reranked, *KNOBS, "cross_encoder.epochs=3")
    assert changed == {"cross_encoder": False, "select": True, "index": True, "predict": True}


def test_another_weight_is_fitted_anew_without_a_training(reranked: Project, tmp_path: Path) -> None:
    made = reranked.copy(tmp_path / "project")
    heavy = "cross_encoder.weight=2"
    plan = {
        step["step"]: step
        for step in curriculum.dry_run(load_config(made.arguments[0], [*TEACHER, *KNOBS, heavy]))["steps"]
    }
    assert not plan["cross_encoder"]["done"] and plan["cross_encoder"]["seconds"] < 2
    steps, did, said = run_counted(made, heavy)
    assert steps == ["cross_encoder", "predict", "evaluate", "report"] and did == ["fit_reranking"]
    assert f"the trained network stays, with its scores; fitted anew by {heavy}" in said
    assert files_of(made) == files_of(reranked)
    before, after = (project.manifest("cross_encoder") for project in (reranked, made))
    assert after["details"]["per_score"] == pytest.approx(2 / WEIGHT * before["details"]["per_score"])
    assert after["details"]["loss_curve"] == before["details"]["loss_curve"]
    assert after["seconds"] > before["seconds"] and after["commit"] != before["commit"]
    assert {row["id"]: row["scores"] for row in made.rows("predictions")} != {
        row["id"]: row["scores"] for row in reranked.rows("predictions")
    }
    assert "Nothing to do" in call("run", *made.arguments, *TEACHER, *KNOBS, heavy)
    export_bundle(str(made.run), str(tmp_path / "export"), "torch")
    note = json.loads((tmp_path / "export" / "bundle.json").read_text())
    assert note["cross_encoder"]["config"]["weight"] == 2
    assert not any(name.endswith("manifest.json") for name in note["files"])
    with pytest.raises(UserError, match=r"cross_encoder\.weight is a knob of runs"):
        Tagger.load(str(tmp_path / "export"), ["cross_encoder.weight=1"])
    # Given back, it is as it was.
    assert run_counted(made)[1] == ["fit_reranking"]
    assert made.manifest("cross_encoder")["commit"] == before["commit"]


@pytest.mark.parametrize("weight", [WEIGHT, 2])
@pytest.mark.parametrize(
    ("how", "does"),
    [
        ("no scores", ["HeldOutWorker", "fit_reranking"]),
        ("cut scores", ["HeldOutWorker", "fit_reranking"]),
        ("no network", ["train_at", "HeldOutWorker", "fit_reranking"]),
        ("flipped network", ["train_at", "HeldOutWorker", "fit_reranking"]),
    ],
)
def test_what_is_damaged_of_it_is_made_anew_and_no_more(
    reranked: Project, tmp_path: Path, how: str, does: list[str], weight: float
) -> None:
    made = reranked.copy(tmp_path / "project")
    damage(made, how)
    if how == "flipped network" and weight == WEIGHT:  # else nobody knows
        assert verify(str(made.run)).damaged.keys() == {"cross_encoder/network/model.safetensors"}
    steps, did, said = run_counted(made, f"cross_encoder.weight={weight}")
    assert steps[0] == "cross_encoder" and did == does
    assert ("the trained network stays, and scores held-out documents anew (1 of " in said) == (len(does) == 2)
    assert files_of(made).keys() == files_of(reranked).keys() and not verify(str(made.run)).damaged
    if does[0] != "train_at":
        assert made.rows("cross_encoder") == reranked.rows("cross_encoder")
        assert steps == ["cross_encoder"] + ["predict", "evaluate", "report"] * (weight != WEIGHT)


@pytest.mark.parametrize("where", ["train_at", "HeldOutWorker", "fit_reranking"])
def test_a_killed_step_goes_on_with_another_weight(reranked: Project, tmp_path: Path, where: str) -> None:
    """What is there by then is of the network that is there, whichever weight the killed step had."""
    made = reranked.copy(tmp_path / "project")
    damage(made, "no network")
    with mock.patch.object(stage, where, mock.Mock(side_effect=KeyboardInterrupt)), pytest.raises(AssertionError):
        call("run", *made.arguments, *TEACHER, *KNOBS, "cross_encoder.weight=2")
    assert not (made.run / "cross_encoder" / "manifest.json").exists()
    _, did, _ = run_counted(made, "cross_encoder.weight=3")
    order = ["train_at", "HeldOutWorker", "fit_reranking"]
    assert did == order[order.index(where) :]
    network = PlainCrossEncoder(str(made.run / "cross_encoder" / "network"), device="cpu")
    assert network is not None and not verify(str(made.run)).damaged
    assert made.manifest("cross_encoder")["details"]["settings"]["weight"] == 3


def test_without_the_knob_the_run_is_as_it_was(finished: Project, reranked: Project) -> None:
    """Only what was tagged is done anew."""
    assert done_with(finished) == {"select": True, "index": True, "predict": True}
    assert done_with(reranked) == {"select": True, "index": True, "predict": False}


def done_with(project: Project, *overrides: str) -> dict[str, bool]:
    """Of some steps whether they are done with the knobs ``overrides``."""
    config = load_config(project.arguments[0], [*TEACHER, *overrides])
    plan = RunPlan(config, Storage(config.run))
    names = ("cross_encoder", "select", "index", "predict")
    return {step.name: plan.done(step) for step in plan.steps() if step.name in names}


def test_a_run_without_one_cannot_be_told_to_use_it(finished: Project, ezxmc: Ezxmc, tmp_path: Path) -> None:
    export_bundle(str(finished.run), str(tmp_path / "export"), "torch")
    told = json.loads((tmp_path / "export" / "bundle.json").read_text())
    assert told["version"] == 2 and "cross_encoder" not in told and "rerank" not in told["predict"]
    for where in (str(finished.run), str(tmp_path / "export")):
        refused = ezxmc("tag", where, "predict.rerank=5", "--input", str(finished.folder / "input/documents.jsonl.gz"))
        assert refused.returncode == 2 and "has no cross-encoder" in refused.stderr


def test_the_stage_alone_wants_the_knob(finished: Project, ezxmc: Ezxmc) -> None:
    refused = ezxmc("cross_encoder", *finished.arguments)
    assert refused.returncode == 2 and "predict.rerank is 0" in refused.stderr


def test_a_damaged_network_is_named(reranked: Project, tmp_path: Path) -> None:
    shutil.copytree(reranked.run, tmp_path / "run")
    weights = next((tmp_path / "run" / "cross_encoder" / "network").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-3] ^= 255
    weights.write_bytes(bytes(content))
    with pytest.raises(UserError, match=re.escape(weights.name)):
        Tagger.load(str(tmp_path / "run"))

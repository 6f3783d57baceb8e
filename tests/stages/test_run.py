"""A whole run through the command line: what it leaves, that it is not done twice, what is redone after a change."""

from __future__ import annotations

import filecmp
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage, read_manifest, write_manifest

STEPS = [
    "prepare",
    "cycle 0 shortlist",
    "cycle 0 judge",
    "cycle 0 train",
    "cycle 1 shortlist",
    "cycle 1 judge",
    "select",
    "index",
    "predict",
    "evaluate",
    "report",
]
# The first test waits for the run that all of them look at.
pytestmark = pytest.mark.timeout(900)
Project = Any  # conftest.Project: pytest's importlib mode gives test modules no name to import it by
Ezxmc = Callable[..., Any]  # conftest.ezxmc


def steps_in(output: str) -> list[str]:
    """Names of the steps that a command reports as executed, in order."""
    return re.findall(r"^([a-z0-9_ ]+): [\d,]+ [a-z -]+ in [\d,.]+ s$", output, re.M)


def test_every_stage_ran_once_and_in_order(project: Project) -> None:
    """Though the run was killed in one of them, and given again."""
    assert steps_in((project.folder / "stdout").read_text()) == STEPS


def test_report_json_keeps_its_contract(project: Project) -> None:
    report = json.loads((project.run / "report.json").read_text())
    for encoder in ("untrained", "cycle_0", "chosen"):
        assert set(report["metrics"][encoder]) >= {"P@1", "P@3", "P@5", "nDCG@5", "R@10", "R@100", "documents"}
        assert report["metrics"][encoder]["documents"] == 24
        assert 0 < report["metrics"][encoder]["P@1"] <= 100
        assert 0 < report["metrics"][encoder]["PSP@5"] < 100.001
    low, high = report["intervals"]["cycle_0"]["P@1"]
    assert low <= report["metrics"]["cycle_0"]["P@1"] <= high
    assert report["label_counts"] | {"counted_from": "train", "documents": 72} == report["label_counts"]
    assert sum(row["labels"] for row in report["label_bins"]) == 12
    assert (
        report["metrics"]["chosen"] == report["metrics"]["untrained" if report["chosen_cycle"] is None else "cycle_0"]
    )
    assert set(report["teacher"]) >= {"model", "key", "readout", "pairs", "share_yes", "auc"}
    assert 0 < report["teacher"]["share_yes"] < 1
    for stage in ("prepare", "select", "index", "predict", "evaluate"):
        assert set(report["stages"][stage]) == {"seconds", "rows", "rows_per_s"}
    for stage in ("shortlist", "judge", "train"):
        assert report["stages"]["cycle_0"][stage]["rows"] > 0
    assert report["versions"]["ray"]
    html = (project.run / "report.html").read_text()
    assert "<html" in html and "http-equiv" not in html and "<script src" not in html


def test_compare_shows_the_reports_measures(project: Project, ezxmc: Ezxmc) -> None:
    report = json.loads((project.run / "report.json").read_text())
    done = ezxmc("compare", str(project.run))
    assert done.returncode == 0, done.stderr
    measure = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["PSP@5"])
    shown = [f"{report['metrics'][name]['PSP@5']:.1f} (" for name in ("untrained", "chosen")]
    assert [cell in measure for cell in shown] == [True, True]
    pairs = sum(report["teacher"][name] for name in ("pairs_asked", "pairs_held"))
    assert pairs >= int(next(line for line in done.stdout.splitlines() if "pairs judged" in line).split()[-1]) > 0


def test_the_better_encoder_by_the_teachers_judgement_is_shipped(project: Project) -> None:
    selected = project.manifest("student")["details"]
    scores = {one["encoder"]: one["score"] for one in selected["scores"]}
    assert selected["documents"] == project.manifest("documents")["details"]["held_out"] > 0
    assert scores[selected["chosen"]] == max(scores.values())
    assert (selected["chosen_cycle"] is None) == (scores["untrained"] >= scores["cycle_0"])


def test_the_student_the_index_and_the_tables_open_with_plain_libraries(project: Project, topics: list[str]) -> None:
    student = SentenceTransformer(str(project.run / "student"), device="cpu")
    index = faiss.read_index(str(project.run / "index" / "shard-000.faiss"))
    documents, predictions = project.rows("documents"), project.rows("predictions")
    labels = pq.read_table(project.run / "labels.parquet").to_pylist()
    assert [label["id"] for label in labels] == topics
    assert index.ntotal == len(topics)
    assert [one["id"] for one in predictions] == [one["id"] for one in documents]
    first = documents[0]
    scores, numbers = index.search(student.encode([f"{first['title']}\n{first['text']}"], normalize_embeddings=True), 3)
    threshold = project.manifest("predictions")["details"]["min_score"]
    expected = [topics[number] for number, score in zip(numbers[0], scores[0], strict=True) if score >= threshold]
    assert predictions[0]["label_ids"][:3] == expected
    assert np.allclose(predictions[0]["scores"][: len(expected)], scores[0][: len(expected)], atol=1e-4)


def test_each_pair_of_the_shortlists_has_exactly_one_verdict(project: Project) -> None:
    examples, shortlists = project.rows("cycle-0/examples"), project.rows("cycle-0/shortlist")
    assert [one["labels"] for one in examples] == [one["labels"] for one in shortlists]
    assert all(len(one["verdict"]) == len(one["labels"]) == 4 for one in examples)
    judged = project.manifest("cycle-0/examples")
    assert judged["rows"] == judged["details"]["pairs"] == 4 * len(examples) == 4 * 72
    key = judged["details"]["teacher"]["key"]
    files = (project.run / "verdicts" / key).glob("shard-*/*.parquet")
    pairs = [(row["document_hash"], row["label_hash"]) for file in files for row in pq.read_table(file).to_pylist()]
    second = project.manifest("cycle-1/examples")["details"]
    assert len(pairs) == len(set(pairs)) == judged["rows"] + second["pairs_asked"]
    assert (
        second["pairs_asked"] + second["pairs_held"]
        == second["pairs"]
        == 4 * project.manifest("cycle-1/shortlist")["rows"]
    )
    assert second["prior_pairs_asked"] == 0 or judged["details"]["prior_pairs_asked"] < 12


def table_of(printed: str) -> dict[str, float]:
    """The numbers of the table that `ezxmc verdicts` prints, by name."""
    return {
        name: float(value.replace(",", ""))
        for name, value in re.findall(r"^  ([a-z ]+?)  +([\d,.]+) *$", printed, re.M)
    }


def test_the_verdict_store_knows_what_its_batches_cost(project: Project, ezxmc: Ezxmc) -> None:
    """The manifests count both starts of the run that was killed, from the store's footers."""
    judged = [project.manifest(f"cycle-{cycle}/examples")["details"] for cycle in (0, 1)]
    before = table_of(project.killed.verdicts)
    table = table_of(ezxmc("verdicts", "show", str(project.run), "--teacher", judged[0]["teacher"]["key"]).stdout)
    counted = {"pairs": "pairs_asked", "priors": "prior_pairs_asked"}
    counted |= {name: name.replace(" ", "_") for name in ("prompt tokens", "computed tokens")}
    assert all(before[name] > 0 for name in counted if name != "priors")  # which Ray may hand out after some pairs
    for name, key in counted.items():
        assert before[name] <= table[name] == sum(one[key] for one in judged), name
    assert before["pairs"] < table["pairs"]
    assert table["engine seconds"] == pytest.approx(sum(one["engine_seconds"] for one in judged), abs=0.2)


def test_the_engines_time_is_accounted_for(project: Project) -> None:
    judged = project.manifest("cycle-0/examples")["details"]
    assert judged["engines"] == 1
    # The engines' seconds are those of both starts, the actors' of the last one.
    assert 0.2 < judged["busy_share"] < 1
    assert judged["engine_seconds"] > judged["busy_share"] * judged["worker_seconds"] > 0
    assert judged["engine_start_seconds"] + judged["worker_seconds"] < judged["map_seconds"]
    assert 0 < judged["computed_tokens"] <= judged["prompt_tokens"]


def test_held_out_and_test_documents_are_never_trained_on(project: Project) -> None:
    documents = project.manifest("documents")["details"]
    trained = project.manifest("cycle-0/student")
    assert trained["details"]["examples"] == documents["train"] - documents["held_out"]
    assert trained["rows"] == 2 * trained["details"]["examples"]
    assert trained["details"]["workers"] == 2
    losses = [point["loss"] for point in trained["details"]["loss_curve"]]
    # Two epochs of four batches each, which hold other documents in each epoch.
    assert np.mean(losses[4:]) < np.mean(losses[:4])
    looks = trained["details"]["validation_curve"]
    assert [look["step"] for look in looks] == [4, 8] and all(0 < look["score"] <= 100 for look in looks)
    assert trained["details"]["stopped_at"] is None
    assert list((project.run / "cycle-0" / "tensorboard").glob("events*"))


def test_a_second_run_does_nothing_and_says_so(project: Project, ezxmc: Ezxmc) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.run.rglob("*.parquet")}
    began = time.monotonic()
    again = ezxmc("run", *project.arguments)
    assert again.returncode == 0
    assert time.monotonic() - began < 30
    assert "Nothing to do" in again.stdout
    assert steps_in(again.stdout) == []
    assert {path: path.stat().st_mtime_ns for path in project.run.rglob("*.parquet")} == before


def test_a_run_in_use_is_refused(project: Project, ezxmc: Ezxmc) -> None:
    with run_lock(Storage(str(project.run))):
        refused = ezxmc("run", *project.arguments)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "is in use by another ezxmc command" in refused.stderr


def test_with_other_gold_labels_what_is_lost_is_made_anew_as_it_was_and_a_cross_encoder_ranks_anew(
    project: Project, new_project: Callable[..., Project], tmp_path: Path, ezxmc: Ezxmc, joins_ray: None
) -> None:
    """A student that is trained beside other gold labels is the same. Fake stages tell what either redoes by itself.

    In the same command a cross-encoder is trained, by two workers of Ray Train; test_cross_encoder.py has the rest.
    """
    copy = project.copy(tmp_path / "copy")
    changed = new_project(tmp_path / "changed", gold_shift=1)
    documents = changed.folder / "input" / "documents.jsonl.gz"
    shutil.rmtree(copy.run / "index")
    shutil.rmtree(copy.run / "cycle-0" / "student")
    knobs = ("predict.rerank=6", "cross_encoder.epochs=1")
    done = ezxmc("run", *copy.arguments, f"prepare.documents=[{documents}]", *knobs)
    assert done.returncode == 0, done.stderr
    # No other cycle and no selection: student and index come out as they were, so that what follows them is not stale.
    new = ["prepare", "cycle 0 train", "cross_encoder", "index", "predict", "evaluate", "report"]
    assert steps_in(done.stdout) == new
    weights = [one.run / "cycle-0" / "student" / "model.safetensors" for one in (project, copy)]
    assert filecmp.cmp(*weights, shallow=False)
    assert copy.manifest("index")["commit"] == project.manifest("index")["commit"]
    assert copy.rows("gold") != project.rows("gold")
    reports = [json.loads((one.run / "report.json").read_text()) for one in (project, copy)]
    assert reports[0]["metrics"]["chosen"] != reports[1]["metrics"]["chosen"]
    # What the cross-encoder did.
    details = copy.manifest("cross_encoder")["details"]
    assert details["workers"] == 2 and details["held_out"]["documents"] > 0
    ids = [[row["label_ids"] for row in one.rows("predictions")] for one in (project, copy)]
    assert ids[0] != ids[1]
    assert reports[1]["metrics"]["reranked"]["documents"] == 24


def test_status_names_what_is_missing(project: Project, tmp_path: Path, ezxmc: Ezxmc) -> None:
    copy = project.copy(tmp_path / "copy")
    shutil.rmtree(copy.run / "predictions")
    whole, partial = (ezxmc("status", str(one.run)) for one in (project, copy))
    assert whole.returncode == partial.returncode == 0
    assert "missing" not in whole.stdout
    assert re.search(r"predict\W+missing", partial.stdout)


def test_tag_refuses_an_index_that_is_older_than_the_labels(project: Project, tmp_path: Path, ezxmc: Ezxmc) -> None:
    copy = project.copy(tmp_path / "copy")
    storage = Storage(str(copy.run))
    manifest = read_manifest(storage, "documents")
    assert manifest is not None
    write_manifest(
        storage,
        "documents",
        replace(manifest, details=manifest.details | {"label_fingerprint": "of other labels"}),
    )
    done = ezxmc("tag", str(copy.run), "--input", str(tmp_path / "more.jsonl"))
    assert done.returncode == 2
    assert "is missing, or older than its labels" in done.stderr


def test_texts_from_a_pipe_are_tagged_each_below_itself(project: Project) -> None:
    typed = "bishop pawn checkmate\n\nsoil, tomato and compost\n"
    done = project.ezxmc("tag", str(project.run), "predict.top_k=1", "predict.min_score=-1", typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    shown = [line.split("\t")[1:] or [line] for line in done.stdout.splitlines() if line]
    first, second = (line for line in typed.splitlines() if line)
    assert shown == [[first], ["chess", "(chess)"], [second], ["gardening", "(gardening)"]]


def test_tag_writes_the_four_columns(project: Project, topics: list[str], tmp_path: Path, ezxmc: Ezxmc) -> None:
    texts = [
        {"id": "a", "title": "The opening", "text": "a gambit with the bishop, then checkmate"},
        {"id": "b", "title": "", "text": ""},
        {"id": "c", "text": "soil and seeds for the greenhouse"},
    ]
    more, out = tmp_path / "more.jsonl", tmp_path / "out.parquet"
    more.write_text("".join(json.dumps(text) + "\n" for text in texts))
    done = ezxmc(
        "tag", str(project.run), "--input", str(more), "--output", str(out), "predict.top_k=2", "predict.min_score=-1"
    )
    assert done.returncode == 0, done.stderr
    tags = pq.read_table(out)
    assert tags.column_names == ["id", "label_ids", "label_texts", "scores"]
    assert tags["id"].to_pylist() == ["a", "c"]
    assert [ids[0] for ids in tags["label_ids"].to_pylist()] == ["chess", "gardening"]
    assert all(len(ids) == 2 for ids in tags["label_ids"].to_pylist())
    assert "1 bad rows were left out" in done.stdout
    assert pq.read_table(f"{out}.rejected.parquet").num_rows == 1

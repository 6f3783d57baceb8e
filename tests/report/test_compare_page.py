"""What a comparison of runs looks like: as Markdown, as a page, and as the table of every student."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from ezxmc_ray.report.compare import compare_runs
from ezxmc_ray.report.compare_page import markdown, page, student_rows, table_rows
from tests.report.made_runs import documents, made_run
from tests.report.test_compare import BETTER


def test_markdown_tables_have_a_cell_for_every_run(tmp_path: Path) -> None:
    comparison = compare_runs([made_run(tmp_path / "a|b"), made_run(tmp_path / "c_d", BETTER)])
    table = [line for line in markdown(comparison, "P@1").splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {5, 6}
    assert table[0] == "|  | untrained encoder | a\\|b | c\\_d |"
    assert len(table) == 4 + len(table_rows(comparison, comparison.entries)) + len(student_rows(comparison, "P@1"))
    values = next(line for line in table if line.startswith("| PSP@5 |"))
    assert f"{comparison.entries[1].student.values['PSP@5']:.1f} (" in values
    assert "- Measures are percent with 95 % intervals over the test documents.\n" in markdown(comparison, "P@1")


def test_every_student_has_a_row_with_its_value_and_the_shipped_one_says_so(tmp_path: Path) -> None:
    comparison = compare_runs([made_run(tmp_path / "a", skills=(0.1, 0.4, 0.7), chosen=1)])
    rows = student_rows(comparison, "P@1")
    assert [row["student"] for row in rows] == [one.name for one in comparison.students["a"]]
    values = [f"{student.values['P@1']:.1f} (" for student in comparison.students["a"]]
    assert all(row["P@1"].startswith(value) for row, value in zip(rows, values, strict=True))
    assert [row["shipped"] for row in rows] == ["", "", "yes"]


@pytest.mark.parametrize(
    ("chosen", "by"),
    [
        ((0, None), "by b"),
        ((None, 0), "by a"),
        ((None, None), "by a, b"),
        ((0, 0), ""),
    ],
)
def test_an_untrained_encoder_that_runs_share_names_those_that_ship_it(
    tmp_path: Path, chosen: tuple[int | None, int | None], by: str
) -> None:
    roots = [made_run(tmp_path / name, chosen=cycle) for name, cycle in zip("ab", chosen, strict=True)]
    comparison = compare_runs([*roots, made_run(tmp_path / "c", (0.3, 0.5))])
    rows = {(row["run"], row["student"]): row["shipped"] for row in student_rows(comparison, "P@1")}
    assert rows == {
        ("untrained encoder", "untrained"): by,
        ("untrained encoder of c", "untrained"): "",
        ("a", "cycle 0"): "yes" if chosen[0] == 0 else "",
        ("b", "cycle 0"): "yes" if chosen[1] == 0 else "",
        ("c", "cycle 0"): "yes",
    }
    line = next(line for line in markdown(comparison, "P@1").splitlines() if line.startswith("| untrained encoder |"))
    assert line.endswith(f"| {by} |")
    badge = f'<span class="badge">shipped {by}</span>' if by else ""
    assert f'<td class="text">untrained encoder</td><td>untrained{badge}</td>' in page(comparison, "P@1")
    entry = comparison.plain()["entries"][0]
    assert (entry["student"]["shipped"], entry["shipped_by"]) == (
        bool(by),
        by.removeprefix("by ").split(", ") if by else [],
    )


class Page(HTMLParser):
    """The tags and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key.endswith(("href", "src"))]


def test_the_page_needs_no_network_and_escapes_names(tmp_path: Path) -> None:
    comparison = compare_runs([made_run(tmp_path / "a<b>"), made_run(tmp_path / "c", BETTER)])
    text = page(comparison, "P@1")
    found = Page(text)
    assert found.tags.count("svg") == 1
    assert not {"script", "link", "img", "iframe", "b"} & set(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert "a&lt;b&gt;" in text
    over = (comparison.entries[-1].over_first or {})["P@1"]
    assert f'<span class="difference up">{over["difference"]:+.1f}</span>' in text
    assert "<td>120</td>" in text
    assert "with its 95 % interval over these documents; below it" in text and "bootstrap" not in text


def test_few_documents_have_values_and_no_intervals(tmp_path: Path) -> None:
    few = [row for row in documents(0) if row["split"] == "train"] + documents(0)[-8:]
    comparison = compare_runs([made_run(tmp_path / "a", rows=few), made_run(tmp_path / "b", BETTER, rows=few)])
    assert comparison.entries[-1].student.intervals["P@1"] is None
    assert "None" not in markdown(comparison, "P@1") + page(comparison, "P@1")

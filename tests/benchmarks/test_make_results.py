"""The pages of results are those that the script makes, short on top, and say nothing that no JSON says."""

from __future__ import annotations

from common.headlines import headline
from make_results import OVERVIEW, PAGES, files, line, section


def test_the_files_in_the_repository_are_those_that_the_results_make() -> None:
    made = files()
    assert {OVERVIEW, *PAGES.glob("*.md")} == set(made)
    assert [path.name for path, text in made.items() if path.read_text() != text] == []


def test_the_overview_is_one_short_page_with_a_row_a_result() -> None:
    lines = OVERVIEW.read_text().splitlines()
    assert len(lines) <= 40
    assert sum(line.startswith("| [") for line in lines) == len(list(PAGES.parent.glob("*.json")))


def test_quality_is_told_against_the_closest_student_not_against_what_judges_the_ranked_documents() -> None:
    def row(method: str, gain: float) -> dict[str, object]:
        metrics = {name: {"value": gain, "low": gain - 1, "high": gain + 1} for name in ("P@1", "nDCG@5", "R@10")}
        return {"dataset": "d", "labels": "l", "teacher": "t", "student": "s", "method": method, "metrics": metrics}

    rows = [row("bm25", 9.0), row("words", -0.5), row("llm_fusion", -3.0)]
    told = headline({"command": "python benchmarks/quality.py --name n", "differences": rows})
    assert told.endswith("d, l: words, P@1 -0.5 (-1.5 to +0.5), R@10 -0.5 (-1.5 to +0.5)")


def test_a_benchmark_without_a_rule_is_told_by_its_first_note() -> None:
    assert headline({"command": "python benchmarks/ray_start.py", "notes": ["3 works", "more"]}) == "3 works"


def test_an_older_result_that_several_calls_made_names_each_beside_its_table() -> None:
    calls = [{"command": f"python benchmarks/quality.py --parts {name}", "date": "x"} for name in ("a", "b")]
    tables = [{"title": "Both", "rows": [{"method": "ezxmc"}], "commands": calls}]
    older = {"title": "A", "machine": "m", "differences": [], "tables": tables, "notes": ["n"]} | calls[0]
    assert "| 2 calls of `python benchmarks/quality.py`, on its page |" in line(older)
    page = section(older)
    assert "A\n\nm · x\n" in page and [page.count(f"--parts {name}` · x") for name in ("a", "b")] == [1, 1]

"""The pages of results are those that the script makes, short on top, and say nothing that no JSON says."""

from __future__ import annotations

import json

from common.headlines import headline
from make_results import OVERVIEW, PAGES, files, line, section


def test_the_files_in_the_repository_are_those_that_the_results_make() -> None:
    made = files()
    assert {OVERVIEW, *PAGES.glob("*.md")} == set(made)
    assert [path.name for path, text in made.items() if path.read_text() != text] == []


def test_the_overview_is_one_short_page_with_a_row_a_result() -> None:
    lines = OVERVIEW.read_text().splitlines()
    assert len(lines) <= 40
    results = {path.stem: json.loads(path.read_text()) for path in PAGES.parent.glob("*.json")}
    compared = [name for result in results.values() for name in result.get("of", [])]
    assert {*compared} <= results.keys() and len(compared) == len({*compared})
    titles = {result["title"] for name, result in results.items() if name not in compared}
    assert sum(line.startswith("| [") for line in lines) == len(titles)


def test_a_file_is_what_one_call_measured_or_compares_such_files() -> None:
    for path in PAGES.parent.glob("*.json"):
        result = json.loads(path.read_text())
        assert not ("of" in result and result.get("rows")), f"{path.name} measures and compares"
        parts = [*result.get("rows", []), *result.get("tables", [])]
        calls = [one for one in parts if "commands" in one or str(one.get("command")).startswith("python ")]
        assert not calls, f"{path.name} holds what several calls measured"


def test_of_a_cross_encoder_what_it_adds_is_told() -> None:
    """The rows have what ezxmc is ahead of it by, which is below 0."""
    measure = {"value": -2.5, "low": -3.7, "high": -1.4}
    rows = [{"method": "ezxmc_reranked", "dataset": "d", "metrics": {"P@1": measure, "R@10": measure}}]
    told = headline({"command": "python benchmarks/quality.py --name n", "differences": rows})
    assert told.endswith("points: d: P@1 +2.5 (+1.4 to +3.7), R@10 +2.5 (+1.4 to +3.7)")


def test_quality_is_told_against_the_closest_student_not_against_what_judges_the_ranked_documents() -> None:
    def row(method: str, gain: float) -> dict[str, object]:
        metrics = {name: {"value": gain, "low": gain - 1, "high": gain + 1} for name in ("P@1", "nDCG@5", "R@10")}
        return {"dataset": "d", "labels": "l", "teacher": "t", "student": "s", "method": method, "metrics": metrics}

    rows = [row("bm25", 9.0), row("words", -0.5), row("llm_fusion", -3.0)]
    told = headline({"command": "python benchmarks/quality.py --name n", "differences": rows})
    assert told.endswith("d, l: words, P@1 -0.5 (-1.5 to +0.5), R@10 -0.5 (-1.5 to +0.5)")


def test_a_benchmark_without_a_rule_is_told_by_its_first_note() -> None:
    joined = [("likelihood", "+0.013"), ("choice", "-0.005"), ("second wording", "+0.016")]
    rows = [
        {
            "what orders the shortlist": f"the same with the mean of {name}",
            "AUC, difference": gain,
            "P@1, difference": "+1.0",
        }
        for name, gain in joined
    ]
    told = headline({"command": "python benchmarks/readouts.py --name n", "data": "d", "rows": rows})
    assert told.endswith("likelihood: AUC +0.013, P@1 +1.0; best other: second wording: AUC +0.016, P@1 +1.0")
    metrics = {name: {"value": 57.04, "low": None, "high": None} for name in ("P@1", "R@10")}
    rounds = [
        {"dataset": "d", "rounds": "auto", "pairs": 1320, "metrics": metrics, "chosen": one} for one in ("", "yes")
    ]
    told = headline({"command": "python benchmarks/quality.py --name n", "differences": [], "rounds": rounds})
    assert told == "d: auto: 1,320 pairs, P@1 57.0, R@10 57.0"
    assert headline({"command": "python benchmarks/ray_start.py", "notes": ["3 works", "more"]}) == "3 works"


def test_results_of_one_title_share_a_row() -> None:
    def result(figure: str, machine: str) -> dict[str, object]:
        about = {"title": "A", "machine": machine, "date": "x", "command": "python benchmarks/ray_start.py --name n"}
        return about | {"notes": [figure]}

    assert line(result("1 s", "m")).startswith("| [A](results/pages/ray_start.md) | 1 s | m, x | `python ")
    told = line(result("1 s", "m"), result("2 s", "m"), result("2 s", "other"))
    assert told == "| [A](results/pages/ray_start.md) | 1 s; 2 s | m, x; other, x | 3 calls, on its page |\n"


def test_a_comparison_of_older_calls_names_their_files() -> None:
    tables = [{"title": "Both", "rows": [{"method": "ezxmc"}]}]
    about = {
        "name": "c",
        "title": "A",
        "machine": "m",
        "command": "python benchmarks/quality.py --parts a",
        "date": "x",
    }
    older = about | {"of": ["a", "b"], "differences": [], "tables": tables, "notes": ["n"]}
    assert "| 2 calls of `python benchmarks/quality.py`, on its page |" in line(older)
    assert "A\n\nc: compares a, b · m · x\n\n### Both\n" in section(older)
    single = section(about | {"rows": [{"method": "ezxmc"}]})
    assert "A\n\nc: `python benchmarks/quality.py --parts a` · m · x\n" in single

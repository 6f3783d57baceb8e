"""Make benchmarks/RESULTS.md and the pages below it from benchmarks/results/*.json.

    python benchmarks/make_results.py

RESULTS.md has a row a result; benchmarks/results/pages has a page a benchmark, with the tables of all its results.
A result names its title, command, machine and date; ``rows`` (a list of flat objects) becomes a table, ``notes`` (a
list of sentences) the text below it. A result of several tables names them as ``tables``: ``title`` and ``rows`` each,
and in quality's older files, whose differences compare methods of several calls, a list of ``commands`` with a date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.headlines import benchmark_of, headline
from common.publish import RESULTS, ROOT

OVERVIEW = ROOT / "benchmarks" / "RESULTS.md"
PAGES = RESULTS / "pages"
MADE = "Made by `python benchmarks/make_results.py` from `benchmarks/results/`; do not edit by hand."
HEAD = f"""# Results

{MADE} The links lead to
the tables with every interval. Machines are shared and noisy: compare within one table, not across.

| measured | figure | machine, date | command |
|---|---|---|---|
"""


def main() -> None:
    """Write all files; a page of a benchmark that has no result any more goes."""
    made = files()
    for page in PAGES.glob("*.md"):
        page.unlink()
    PAGES.mkdir(exist_ok=True)
    for path, text in made.items():
        path.write_text(text)
    print(f"benchmarks/RESULTS.md and {len(made) - 1} pages")


def files() -> dict[Path, str]:
    """What each file is to hold."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    pages: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        pages.setdefault(benchmark_of(result), []).append(result)
    made = {
        PAGES / f"{name}.md": f"# Results of benchmarks/{name}.py\n\n{MADE}\n" + "".join(map(section, some))
        for name, some in pages.items()
    }
    return {OVERVIEW: HEAD + "".join(map(line, results)), **made}


def line(result: dict[str, Any]) -> str:
    """The row of ``result`` in RESULTS.md."""
    page = (PAGES / f"{benchmark_of(result)}.md").relative_to(OVERVIEW.parent)
    about = f"{result['machine']}, {result['date']}"
    return f"| [{result['title']}]({page}) | {headline(result)} | {about} | {_command(result)} |\n"


def _command(result: dict[str, Any]) -> str:
    """The command of ``result``; of an older file that several calls made, how many."""
    calls = {by["command"] for one in result.get("tables", []) for by in one.get("commands", [])}
    if len(calls) > 1:
        return f"{len(calls)} calls of `python benchmarks/{benchmark_of(result)}.py`, on its page"
    return f"`{result['command']}`"


def section(result: dict[str, Any]) -> str:
    """One result as Markdown."""
    about = f"{result['machine']} · {result['date']}"
    if not any("commands" in one for one in result.get("tables", [])):  # else each table says by what it was measured
        about = f"`{result['command']}` · {about}"
    return "\n".join(["", f"## {result['title']}", "", about, "", *table(result)]).rstrip() + "\n"


def table(result: dict[str, Any]) -> list[str]:
    """The lines of its ``tables`` (without any, of its ``rows``) and of its ``notes``."""
    tables = result["tables"] if "tables" in result else [{"rows": result["rows"]}]
    lines = [line for one in tables for line in [*heading(one), *grid(one["rows"]), ""]]
    return [*lines, *(f"- {note}" for note in result.get("notes", []))]


def heading(one: dict[str, Any]) -> list[str]:
    """The lines above a table that has a ``title`` or ``commands``."""
    lines = [f"### {one['title']}", ""] if "title" in one else []
    return lines + [line for by in one.get("commands", []) for line in (f"`{by['command']}` · {by['date']}", "")]


def grid(rows: list[dict[str, Any]]) -> list[str]:
    """``rows`` as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return [*lines, *("| " + " | ".join(shown(row.get(name)) for name in names) + " |" for row in rows)]


def shown(value: Any) -> str:
    """A cell."""
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()

"""Make benchmarks/RESULTS.md and the pages below it from benchmarks/results/*.json.

    python benchmarks/make_results.py

RESULTS.md has a row a result, or a row of several with one title; benchmarks/results/pages has a page a benchmark,
with the tables of all its results.
A result is what one call measured, and names its title, command, machine and date; ``rows`` (a list of flat objects)
becomes a table, ``notes`` (a list of sentences) the text below it. A result of several tables names them as ``tables``:
``title`` and ``rows`` each. One that measured nothing and compares older calls names their files as ``of``; the row of
all of them in RESULTS.md is its row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.headlines import benchmark_of, headline
from common.publish import RESULTS, ROOT

OVERVIEW = ROOT / "benchmarks" / "RESULTS.md"
PAGES = RESULTS / "pages"
MADE = "Made by `python benchmarks/make_results.py` from `benchmarks/results/`; not by hand."
HEAD = f"""# Results

{MADE} Machines are noisy: compare within a table.

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
    results = [json.loads(path.read_text()) | {"name": path.stem} for path in sorted(RESULTS.glob("*.json"))]
    pages: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        pages.setdefault(benchmark_of(result), []).append(result)
    made = {
        PAGES / f"{name}.md": f"# Results of benchmarks/{name}.py\n\n{MADE}\n" + "".join(map(section, some))
        for name, some in pages.items()
    }
    compared = {name for result in results for name in result.get("of", [])}
    titled: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["name"] not in compared:
            titled.setdefault(result["title"], []).append(result)
    return {OVERVIEW: HEAD + "".join(line(*some) for some in titled.values()), **made}


def line(result: dict[str, Any], *others: dict[str, Any]) -> str:
    """The row of ``result``, and of ``others`` of the same title, in RESULTS.md."""
    page = (PAGES / f"{benchmark_of(result)}.md").relative_to(OVERVIEW.parent)
    some = [result, *others]
    figures = "; ".join(dict.fromkeys(map(headline, some)))
    about = "; ".join(dict.fromkeys(f"{one['machine']}, {one['date']}" for one in some))
    call = f"{len(some)} calls, on its page" if others else _command(result)
    return f"| [{result['title']}]({page}) | {figures} | {about} | {call} |\n"


def _command(result: dict[str, Any]) -> str:
    """The command of ``result``; of one that compares calls, how many."""
    if "of" in result:
        return f"{len(result['of'])} calls of `python benchmarks/{benchmark_of(result)}.py`, on its page"
    return f"`{result['command']}`"


def section(result: dict[str, Any]) -> str:
    """One result as Markdown."""
    by = f"compares {', '.join(result['of'])}" if "of" in result else f"`{result['command']}`"
    about = f"{result['name']}: {by} · {result['machine']} · {result['date']}"
    return "\n".join(["", f"## {result['title']}", "", about, "", *table(result)]).rstrip() + "\n"


def table(result: dict[str, Any]) -> list[str]:
    """The lines of its ``tables`` (without any, of its ``rows``) and of its ``notes``."""
    tables = result["tables"] if "tables" in result else [{"rows": result["rows"]}]
    lines = [line for one in tables for line in [*_heading(one), *grid(one["rows"]), ""]]
    return [*lines, *(f"- {note}" for note in result.get("notes", []))]


def _heading(one: dict[str, Any]) -> list[str]:
    """The lines above a table that has a ``title``."""
    return [f"### {one['title']}", ""] if "title" in one else []


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

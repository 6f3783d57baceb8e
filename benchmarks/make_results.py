"""Make benchmarks/RESULTS.md from benchmarks/results/*.json: ``python benchmarks/make_results.py``.

A result names its title, command, machine and date; ``rows`` (a list of flat objects) becomes a table, ``notes`` (a
list of sentences) the text below it. A result of several tables names them as ``tables``: ``title`` and ``rows`` each,
and ``command`` and ``date`` where these are not those of the whole.
"""

from __future__ import annotations

import json
from typing import Any

from common import RESULTS, ROOT

HEAD = """# Results

Made by `python benchmarks/make_results.py` from `benchmarks/results/`; do not edit by hand. Machines are shared and
noisy: compare within one table, not across.
"""


def main() -> None:
    """Write the page."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    text = HEAD + "".join(section(result) for result in results)
    (ROOT / "benchmarks" / "RESULTS.md").write_text(text)
    print(f"benchmarks/RESULTS.md: {len(results)} results")


def section(result: dict[str, Any]) -> str:
    """One result as Markdown."""
    about = f"{result['machine']} · {result['date']}"
    if not any("commands" in one for one in result.get("tables", [])):  # else each table says by what it was measured
        about = f"`{result['command']}` · {about}"
    return "\n".join(["", f"## {result['title']}", "", about, "", *table(result)]).rstrip() + "\n"


def table(result: dict[str, Any]) -> list[str]:
    """The lines of its ``tables`` (without any, of its ``rows``) and of its ``notes``."""
    tables = result["tables"] if "tables" in result else [{"rows": result["rows"]}]
    lines = [line for one in tables for line in [*heading(one, result), *grid(one["rows"]), ""]]
    return [*lines, *(f"- {note}" for note in result.get("notes", []))]


def heading(one: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """The lines above a table of ``result`` that has a ``title``, and ``commands`` or one that is not the page's."""
    lines = [f"### {one['title']}", ""] if "title" in one else []
    for by in one.get("commands", [one] if "command" in one else []):
        if "commands" in one or (by["command"], by["date"]) != (result.get("command"), result.get("date")):
            lines += [f"`{by['command']}` · {by['date']}", ""]
    return lines


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

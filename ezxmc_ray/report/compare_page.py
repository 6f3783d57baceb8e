"""Writes a comparison of runs: tables for the terminal, Markdown, and an HTML page that needs no network and no script.

Comes in: a Comparison. Goes out: texts, and files where they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.metrics import MEASURES, PROPENSITY_MEASURES, Interval
from ezxmc_ray.places import check_apart, folder_and_name
from ezxmc_ray.report import plots
from ezxmc_ray.report.compare import Comparison, Entry, Student
from ezxmc_ray.report.compared_run import UNTRAINED
from ezxmc_ray.report.page import environment

#: Marks a difference whose interval leaves out zero.
SIGNIFICANT = "*"


def check_measure(name: str) -> None:
    """Raise a UserError unless ``name`` is a measure."""
    known = (*MEASURES, *PROPENSITY_MEASURES)
    if name not in known:
        raise UserError(f"--measure {name} is none of {', '.join(known)}.")


def table_rows(comparison: Comparison, entries: Sequence[Entry]) -> list[dict[str, str]]:
    """A row for each cost and each measure with its difference, a column for each of ``entries``; all are texts."""
    rows = [
        _row("student", entries, [entry.student.name for entry in entries]),
        _row("pairs judged", entries, [f"{entry.pairs:,}" for entry in entries]),
        _row("teacher seconds", entries, [_seconds(entry.teacher_seconds) for entry in entries]),
        _row("training seconds", entries, [_seconds(entry.training_seconds) for entry in entries]),
        _row("test documents", entries, [f"{len(entry.student.measurement):,}" for entry in entries]),
    ]
    for name in (*MEASURES, *PROPENSITY_MEASURES):
        rows.append(_row(name, entries, [_value(entry.student, name) for entry in entries]))
        if any(entry.over_first for entry in comparison.entries):
            rows.append(_row("  difference", entries, [_difference(entry, name) for entry in entries]))
    return rows


def _row(name: str, entries: Sequence[Entry], cells: list[str]) -> dict[str, str]:
    return {"": name} | dict(zip((entry.name for entry in entries), cells, strict=True))


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:,.0f}"


def _value(student: Student, name: str) -> str:
    return f"{student.values[name]:.1f}{_ends(student.intervals[name], '.1f')}"


def _difference(entry: Entry, name: str) -> str:
    if entry.over_first is None:
        return "–"
    over = entry.over_first[name]
    mark = f" {SIGNIFICANT}" if is_significant(over) else ""
    return f"{over['difference']:+.1f}{_ends(over['interval'], '+.1f')}{mark}"


def is_significant(over: dict[str, Any]) -> bool:
    """Whether the interval of a difference leaves out zero."""
    return over["interval"] is not None and not over["interval"][0] <= 0 <= over["interval"][1]


def _ends(interval: Interval, form: str) -> str:
    return "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"


def legend(comparison: Comparison) -> list[str]:
    """What the figures of the table are, and what has to be known besides, a sentence each."""
    sentences = ["Measures are percent with 95 % intervals over the test documents."]
    if any(entry.over_first for entry in comparison.entries):
        sentences.append(f"{SIGNIFICANT}: the interval of the difference leaves out zero.")
    return sentences + comparison.notes


def student_rows(comparison: Comparison, measure: str) -> list[dict[str, str]]:
    """A row for every student: its run, its name, pairs judged up to its cycle, ``measure``, whether it is shipped.

    Runs may share an untrained encoder: its row names those that ship it.
    """
    return [
        {
            "run": run,
            "student": one.name,
            "pairs judged": f"{one.pairs:,}",
            measure: _value(one, measure),
            "shipped": ("yes" if by == [run] else f"by {', '.join(by)}") if by else "",
        }
        for run, one, by in _all_students(comparison)
    ]


def _all_students(comparison: Comparison) -> list[tuple[str, Student, list[str]]]:
    """(run, student, runs that ship it) for every trained one, after the untrained ones of the table."""
    untrained = [entry for entry in comparison.entries if entry.name.startswith(UNTRAINED)]
    trained = [(run, one) for run, students in comparison.students.items() for one in students[1:]]
    shared = [(entry.name, entry.student, entry.shipped_by) for entry in untrained]
    return shared + [(run, one, [run] if one.shipped else []) for run, one in trained]


def markdown(comparison: Comparison, measure: str) -> str:
    """The comparison as Markdown: the table, the notes, every student by ``measure``."""
    notes = [f"- {_escaped(sentence)}" for sentence in legend(comparison)]
    head = f"# {_escaped(title(comparison))}"
    tables = (_table(table_rows(comparison, comparison.entries)), _table(student_rows(comparison, measure)))
    return "\n".join([head, "", *tables[0], "", *notes, "", *tables[1], ""])


def _table(rows: list[dict[str, str]]) -> list[str]:
    cells = [list(rows[0]), ["---", *["--:"] * (len(rows[0]) - 1)], *(list(row.values()) for row in rows)]
    return ["| " + " | ".join(_escaped(cell.strip()) for cell in line) + " |" for line in cells]


def _escaped(text: str) -> str:
    return re.sub(r"[|*_`<>\[\]]", r"\\\g<0>", text)


def title(comparison: Comparison) -> str:
    """What is compared, for a headline."""
    return f"{', '.join(comparison.students)} compared"


def _plot_caption(measure: str) -> str:
    return f"{measure} against the pairs judged up to a student's cycle; filled points are the students that runs ship."


def page(comparison: Comparison, measure: str) -> str:
    """The comparison as a whole HTML document, in the look of the report."""
    points = {
        run: [
            {
                "pairs": one.pairs,
                "value": one.values[measure],
                "interval": one.intervals[measure],
                "shipped": one.shipped,
            }
            for one in students
        ]
        for run, students in comparison.students.items()
    }
    template = environment().get_template("compare.html.j2")
    return template.render(
        title=title(comparison),
        comparison=comparison,
        tables=[("How well they tag", list(MEASURES)), ("Rare labels counting more", list(PROPENSITY_MEASURES))],
        students=_all_students(comparison),
        measure=measure,
        is_significant=is_significant,
        plot=Markup(plots.quality_over_pairs(list(points.values()), measure)),
        lines=[(run, *plots.line_of(number)) for number, run in enumerate(points)],
        caption=_plot_caption(measure),
        notes=comparison.notes,
    )


def write_text(path: str, option: str, text: str) -> None:
    """Commit ``text`` as the file ``path``, which the user gave by ``option``; UserError where that cannot be."""
    storage, name = folder_and_name(path)
    if not name or storage.is_folder(name):
        raise UserError(f"{option} {path} is a directory; name a file in it.")
    check_apart(option, path, storage, name)
    try:
        storage.write_bytes(name, text.encode())
    except OSError as error:
        raise UserError(f"Cannot write {option} {path}: {one_line(error)}; name another file.") from error

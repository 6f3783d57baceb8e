"""``ezxmc verdicts``: the verdicts of a run, which outlive it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ezxmc_ray.commands.arguments import AsJson, Run, VerdictFile
from ezxmc_ray.shown import shown
from ezxmc_ray.terminal import print_json, print_verdicts

if TYPE_CHECKING:
    from ezxmc_ray.context import Context

app = typer.Typer(help="Show, export, import or compact the verdicts of a run.", no_args_is_help=True)
TeacherKey = Annotated[
    str | None, typer.Option("--teacher", metavar="KEY", help="whose: a teacher key, or configured for the run's own")
]


@app.command("show", help="Whose verdicts a run holds, and what they cost.")
def show_verdicts(run: Run, teacher: TeacherKey = None, as_json: AsJson = False) -> None:
    """A table of the teachers."""
    from ezxmc_ray.progress import data_on_stdout
    from ezxmc_ray.verdicts.summary import summary

    with data_on_stdout(as_json):
        teachers = summary(_context(run), teacher)
    if as_json:
        print_json(teachers)
    else:
        print_verdicts(teachers)


@app.command("export", help="Write one teacher's verdicts to a Parquet file, with document and label ids.")
def export_verdicts(run: Run, file: VerdictFile, teacher: TeacherKey = None) -> None:
    """A file for another run, or for people."""
    from ezxmc_ray.verdicts import transfer

    pairs = transfer.export_verdicts(_context(run), file, teacher)
    print(shown(f"Exported {pairs:,} verdicts to {file}"))


@app.command("import", help="Take in an export, or a Parquet file with the columns document_id, label_id and raw.")
def import_verdicts(
    run: Run,
    file: VerdictFile,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="whose verdicts a file made by hand holds: configured, a key, or a new name"),
    ] = None,
) -> None:
    """Verdicts of another run, or of people."""
    from ezxmc_ray.verdicts import transfer

    done = transfer.import_verdicts(_context(run), file, teacher)
    print(
        f"Imported {done.new:,} verdicts of the teacher {done.key}; {done.pairs - done.new:,} more in the file "
        "were held already and stay as they were"
    )


@app.command("compact", help="Make one file of many.")
def compact_verdicts(run: Run, teacher: TeacherKey = None) -> None:
    """Fewer files, the same verdicts."""
    from ezxmc_ray.verdicts.summary import compact

    before, after = compact(_context(run), teacher)
    print(f"Made {after:,} files of {before:,}")


def _context(run: str) -> Context:
    from ezxmc_ray.context import open_context

    return open_context(run)

"""The command ``ezxmc``: a configuration file and overrides in, a run directory out.

What it prints goes to stdout; what went wrong goes to stderr. A user's mistake is one sentence and exit status 2, an
interruption exit status 130, a fault of this program a traceback and exit status 1. What does the work is imported
inside the commands, so that ``ezxmc --help`` and ``ezxmc config`` answer at once.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ezxmc_ray import __version__
from ezxmc_ray.errors import UserError

if TYPE_CHECKING:
    from ezxmc_ray.config import Config
    from ezxmc_ray.report.compare import Comparison
    from ezxmc_ray.tagger import Tagger

#: Each stage and what it does, in the order of a run.
STAGES = {
    "prepare": "Read, check, split and shard documents and labels.",
    "shortlist": "Find each document's nearest labels.",
    "judge": "Let the teacher (an LLM) judge the shortlists.",
    "train": "Train the student (the encoder) on the verdicts.",
    "select": "Choose the best encoder by held-out verdicts.",
    "index": "Build the FAISS index over the labels.",
    "predict": "Predict labels for all documents.",
    "evaluate": "Measure against gold labels, if there are any.",
    "report": "Write report.json and report.html.",
}

#: Texts that are tagged together when they come from a pipe; on a terminal each is answered at once.
LINES_A_BATCH = 64

#: Characters of a line where stdout is not a terminal.
PLAIN_WIDTH = 200

HELP = """Tag documents with labels out of thousands to millions, without a labeled example.

An LLM (the teacher) judges which labels fit some of your documents; a small encoder (the student) learns from its
verdicts and then tags any number of documents quickly.

To start, write a YAML file mine.yaml:

\b
    run: runs/mine
    prepare:
      documents: documents.jsonl   # a JSON object a line: id, title, text
      labels: labels.jsonl         # a JSON object a line: id, text

Then run `ezxmc run mine.yaml`, open runs/mine/report.html, and tag new texts with `ezxmc tag runs/mine`.

The teacher is then a small LLM that is bundled, for trying; teacher.model names a better one, a directory or a model of
the Hugging Face hub. `ezxmc config mine.yaml` shows every knob. Each can be set in the file or, for one command, as
a.b=c:

\b
    ezxmc run mine.yaml teacher.model=org/name

A run that was stopped goes on where it was when the same command is given again.
"""

app = typer.Typer(
    name="ezxmc",
    help=HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Configuration = Annotated[str, typer.Argument(metavar="CONF", help="the configuration, a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="a.b=c", help="knobs to set, for example teacher.model=org/name")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="the directory or object-store URI of a run")]


def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv`` (default: sys.argv); leaves by SystemExit with 0, 1 (a fault), 2 or 130."""
    # Bars of libraries, such as those of a GGUF file's conversion; what a stage does is said by progress.py.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        status = app(args=argv, prog_name="ezxmc", standalone_mode=False)
    except KeyboardInterrupt:
        status = 130
    except typer.Abort as error:  # typer's word for the end of input, which no command here leaves uncaught
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        raise
    except typer.TyperException as error:
        _fail(_usage_sentence(error))
    except Exception as error:
        mistake = _user_error(error)
        if mistake is None:
            raise
        _fail(str(mistake))
    if status == 130:
        print("\nezxmc: stopped; a run goes on where it was when you give the same command again.", file=sys.stderr)
    sys.exit(status or 0)


@app.callback(invoke_without_command=True)
def ezxmc(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    """The options of ``ezxmc`` itself."""
    if version:
        print(f"ezxmc {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit()


@app.command(help="Go through all stages; what is done is not done again.")
def run(
    conf: Configuration,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what would be done, and how long it may take")
    ] = False,
) -> None:
    """All stages of a run, or with ``--dry-run`` an estimate of them."""
    config = _load(conf, overrides)
    from ezxmc_ray import curriculum

    if dry_run:
        _print_plan(curriculum.dry_run(config))
    else:
        curriculum.run(config)


def _add_stage(stage: str, explanation: str) -> None:
    def command(conf: Configuration, overrides: Overrides = None) -> None:
        config = _load(conf, overrides)
        from ezxmc_ray import curriculum

        curriculum.run_stage(config, stage)

    app.command(stage, help=f"Stage: {explanation[0].lower()}{explanation[1:]}")(command)


for _stage, _explanation in STAGES.items():
    _add_stage(_stage, _explanation)


@app.command(help="Tag new documents, or texts from the terminal.")
def tag(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE|a.b=c", help="more input files, and knobs such as predict.top_k=3"),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="documents: JSON lines, Parquet or CSV; several may be given; without it, one text a line",
        ),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", metavar="FILE", help="a Parquet file for the tags")] = None,
) -> None:
    """Tags for files, or for lines from the terminal."""
    knobs = [word for word in overrides or [] if "=" in word]
    files = [*(inputs or []), *(word for word in overrides or [] if "=" not in word)]
    if files and not inputs:
        raise UserError(f"{files[0]!r} is neither an override (a.b=c) nor an input file; put --input before files.")
    if output is not None and not files:
        raise UserError("--output needs --input: without input files the tags of texts from the terminal are printed.")
    from ezxmc_ray import curriculum

    if files:
        curriculum.tag(run, files, output, knobs)
    else:
        _tag_lines(curriculum.open_tagger(run, knobs))


@app.command(help="Print the configuration with every knob explained.")
def config(
    conf: Annotated[
        str | None, typer.Argument(metavar="[CONF]", help="the configuration, a YAML file; without it, the defaults")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """The resolved configuration as YAML; what differs from the default is marked."""
    words = list(overrides or [])
    if conf is not None and "=" in conf and not conf.endswith((".yaml", ".yml")):
        words.insert(0, conf)
        conf = None
    for line in _explained(_load(conf, words)):
        print(line)


@app.command(help="Say which steps of a run are done.")
def status(run: Run) -> None:
    """One line a step: state, rows, seconds."""
    from ezxmc_ray import curriculum

    _print_table(curriculum.status(run))


@app.command(help="Show, export, import or compact the verdicts of a run.")
def verdicts(
    run: Run,
    export_file: Annotated[
        str | None, typer.Option("--export", metavar="FILE", help="write one teacher's verdicts to a Parquet file")
    ] = None,
    import_file: Annotated[
        str | None,
        typer.Option(
            "--import",
            metavar="FILE",
            help="take verdicts from an export, or from a Parquet file with the columns document_id, label_id and raw",
        ),
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="make one file of many")] = False,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="whose verdicts: a teacher key, or configured; for an import also a new name"),
    ] = None,
) -> None:
    """A table of the teachers, or what the one option that is given says."""
    if (export_file is not None) + (import_file is not None) + compact > 1:
        raise UserError("Give one of --export, --import and --compact at a time.")
    from ezxmc_ray import curriculum
    from ezxmc_ray.verdicts import summary as store
    from ezxmc_ray.verdicts import transfer as verdict_files

    context = curriculum.open_run(run).context
    if export_file is not None:
        pairs = verdict_files.export_verdicts(context, export_file, teacher)
        print(f"Exported {pairs:,} verdicts to {export_file}")
    elif import_file is not None:
        done = verdict_files.import_verdicts(context, import_file, teacher)
        print(
            f"Imported {done.new:,} verdicts of the teacher {done.key}; {done.pairs - done.new:,} more in the file "
            "were held already and stay as they were"
        )
    elif compact:
        before, after = store.compact(context, teacher)
        print(f"Made {after:,} files of {before:,}")
    else:
        _print_verdicts(store.summary(context, teacher))


@app.command(help="Compare runs: quality, what it cost, differences with intervals.")
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="directories or URIs of evaluated runs")],
    measure: Annotated[str, typer.Option(metavar="NAME", help="what the plot shows: P@1, R@10, PSP@5 …")] = "P@1",
    markdown: Annotated[str | None, typer.Option("--markdown", metavar="FILE", help="also write Markdown")] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="also write a page like the report")
    ] = None,
) -> None:
    """A table and a plot; differences are to the first run."""
    from ezxmc_ray.report import compare_page
    from ezxmc_ray.report.compare import compare_runs

    compare_page.check_measure(measure)
    comparison = compare_runs(runs)
    if markdown is not None:
        compare_page.write_text(markdown, "--markdown", compare_page.markdown(comparison, measure))
    if html is not None:
        compare_page.write_text(html, "--html", compare_page.page(comparison, measure))
    _print_comparison(comparison)
    for line in [*compare_page.legend(comparison), "", *compare_page.plot_lines(comparison, measure)]:
        print(line)


def _load(conf: str | None, overrides: Iterable[str] | None) -> Config:
    from ezxmc_ray.config import load_config

    return load_config(conf, list(overrides or []))


def _explained(config: Config) -> Iterator[str]:
    """The lines of ``config`` as YAML that loads back to the same, a comment before each knob."""
    from omegaconf import OmegaConf

    from ezxmc_ray.config import knobs, literal

    section = ""
    for knob in knobs():
        head, _, name = knob.key.rpartition(".")
        if head != section:
            section = head
            yield f"\n{section}:"
        value = getattr(getattr(config, head) if head else config, name)
        choices = f"; one of {', '.join(knob.choices)}" if knob.choices else ""
        indent = "  " if head else ""
        yield f"{indent}# {knob.help}{choices}"
        if value != knob.default:
            yield f"{indent}# (changed; the default is {'null' if knob.default is None else repr(knob.default)})"
        for line in OmegaConf.to_yaml(OmegaConf.create({name: literal(value)})).splitlines():
            yield indent + line


def _tag_lines(tagger: Tagger) -> None:
    """Read texts from stdin, one a line, and print each one's tags: score, text and id, tab-separated."""
    interactive = sys.stdin.isatty()
    if interactive:
        print("Type a text and press Enter to get its tags; Ctrl-D ends.", file=sys.stderr)
    lines = (line.strip() for line in iter(sys.stdin.readline, ""))
    texts = (line for line in lines if line)
    cut = 0
    while batch := _next(texts, 1 if interactive else LINES_A_BATCH):
        tags, truncated = tagger.tag([str(number) for number in range(len(batch))], [""] * len(batch), batch)
        cut += truncated
        for text, row in zip(batch, tags.to_pylist(), strict=True):
            if not interactive:
                print(text)
            for label_id, label_text, score in zip(row["label_ids"], row["label_texts"], row["scores"], strict=True):
                print(f"  {score:.3f}\t{label_text}\t({label_id})")
            if not row["label_ids"]:
                print("  no label is similar enough (predict.min_score)")
            print(flush=True)
    if cut:
        print(f"{cut:,} texts were cut at encoder.max_document_tokens.", file=sys.stderr)


def _next(texts: Iterator[str], count: int) -> list[str]:
    try:
        return list(islice(texts, count))
    except UnicodeDecodeError as error:
        raise UserError(
            f"The texts on the standard input are not UTF-8 ({error.reason}); convert them first."
        ) from error


def _line_width() -> int:
    """Characters of a line of stdout."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH


def _words(name: str) -> str:
    return name.replace("_", " ")


def _print_plan(plan: dict[str, Any]) -> None:
    """The steps of a dry run as a table, and everything else in ``plan`` as a line each."""
    for name, value in plan.items():
        if name != "steps":
            print(f"{_words(name)}: {value}")
    _print_table(plan["steps"])


def _print_table(rows: Sequence[dict[str, Any]], heading: Callable[[str], str] = _words) -> None:
    """``rows`` as a table, a column for each key under its ``heading``; too wide ones are folded, but for the first."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for number, name in enumerate(rows[0] if rows else ["step"]):
        numeric = all(isinstance(row[name], int | float) or row[name] is None for row in rows)
        table.add_column(heading(name), justify="right" if numeric else "left", no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(highlight=False, markup=False, emoji=False, width=_line_width()).print(table)


def _print_comparison(comparison: Comparison) -> None:
    """As many runs beside each other as the width holds."""
    from ezxmc_ray.report.compare_page import table_rows

    beside = max(1, (_line_width() - 20) // 27)  # the first column, and a difference with its interval
    for start in range(0, len(comparison.entries), beside):
        _print_table(table_rows(comparison, comparison.entries[start : start + beside]), heading=str)


def _print_verdicts(teachers: list[dict[str, Any]]) -> None:
    """A column for each of ``teachers``, so that the table stays narrow."""
    if not teachers:
        print("The run holds no verdicts yet")
        return
    first, *names = teachers[0]
    _print_table([{first: name, **{one[first]: _cell(one[name]) for one in teachers}} for name in names])
    print("share of yes: as the run's cycles measured it; of a teacher without a cycle, by the split of its scores")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _fail(sentence: str) -> None:
    print(f"ezxmc: {sentence}", file=sys.stderr)
    sys.exit(2)


def _usage_sentence(error: typer.TyperException) -> str:
    """One line on a command that was not written as it should be, and where to look."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "ezxmc"
    return f"{' '.join(error.format_message().split()).rstrip('.')} (see {command} --help)."


def _user_error(error: BaseException) -> UserError | None:
    """The user's mistake behind ``error``: Ray wraps what a task raised, its message then carrying a traceback."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        wrapped = getattr(current, "cause", None)
        current = wrapped if isinstance(wrapped, BaseException) else current.__cause__
    mistakes = [found for found in seen if isinstance(found, UserError)]
    return next((found for found in mistakes if not hasattr(found, "cause")), None)


if __name__ == "__main__":
    main()

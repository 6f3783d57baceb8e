"""The command ``ezxmc``: a configuration file and overrides in, a run directory out.

What it prints goes to stdout; what went wrong goes to stderr. A user's mistake is one sentence and exit status 2, an
interruption exit status 130 (SIGTERM: 143), a fault of this program a traceback and exit status 1. ``ezxmc verify``
says with exit status 1 that something is damaged. What does the work is imported inside the commands, so that
``ezxmc --help`` and ``ezxmc config`` answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from ezxmc_ray.commands import labels, serving, tagging, verdicts
from ezxmc_ray.commands.arguments import AsJson, Configuration, Overrides, Run
from ezxmc_ray.errors import DISK_ERRORS, NO_ROOM, UserError, one_line
from ezxmc_ray.home import settle_home
from ezxmc_ray.shown import show_what_fits, shown
from ezxmc_ray.sigterm import end_in_order_at_sigterm, interrupted_status
from ezxmc_ray.terminal import (
    explained,
    print_comparison,
    print_damage,
    print_json,
    print_plan,
    print_table,
    print_verified,
)
from ezxmc_ray.version import __version__

if TYPE_CHECKING:
    from ezxmc_ray.config import Config

#: Each stage and what it does, in the order of a run.
STAGES = {
    "prepare": "Read, check, split and shard documents and labels.",
    "shortlist": "Find each document's nearest labels.",
    "judge": "Let the teacher (an LLM) judge the shortlists.",
    "train": "Train the student (the encoder) on the verdicts.",
    "select": "Choose the best encoder by held-out verdicts.",
    "cross_encoder": "Train what ranks first labels anew (predict.rerank).",
    "index": "Build the FAISS index over the labels.",
    "predict": "Predict labels for all documents.",
    "evaluate": "Measure against gold labels, if there are any.",
    "report": "Write report.json and report.html.",
}

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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: list[str] | None = None) -> None:
    """Run the command line ``argv`` (default: sys.argv); leaves by SystemExit, or raises what is a fault.

    Status 0; 1: ``verify`` found damage; 2: a mistake of the user's; 130, 143: stopped by a signal; 141: nobody reads.
    """
    # Bars of libraries, such as those of a GGUF file's conversion; what a stage does is said by progress.py.
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.excepthook = _print_fault
    try:
        show_what_fits()
        end_in_order_at_sigterm()
        settle_home()
        _keep_log(os.environ.get("EZXMC_LOG"))
        status = app(args=argv, prog_name="ezxmc", standalone_mode=False)
        if sys.stdout is not None:  # which is so where it was closed
            sys.stdout.flush()  # what cannot be written is told here, not by the interpreter when it ends
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # who read what is printed has enough
        _print_no_more()
        status = 141
    except typer.Abort as error:  # typer's word for the end of input, which no command here leaves uncaught
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        raise
    except typer.TyperException as error:
        _fail(_usage_sentence(error))
    except Exception as error:
        mistake = _user_error(error) or _not_installed(error) or _not_printed(error)
        if mistake is None:
            raise
        _fail(str(mistake))
    if status == 130:
        status = interrupted_status()
        print(f"\nezxmc: stopped{_after_a_stop(sys.argv[1:] if argv is None else argv)}.", file=sys.stderr)
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
    as_json: Annotated[bool, typer.Option("--json", help="with --dry-run: print JSON, for programs")] = False,
) -> None:
    """All stages of a run, or with ``--dry-run`` an estimate of them."""
    if as_json and not dry_run:
        raise UserError("--json needs --dry-run; of a run report.json in its directory is JSON.")
    config = _load(conf, overrides)
    from ezxmc_ray import curriculum

    if not dry_run:
        curriculum.run(config)
        return
    from ezxmc_ray.progress import data_on_stdout

    with data_on_stdout(as_json):
        plan = curriculum.dry_run(config)
    if as_json:
        print_json(plan)
    else:
        print_plan(plan)


def _add_stage(stage: str, explanation: str) -> None:
    def command(conf: Configuration, overrides: Overrides = None) -> None:
        config = _load(conf, overrides)
        from ezxmc_ray import curriculum

        curriculum.run_stage(config, stage)

    app.command(stage, help=f"Stage: {explanation[0].lower()}{explanation[1:]}")(command)


for _stage, _explanation in STAGES.items():
    _add_stage(_stage, _explanation)


app.add_typer(tagging.app)
app.add_typer(serving.app)


@app.command(help="Print the configuration with every knob explained.")
def config(
    conf: Annotated[
        str | None, typer.Argument(metavar="[CONF]", help="the configuration, a YAML file; without it, the defaults")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The resolved configuration as YAML; what differs from the default is marked."""
    words = list(overrides or [])
    if conf is not None and "=" in conf and not conf.endswith((".yaml", ".yml")):
        words.insert(0, conf)
        conf = None
    loaded = _load(conf, words)
    if as_json:
        from ezxmc_ray.config import to_dict

        print_json(to_dict(loaded))
        return
    for line in explained(loaded):
        print(line)


@app.command(help="Say which steps of a run are done.")
def status(run: Run, as_json: AsJson = False) -> None:
    """One line a step: state, rows, seconds; then what is damaged."""
    from ezxmc_ray import curriculum, verification
    from ezxmc_ray.progress import data_on_stdout

    with data_on_stdout(as_json):
        steps, damaged = curriculum.status(run), verification.known_damage(run)
    if as_json:
        print_json({"steps": steps, "damaged": damaged})
        return
    print_table(steps)
    print_damage(damaged)


@app.command(help="Read every file of a run and say which are damaged; exit status 1 if any is.")
def verify(run: Run) -> None:
    """A line for each damaged file, and a last one."""
    from ezxmc_ray import verification

    found = verification.verify(run)
    print_damage(found.damaged)
    print_verified(found)
    if found.damaged:
        raise typer.Exit(1)


app.add_typer(verdicts.app, name="verdicts")
app.add_typer(labels.app, name="labels")


@app.command(help="Compare runs: quality, what it cost, differences with intervals.")
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="directories or URIs of evaluated runs")],
    measure: Annotated[
        str, typer.Option(metavar="NAME", help="what every cycle's student is shown by: P@1, R@10, PSP@5 …")
    ] = "P@1",
    markdown: Annotated[str | None, typer.Option("--markdown", metavar="FILE", help="also write Markdown")] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="also write a page like the report")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tables; differences are to the first run."""
    from ezxmc_ray.progress import data_on_stdout
    from ezxmc_ray.report import compare_page
    from ezxmc_ray.report.compare import compare_runs

    compare_page.check_measure(measure)
    with data_on_stdout(as_json):
        comparison = compare_runs(runs)
    if markdown is not None:
        compare_page.write_text(markdown, "--markdown", compare_page.markdown(comparison, measure))
    if html is not None:
        compare_page.write_text(html, "--html", compare_page.page(comparison, measure))
    if as_json:
        print_json(comparison.plain())
    else:
        print_comparison(comparison, measure)


def _load(conf: str | None, overrides: Iterable[str] | None) -> Config:
    from ezxmc_ray.config import load_config

    return load_config(conf, list(overrides or []))


def _keep_log(file: str | None) -> None:
    """Append what is said, and what other libraries log, to ``file``, with the time. Errors: UserError."""
    if not file:
        return
    try:
        handler = logging.FileHandler(file)
    except OSError as error:
        raise UserError(f"EZXMC_LOG names {file}, which cannot be written: {one_line(error)}.") from error
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("", "ezxmc_ray"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("ezxmc_ray").setLevel(logging.INFO)


class _Formatter(logging.Formatter):
    """What other libraries log may name a URI with its credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without credentials."""
        return shown(super().format(record))


def _print_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault's traceback, without credentials."""
    print(shown("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _after_a_stop(words: list[str]) -> str:
    """What is true of the command ``words`` when it was interrupted, behind a semicolon."""
    command = words[0] if words else ""
    if command in ("run", *STAGES):
        return "; a run goes on where it was when you give the same command again"
    if command in ("export", "push"):
        return "; an export is there as a whole or not at all, give the command again"
    if command == "labels":
        return (
            "; a change of labels is there as a whole or not at all, `ezxmc labels list` shows which labels there are"
        )
    if command == "tag" and any(word.startswith("--input") for word in words):
        return "; a file of tags is there as a whole or not at all, give the command again for those that are missing"
    return ""


def _fail(sentence: str) -> None:
    logging.getLogger("ezxmc_ray").error(sentence)
    with suppress(OSError):  # no room there either: the status says it
        print(f"ezxmc: {shown(sentence)}", file=sys.stderr)
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


def _not_installed(error: BaseException) -> UserError | None:
    """The sentence for a package that is not there: machines that only tag lack most of them."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "ezxmc_ray").startswith("ezxmc_ray"):
        return None
    return UserError(
        f"The package {error.name} is not installed, which this command needs: install what requirements/ locks "
        "(README), or pip install 'ezxmc-ray[gpu]'."
    )


def _not_printed(error: BaseException) -> UserError | None:
    """The sentence for a disk on which what is printed finds no room: an error that names no file."""
    if not isinstance(error, OSError) or error.filename is not None or error.errno not in NO_ROOM:
        return None
    _print_no_more()
    reason = DISK_ERRORS[error.errno]
    return UserError(f"Cannot write what is printed: {reason}; make room there. What was done by then stands.")


def _print_no_more() -> None:
    """Send to nowhere what is still to be printed: the interpreter tries it again when it ends."""
    with suppress(OSError):  # of a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

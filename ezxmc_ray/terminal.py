"""What the command prints: tables, a dry run, a configuration with its explanations, tags of texts from the terminal.

Comes in: plain dicts, a configuration, a tagger. Goes out: lines on stdout. Libraries are imported where they are
needed, so that ``ezxmc --help`` answers at once.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.errors import UserError
from ezxmc_ray.shown import shown, use_utf8

if TYPE_CHECKING:
    from ezxmc_ray.config import Config
    from ezxmc_ray.integrity import Verified
    from ezxmc_ray.report.compare import Comparison
    from ezxmc_ray.tagging.files import TagCounts
    from ezxmc_ray.tagging.tagger import Tagger

#: Texts that are tagged together when they come from a pipe; on a terminal each is answered at once.
LINES_PER_BATCH = 64

#: Characters of a line where stdout is not a terminal.
PLAIN_WIDTH = 200


def _words(name: str) -> str:
    return name.replace("_", " ")


def print_json(value: Any) -> None:
    """``value`` as JSON in ASCII, which no terminal takes for a command; without credentials."""
    print(json.dumps(without_credentials(value), indent=2))


def print_plan(plan: dict[str, Any]) -> None:
    """The steps of a dry run as a table, and everything else in ``plan`` as a line each."""
    for name, value in plan.items():
        if name != "steps":
            print(shown(f"{_words(name)}: {value}"))
    print_table(plan["steps"])


def print_table(rows: Sequence[dict[str, Any]], heading: Callable[[str], str] = _words) -> None:
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


def print_comparison(comparison: Comparison, measure: str) -> None:
    """As many runs beside each other as the width holds; then every student by ``measure``, and the notes."""
    from ezxmc_ray.report.compare_page import legend, student_rows, table_rows

    beside = max(1, (_line_width() - 20) // 27)  # the first column, and a difference with its interval
    for start in range(0, len(comparison.entries), beside):
        print_table(table_rows(comparison, comparison.entries[start : start + beside]), heading=str)
    print_table(student_rows(comparison, measure), heading=str)
    for line in legend(comparison):
        print(shown(line))


def print_damage(damaged: Mapping[str, str]) -> None:
    """A line for each damaged file."""
    for name, what in damaged.items():
        print(shown(f"damaged: {name} ({what})"))
    if damaged:
        print("`ezxmc run` makes anew what is damaged, from what is whole.")


def print_verified(found: Verified) -> None:
    """What a verification looked at."""
    unchecked = f"; {found.unchecked:,} have no checksum" if found.unchecked else ""
    result = f"{len(found.damaged):,} are damaged" if found.damaged else "all are as they were written"
    print(f"Verified {found.files:,} files, {found.bytes / 1e6:,.1f} MB: {result}{unchecked}.")


def print_verdicts(teachers: list[dict[str, Any]]) -> None:
    """A column for each of ``teachers``, so that the table stays narrow."""
    if not teachers:
        print("The run holds no verdicts yet")
        return
    first, *names = teachers[0]
    print_table([{first: name, **{one[first]: _cell(one[name]) for one in teachers}} for name in names])
    print("share of yes: as the run's cycles measured it; of a teacher without a cycle, by the split of its scores")


def explained(config: Config) -> Iterator[str]:
    """The lines of ``config`` as YAML that loads back to the same, a comment before each knob; credentials apart."""
    from omegaconf import OmegaConf

    from ezxmc_ray.config import knobs, literal

    section = ""
    for knob in knobs():
        head, _, name = knob.key.rpartition(".")
        if head != section:
            section = head
            yield f"\n{section}:"
        value = without_credentials(getattr(getattr(config, head) if head else config, name))
        choices = f"; one of {', '.join(knob.choices)}" if knob.choices else ""
        indent = "  " if head else ""
        yield f"{indent}# {knob.help}{choices}"
        if value != knob.default:
            yield f"{indent}# (changed; the default is {'null' if knob.default is None else repr(knob.default)})"
        for line in OmegaConf.to_yaml(OmegaConf.create({name: literal(value)})).splitlines():
            yield indent + line


def tag_lines(tagger: Tagger) -> None:
    """Read texts from stdin, one a line, and print each one's tags: score, text and id, tab-separated."""
    if sys.stdin is None:
        raise UserError("The standard input is closed: there is no text to tag; give --input FILE.")
    interactive = sys.stdin.isatty()
    if not interactive:
        use_utf8(sys.stdin)
    else:
        print("Type a text and press Enter to get its tags; Ctrl-D ends.", file=sys.stderr)
    lines = (line.strip() for line in iter(sys.stdin.readline, ""))
    texts = (line for line in lines if line)
    settings, cut = tagger.settings, 0
    least = (
        "scores high enough, by similarity and cross-encoder together" if settings.reranking else "is similar enough"
    )
    while batch := _next(texts, 1 if interactive else LINES_PER_BATCH):
        tags, truncated = tagger.tag_columns([str(number) for number in range(len(batch))], [""] * len(batch), batch)
        cut += truncated
        for text, row in zip(batch, tags.to_pylist(), strict=True):
            if not interactive:
                print(shown(text))
            for label_id, label_text, score in zip(row["label_ids"], row["label_texts"], row["scores"], strict=True):
                print(f"  {score:.3f}\t{shown(label_text, one_line=True)}\t({shown(label_id, one_line=True)})")
            if not row["label_ids"]:
                print(f"  no label {least} (predict.min_score)")
            print(flush=True)
    if cut:
        print(f"{cut:,} texts were cut at {settings.cut_at}.", file=sys.stderr)


def say_tagged(counts: TagCounts, output: str, cut_at: str, lacking: str = "of at least predict.min_score") -> None:
    """What tagging files into ``output`` (a file, or FOLDER/) did; ``cut_at``: as TagSettings has it; ``lacking``: the
    label that a document without any has not."""
    from ezxmc_ray.places import without_query
    from ezxmc_ray.progress import say

    place = without_query(output)
    listed = f"{place}*.rejected.parquet say" if place.endswith("/") else f"{place}.rejected.parquet says"
    say(f"Tagged {counts.documents:,} documents with {counts.labels:,} labels: {output}")
    for count, what in (
        (counts.without_labels, f"documents have no label {lacking}"),
        (counts.without_text, "documents have a title only"),
        (counts.truncated, f"documents were cut at {cut_at}"),
        (counts.rejected, f"bad rows were left out; {listed} which and why"),
    ):
        if count:
            say(f"{count:,} {what}.")


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


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else shown(str(value))

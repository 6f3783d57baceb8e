"""``ezxmc labels``: a bundle's labels come, go, and are called otherwise."""

from __future__ import annotations

import json
import re
import shlex
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ezxmc_ray.errors import UserError
from ezxmc_ray.shown import shown, use_utf8

if TYPE_CHECKING:
    from ezxmc_ray.tagging.changes import Changed

#: How the names of files end that hold JSON lines.
LINES = (".jsonl", ".ndjson")
app = typer.Typer(help="Add labels to an export of a run, remove, rename, list or compact them.", no_args_is_help=True)
Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="the directory or URI of an export of a run")]
Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="labels, in the formats that prepare.labels takes; prepare.a=b sets a knob"),
]


@app.command(help="Add labels: only they are embedded, the others keep their numbers.")
def add(bundle: Bundle, files: Files) -> None:
    """Labels that come."""
    from ezxmc_ray.tagging.changes import add_labels

    _say("Added", add_labels(bundle, *_files_and_knobs(files)), bundle)


@app.command(help="Remove labels: they are given to no text any more, the others keep their numbers.")
def remove(
    bundle: Bundle,
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="a .txt with an id a line, or labels")],
) -> None:
    """Labels that go."""
    from ezxmc_ray.tagging.changes import remove_labels

    done = remove_labels(bundle, *_files_and_knobs(files))
    print(shown(f"Removed {_count(done.went)} from {bundle}: {done.labels:,} are left"))


@app.command(help="Give labels other texts: they are found by these alone from then on.")
def rename(bundle: Bundle, files: Files) -> None:
    """Labels that are called otherwise."""
    from ezxmc_ray.tagging.changes import rename_labels

    _say("Renamed", rename_labels(bundle, *_files_and_knobs(files)), bundle)


@app.command(help="Make the parts that added labels are one again, without what was removed; nothing is embedded.")
def compact(bundle: Bundle) -> None:
    """Parts that become one."""
    from ezxmc_ray.tagging.compaction import compact_labels

    done = compact_labels(bundle)
    if done.before == done.after and not done.gone:
        print(shown(f"Nothing to do: {bundle} has {_count(done.after, 'part')}, with {_count(done.labels)}"))
    else:
        gone = f", {done.gone:,} removed ones of which are gone" if done.gone else ""
        before, after = (_count(parts, "part") for parts in (done.before, done.after))
        print(shown(f"{bundle} had {before} and has {after}, with {_count(done.labels)}{gone}"))
    if done.kept:
        print(
            shown(
                f"{done.kept:,} of the export's own labels that were removed stay in its index, which keeps no vectors "
                f"to make another one of; to be rid of them, write its labels with `ezxmc labels list {bundle} "
                "--output labels.jsonl`, and give `ezxmc export RUN DIRECTORY --labels labels.jsonl`."
            )
        )


@app.command("list", help="Print the labels that there are now, as JSON lines, which ezxmc export --labels takes.")
def list_labels(
    bundle: Bundle,
    output: Annotated[str | None, typer.Option(metavar="FILE", help="write them to this file")] = None,
) -> None:
    """A JSON object a label."""
    from ezxmc_ray.documents.sources import real_path
    from ezxmc_ray.places import check_apart, folder_and_name
    from ezxmc_ray.storage import Storage, check_writable
    from ezxmc_ray.tagging.changes import knobs_of_list, listed_labels

    rows = listed_labels(bundle)
    if output is None:
        use_utf8(sys.stdout)
        sys.stdout.writelines(map(_line, rows))
        _say_how_to_read(knobs_of_list(bundle))
        return
    (storage, name), count = folder_and_name(output), 0
    place, inside = (real_path(one.filesystem, one.path()) for one in (storage, Storage(bundle)))
    if f"{place}/".startswith(f"{inside}/"):
        raise UserError(f"--output {output} lies in the bundle, which holds its own files alone; name another place.")
    if storage.is_folder(name):
        raise UserError(f"--output {output} is a directory; name a file.")
    check_apart("--output", output, storage, name)
    if not name.endswith(LINES):
        raise UserError(f"--output {output} must end in {' or '.join(LINES)}: it is read again by its name.")
    check_writable(storage)
    with storage.open_file(name) as sink:
        for _, its in groupby(rows, lambda row: next(iter(row.values()))):  # a row for each text, where it has several
            sink.writelines(_line(row).encode() for row in its)
            count += 1
    print(shown(f"Wrote {_count(count)} to {output}"))
    _say_how_to_read(knobs_of_list(bundle))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _say_how_to_read(knobs: list[str]) -> None:
    if knobs:
        print(
            shown(
                "The run reads its labels otherwise: give ezxmc export and ezxmc labels, beside this list, "
                f"{shlex.join(knobs)}."
            ),
            file=sys.stderr,
        )


def _say(did: str, done: Changed, bundle: str) -> None:
    from ezxmc_ray.tagging.changes import MANY_PARTS

    for note in done.notes:
        print(shown(f"{note}."))
    texts = f"{_count(done.texts, 'text')} {'was' if done.texts == 1 else 'were'}"
    unreadable = f", {done.unreadable:,} of which hold nothing that the encoder knows" if done.unreadable else ""
    print(shown(f"{did} {_count(done.came)}: {texts} embedded{unreadable}; {bundle} has {_count(done.labels)} now"))
    if done.parts > MANY_PARTS:
        print(
            shown(
                f"The bundle has {done.parts} parts now, each of which a search asks by itself: "
                f"`ezxmc labels compact {bundle}` makes them one."
            )
        )


def _files_and_knobs(words: list[str]) -> tuple[list[str], list[str]]:
    """What the words name and set. Errors: UserError where there is no file."""
    from ezxmc_ray.config import Config

    knob = re.compile(rf"(?:{'|'.join(Config.__dataclass_fields__)})\.\w+=.*", re.DOTALL)
    knobs = [word for word in words if knob.fullmatch(word)]
    files = [word for word in words if word not in knobs]
    if not files:
        raise UserError("No file is named; name one with labels, or with their ids.")
    return files, knobs


def _count(count: int, what: str = "label") -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"

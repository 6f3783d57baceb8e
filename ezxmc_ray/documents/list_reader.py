"""Text files: a text a line, whose id is the row's number (the Repository's files) or, in a list, the text itself.

Comes in: a Source. Goes out: RawRow after RawRow. A list that is a table, JSON or fastText's format by all its first
lines is refused: each line would be taken for a text, with the ids and labels in it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence

from ezxmc_ray.documents.csv_reader import SEPARATORS
from ezxmc_ray.documents.sources import RawRow, Required, Source, bad_line, read_lines
from ezxmc_ray.errors import UserError

#: Bytes of a list that are looked at, and lines.
_HEAD_BYTES, _HEAD_LINES = 1 << 16, 100
_FASTTEXT = "__label__"


def list_rows(source: Source, columns: Sequence[str], required: Required, seen: dict[str, None]) -> Iterator[RawRow]:
    """One text a line, which is its own ``id``; blanks around it and blank lines do not count.

    Errors: UserError for a file that is no list.
    """
    _check_list(source, columns)
    for number, line in read_lines(source):
        row = line_row(number, line)
        if row.values is not None:
            text = row.values["text"].strip()
            if "\r" in text:
                yield RawRow(
                    number, None, "line end: a carriage return within the line; end lines with line feeds", text
                )
                continue
            row.values.update(id=text, text=text)
        if row.values is None or row.values["text"]:
            yield row


def line_row(number: int, line: bytes | None) -> RawRow:
    """The row in a line: its number (from 0) as ``id`` and the line as ``text``."""
    if line is None:
        return bad_line(number, None)
    try:
        return RawRow(number, {"id": str(number - 1), "text": line.decode("utf-8").rstrip("\r\n")})
    except UnicodeDecodeError as error:
        return bad_line(number, line, error)


def _check_list(source: Source, columns: Sequence[str]) -> None:
    with source.open() as stream:
        head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [line for line in head.splitlines() if line.strip()][:_HEAD_LINES]
    if not lines:
        return
    if all(map(_is_json, lines)):
        told = "JSON: end its name in .jsonl"
    elif all("\t" in line.strip() for line in lines):
        told = "columns with tabs between: end its name in .tsv, and name the columns in its first line"
    elif all(line.startswith(_FASTTEXT) for line in lines):
        told = "fastText's format: write JSON lines, with the text and a list of label ids"
    elif any(_names(lines[0], one) >= {name for name in columns[:2] if name} for one in SEPARATORS):
        told = "a header of columns: end its name in .csv"
    else:
        return
    raise UserError(f"{source.name} is to have a text a line, and holds {told}.")


def _is_json(line: str) -> bool:
    if line[0] not in "{[":
        return False
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _names(line: str, separator: str) -> set[str]:
    """The fields of a header by ``separator``; none for a line without it."""
    try:
        return set(next(csv.reader([line], delimiter=separator))) if separator in line else set()
    except csv.Error:
        return set()

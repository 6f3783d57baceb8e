"""Text files: a text a line, whose id is the row's number (the Repository's files) or, in a list, the text itself.
Beside a label's text in the Repository's files an id may stand, which is none of the text.

Comes in: a Source. Goes out: RawRow after RawRow. A list that is a table, JSON or fastText's format by most of its
first lines is refused: each line would be taken for a text, with the ids and labels in it. (Not by all: documents
without labels may be among them.)
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence

from ezxmc_ray.documents.csv_reader import SEPARATORS
from ezxmc_ray.documents.sources import RawRow, Required, Source, bad_line, read_lines, snippet
from ezxmc_ray.errors import UserError

#: Bytes of a list that are looked at, and lines.
_HEAD_BYTES, _HEAD_LINES = 1 << 16, 100
#: A label of fastText's, at the beginning or the end of a line.
_FASTTEXT = re.compile(r"__label__\S+(\s|$)|.*\s__label__\S+\s*$")
#: A label's line: its row and a text, an id and a text, a text and a number; so many lines tell.
_NUMBERED = re.compile(r"(?P<id>\d+)(?:\s*[,:;\t]\s*| +)(?P<text>\S.*)")
_TAGGED = re.compile(r"(?P<id>\S+)\t(?P<text>[^\t]*[^\t\d\s][^\t]*)")
_COUNTED = re.compile(r"(?P<text>[^\t]*[^\t\d\s][^\t]*)\t(?P<id>\d+)")
_TELL_LINES = 2
#: A document's line in other layouts: an id or label rows and a tab, or features.
_ID_FIRST, _FEATURES = re.compile(r"\S+\t\s*\S"), re.compile(r"(?:\d+:-?[\d.]+(?:e-?\d+)?\s*)+")


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


def label_rows(source: Source, notes: list[str]) -> Iterator[RawRow]:
    """As :func:`line_row`, of the labels' texts without the row's number, or another id and a tab, beside each.

    ``notes`` takes up that there is one. Errors: UserError for lines that all have tabs otherwise.
    """
    pattern = _pattern(source)
    if pattern is not None:
        notes.append(
            f"The lines of {source.name} have an id and a text each: the ids are left out of the labels' texts"
        )
    for number, line in read_lines(source):
        row = line_row(number, line)
        if row.values is not None and pattern is not None and (text := row.values["text"].strip()):
            found = pattern.fullmatch(text)
            if not found:
                yield RawRow(number, None, "ragged row: no id beside the text, as the first lines have", snippet(text))
                continue
            row.values["text"] = found["text"]
        yield row


def _pattern(source: Source) -> re.Pattern[str] | None:
    """What all lines at the beginning of a file are, where they have an id beside their text."""
    lines = [line.strip() for line in _head(source)]
    if len(lines) < _TELL_LINES:
        return None
    for pattern in (_NUMBERED, _TAGGED, _COUNTED):
        ids = [one["id"] for one in map(pattern.fullmatch, lines) if one]
        if len(ids) == len(lines) and (_are_rows(ids) if pattern is _NUMBERED else len(set(ids)) == len(ids)):
            return pattern
    if _are_columns(lines):
        raise UserError(
            f"{source.name} has columns with tabs between: leave nothing but the labels' texts in its lines."
        )
    return None


def check_texts_alone(source: Source) -> None:
    """UserError for a file of documents whose lines at the beginning are mostly a table's, fastText's, or features."""
    lines = [line.strip(" ") for line in _head(source)]
    if len(lines) < _TELL_LINES:
        return
    if _are_most([_FASTTEXT.match(line) for line in lines]):
        what = "labels beside the texts of most lines, as fastText has them; leave the texts alone in it"
    elif any(map(_ID_FIRST.match, lines)) and _are_most(
        [line.startswith("\t") or _ID_FIRST.match(line) for line in lines]
    ):
        what = "an id, or labels, and a tab before the texts of most lines; leave the texts alone in it"
    elif len(lines) > _TELL_LINES and all(map(_FEATURES.fullmatch, map(str.strip, lines[1:]))):
        what = "features (3:0.5) and no texts; give the data set's raw texts"
    else:
        return
    raise UserError(f"{source.name} has {what}.")


def _are_most(signs: Sequence[object]) -> bool:
    """Whether more than half of the lines have a sign."""
    return 2 * sum(map(bool, signs)) > len(signs)


def _are_columns(lines: Sequence[str]) -> bool:
    """Whether all lines have tabs; or most, as many of them each, and behind the last one an id, or addresses."""
    tabbed = [line for line in lines if "\t" in line]
    if len(tabbed) == len(lines) or 2 * len(tabbed) <= len(lines):
        return len(tabbed) == len(lines)
    last = [line.rpartition("\t")[2].split() for line in tabbed]
    alike = len({line.count("\t") for line in tabbed}) == 1
    return alike and all(len(words) == 1 or all("://" in word for word in words) for words in last)


def _head(source: Source) -> list[str]:
    """The first lines that are not blank, each as a whole."""
    with source.open() as stream:
        head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    lines = head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()
    if len(head) == _HEAD_BYTES and len(lines) > 1:
        lines.pop()
    return [line for line in lines if line.strip()][:_HEAD_LINES]


def _check_list(source: Source, columns: Sequence[str]) -> None:
    lines = _head(source)
    if not lines:
        return
    if _are_most(list(map(_is_json, lines))):
        told = "JSON: end its name in .jsonl"
    elif _are_columns([line.strip() for line in lines]):
        told = "columns with tabs between: end its name in .tsv, and name the columns in its first line"
    elif _are_most([_FASTTEXT.match(line) for line in lines]):
        told = "fastText's format: write JSON lines, with the text and a list of label ids"
    elif _is_numbered(lines):
        told = "a number before each: leave the texts alone in it, or end its name in .csv and name its columns"
    elif any(_names(lines[0], one) >= {name for name in columns[:2] if name} for one in SEPARATORS):
        told = "a header of columns: end its name in .csv"
    else:
        return
    raise UserError(f"{source.name} is to have a text a line, and holds {told}.")


def _is_numbered(lines: Sequence[str]) -> bool:
    """Whether lines, three at least, begin with their row's number, from 0 or 1."""
    ids = [found and found["id"] for found in map(_NUMBERED.fullmatch, map(str.strip, lines))]
    return len(ids) > _TELL_LINES and _are_rows(ids)


def _are_rows(ids: Sequence[str | None]) -> bool:
    """Whether ``ids`` are their rows' numbers, from 0 or 1."""
    return any(ids == [str(number) for number in range(start, start + len(ids))] for start in (0, 1))


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

"""Whether a CSV record that spans lines is one, or rows that a quote which was not closed has swallowed.

Such a quote ends at the next one that a cell ends with, 24" say, and the rows between are a cell of a record that has
as many columns as the header. Comes in: the lines of a record. Goes out: whether they are rows. They are taken for rows
where each has the header's number of columns, the separators within the quotes are none of prose (no blank behind), and
what would be ids and the like have no blanks, and digits where others have. A text whose every line is so is a table as
wide as the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import NamedTuple

#: Rows that are remembered, and how many tell of a column that its cells have no blanks, or are numbers.
_REMEMBERED, _TELL_BLANKS, _TELL_NUMBERS = 50, 20, 5
#: From so many lines on a quarter of them may be no rows.
_MANY_LINES, _SHARE = 8, 0.75
#: Lines that must look like rows where no column tells what its cells look like, by two columns and by more.
_LINES_OF_TWO, _LINES_OF_MORE = 4, 3


#: What the cells of a column are: without blanks, with a digit too, all digits.
_TOKEN, _WITH_DIGIT, _NUMBER = range(3)


class _Line(NamedTuple):
    """What a line would be as a row: whether it fits, how many separators hardly are prose's, how many cells told."""

    fits: bool
    tight: int
    told: int


class OpenQuotes:
    """Judges the records of one file.

    ``tokens``: columns whose cells have no blanks, unless some are seen; ``lists``: those where it is so if none is.
    """

    def __init__(
        self, header: Sequence[str], separator: str, is_padded: bool, tokens: Sequence[str], lists: Sequence[str]
    ) -> None:
        """``is_padded``: a blank stands behind each separator."""
        self._width, self._separator, self._is_padded = len(header), separator, is_padded
        self._tokens = {place for place, name in enumerate(header) if name and name in tokens}
        self._lists = {place for place, name in enumerate(header) if name and name in lists}
        self._rows: list[Sequence[str]] = []
        self._known: dict[int, int | str] | None = None

    def learn(self, fields: Sequence[str]) -> bool:
        """Take up a good row; whether more are wanted."""
        self._rows.append(fields)
        return len(self._rows) < _REMEMBERED

    def swallowed(self, lines: Sequence[str], fields: Sequence[str]) -> bool:
        """Whether ``lines``, a record that was read as ``fields``, are rows of their own."""
        rows = [text for text in lines[1:] if text.strip()]
        needed = len(rows) * (_SHARE if len(rows) >= _MANY_LINES else 1)
        wide = [text for text in rows if text.count(self._separator) >= self._width - 1]
        if not rows or len(wide) < needed:  # as of most texts
            return False
        if len(self._rows) < _REMEMBERED:
            kinds = self._kinds([*self._rows, self._around(lines)])
        else:
            kinds = self._known = self._kinds(self._rows) if self._known is None else self._known
        first = self._first(lines[0], kinds)
        # The row with the open quote may be a ragged one itself, where the record is.
        if not first.fits and len(fields) == self._width and len(rows) < _MANY_LINES:
            return False
        judged = [self._within(text, kinds) for text in rows[:-1]] + [self._last(rows[-1], kinds)]
        fitting = [one for one in judged if one.fits]
        if len(fitting) < needed:
            return False
        if self._separator == "\t":  # which texts hardly have in their lines
            return True
        tight = first.tight + sum(one.tight for one in fitting)
        told = first.told + sum(one.told for one in fitting)
        if told >= (2 if self._is_padded else 1):
            return tight > 0
        return tight > 0 and len(judged) >= (_LINES_OF_TWO if self._width == 2 else _LINES_OF_MORE)

    def _around(self, lines: Sequence[str]) -> list[str]:
        """The cells of the record ``lines`` before its open cell and behind it."""
        before, last = _cells(lines[0], self._separator)[:-1], _cells(lines[-1], self._separator)
        after = last[self._end(last) + 1 :]
        return [*before, *[""] * (self._width - len(before) - len(after)), *after]

    def _kinds(self, rows: Sequence[Sequence[str]]) -> dict[int, int | str]:
        """What the cells of a column of ``rows`` are that have no blanks, or are all alike but for numbers."""
        found: dict[int, int | str] = {}
        for place in range(self._width):
            cells = [row[place].strip() for row in rows if row[place].strip()]
            if any(" " in cell for cell in cells):
                shapes = {_shape(cell) for cell in cells}
                if place in self._tokens and len(shapes) == 1 and "0" in shapes.pop():
                    found[place] = _shape(cells[0])
            elif place in self._tokens or (cells and place in self._lists) or len(cells) >= _TELL_BLANKS:
                found[place] = _kind(cells) if len(cells) >= _TELL_NUMBERS else min(_WITH_DIGIT, _kind(cells))
        return found

    def _first(self, text: str, kinds: dict[int, int | str]) -> _Line:
        """Of the line whose last cell is the open quote's."""
        *before, opened = _cells(text, self._separator) or [""]
        cells = [*before, *opened.split(self._separator)]
        return self._judge(cells, range(len(before) + 1, len(cells)), range(len(before) + 1, len(cells)), kinds)

    def _within(self, text: str, kinds: dict[int, int | str]) -> _Line:
        cells = _cells(text, self._separator)
        return self._judge(cells, range(1, len(cells)), range(len(cells)), kinds)

    def _last(self, text: str, kinds: dict[int, int | str]) -> _Line:
        """Of the line where the quote ends: what stands behind it is parted by separators in any case."""
        cells = _cells(text, self._separator)
        end = self._end(cells)
        return self._judge(cells, range(1, end + 1), range(end), kinds)

    def _end(self, cells: Sequence[str]) -> int:
        """The place of the cell in which the quote ends."""
        return next((place for place, cell in enumerate(cells) if '"' in cell), len(cells) - 1)

    def _judge(self, cells: Sequence[str], borders: range, whole: range, kinds: dict[int, int | str]) -> _Line:
        """``borders``: places of cells before which a separator within the quotes is; ``whole``: of cells in them."""
        if len(cells) != self._width:
            return _Line(False, 0, 0)
        if not self._is_padded and any(cells[place].startswith(" ") for place in borders):
            return _Line(False, 0, 0)
        told = [(cells[place].strip(), kinds[place]) for place in whole if place in kinds]
        if not all(_is(cell, kind) for cell, kind in told):
            return _Line(False, 0, 0)
        tight = sum(_is_tight(cells[place - 1], cells[place]) for place in borders)
        return _Line(True, tight, sum(bool(cell) for cell, _ in told))


def _cells(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([text.rstrip("\r\n")], delimiter=separator), [])
    except csv.Error:
        return []


def _is(cell: str, kind: int | str) -> bool:
    """Whether a cell is of a kind. An empty one may be, where the others are no numbers."""
    if isinstance(kind, str):
        return _shape(cell) == kind
    return " " not in cell and _kind([cell]) >= kind if cell else kind != _NUMBER


def _shape(cell: str) -> str:
    return re.sub(r"\d+", "0", cell)


def _kind(cells: Sequence[str]) -> int:
    """Of cells without blanks; of none nothing is known but that."""
    if not cells:
        return _TOKEN
    with_digit = all(any(map(str.isdecimal, cell)) for cell in cells)
    return _NUMBER if all(map(str.isdecimal, cells)) else _WITH_DIGIT if with_digit else _TOKEN


def _is_tight(before: str, behind: str) -> bool:
    """Whether a separator between these is one of a table: those of 1,000 and at the end of a line may be prose's."""
    return bool(behind) and not (before[-1:].isdigit() and behind[0].isdigit())

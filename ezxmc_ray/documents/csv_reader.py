"""CSV: a header, then a row a record, which may span lines; the sign between columns is told by the header.

Comes in: a Source and the columns that are wanted. Goes out: RawRow after RawRow; blank lines are none. A quote that is
not closed would swallow the rows behind it: where a record is broken, or its lines are rows themselves
(open_quotes.py), its first line alone is a bad row, and reading goes on with the line behind it.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence

from ezxmc_ray.documents.open_quotes import OpenQuotes
from ezxmc_ray.documents.sources import MAX_LINE_BYTES, RawRow, Source, bad_line, read_lines, snippet
from ezxmc_ray.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
_ADDRESS = re.compile(r"<([^<>\s]+)>")
_MARK = "\ufeff"
#: Lines by which one of Annif's files is known.
_ANNIF_LINES = 100
_REPEATED, _OF_ONE = "repeated header: the columns' names once more", "; if it is a row, call the column otherwise"
_EXCEL = re.compile(r"sep=(.)\s*", re.IGNORECASE)


def csv_rows(source: Source, columns: Sequence[str]) -> tuple[list[str], Iterator[RawRow]]:
    """The header ([]: the file is empty) and the rows. A name is without blanks around it, "column 1" if it is empty.

    Errors: UserError for a header that is broken or names a column twice.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(source)
    if source.csv_separator in (None, "\t") and (names := _annif_names(lines, columns)):
        return names, _annif_rows(lines, names)
    separator = source.csv_separator or _separator(lines, columns)
    found = _header(source, lines, separator)
    header = _names(found)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"The header of {source.name} names {twice[0]!r} twice; give each column a name of its own.")
    # A header of "id, text": a blank behind the comma is none of the field, and the quote behind it is one.
    is_padded = len(found) > 1 and all(name.startswith(" ") for name in found[1:])
    # Ids have no blanks, nor has what a document's split is called; lists of label ids, or of texts, have none mostly.
    quotes = OpenQuotes(header, separator, is_padded, [*columns[:1], *columns[4:]], columns[3:4])
    return header, _rows(lines, header, separator, is_padded, quotes) if header else iter(())


class _Lines:
    """Decoded lines for csv.reader; ``taken`` are those of the record that is being read."""

    def __init__(self, source: Source) -> None:
        self._lines = read_lines(source)
        self._back: deque[tuple[int, str, RawRow | None]] = deque()
        self.taken: list[tuple[int, str, RawRow | None]] = []
        self._has_faults = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._back:
            one = self._back.popleft()
        else:
            number, line = next(self._lines)
            try:
                one = (number, line.decode("utf-8"), None) if line is not None else self._faulty(number, None)
            except UnicodeDecodeError as error:
                one = self._faulty(number, line, error)
        self.taken.append(one)
        return one[1]

    def _faulty(
        self, number: int, line: bytes | None, error: UnicodeDecodeError | None = None
    ) -> tuple[int, str, RawRow | None]:
        """Number, text, and what is wrong with a line."""
        self._has_faults = True
        text = "\n" if line is None else line.decode("utf-8", "replace")
        return number, text, bad_line(number, line, error)

    def texts(self) -> list[str]:
        """The lines of the record."""
        return [text for _, text, _ in self.taken]

    def put_back(self, kept: int) -> None:
        """Read the lines of the record anew but for the first ``kept``."""
        self._back.extendleft(reversed(self.taken[kept:]))

    def fault(self) -> RawRow | None:
        """The last line of the record that is not UTF-8 or too long."""
        if not self._has_faults:  # as in most files
            return None
        return next((fault for _, _, fault in reversed(self.taken) if fault), None)


def _annif_names(lines: _Lines, columns: Sequence[str]) -> list[str]:
    """The names of the columns of one of Annif's files, [] if it is none.

    ``columns``: of labels id and text come first; of documents id, title, text, labels.
    """
    lines.taken.clear()
    head = list(itertools.islice(lines, _ANNIF_LINES))
    first = next((number for number, text in enumerate(head) if text.strip()), 0)
    excel = _EXCEL.fullmatch(head[first]) if head else None
    kept = first + 1 if excel and excel[1] == "\t" else 0
    names = _names_by_rows([text.rstrip("\r\n").split("\t") for text in head[kept:]], columns)
    lines.put_back(kept if names else 0)
    return names


def _names_by_rows(head: Sequence[list[str]], columns: Sequence[str]) -> list[str]:
    """As :func:`_annif_names`, by the fields of the first lines."""
    rows = [fields for fields in head if any(map(str.strip, fields))]
    if rows and len(rows[0]) >= 2 and _ADDRESS.fullmatch(rows[0][0]):
        return [*columns[:2], *(f"field {number}" for number in range(3, max(map(len, rows)) + 1))]
    subjects = [address for fields in rows for address in fields[-1].split()]
    if subjects and len(rows[0]) == 2 and all(map(_ADDRESS.fullmatch, subjects)):
        return [columns[2], (columns[3] if len(columns) > 3 else "") or "labels"]
    return []


def _annif_rows(lines: _Lines, names: list[str]) -> Iterator[RawRow]:
    lines.taken.clear()
    for text in lines:
        number, _, fault = lines.taken.pop()
        fields = text.rstrip("\r\n").split("\t")
        if fault:
            yield fault
        elif not text.strip():
            continue
        elif len(fields) < 2:
            yield RawRow(number, None, "ragged row: no tab in the line", snippet(text))
        elif len(fields) > len(names):
            yield RawRow(number, None, f"ragged row: {len(fields)} fields, not {len(names)}", snippet(text))
        else:
            values = dict(zip(names, fields, strict=False))
            if address := _ADDRESS.fullmatch(fields[0]):
                values[names[0]] = address[1]
            yield RawRow(number, values)


def _separator(lines: _Lines, columns: Sequence[str]) -> str:
    """The sign by which the header has most of the wanted ``columns``, else most columns; as Excel's sep= says it."""
    lines.taken.clear()
    for text in lines:
        if text.strip():
            break
    else:
        return ","
    if excel := _EXCEL.fullmatch(text):
        lines.taken.clear()
        return excel[1]
    found = {one: _fields(text, one) for one in SEPARATORS}
    lines.put_back(0)
    return max(SEPARATORS, key=lambda one: (len(set(found[one]) & set(columns)), len(found[one])))


def _fields(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _header(source: Source, lines: _Lines, separator: str) -> list[str]:
    """The first row that is not blank, as it stands; [] if there is none."""
    lines.taken.clear()
    try:
        header = next((row for row in csv.reader(lines, delimiter=separator, strict=True) if row), [])
    except csv.Error as error:
        if "new-line" in str(error):
            raise UserError(f"The lines of {source.name} end in carriage returns: save it with line feeds.") from error
        raise UserError(
            f"The header of {source.name} is broken CSV: {error}; write the columns' names there."
        ) from error
    if lines.fault():
        raise UserError(f"The header of {source.name} is not valid UTF-8; save the file as UTF-8.")
    return header


def _rows(lines: _Lines, header: list[str], separator: str, is_padded: bool, quotes: OpenQuotes) -> Iterator[RawRow]:
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=is_padded)
    learns = True
    while True:
        lines.taken.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield _broken(lines, str(error))
            lines.put_back(1)
            reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=is_padded)
            continue
        if fields is None:
            return
        if not fields:
            continue
        if len(lines.taken) > 1 and quotes.swallowed(lines.texts(), fields):
            yield _broken(lines, "a quote that is not closed")
            lines.put_back(1)
        elif fault := lines.fault():
            yield fault
        elif _repeats(fields, header, separator):
            yield RawRow(
                lines.taken[0][0],
                None,
                _REPEATED + _OF_ONE * (len(header) == 1),
                snippet(separator.join(fields)),
            )
        elif len(fields) != len(header):
            yield RawRow(lines.taken[0][0], None, _ragged(lines, fields, header), snippet(separator.join(fields)))
        else:
            learns = learns and quotes.learn(fields)
            yield RawRow(lines.taken[0][0], dict(zip(header, fields, strict=True)), lines=len(lines.taken))


def _repeats(fields: list[str], header: list[str], separator: str) -> bool:
    """Whether a row is the header once more, where two files were put together with the mark of UTF-8 that the second
    began with; behind it a quote is one of the field to csv.reader."""
    first = fields[0].strip()
    if first.startswith(_MARK):
        return _names([*(_fields(first.lstrip(_MARK), separator) or [""]), *fields[1:]]) == header
    return (first or _names([""])[0]) == header[0] and _names(fields) == header


def _names(fields: Sequence[str]) -> list[str]:
    """What the columns are called by a header's fields."""
    return [name.strip() or f"column {number}" for number, name in enumerate(fields, 1)]


def _broken(lines: _Lines, why: str) -> RawRow:
    number, text, _ = lines.taken[0]
    spans = f" by line {lines.taken[-1][0]}" if len(lines.taken) > 1 else ""
    return RawRow(number, None, f"broken CSV: {why}{spans}", snippet(text))


def _ragged(lines: _Lines, fields: list[str], header: list[str]) -> str:
    last = len(lines.taken)
    spans = f" (lines {lines.taken[0][0]} to {lines.taken[-1][0]}, {last} lines)" if last > 1 else ""
    return f"ragged CSV row: {len(fields)} fields, the header has {len(header)}{spans}"

"""JSON: an object a line, or, told by how the file begins, one array, or objects that each span lines.

Comes in: a Source. Goes out: RawRow after RawRow. An array is parsed as it is read, so its size does not matter; in one
a row's ``line`` is its place from 1. What comes behind broken JSON in it cannot be told apart, so that is the file's
error and not a row's. Of a key that an object gives two values the last counts, and the row says so.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import Any

from ezxmc_ray.documents.rejected import shown
from ezxmc_ray.documents.sources import MAX_LINE_BYTES, RawRow, Source, bad_line, check_encoding, lines_of, snippet
from ezxmc_ray.errors import UserError

_HEAD_BYTES, _BLOCK_BYTES = 1 << 16, 1 << 20
_SPACE = " \t\r\n"
_BOM = codecs.BOM_UTF8


class _RepeatedKey(ValueError):
    """A key that stands in an object with two values: the message."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if value != values[key]:
                raise _RepeatedKey(shown(key))
    return values


_DECODER, _PLAIN = json.JSONDecoder(object_pairs_hook=_object), json.JSONDecoder()


def json_rows(source: Source) -> Iterator[RawRow]:
    """The rows of a file; blank lines are none. Errors: UserError for an array that is broken."""
    with source.open() as stream:
        check_encoding(source, stream)
        if is_stream(stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]):
            yield from _values(source, stream)
            return
        for number, line in lines_of(stream):
            if line is None or line.strip():
                yield json_row(number, line)


def is_stream(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an array or objects over several lines, and not JSON lines."""
    head = head.removeprefix(_BOM).lstrip()
    if head.startswith(b"["):
        return True
    first, _, rest = head.partition(b"\n")
    if not first.startswith(b"{") or not rest.strip():
        return False
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        unfinished = error.pos >= len(first.decode("utf-8", "replace").rstrip()) - 1
        return unfinished and rest.lstrip()[:1] in b'"}' and rest[:1] not in b"{["
    except (ValueError, RecursionError):
        pass
    return False


def json_row(number: int, line: bytes | None) -> RawRow:
    """The row in a line."""
    if line is None:
        return bad_line(number, line)
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return bad_line(number, line, error)
    try:
        values, repeated = _decoded(text)
    except json.JSONDecodeError as error:
        return RawRow(number, None, f"broken JSON: {error.msg} at column {error.colno}", snippet(text))
    except RecursionError:
        return RawRow(number, None, "broken JSON: nested too deeply", snippet(text))
    except ValueError:  # int() takes 4,300 digits
        return RawRow(number, None, "broken JSON: a number is too long", snippet(text))
    if not isinstance(values, dict):
        return RawRow(number, None, f"not a JSON object: {type(values).__name__}, one object a line", snippet(text))
    return RawRow(number, values, repeated=repeated)


def _decoded(text: str) -> tuple[Any, str]:
    """The value in ``text``, and a key of it that has two.

    To look for such keys takes as long as to read the rest. Where there are as many keys as ends of a string with a
    colon behind it, and no blank before a colon, there is none.
    """
    if text.startswith("{") and " :" not in text and "\t:" not in text and "\r" not in text:
        values = _PLAIN.decode(text)
        if text.count('":') == len(values):
            return values, ""
    try:
        return _DECODER.decode(text), ""
    except _RepeatedKey as error:
        return _PLAIN.decode(text), str(error)


class _Text:
    """The file's text from ``at`` on, as far as it has been read."""

    def __init__(self, source: Source, stream: io.BufferedReader) -> None:
        self._name, self._stream = source.name, stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._lines = 0
        self.text, self.at, self.ended = "", 0, False

    def more(self) -> None:
        """Read on: as much again as is held, so that a long value is not parsed once a block."""
        held = self.text[self.at :]
        self._lines += self.text.count("\n", 0, self.at)
        block = self._stream.read(max(_BLOCK_BYTES, len(held)))
        self.ended = not block
        try:
            self.text, self.at = held + self._decoder.decode(block, final=not block), 0
        except UnicodeDecodeError as error:
            raise self.broken("it is not UTF-8") from error

    def skip(self, signs: str) -> str:
        """Go past ``signs``; the sign that comes next, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in signs:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def broken(self, why: str) -> UserError:
        """The error for what stands at ``at``."""
        line = self._lines + self.text.count("\n", 0, self.at) + 1
        return UserError(
            f"{self._name} is no JSON lines, and as an array or as objects over several lines it is broken at line "
            f"{line}: {why}; mend it, or write one object a line (jq -c '.[]')."
        )


def _values(source: Source, stream: io.BufferedReader) -> Iterator[RawRow]:
    """The elements of an array, or one value after the other."""
    text = _Text(source, stream)
    is_array = text.skip(_SPACE) == "["
    text.at += is_array
    number = 0
    while (sign := text.skip(_SPACE)) and not (is_array and sign == "]"):
        value, repeated = _value(text)
        number += 1
        if isinstance(value, dict):
            yield RawRow(number, value, repeated=repeated)
        else:
            told = json.dumps(value, ensure_ascii=False)
            yield RawRow(number, None, f"not a JSON object: {type(value).__name__} in an array", snippet(told))
        sign = text.skip(_SPACE)
        if is_array and sign not in ("]", ","):
            raise text.broken("a comma or ] is missing" if sign else "it ends within the array")
        text.at += is_array and sign == ","
    if not is_array:
        return
    if not sign:
        raise text.broken("it ends within the array")
    text.at += 1
    if text.skip(_SPACE):
        raise text.broken("something follows behind the end of the array")


def _value(text: _Text) -> tuple[object, str]:
    """The value at ``text.at``, which is then behind it, and a key of it that has two."""
    repeated = ""
    while True:
        try:
            value, end = (_PLAIN if repeated else _DECODER).raw_decode(text.text, text.at)
        except _RepeatedKey as error:
            repeated = str(error)
            continue
        except json.JSONDecodeError as error:
            # What is cut off at the end of what was read is whole when more has been; all else stays broken.
            cut = error.msg.startswith("Unterminated") or error.pos >= len(text.text) - 16
            if text.ended or not cut or len(text.text) - text.at > MAX_LINE_BYTES:
                raise text.broken(error.msg) from error
        except (RecursionError, ValueError) as error:
            raise text.broken("it is nested too deeply, or a number is too long") from error
        else:
            if text.ended or end < len(text.text):  # a number at the very end may go on
                text.at = end
                return value, repeated
        text.more()

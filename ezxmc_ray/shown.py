"""Text that came from elsewhere (keys, names, labels, paths) on its way to a terminal or a log.

Comes in: any text. Goes out: text that moves no cursor, sets no title or color, and holds no credentials.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

from ezxmc_ray.credentials import without_credentials

#: Of ASCII and Latin-1 all but tab and line break; separators of lines; what turns the direction of text around.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def shown(text: str, one_line: bool = False) -> str:
    """``text`` with control characters as escapes (``\\x1b``) and without credentials.

    ``one_line``: tabs and line breaks as escapes too, for a place that is one of several on a line.
    """
    text = _CONTROL.sub(_escaped, without_credentials(text))
    return text.replace("\t", "\\t").replace("\n", "\\n") if one_line else text


def show_what_fits() -> None:
    """From now on what the encoding of stdout or stderr lacks is printed as an escape, and no fault of the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def use_utf8(stream: TextIO) -> None:
    """From now on ``stream`` carries data, which is UTF-8 whatever the locale says; what is not is an error."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="strict")


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"

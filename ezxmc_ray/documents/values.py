"""Values of a row as ids, texts, lists of label ids and splits, whatever format they came in.

What cannot be one raises BadRow with the column and the value. Texts are never changed, except that one of white space
only is empty.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from ezxmc_ray.documents.rejected import BadRow, shown

_SEPARATORS = re.compile(r"[;|]")


def as_id(value: Any, column: str) -> str:
    """An id: a string as it is, a number in its shortest form (12.0 is "12")."""
    text = _as_string(value)
    if text is None:
        raise BadRow(f"bad id: {column} is {shown(value)}, not a string or a number")
    if not text.strip():
        raise BadRow(f"empty id: {column} is empty or missing")
    _check_unicode(text, column)
    return text


def as_text(value: Any, column: str) -> str:
    """A text; null and white space only are ""."""
    text = _as_string(value)
    if text is None:
        raise BadRow(f"bad text: {column} is {shown(value)}, not a string")
    _check_unicode(text, column)
    return text if text.strip() else ""


def as_split(value: Any, column: str) -> str | None:
    """ "train" or "test"; None where the row does not say."""
    text = _as_string(value)
    name = None if text is None else text.strip().lower()
    if name == "":
        return None
    if name not in ("train", "test"):
        raise BadRow(f"bad split: {column} is {shown(value)}, it must be train or test")
    return name


def as_label_ids(value: Any, column: str) -> list[str] | None:
    """Label ids from a list, or from a string that holds a JSON list or ids with ``;`` or ``|`` between; None for none.

    An empty list is a document that is known to have no label; null and "" say nothing.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        value = _json_list(value, column) if value.lstrip().startswith("[") else _SEPARATORS.split(value)
        value = [one.strip() if isinstance(one, str) else one for one in value]
        value = [one for one in value if one != ""]
    if value is None:
        return None
    if not isinstance(value, list):
        value = [value]
    return [as_id(one, column) for one in value]


def _json_list(text: str, column: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise BadRow(f"bad labels: {column} is {shown(text)}, which begins like a JSON list and is none")
    return value


def _as_string(value: Any) -> str | None:
    """Strings and numbers as a string, null and NaN as "", everything else as None."""
    if value is None or value != value:  # NaN is what pandas writes for null
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float | Decimal) else None


def _check_unicode(text: str, column: str) -> None:
    """JSON can write half a surrogate pair, which is no character and which no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"invalid Unicode: lone surrogate at character {error.start + 1} of {column}") from None

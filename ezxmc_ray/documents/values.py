"""Values of a row as ids, texts and splits, whatever format they came in. (Lists of label ids: lists.py.)

What cannot be one raises BadRow with the column and the value. Texts are never changed, except that one of nothing but
white space and invisible characters is empty.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from ezxmc_ray.documents.rejected import BadRow, shown

#: A character that is seen: none of white space, controls, soft hyphens, joiners, marks of direction and of order,
#: variation selectors, fillers and tags, of which alone no text consists.
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
#: Soft hyphens, blanks of no width, marks of order and of direction, as they come into ids. Joiners are spelling.
_SHOW_NOTHING = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
#: What R, databases and pandas write into a cell of CSV where there is no text. ("None" and "N/A" may be answers.)
_NO_TEXT = frozenset(("\\N", "NULL", "null", "NA", "<NA>", "NaN", "nan"))
#: What a split may be called; documents for validation are taken for training, where some are held out.
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= {"eval": "test", "evaluation": "test"}  # as the data sets of Hugging Face have it
_SPLITS |= {"trn": "train"} | dict.fromkeys(("tst", "devtest", "testdev"), "test")
_SPLITS |= dict.fromkeys(("validation", "validate", "valid", "val", "dev", "devel", "development"), "validation")


def as_id(value: Any, column: str) -> str:
    """An id: a string as it is, a number in its shortest form (12.0 is "12")."""
    text = value if isinstance(value, str) else as_string(value)
    if text is None:
        field = f"; name its field, as in {column}.{next(iter(value))}" if isinstance(value, dict) and value else ""
        raise BadRow(f"bad id: {column} is {shown(value)}, not a string or a number{field}")
    if is_blank(text):
        raise BadRow(f"empty id: {column} is empty or missing")
    _check_unicode(text, column)
    return text


def as_text(value: Any, column: str) -> str:
    """A text; null, and nothing but white space and invisible characters, are ""."""
    text = value if isinstance(value, str) else as_string(value)
    if text is None:
        raise BadRow(f"bad text: {column} is {shown(value)}, not a string")
    _check_unicode(text, column)
    return "" if is_blank(text) else text


def is_blank(text: str) -> bool:
    """Whether there is nothing in ``text`` but white space and signs that show nothing."""
    return not _VISIBLE.search(text)


def is_no_text(value: Any, format_: str) -> bool:
    """Whether a cell of a file of ``format_`` (sources.Source) holds what stands for no text there."""
    return format_ == "csv" and isinstance(value, str) and value.strip() in _NO_TEXT


def cells(values: Mapping[str, Any], columns: Sequence[str], format_: str) -> list[Any]:
    """The row's cells of ``columns``; None for one that is absent or stands for no text."""
    return [None if is_no_text(value := values.get(column), format_) else value for column in columns]


def is_empty_by_sign(values: Mapping[str, Any], columns: Sequence[str], format_: str) -> bool:
    """Whether one of the row's cells of ``columns`` stands for no text."""
    return any(is_no_text(values.get(column), format_) for column in columns)


def as_split(value: Any, column: str) -> str | None:
    """ "train", "test" or "validation"; None where the row does not say."""
    if value is None:
        return None
    text = as_string(value)
    name = None if text is None else text.strip().lower()
    if name == "":
        return None
    if name not in _SPLITS:
        raise BadRow(f"bad split: {column} is {shown(value)}, it must be train, test or validation")
    return _SPLITS[name]


def split_word(text: str) -> str | None:
    """What a word of a file's name means as a split: train, test or validation; None if it means none."""
    return _SPLITS.get(text.lower())


def as_string(value: Any) -> str | None:
    """Strings and numbers as a string, null and NaN as "", everything else as None."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value) if isinstance(value, int | float) else None


def is_missing(value: Any) -> bool:
    """Null, or NaN, which is what pandas writes for null."""
    return value is None or (isinstance(value, float | Decimal) and value != value)


_LACKING = object()


class Lacking(dict[str, Any]):
    """An object in a list that lacks the field which was asked for."""


def field_at(value: Any, path: Sequence[str], absent: Any = None) -> Any:
    """What lies at ``path`` in objects within ``value``; of a list what lies there in all items, in one list.

    A text or number in an object's stead is taken as it is; an object of a list that lacks the field is Lacking.
    """
    if not path:
        return value
    if isinstance(value, dict):
        return field_at(value[path[0]], path[1:], absent) if path[0] in value else absent
    if not isinstance(value, list):
        return absent if value is None else value
    found: list[Any] = []
    for one in value:
        there = field_at(one, path, _LACKING)
        if there is _LACKING:
            there = Lacking(one) if isinstance(one, dict) else one
        found += there if isinstance(there, list) else [there]
    return found


def has_field(value: Any, path: Sequence[str]) -> bool:
    """Whether an object within ``value`` has something at ``path``."""
    if not path:
        return True
    if isinstance(value, list):
        return any(has_field(one, path) for one in value)
    return isinstance(value, dict) and path[0] in value and has_field(value[path[0]], path[1:])


def composed(text: str) -> str:
    """``text`` in Unicode's form NFC, in which ids are compared."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def compared(text: str) -> str:
    """``text`` as an encoder tells texts apart at most: in form NFC, without case, blanks as one."""
    return " ".join(composed(text).casefold().split())


def _check_unicode(text: str, column: str) -> None:
    """JSON can write half a surrogate pair, which is no character and which no file can hold."""
    if text.isascii():  # known without a look at the signs
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"invalid Unicode: lone surrogate at character {error.start + 1} of {column}") from None


def same_id(text: str) -> str:
    """An id as ids are compared: in Unicode's form NFC, without blanks or angle brackets around it, without signs that
    show nothing, and without the .0 that pandas gives a whole number."""
    if text.isascii() and text[:1].isalnum() and text[-1:].isalnum() and text[-2:] != ".0":
        return text  # as most are
    if not text.isascii():
        text = text.translate(_SHOW_NOTHING)
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1].strip()
    if text.endswith(".0") and text[:-2].isdecimal():
        text = text[:-2]
    return composed(text)

"""What Python programs hand to a tagger, checked: one sentence for what is not what it should be.

Comes in: lists, Arrow arrays and columns, numbers of any library. Goes out: lists of str, int, float.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ezxmc_ray.errors import UserError


def as_texts(values: Any, name: str) -> list[str]:
    """``values``, an iterable of str or an Arrow array, as a list; ``name``: of the argument, for the sentence.

    Errors: UserError for a text by itself, and for values that are no text or no valid Unicode.
    """
    if isinstance(values, str | bytes):
        raise UserError(f"{name} is one text: give a list of them, such as [{values[:20]!r}].")
    found = values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else list(values)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{name}[{place}] is {text!r:.40}, which is no text (str).")
    try:
        "".join(found).encode("utf-8")
    except UnicodeEncodeError as error:
        bad = next(place for place, text in enumerate(found) if any(0xD800 <= ord(sign) < 0xE000 for sign in text))
        raise UserError(f"{name}[{bad}] is no valid Unicode: it has a half of a pair of surrogates.") from error
    return found


def as_count(k: Any) -> int:
    """``k`` as a number of labels. Errors: UserError for what is none, and for less than 1."""
    try:
        count = operator.index(k)
    except TypeError as error:
        raise UserError(f"k is {k!r:.40}, which is no whole number.") from error
    if count < 1:
        raise UserError(f"k={count} labels a text make no sense: give 1 or more.")
    return count


def as_score(min_score: Any) -> float:
    """``min_score`` as a number. Errors: UserError for what is none."""
    try:
        score = float(min_score)
    except (TypeError, ValueError) as error:
        raise UserError(f"min_score is {min_score!r:.40}, which is no number.") from error
    if isinstance(min_score, str) or math.isnan(score):
        raise UserError(f"min_score is {min_score!r:.40}, which is no number.")
    return score


def column_of(table: pa.Table, name: str) -> list[str] | None:
    """The column ``name`` of ``table`` as texts, "" for null; numbers as they are written. None: it is not there.

    Errors: UserError for two of the name, and for a column that is neither text nor numbers.
    """
    places = [place for place, one in enumerate(table.column_names) if one == name]
    if not places:
        return None
    if len(places) > 1:
        raise UserError(f"The table has {len(places)} columns {name}: rename all but one.")
    column = table.column(places[0])
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_null(kind) or (name == "id" and pa.types.is_integer(kind))):
        raise UserError(f"The column {name} of the table is {column.type}: make it a string.")
    return ["" if value is None else str(value) for value in column.to_pylist()]


def some_ids(ids: Sequence[str]) -> str:
    """The first of ``ids`` and how many more there are, for a sentence."""
    more = f" and {len(ids) - 3:,} more" if len(ids) > 3 else ""
    return f"{', '.join(map(repr, ids[:3]))}{more}"

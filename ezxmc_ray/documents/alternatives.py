"""The alternatives of a label in one cell: from a list, or a text that holds one, to texts.

Comes in: a cell of the column of alternatives. Goes out: texts, or BadRow. A text is a JSON list, a list as Python or
NumPy print it, or texts with one sign between: the one that prepare.list_separator names, else a semicolon, |, a tab or
a line end. Commas and blanks part nothing unless they are named: they are in texts.
"""

from __future__ import annotations

from typing import Any

from ezxmc_ray.documents.lists import BRACKETS, SEPARATORS, list_in, separator_of, split, unwrapped
from ezxmc_ray.documents.rejected import BadRow, shown
from ezxmc_ray.documents.values import as_text, is_missing

#: Signs that part texts where the configuration names none.
_SIGNS = tuple(SEPARATORS[name] for name in ("semicolon", "pipe", "tab", "newline"))
#: What only a list begins with.
_LIST_STARTS = ('["', "['")


class AlternativesReader:
    """Reads the cells of one column. ``separators``: those that parted texts so far, and where each first did."""

    def __init__(self, list_separator: str) -> None:
        """``list_separator``: prepare.list_separator. A blank, which parts ids, parts no texts."""
        given = separator_of(list_separator)
        self._given = None if given == " " else given
        self.separators: dict[str, str] = {}

    def read(self, value: Any, column: str, where: str) -> list[str]:
        """The texts in ``value`` that are not empty, in their order. ``where``: file and line."""
        if is_missing(value):
            return []
        if isinstance(value, str):
            value = self._items(value.strip(), column, where)
        items = value if isinstance(value, list) else [value]
        return [text for text in (as_text(one, column) for one in items) if text]

    def _items(self, text: str, column: str, where: str) -> list[Any]:
        if not text:
            return []
        inner = unwrapped(text)
        if inner[0] in BRACKETS and (items := list_in(inner)) is not None:
            return items
        if self._given is not None:
            return split(text, self._given)
        if inner.startswith(_LIST_STARTS):
            raise BadRow(f"bad alternatives: {column} is {shown(text)}, which begins like a list and is none")
        signs = [one for one in _SIGNS if one in text]
        if len(signs) > 1:
            first, second = signs[:2]
            raise BadRow(
                f"ambiguous alternatives: {column} is {shown(text)}, texts with {first!r} and with {second!r} between: "
                "set prepare.list_separator"
            )
        if signs:
            self.separators.setdefault(signs[0], where)
            return split(text, signs[0])
        return [text]

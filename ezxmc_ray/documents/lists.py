"""The gold labels of one cell: from a list, or a text that holds one, to known label numbers and unknown ids.

Comes in: a cell of the labels' column, and a way to find label numbers. Goes out: :class:`Gold`, or BadRow. A text is
an id as a whole, a JSON list, a list as Python or NumPy print it, or ids with one separator between. Which separator is
a matter of the column: the one that makes known ids. A text that two of them make known ids of is a bad row, and so is
one of whose parts some are an id together, since the separator is in it.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ezxmc_ray.documents.rejected import BadRow, shown
from ezxmc_ray.documents.values import Lacking, as_id, composed, is_blank, is_missing
from ezxmc_ray.errors import UserError

#: What prepare.list_separator may be called; every other text stands for itself.
SEPARATORS = {"semicolon": ";", "pipe": "|", "comma": ",", "tab": "\t", "newline": "\n", "space": " "}
#: A list as Python prints it (commas between the items) or NumPy (none).
_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?[\w.]+"""
_PRINTED = re.compile(rf"[\[({{]\s*(?:(?:{_ITEM})(?:\s*,\s*|\s+|(?=\s*[\])}}])))*\s*[\])}}]", re.DOTALL)
_PRINTED_ITEM = re.compile(rf"({_ITEM})\s*(,?)", re.DOTALL)
#: What Python and NumPy print around a list: array(['b'], dtype=object), frozenset({'b'}), set().
_WRAPPED = re.compile(r"(?:array|frozenset|set|list|tuple)\((.*?)(?:,\s*dtype=[^\s\[\]]+)?\)", re.DOTALL)
#: As Stack Exchange writes tags: <b><c>.
_TAGS = re.compile(r"(?:<[^<>]+>){2,}")
_OBJECT = re.compile(r"\{\s*['\"]")
BRACKETS, _LISTS, _SIGNS = "[({", "[({<", tuple(SEPARATORS.values())
#: What databases, R and pandas write where there is no value.
_NOTHING = frozenset(("NULL", "null", "None", "nan", "NaN", "NA", "N/A", "<NA>", "\\N"))
_WORDS = {"None": None, "nan": None, "NaN": None, "null": None}


class Gold(NamedTuple):
    """The labels of a document, as numbers in the order of the cell, and the ids that are not among the labels."""

    numbers: list[int]
    unknown: list[str]


def separator_of(name: str) -> str | None:
    """The separator that prepare.list_separator names; None for auto. UserError for none."""
    if name == "auto":
        return None
    if not name:
        raise UserError(f"prepare.list_separator is empty; set it to auto, {', '.join(SEPARATORS)} or a sign.")
    return SEPARATORS.get(name, name)


class ListReader:
    """Reads the cells of one column.

    ``separators``: those that parted ids so far, and the line where each first did. ``whole``: how often each made
    known ids and nothing else.
    ``given``: the separator by the configuration. ``settled``: the one that other rows of the column have, where the
    configuration does not say. ``find``: from an id to its label's number. ``parted``: for a separator, as
    :func:`parted_ids`.
    """

    def __init__(
        self,
        find: Callable[[str], int | None],
        column: str,
        given: str | None,
        settled: str | None = None,
        parted: Callable[[str], Mapping[str, int]] = lambda separator: {},
    ) -> None:
        self._find, self._column, self._given, self._settled, self._parted = find, column, given, settled, parted
        #: Finds a separator that is not the settled one.
        self._has_another = re.compile("|".join(re.escape(one) for one in _SIGNS if one != settled)).search
        self.separators: dict[str, int] = {}
        self.whole: Counter[str] = Counter()

    def read(self, value: Any, line: int) -> Gold | None:
        """The gold labels in ``value``; None if it says nothing. An empty list is a document without labels."""
        if isinstance(value, str):
            if is_blank(text := value.strip()):
                return None
            number = self._find(text)
            if number is not None:
                return Gold([number], [])
            if text in _NOTHING:
                return None
            if (text[0] in _LISTS or text[-1] == ")") and (items := self._list(text)) is not None:
                return self._gold(items)
            return self._gold(self._settled_parts(text) or self._parts(text, line))
        if is_missing(value):
            return None
        return self._gold(value if isinstance(value, list) else [value])

    def _list(self, text: str) -> list[Any] | None:
        """The items of a text that is a list by its brackets; None if it is none. BadRow for one that begins as one."""
        if self._given is None and _TAGS.fullmatch(text):
            return text[1:-1].split("><")
        text = unwrapped(text)
        items = list_in(text) if text[0] in BRACKETS else None
        if items is None and self._given is None and (text[0] == "[" or _OBJECT.match(text)):
            raise BadRow(
                f"bad labels: {self._column} is {shown(text)}, which begins like a list and is none; write "
                '["b", "c"] or b;c'
            )
        return items

    def _gold(self, items: list[Any]) -> Gold | None:
        """Of the ids in ``items``; of nothing but empty items nothing is known."""
        if items and set(map(type, items)) == {str}:  # what most are: known ones, each once
            found = list(map(self._find, items))
            if None not in found and len(set(found)) == len(found):
                return Gold([number for number in found if number is not None], [])
        numbers, unknown, lacking = [], list[str](), list[str]()
        for one in items:
            number = self._find(one) if isinstance(one, str) else None
            if number is None:
                if isinstance(one, Lacking):
                    lacking.append(f"no {self._column} in {dict(one)}")
                    continue
                if _is_empty(one):
                    continue
                label_id = as_id(one, self._column)
                number = self._find(label_id)
                if number is None:
                    unknown.append(label_id)
                    continue
            numbers.append(number)
        if len(set(numbers)) < len(numbers) or len(set(unknown)) < len(unknown):
            raise self._repeated(items)
        unknown += lacking
        if items and not (numbers or unknown):
            return None
        return Gold(numbers, unknown)

    def _repeated(self, items: list[Any]) -> BadRow:
        ids = [as_id(one, self._column) for one in items if not _is_empty(one)]
        places = [self._find(one) if self._find(one) is not None else one for one in ids]
        twice = next(one for at, one in enumerate(ids) if places[at] in places[:at])
        matrix = ": that is no list of ids but a row of a 0/1 matrix" if set(ids) <= {"0", "1"} else ""
        return BadRow(f"repeated label: {self._column} repeats {shown(twice)}{matrix}")

    def _settled_parts(self, text: str) -> list[str] | None:
        """What most texts need: the parts by the column's separator, where no other one is in ``text``."""
        separator = self._given or self._settled
        if separator is None or (self._given is None and self._has_another(text)):
            return None
        parts = split(text, separator)
        if len(parts) > 1 and separator not in self.separators:
            return None
        if self._given is None:
            self._check_apart(text, separator)
        return parts

    def _parts(self, text: str, line: int) -> list[str]:
        """The ids in a text that is not one of them."""
        if self._given is not None:
            return split(text, self._given)
        readings = {one: split(text, one) for one in SEPARATORS.values() if one in text}
        if self._settled is not None:
            readings.setdefault(self._settled, [text])
        known = {one: sum(self._find(part) is not None for part in parts) for one, parts in readings.items()}
        whole = [one for one, parts in readings.items() if known[one] == len(parts) > 0]
        self._check_one(text, readings, whole)
        chosen: str | None
        if whole:
            chosen = self._settled if self._settled in whole else whole[0]
            if self._settled is not None and chosen != self._settled and len(readings[chosen]) > 1:
                raise BadRow(
                    f"ambiguous labels: {self._column} is {shown(text)}, ids with {chosen!r} between, where other rows "
                    f"have {self._settled!r}: set prepare.list_separator"
                )
        else:
            chosen = self._settled or self._best(text, readings, known)
        if chosen is None:
            return [text]
        if len(readings[chosen]) > 1:
            self._check_apart(text, chosen)
            self.separators.setdefault(chosen, line)
            self.whole.update([chosen] if chosen in whole else [])
        return readings[chosen]

    def _check_apart(self, text: str, separator: str) -> None:
        """BadRow if neighbouring parts of ``text`` are an id together."""
        if not (most := self._parted(separator)):  # as of most labels
            return
        parts = _raw_parts(text, separator)
        for start, part in enumerate(parts):
            for stop in range(start + 2, min(start + most.get(composed(part.strip()), 0), len(parts)) + 1):
                together = separator.join(parts[start:stop]).strip()
                if self._find(together) is not None:
                    raise BadRow(
                        f"ambiguous labels: {self._column} is {shown(text)}, ids with {separator!r} between, and "
                        f"{shown(together)} is one of the ids: write a list as in JSON, or set prepare.list_separator"
                    )

    def _best(self, text: str, readings: dict[str, list[str]], known: dict[str, int]) -> str | None:
        """The separator that makes the most known ids, where none makes nothing else; None if none makes any.

        A blank is none, but between ids in angle brackets: "machine learning" is no list because there is a label
        "learning".
        """
        if not all(part.startswith("<") and part.endswith(">") for part in readings.get(" ", [""])):
            known = {one: count for one, count in known.items() if one != " "}
        most = max(known.values(), default=0)
        if not most:
            return None
        best = [one for one in known if known[one] == most]
        fewest = min(len(readings[one]) for one in best)
        best = [one for one in best if len(readings[one]) == fewest]
        self._check_one(text, readings, best)
        return best[0]

    def _check_one(self, text: str, readings: dict[str, list[str]], separators: list[str]) -> None:
        """BadRow if ``separators`` make different ids."""
        different = {tuple(readings[one]): one for one in separators}
        if len(different) > 1:
            first, second = list(different.values())[:2]
            raise BadRow(
                f"ambiguous labels: {self._column} is {shown(text)}, ids with {first!r} and with {second!r} between: "
                "set prepare.list_separator"
            )


def _is_empty(item: Any) -> bool:
    return is_blank(item) if isinstance(item, str) else is_missing(item)


def parted_ids(ids: Iterable[str], separator: str) -> dict[str, int]:
    """Of those of ``ids`` that have ``separator`` within: from the first part of an id to how many parts one of these
    has at most."""
    most = dict[str, int]()
    for one in ids:
        if separator in one and len(parts := _raw_parts(one.strip(), separator)) > 1:
            first = composed(parts[0].strip())
            most[first] = max(most.get(first, 0), len(parts))
    return most


def split(text: str, separator: str) -> list[str]:
    """The parts that are not empty, without blanks around them."""
    return [part for part in map(str.strip, _raw_parts(text, separator)) if part]


def _raw_parts(text: str, separator: str) -> list[str]:
    return text.split() if separator == " " else text.split(separator)


def unwrapped(text: str) -> str:
    """A list in a text as Python or NumPy print it, without what they print around."""
    if text[-1] == ")" and (found := _WRAPPED.fullmatch(text)):
        return found[1].strip() or "[]"
    return text


def list_in(text: str) -> list[Any] | None:
    """The items of a JSON list, or of a list, tuple or set as Python or NumPy print it; None if ``text`` is neither."""
    if text[0] == "[":
        try:
            return list(json.loads(text))
        except (ValueError, RecursionError):
            pass
    return _printed(text)


def _printed(text: str) -> list[Any] | None:
    """As Python prints ['b', 'c'], and NumPy ['b' 'c'] and [1 2]; None for anything else."""
    if not _PRINTED.fullmatch(text):
        return None
    found = _PRINTED_ITEM.findall(text[1:-1])
    if len({comma for _, comma in found[:-1]}) > 1:
        return None
    items: list[Any] = []
    for item, _ in found:
        if item[0] in "'\"":
            items.append(_literal(item))
        elif item in _WORDS:
            items.append(_WORDS[item])
        elif re.fullmatch(r"[+-]?\d+(\.\d*)?", item):
            items.append(item.removesuffix(".0").removesuffix("."))
        else:
            return None
    # What is in round brackets is one id, but for strings and for numbers with a comma, as in (1,).
    is_list = text[0] in "[{" or all(item[0] in "'\"" for item, _ in found) or any(comma for _, comma in found)
    return items if is_list else None


def _literal(text: str) -> str | None:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return None

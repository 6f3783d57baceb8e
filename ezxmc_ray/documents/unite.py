"""Rows of one document with a gold label each, as a join of tables gives them: their gold labels become the first's.

Comes in: part files, and which rows repeat the id of an earlier one. Goes out: part files whose first rows have the
gold labels of all rows of the same id, title and text; and which rows have thereby said all that they had to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ezxmc_ray.documents.parts import PART, Part
from ezxmc_ray.prefetch import at_once, prefetch
from ezxmc_ray.storage import Storage

#: Repeated rows that are held in memory at once, with the first ones of their ids.
MAX_ROWS = 2_000_000
#: Parts that are read at once with their texts, which may be long.
TEXTS_AT_ONCE = 4
#: Content hash and split, gold labels, and how many unknown ones of a row.
Row = tuple[tuple[bytes, str], list[int] | None, int]
#: Gold labels and unknown ones of first rows that are not as they were read.
Changed = dict[int, tuple[list[int], int]]


def unite(
    storage: Storage,
    parts: Sequence[Part],
    repeated: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Give each first row the gold labels of its repetitions; bool [repeated]: whether one brought something.

    ``repeated``, ``first``: rows over all ``parts``, of the same id. What has another title or text, is of another
    split, or says nothing new, is left: that is a duplicate. Rows are gone through by their first ones, MAX_ROWS at
    once; a part is written, once at most, when all of its first rows are behind.
    """
    brought = np.zeros(len(repeated), bool)
    starts = np.cumsum([0, *(part.rows for part in parts)])
    order = np.lexsort((repeated, first))
    changed: Changed = {}
    for begin in range(0, len(order), MAX_ROWS):
        here, behind = np.split(order[begin:], [MAX_ROWS])
        rows = _read(storage, parts, starts, np.unique(np.concatenate([repeated[here], first[here]])))
        for at in here.tolist():
            brought[at] = _take(changed, int(first[at]), rows[int(first[at])], rows[int(repeated[at])])
        # The rows of an id, or of a part, may go on behind.
        done = _start_of_part(starts, first[behind[0]]) if len(behind) else starts[-1]
        _write(storage, parts, starts, {row: said for row, said in changed.items() if row < done})
        changed = {row: said for row, said in changed.items() if row >= done}
    return brought


def _start_of_part(starts: npt.NDArray[np.int64], row: np.int64) -> np.int64:
    """The first row of the part that ``row`` is in."""
    return starts[np.searchsorted(starts, row, side="right") - 1]


def _take(changed: Changed, original: int, first: Row, row: Row) -> bool:
    """Give the first row, number ``original``, the gold labels of ``row``; whether that brought something."""
    content, gold, unknown = row
    known, left_out = changed.get(original, first[1:])
    if content != first[0] or gold is None or known is None or not (unknown or set(gold) - set(known)):
        return False
    changed[original] = sorted({*known, *gold}), left_out + unknown
    return True


def by_part(starts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> list[tuple[int, slice]]:
    """The parts that ``rows``, ascending, are in, and where in ``rows`` those of each are."""
    bounds = itertools.pairwise(np.searchsorted(rows, starts).tolist())
    return [(number, slice(begin, end)) for number, (begin, end) in enumerate(bounds) if begin < end]


def _read(
    storage: Storage, parts: Sequence[Part], starts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> dict[int, Row]:
    """What ``rows``, ascending, say."""

    def said(one: tuple[int, slice]) -> list[list[Any]]:
        table = storage.read_table(parts[one[0]].path, PART, ["content_hash", "split", "gold", "unknown_gold"])
        return [column.to_pylist() for column in table.take(pa.array(rows[one[1]] - starts[one[0]])).columns]

    found: dict[int, Row] = {}
    some = by_part(starts, rows)
    for (_, where), columns in zip(some, at_once(said, some), strict=True):
        for row, content, split, gold, unknown in zip(rows[where].tolist(), *columns, strict=True):
            found[row] = (content, split), gold, unknown
    return found


def _write(
    storage: Storage,
    parts: Sequence[Part],
    starts: npt.NDArray[np.int64],
    changed: Changed,
) -> None:
    """Write the parts anew that have ``changed`` rows."""
    rows = np.array(sorted(changed), np.int64)

    def write(one: tuple[int, slice]) -> None:
        path, start = parts[one[0]].path, int(starts[one[0]])
        table = storage.read_table(path, PART)
        gold, unknown = table["gold"].to_pylist(), table["unknown_gold"].to_pylist()
        for row in rows[one[1]].tolist():
            gold[row - start], unknown[row - start] = changed[row]
        for name, values in {"gold": gold, "unknown_gold": unknown}.items():
            table = table.set_column(
                PART.get_field_index(name), PART.field(name), pa.array(values, PART.field(name).type)
            )
        storage.write_table(path, table)

    list(prefetch(write, by_part(starts, rows), TEXTS_AT_ONCE - 1, TEXTS_AT_ONCE))

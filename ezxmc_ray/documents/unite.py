"""Rows of one document with a gold label each, as a join of tables gives them: their gold labels become the first's.

Comes in: part files, and which rows repeat the id of an earlier one. Goes out: part files whose first rows have the
gold labels of all rows of the same id, title and text; and which rows have thereby said all that they had to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ezxmc_ray.documents.parts import PART, Part
from ezxmc_ray.storage import Storage

#: Repeated rows that are held in memory at most; of more, none is united.
MAX_ROWS = 2_000_000


def unite(
    storage: Storage,
    parts: Sequence[Part],
    repeated: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Give each first row the gold labels of its repetitions; bool [repeated]: whether one brought something.

    ``repeated``, ``first``: rows over all ``parts``, of the same id. What has another title or text, is of another
    split, or says nothing new, is left: that is a duplicate.
    """
    brought = np.zeros(len(repeated), bool)
    if not len(repeated) or len(repeated) > MAX_ROWS:
        return brought
    starts = np.cumsum([0, *(part.rows for part in parts)])
    rows = _read(storage, parts, starts, np.unique(np.concatenate([repeated, first])))
    changed: dict[int, tuple[list[int], int]] = {}
    for at, (row, original) in enumerate(zip(repeated.tolist(), first.tolist(), strict=True)):
        content, gold, unknown = rows[row]
        other, _, _ = rows[original]
        known, left_out = changed.get(original, rows[original][1:])
        if content == other and gold is not None and known is not None and (unknown or set(gold) - set(known)):
            changed[original] = sorted({*known, *gold}), left_out + unknown
            brought[at] = True
    _write(storage, parts, starts, changed)
    return brought


def _read(
    storage: Storage, parts: Sequence[Part], starts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> dict[int, tuple[tuple[bytes, str], list[int] | None, int]]:
    """Content hash and split, gold labels and unknown ones of ``rows``, ascending."""
    found: dict[int, tuple[tuple[bytes, str], list[int] | None, int]] = {}
    part_of = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(part_of):
        here = rows[part_of == number]
        table = storage.read_table(parts[number].path, PART, ["content_hash", "split", "gold", "unknown_gold"])
        columns = [column.to_pylist() for column in table.take(pa.array(here - starts[number])).columns]
        for row, (content, split, gold, unknown) in zip(here.tolist(), zip(*columns, strict=True), strict=True):
            found[row] = (content, split), gold, unknown
    return found


def _write(
    storage: Storage,
    parts: Sequence[Part],
    starts: npt.NDArray[np.int64],
    changed: dict[int, tuple[list[int], int]],
) -> None:
    """Write the parts anew that have ``changed`` rows."""
    rows = np.array(sorted(changed), np.int64)
    part_of = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(part_of):
        table = storage.read_table(parts[number].path, PART)
        gold, unknown = table["gold"].to_pylist(), table["unknown_gold"].to_pylist()
        for row in rows[part_of == number].tolist():
            gold[row - starts[number]], unknown[row - starts[number]] = changed[row]
        for name, values in {"gold": gold, "unknown_gold": unknown}.items():
            table = table.set_column(
                PART.get_field_index(name), PART.field(name), pa.array(values, PART.field(name).type)
            )
        storage.write_table(parts[number].path, table)

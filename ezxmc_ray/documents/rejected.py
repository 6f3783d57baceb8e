"""Rows that are left out: why a row is bad, the tables that collect them, what is told of them and of empty files.

Comes in: bad rows of labels and documents, found by many tasks. Goes out: rejected.parquet, counts by reason, and the
sentence that stops a run with ``prepare.on_bad_rows=fail``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.documents.sources import RawRow, printable
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import REJECTED_SCHEMA, rows_of

#: Bad rows that the message of a stopped run lists.
LISTED = 10
_SHOWN_CHARACTERS = 80
#: Files without rows that are named.
_NAMED = 3
#: Rows of rejected.parquet that are brought into order together: all may have more than the 2 GiB of text that one
#: Arrow array of strings holds.
_WRITTEN_ROWS = 1 << 17

#: Tables of rejected rows on their way to rejected.parquet; ``number`` is the source's place in the order of reading.
REJECTED_PART = pa.schema([*REJECTED_SCHEMA, ("number", pa.int32())])


class BadRow(Exception):
    """A row that cannot be used. Its message is "class: detail"; counts go by the class."""


def shown(value: object) -> str:
    """``value`` for use in a reason: quoted, escaped, and cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


class RejectedRows:
    """Collects rejected rows of the source that is called ``name`` and is number ``number`` in the order of reading."""

    def __init__(self, name: str, number: int) -> None:
        self._name, self._number = name, number
        self._rows: list[tuple[str, int, str, str, int]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: RawRow, reason: str) -> None:
        """Take ``row`` up."""
        self._rows.append((self._name, row.line, printable(reason), row.content(), self._number))

    def table(self) -> pa.Table:
        """REJECTED_PART."""
        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[] for _ in REJECTED_PART]
        arrays = [pa.array(column, one.type) for column, one in zip(columns, REJECTED_PART, strict=True)]
        return pa.Table.from_arrays(arrays, schema=REJECTED_PART)


@dataclass(frozen=True)
class RejectedSummary:
    """What is told of the rejected rows: how many, in how many sources, by class of reason, and the first ones."""

    rows: int
    sources: int
    by_reason: dict[str, int] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)


def merge_rejected(storage: Storage, parts: Sequence[str], last: tuple[int, int] | None) -> RejectedSummary:
    """Write rejected.parquet from the tables ``parts``, ordered by source and line.

    ``last``: (source number, line) after which nothing was asked for (prepare.limit_documents), or None.
    """
    tables = at_once(lambda part: storage.read_table(part, REJECTED_PART), parts)
    table = pa.concat_tables([REJECTED_PART.empty_table(), *tables])
    numbers, lines = table["number"].to_numpy(), table["line"].to_numpy()
    order = np.lexsort((lines, numbers))  # stable
    if last is not None:
        asked = (numbers < last[0]) | ((numbers == last[0]) & (lines <= last[1]))
        order = order[asked[order]]
    reasons, head = Counter[str](), list[dict[str, Any]]()
    with storage.open_table(layout.REJECTED, REJECTED_SCHEMA) as writer:
        for start in range(0, len(order), _WRITTEN_ROWS):
            rows = rows_of(table, order[start : start + _WRITTEN_ROWS]).select(REJECTED_SCHEMA.names)
            writer.write_table(rows.cast(REJECTED_SCHEMA).combine_chunks())
            reasons.update(reason.partition(": ")[0] for reason in rows["reason"].to_pylist())
            head += rows.slice(0, LISTED - len(head)).to_pylist()
    return RejectedSummary(
        rows=len(order),
        sources=len(np.unique(numbers[order])),
        by_reason=dict(sorted(reasons.items())),
        first=[f"{row['source']}:{row['line']}: {row['reason']}" for row in head],
    )


def rowless(names: Sequence[str]) -> list[str]:
    """A sentence where files, called ``names``, hold no row: a header alone, an empty list, or nothing."""
    if not names:
        return []
    files = "1 file holds" if len(names) == 1 else f"{len(names):,} files hold"
    return [f"Warning: {files} no row: {first_of(names)}; if rows were to be there, write or copy them anew"]


def left_out(summary: RejectedSummary) -> list[str]:
    """A sentence where prepare.on_bad_rows=skip leaves rows out."""
    if not summary.rows:
        return []
    rows = "1 bad row is" if summary.rows == 1 else f"{summary.rows:,} bad rows are"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.by_reason.items())
    return [f"Warning: {rows} left out ({reasons}), the first {summary.first[0]}; rejected.parquet has them"]


def first_of(names: Sequence[str]) -> str:
    """The first of ``names``, and whether there are more."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def none_usable(what: str, where: str, rejected: pa.Table) -> str:
    """The sentence for inputs whose rows are all in ``rejected`` (REJECTED_SCHEMA, at least one)."""
    first = rejected.slice(0, 1).to_pylist()[0]
    return (
        f"There is no usable {what} in {where}: all {rejected.num_rows} rows are bad, the first "
        f"({first['source']}:{first['line']}) for {first['reason']}."
    )


def stop_message(summary: RejectedSummary, sources: int, where: str) -> str:
    """The message of a run that bad rows stop: a sentence, and below it the first rows. ``where``: rejected.parquet."""
    rows = "1 bad row" if summary.rows == 1 else f"{summary.rows} bad rows"
    more = [f"  … and {summary.rows - len(summary.first)} more"] if summary.rows > len(summary.first) else []
    sentence = (
        f"{rows} in {summary.sources} of {sources} source files (all are in {where}); mend them, or leave them out "
        "with prepare.on_bad_rows=skip:"
    )
    return "\n".join([sentence, *(f"  {one}" for one in summary.first), *more])

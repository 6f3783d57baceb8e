"""Rows that are left out: why a row is bad, the tables that collect them, and what is told of them.

Comes in: bad rows of labels and documents, found by many tasks. Goes out: rejected.parquet, counts by reason, and the
sentence that stops a run with ``prepare.on_bad_rows=fail``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.documents.sources import RawRow, printable
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import REJECTED_SCHEMA

#: Bad rows that the message of a stopped run lists.
LISTED = 10
_SHOWN_CHARACTERS = 80

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
    tables = [storage.read_table(part, REJECTED_PART) for part in parts]
    table = pa.concat_tables([REJECTED_PART.empty_table(), *tables])
    table = table.sort_by([("number", "ascending"), ("line", "ascending")]).combine_chunks()
    if last is not None:
        places = zip(table["number"].to_pylist(), table["line"].to_pylist(), strict=True)
        table = table.filter(pa.array([place <= last for place in places], pa.bool_()))
    storage.write_table(layout.REJECTED, table.select(REJECTED_SCHEMA.names))
    head = table.slice(0, LISTED).to_pylist()
    reasons = Counter(reason.partition(": ")[0] for reason in table["reason"].to_pylist())
    return RejectedSummary(
        rows=table.num_rows,
        sources=len(set(table["number"].to_pylist())),
        by_reason=dict(sorted(reasons.items())),
        first=[f"{row['source']}:{row['line']}: {row['reason']}" for row in head],
    )


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

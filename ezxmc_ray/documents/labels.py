"""The label set: reading it, checking it, and finding a label's number again.

Comes in: label sources. Goes out: the table of labels (its row is the label's number), the rejected rows, and for each
row of the sources the number that its label got, since a rejected row shifts all that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow, RejectedRows, shown
from ezxmc_ray.documents.sources import RawRow, Required, Source
from ezxmc_ray.documents.values import as_id, as_text
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, content_hash

#: In ``LabelSet.numbers``: the row of the source is no label.
NO_LABEL = -1


@dataclass(frozen=True)
class LabelSource:
    """One file of labels and the names of its columns; see sources.check_columns for ``required``."""

    source: Source
    id_column: str
    text_column: str
    description_column: str
    required: Required


@dataclass(frozen=True)
class LabelSet:
    """All labels.

    ``table``: LABELS_SCHEMA. ``numbers``: int32 [rows of all sources], the label number of each row (line - 1), or
    NO_LABEL; the row of a repeated id has the number of the first. ``duplicate_texts``: labels whose text an earlier
    label has too. ``rejected``: rejected.REJECTED_PART.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int32]
    duplicate_texts: int
    rejected: pa.Table


def read_labels(sources: Sequence[LabelSource]) -> LabelSet:
    """Read and check all labels; the first of two with the same id stays. UserError if no label is left."""
    ids: dict[str, int] = {}
    texts: list[str] = []
    descriptions: list[str] = []
    hashes: list[bytes] = []
    numbers: list[int] = []
    rejected: list[RejectedRows] = []
    for number, source in enumerate(sources):
        bad = RejectedRows(source.source.name, number)
        rejected.append(bad)
        start = len(numbers)
        wanted = [source.id_column, source.text_column, source.description_column]
        for row in read_rows(source.source, wanted, source.required):
            numbers += [NO_LABEL] * (start + row.line - len(numbers))
            try:
                label_id, text, description = _check_label(row, source)
                if label_id in ids:
                    numbers[-1] = ids[label_id]
                    raise BadRow(f"duplicate label id: {shown(label_id)}")
            except BadRow as error:
                bad.add(row, str(error))
                continue
            numbers[-1] = ids[label_id] = len(ids)
            texts.append(text)
            descriptions.append(description)
            hashes.append(content_hash(description, text))
    table = pa.concat_tables([bad.table() for bad in rejected])
    if not ids:
        raise UserError(_no_label(sources, table))
    columns: list[list[Any]] = [list(ids), texts, descriptions, hashes]
    arrays = [pa.array(values, one.type) for values, one in zip(columns, LABELS_SCHEMA, strict=True)]
    labels = pa.Table.from_arrays(arrays, schema=LABELS_SCHEMA)
    return LabelSet(labels, np.array(numbers, np.int32), len(texts) - len(set(texts)), table)


def _check_label(row: RawRow, source: LabelSource) -> tuple[str, str, str]:
    """Id, text and description of a row."""
    if row.values is None:
        raise BadRow(row.reason)
    label_id = as_id(row.values.get(source.id_column), source.id_column)
    text = as_text(row.values.get(source.text_column), source.text_column)
    if not text:
        raise BadRow(f"empty label: {source.text_column} of {shown(label_id)} is empty")
    return label_id, text, as_text(row.values.get(source.description_column), source.description_column)


def _no_label(sources: Sequence[LabelSource], rejected: pa.Table) -> str:
    names = ", ".join(source.source.name for source in sources[:3]) + (", …" if len(sources) > 3 else "")
    if not rejected.num_rows:
        return f"There is no label in {names}; give files with at least one."
    first = rejected.slice(0, 1).to_pylist()[0]
    return (
        f"There is no usable label in {names}: all {rejected.num_rows} rows are bad, the first "
        f"({first['source']}:{first['line']}) for {first['reason']}."
    )


class LabelNumbers:
    """Label numbers by id, read from the run's labels.parquet when they are first asked for."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._numbers: dict[str, int] | None = None

    def get(self, label_id: Any) -> int | None:
        """The number of the label with this id; None if there is none."""
        if self._numbers is None:
            ids = self._storage.read_table(layout.LABELS, LABELS_SCHEMA, ["id"])["id"].to_pylist()
            self._numbers = {label_id: number for number, label_id in enumerate(ids)}
        return self._numbers.get(label_id)

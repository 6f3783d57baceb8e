"""A look at the beginnings of the document files, once the labels are known: what is settled for all of them.

Whether ids are given or are row numbers, and which separator parts the label ids in a text, are matters of the whole
input and not of a row. Comes in: document sources. Goes out: the sources to read, and the separator.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.columns import DOCUMENT_COLUMNS, check_named
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.inputs import with_row_ids
from ezxmc_ray.documents.labels import LabelNumbers
from ezxmc_ray.documents.lists import ListReader, separator_of
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow
from ezxmc_ray.storage import Storage

#: The column of ids by default, which alone may be absent.
_ID = PrepareConfig().id_column
#: Files that are looked at, and rows of each.
_FILES, _ROWS = 8, 250


@dataclass(frozen=True)
class Settled:
    """What holds for all document files: the sources to read, and the separator of label ids (None: not seen)."""

    sources: list[DocumentSource]
    separator: str | None


def settle(storage: Storage, sources: Sequence[DocumentSource], prepare: PrepareConfig) -> Settled:
    """Look at ``sources``; the labels must have been written. Errors: as :func:`check_first_columns`."""
    columns = first_columns(sources)
    check_first_columns(sources, columns, prepare)
    return Settled(with_ids(sources, columns), _separator(sources, LabelNumbers(storage), prepare))


def check_first_columns(sources: Sequence[DocumentSource], columns: Sequence[str], prepare: PrepareConfig) -> None:
    """UserError for a named column that is not among ``columns``, as far as that can be known before all is read."""
    if len(sources) <= _FILES and all(one.source.format in ("csv", "parquet") for one in sources):
        check_named(prepare, DOCUMENT_COLUMNS, columns, "prepare.documents")


def with_ids(sources: Sequence[DocumentSource], columns: Sequence[str]) -> list[DocumentSource]:
    """``sources`` with row numbers as ids where ``columns``, the ones found, lack the default column of ids."""
    absent = columns and all(one.id_column == _ID and _ID not in columns for one in sources)
    return with_row_ids(sources) if absent else list(sources)


def first_columns(sources: Sequence[DocumentSource]) -> list[str]:
    """The columns that the first rows of the first files have."""
    found: dict[str, None] = {}
    for source in sources[:_FILES]:
        seen: dict[str, None] = {}
        for _ in itertools.islice(read_rows(source.source, source.columns, (), seen), _ROWS):
            pass
        found |= seen
    return list(found)


def _separator(sources: Sequence[DocumentSource], numbers: LabelNumbers, prepare: PrepareConfig) -> str | None:
    """The separator by which most texts in the labels' column are known ids and nothing else; None where none is."""
    if separator_of(prepare.list_separator) is not None:
        return None
    reader = ListReader(numbers.get, prepare.labels_column, None)
    for source in sources[:_FILES]:
        for row in itertools.islice(read_rows(source.source, source.columns, ()), _ROWS):
            cell = (row.values or {}).get(source.labels_column)
            if isinstance(cell, list):
                break
            with contextlib.suppress(BadRow):
                reader.read(cell, row.line)
    return max(reader.whole, key=lambda one: reader.whole[one], default=None)

"""The label set: reading it, checking it, and finding a label's number again.

Comes in: label sources. Goes out: the table of labels (its row is the label's number), the rejected rows, and for each
row of the sources the number that its label got, since a rejected row shifts all that follow. A label's text is the
preferred one; it may have alternatives, of a column, of a vocabulary, or of further rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.documents.alternatives import AlternativesReader
from ezxmc_ray.documents.lists import parted_ids
from ezxmc_ray.documents.oddities import Oddities
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow, RejectedRows, none_usable, rowless, shown
from ezxmc_ray.documents.sources import RawRow, Required, Source
from ezxmc_ray.documents.values import as_id, as_text, cells, compared, composed, is_empty_by_sign, same_id
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, LABELS_WITH_ALTERNATIVES, content_hash

#: In ``LabelSet.numbers``: the row of the source is no label.
NO_LABEL = -1


@dataclass(frozen=True)
class LabelSource:
    """One file of labels and the names of its columns; see sources.check_columns for ``required``.

    ``has_columns``: the file has columns that the configuration names, and is no vocabulary and no list of texts.
    """

    source: Source
    id_column: str
    text_column: str
    description_column: str
    alternatives_column: str
    required: Required
    has_columns: bool = True

    @property
    def columns(self) -> list[str]:
        """The columns of interest."""
        return [self.id_column, self.text_column, *self.further_columns]

    @property
    def further_columns(self) -> list[str]:
        """Of these the ones whose cells may be empty."""
        return [self.description_column, self.alternatives_column]


@dataclass(frozen=True)
class LabelSet:
    """All labels.

    ``table``: LABELS_SCHEMA, or LABELS_WITH_ALTERNATIVES where a label has some. ``numbers``: int32 [rows of all
    sources], the label number of each row (line - 1), or NO_LABEL; the row of a repeated id has the number of the
    first. ``duplicate_texts``: labels whose text an earlier label has too, as values.compared has them. ``rejected``:
    rejected.REJECTED_PART. ``columns``: of each file that has some, by its name. ``alternatives``: by label number, of
    the labels that have some.
    ``separators``: see AlternativesReader. ``oddities``: of the good rows. ``notes``: sentences of what was chosen,
    and of files without rows.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int32]
    duplicate_texts: int
    rejected: pa.Table
    columns: dict[str, list[str]]
    alternatives: dict[int, list[str]]
    separators: dict[str, str]
    oddities: Oddities
    notes: list[str]


class _Label(NamedTuple):
    """What a row says of a label."""

    id: str
    text: str
    description: str
    alternatives: Sequence[str] = ()


class _Labels:
    """The labels read so far; ids are compared by same_id, alternatives in Unicode's form NFC."""

    def __init__(self, takes_repeated: bool, list_separator: str) -> None:
        self._takes_repeated = takes_repeated
        self.reader = AlternativesReader(list_separator)
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.descriptions: list[str] = []
        self.numbers: list[int] = []
        self._known: dict[str, int] = {}
        self._alternatives: dict[int, dict[str, str]] = {}

    def add(self, row: RawRow, source: LabelSource, start: int) -> None:
        """Take up a row of a source whose first row is number ``start``; BadRow if it is no label, or known."""
        self.numbers += [NO_LABEL] * (start + row.line - len(self.numbers))
        label = _check_label(row, source, self.reader)
        same = same_id(label.id)
        if same in self._known:
            number = self.numbers[-1] = self._known[same]
            if not self._takes_repeated:
                raise BadRow(f"duplicate label id: {shown(label.id)}")
            self.descriptions[number] = self.descriptions[number] or label.description
            self._add_alternatives(number, [label.text, *label.alternatives])
            return
        self.numbers[-1] = self._known[same] = len(self.ids)
        self.ids.append(label.id)
        self.texts.append(label.text)
        self.descriptions.append(label.description)
        if label.alternatives:
            self._add_alternatives(self.numbers[-1], label.alternatives)

    def _add_alternatives(self, number: int, texts: Sequence[str]) -> None:
        for text in texts:
            same = composed(text)
            if same != composed(self.texts[number]):
                self._alternatives.setdefault(number, {}).setdefault(same, text)

    @property
    def alternatives(self) -> dict[int, list[str]]:
        """See LabelSet."""
        return {number: list(texts.values()) for number, texts in self._alternatives.items()}

    def table(self) -> pa.Table:
        """See LabelSet."""
        hashes = list(map(content_hash, self.descriptions, self.texts))
        columns: list[list[Any]] = [self.ids, self.texts, self.descriptions, hashes]
        alternatives, schema = self.alternatives, LABELS_SCHEMA
        if alternatives:
            columns.append([alternatives.get(number, []) for number in range(len(self.ids))])
            schema = LABELS_WITH_ALTERNATIVES
        arrays = [pa.array(values, one.type) for values, one in zip(columns, schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=schema)


def read_labels(sources: Sequence[LabelSource], repeated: str = "fail", list_separator: str = "auto") -> LabelSet:
    """Read and check all labels; of two with the same id the first one's text is the label's. UserError if no label is
    left.

    ``repeated``: whether the second is a bad row (fail), or holds alternatives (prepare.repeated_labels).
    ``list_separator``: prepare.list_separator.
    """
    labels = _Labels(repeated == "synonyms", list_separator)
    rejected, columns, oddities, notes = list[RejectedRows](), dict[str, list[str]](), Oddities(), list[str]()
    without = list[str]()
    for number, source in enumerate(sources):
        bad = RejectedRows(source.source.name, number)
        rejected.append(bad)
        start, seen, row = len(labels.numbers), dict[str, None](), None
        is_csv = source.source.format == "csv"
        for row in read_rows(source.source, source.columns, source.required, seen, notes):
            try:
                labels.add(row, source, start)
                by_sign = is_csv and is_empty_by_sign(row.values or {}, source.further_columns, "csv")
                if row.lines > 1 or row.repeated or by_sign:
                    oddities.take(row, source.source.name, by_sign)
            except BadRow as error:
                bad.add(row, str(error))
        if row is None:
            without.append(source.source.name)
        if source.has_columns:
            columns[source.source.name] = list(seen)
    notes += rowless(without)
    table = pa.concat_tables([bad.table() for bad in rejected])
    if not labels.ids:
        raise UserError(_no_label(sources, table))
    duplicates = len(labels.texts) - len(set(map(compared, labels.texts)))
    numbers = np.array(labels.numbers, np.int32)
    separators = labels.reader.separators
    return LabelSet(
        labels.table(), numbers, duplicates, table, columns, labels.alternatives, separators, oddities, notes
    )


def _check_label(row: RawRow, source: LabelSource, reader: AlternativesReader) -> _Label:
    """What a row says; BadRow if it is no label."""
    if row.values is None:
        raise BadRow(row.reason)
    label_id = as_id(row.values.get(source.id_column), source.id_column)
    text = as_text(row.values.get(source.text_column), source.text_column)
    if not text:
        raise BadRow(f"empty label: {source.text_column} of {shown(label_id)} is empty")
    description, others = cells(row.values, source.further_columns, source.source.format)
    description = as_text(description, source.description_column)
    if others is None:
        return _Label(label_id, text, description)
    where = f"{source.source.name}:{row.line}"
    return _Label(label_id, text, description, reader.read(others, source.alternatives_column, where))


def _no_label(sources: Sequence[LabelSource], rejected: pa.Table) -> str:
    names = ", ".join(source.source.name for source in sources[:3]) + (", …" if len(sources) > 3 else "")
    if not rejected.num_rows:
        return f"There is no label in {names}; give files with at least one."
    return none_usable("label", names, rejected)


def _plain(label_id: str) -> str:
    """An id without what other tools change: case, the address's scheme, signs, zeros before a number."""
    text = re.sub(r"^https?://(www\.)?", "", compared(label_id))
    text = re.sub(r"(?!^-\d)[\W_]+", " ", text)  # -1 is not 1
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).strip()


class LabelNumbers:
    """Label numbers by id, read from the run's labels.parquet when they are first asked for."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._parted: dict[str, dict[str, int]] = {}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        ids = self._storage.read_table(layout.LABELS, LABELS_SCHEMA, ["id"])["id"].to_pylist()
        return {label_id: number for number, label_id in enumerate(ids)}

    @cached_property
    def _others(self) -> dict[str, int]:
        return _unlike(self._numbers)

    @cached_property
    def _plain(self) -> dict[str, str]:
        return {_plain(known): known for known in self._numbers}

    def get(self, label_id: str) -> int | None:
        """The number of the label with this id; None if there is none.

        An id that differs only in Unicode's composition, in signs that show nothing, in blanks around it or in angle
        brackets is the same; so is a number with .0 behind it, as pandas writes the ids of a column where some are
        missing.
        """
        number = self._numbers.get(label_id)
        if number is not None:
            return number
        same = same_id(label_id)
        number = None if same == label_id else self._numbers.get(same)
        if number is not None:
            return number
        return self._others.get(same)

    def parted(self, separator: str) -> dict[str, int]:
        """See lists.parted_ids."""
        if separator not in self._parted:
            self._parted[separator] = parted_ids(self._numbers, separator)
        return self._parted[separator]

    def like(self, label_id: str) -> str:
        """The id of a label that is this one but for case, signs or zeros before a number; "" if there is none."""
        plain = _plain(label_id)
        return self._plain.get(plain, "") if plain else ""


def _unlike(numbers: dict[str, int]) -> dict[str, int]:
    """The numbers of the ids that are not as they are compared; of two that would be the same, none."""
    others, twice = dict[str, int](), set[str]()
    for known, number in numbers.items():
        same = same_id(known)
        if same != known:
            twice.update([same] if same in others else [])
            others[same] = number
    for same in twice:
        del others[same]
    return others

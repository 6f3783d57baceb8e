"""Which texts are a label's: its preferred one, and others (alternatives) by which it is found as well.

Comes in: labels.parquet. Goes out: all texts in the order in which they have vectors and words, and which of them are
whose. A label scores as its best text does, by the encoder and by words. The teacher reads the preferred one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ezxmc_ray import layout
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import ALTERNATIVES, LABELS_SCHEMA, LABELS_WITH_ALTERNATIVES, lengths


@dataclass(frozen=True)
class LabelTexts:
    """The rows that n labels have among all texts: row number l is label l's preferred text, those from n on are
    alternatives, label after label.

    ``starts``: int64 [n + 1], where each label's alternatives begin among the alternatives, and how many there are.
    """

    starts: np.ndarray

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        """How many texts there are."""
        return self.labels + int(self.starts[-1])

    @cached_property
    def label_of_row(self) -> np.ndarray:
        """The label number of each text, int32 [rows]."""
        numbers = np.arange(self.labels, dtype=np.int32)
        return np.concatenate([numbers, np.repeat(numbers, np.diff(self.starts))])

    def rows_of(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the texts of each of ``labels`` (int [m]), label after label: int64 [r]; and how many each has:
        int64 [m], 1 or more."""
        first = self.starts[labels]
        counts = 1 + self.starts[labels + 1] - first
        begins = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(self.labels + first - 1 - begins, counts)
        rows[begins] = labels
        return rows, counts


def best_of(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The highest of each label's ``scores``, which are as :meth:`LabelTexts.rows_of` has its rows: [m]."""
    return np.maximum.reduceat(scores, np.cumsum(counts) - counts) if len(counts) else scores


def read_label_texts(storage: Storage) -> LabelTexts | None:
    """Which texts the labels of a run have; None: every label has one. Errors: UserError as Storage.read_table."""
    storage.rows(layout.LABELS)  # a file that is not there, or damaged, is a UserError
    if not has_alternatives(storage):
        return None
    counts = lengths(_alternatives(storage))
    return LabelTexts(np.concatenate([[0], np.cumsum(counts)]))


def all_texts(storage: Storage) -> pa.ChunkedArray:
    """The texts of all labels by row: string [n], or [rows] where there are alternatives."""
    texts = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["text"])["text"]
    if not has_alternatives(storage):
        return texts
    return pa.chunked_array([*texts.chunks, *pc.list_flatten(_alternatives(storage)).chunks], pa.string())


def text_batches(storage: Storage, size: int) -> Iterator[list[str]]:
    """:func:`all_texts`, up to ``size`` at a time."""
    texts = all_texts(storage)
    for start in range(0, len(texts), size):
        yield texts.slice(start, size).to_pylist()


def _alternatives(storage: Storage) -> pa.ChunkedArray:
    return storage.read_table(layout.LABELS, LABELS_WITH_ALTERNATIVES, [ALTERNATIVES])[ALTERNATIVES]


def read_labels(storage: Storage) -> pa.Table:
    """The labels of a run or of a part of a bundle: LABELS_WITH_ALTERNATIVES where one has some, else LABELS_SCHEMA."""
    return storage.read_table(layout.LABELS, LABELS_WITH_ALTERNATIVES if has_alternatives(storage) else LABELS_SCHEMA)


def has_alternatives(storage: Storage) -> bool:
    """Whether a label of a run has other texts besides the preferred one."""
    with storage.filesystem.open_input_file(storage.path(layout.LABELS)) as file:
        return ALTERNATIVES in pq.read_schema(file).names

"""The labels of a run, held against those that its index was built of.

``prepare`` may put other labels in place while a command reads a run, or between two things that it reads. Label
numbers would then mean other labels. Comes in: a storage, a fingerprint. Goes out: the labels, or a UserError. Those of
a bundle are held against checksums instead (bundle.py).

What was read of the storage before is of the same labels; so they are read last.
"""

from __future__ import annotations

import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.label_texts import has_alternatives, read_labels
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, LABELS_WITH_ALTERNATIVES

#: What a tagger knows of labels.
NAMES = ["id", "text"]


def read_known_labels(storage: Storage, fingerprint: str) -> pa.Table:
    """The labels, as read_labels, which have this label_fingerprint. Errors: UserError where they have another one."""
    labels = read_labels(storage)
    _check(storage, labels, fingerprint)
    return labels


def read_known_names(storage: Storage, fingerprint: str) -> pa.Table:
    """NAMES of the labels, as :func:`read_known_labels`, in less memory."""
    labels = _ColumnByColumn(storage)
    _check(storage, labels, fingerprint)
    return pa.table(labels.names)


class _ColumnByColumn:
    """What label_fingerprint asks of a table. Of the columns that it reads only NAMES are kept: a million descriptions
    are half a gigabyte, of which a tagger needs none."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._schema = LABELS_WITH_ALTERNATIVES if has_alternatives(storage) else LABELS_SCHEMA
        self.column_names = self._schema.names
        self.names: dict[str, pa.ChunkedArray] = {}

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        column = self._storage.read_table(layout.LABELS, self._schema, [name])[name]
        if name in NAMES:
            self.names[name] = column
        return column


def _check(storage: Storage, labels: pa.Table | _ColumnByColumn, fingerprint: str) -> None:
    if label_fingerprint(labels) != fingerprint:
        raise UserError(
            f"{storage.path(layout.LABELS)} holds other labels than those that the index was built of; they were "
            "changed while this command worked, or the file was replaced: give the command again when `ezxmc run` has "
            "finished the run."
        )

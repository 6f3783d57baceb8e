"""The labels of a run or a bundle, held against those that its index was built of.

``prepare`` may put other labels in place while a command reads a run, or between two things that it reads. Label
numbers would then mean other labels. Comes in: a storage, a fingerprint. Goes out: the labels, or a UserError.
"""

from __future__ import annotations

import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.label_texts import read_labels
from ezxmc_ray.storage import Storage


def read_known_labels(storage: Storage, fingerprint: str) -> pa.Table:
    """The labels, as read_labels, which have this label_fingerprint.

    What was read of the storage before is of the same labels; so this is read last. Errors: UserError where they have
    another one by now.
    """
    labels = read_labels(storage)
    if label_fingerprint(labels) != fingerprint:
        raise UserError(
            f"{storage.path(layout.LABELS)} holds other labels than those that the index was built of; they were "
            "changed while this command worked, or the file was replaced: give the command again when `ezxmc run` has "
            "finished the run."
        )
    return labels

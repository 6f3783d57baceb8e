"""``ezxmc labels compact``: the parts of a bundle become one, without what was removed; nothing is embedded.

Comes in: a bundle whose labels were changed. Goes out: the same bundle with the labels that there are. The vectors are
those in the exact indexes of the parts. The export's own index may be of a kind that keeps no vectors as they are: then
its labels stay where they are, with those of them that are removed, and the parts that came since become one. Words
weigh by their rarity among the labels that are left. Label numbers are given anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.exact import as_exact
from ezxmc_ray.index.label_texts import read_label_texts, read_labels
from ezxmc_ray.index.search import load_shard
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import ALTERNATIVES, LABELS_WITH_ALTERNATIVES
from ezxmc_ray.tagging.bundle import BUNDLE, added_note, describe_files, folders_of, new_folder
from ezxmc_ray.tagging.bundle_lock import remove_old_folders
from ezxmc_ray.tagging.changes import OwnedBundle, opened_bundle


@dataclass(frozen=True)
class Compacted:
    """``before`` and ``after``: parts; ``gone``: removed labels that took up room; ``kept``: those that still do;
    ``labels``: how many there are."""

    before: int
    after: int
    gone: int
    kept: int
    labels: int


@dataclass(frozen=True)
class _Part:
    """Some labels of a bundle: their files, the vectors of their texts by row ([rows, d]), and which of them are
    ``alive`` (bool, by place)."""

    files: Storage
    vectors: np.ndarray
    alive: np.ndarray


def compact_labels(where: str) -> Compacted:
    """Make the parts of the bundle ``where`` one. Errors: UserError for what is no bundle, is damaged or in use."""
    with opened_bundle(where) as bundle:
        before, removed = len(bundle.parts), int(bundle.removed.sum())
        parts = _exact_parts(bundle)
        staying, after = before - len(parts), before  # 1, of an index that keeps no vectors, or 0
        if len(parts) > 1 or not all(part.alive.all() for part in parts):
            after = _count(bundle, _written(bundle, parts, staying))
        kept = int(bundle.removed[: bundle.starts[staying]].sum())
        return Compacted(before, after, removed - kept, kept, len(bundle.removed) - removed)


def _exact_parts(bundle: OwnedBundle) -> list[_Part]:
    """All parts, or all but the export's own."""
    parts = []
    shards = [bundle.settings.shards, *(one.shards for one in bundle.settings.added)]
    for number, files in enumerate(bundle.parts):
        vectors = _vectors(files, shards[number])
        if vectors is not None:
            parts.append(_Part(files, vectors, bundle.alive(number)))
    return parts


def _vectors(files: Storage, shards: Sequence[ShardInfo]) -> np.ndarray | None:
    """The vectors in an index by row, float32 [rows, d]; None: it is not exact."""
    found = [as_exact(load_shard(files, layout.INDEX, info)) for info in shards]
    return np.concatenate([one.vectors for one in found if one]) if all(found) else None


def _written(bundle: OwnedBundle, parts: Sequence[_Part], staying: int) -> dict[str, Any]:
    """Write ``parts`` as one, behind the ``staying`` parts before them; returns what changes in bundle.json."""
    changed: dict[str, Any] = {
        "added": [],
        "removed": np.flatnonzero(bundle.removed[: bundle.starts[staying]]).tolist(),
    }
    if not any(part.alive.any() for part in parts):  # what stays is all that there is
        return changed
    with new_folder(bundle.target) as (folder, files):
        table = _table(parts)
        files.write_table(layout.LABELS, table)
        made = bundle.write_search(files, table, _rows_alive(parts), staying)
        if staying:
            return changed | {"added": [added_note(made, folder, describe_files(files))]}
        networks = [bundle.settings.encoder_folder, *([layout.CROSS_NETWORK] if bundle.settings.cross_encoder else [])]
        for network in networks:
            with bundle.parts[0].local(network) as there:
                files.upload(there, network)
        return changed | {"folder": folder, "files": describe_files(files), **made.note}


def _count(bundle: OwnedBundle, changed: dict[str, Any]) -> int:
    """Write ``changed`` into bundle.json, from when on it counts, and remove what no longer does; returns the parts."""
    note = bundle.note | changed
    bundle.target.write_note(BUNDLE, note)
    remove_old_folders(bundle.target, folders_of(note))
    return len(folders_of(note))


def _table(parts: Sequence[_Part]) -> pa.Table:
    """The labels that are alive, with the column of other texts where one of them has some."""
    tables = []
    for part in parts:
        table = read_labels(part.files)
        if ALTERNATIVES not in table.column_names:
            column = LABELS_WITH_ALTERNATIVES.field(ALTERNATIVES)
            table = table.append_column(column, pa.array([[]] * len(table), column.type))
        tables.append(table.filter(pa.array(part.alive)))
    whole = pa.concat_tables(tables)
    return whole if any(whole[ALTERNATIVES].to_pylist()) else whole.drop_columns([ALTERNATIVES])


def _rows_alive(parts: Sequence[_Part]) -> np.ndarray:
    """The vectors of the texts in :func:`_table`, in the order that LabelTexts says: [rows, d]."""
    preferred, others = [], []
    for part in parts:
        texts, labels = read_label_texts(part.files), len(part.alive)
        preferred.append(part.vectors[:labels][part.alive])
        if texts is not None:
            others.append(part.vectors[labels:][part.alive[texts.label_of_row[labels:]]])
    return np.concatenate([*preferred, *others])

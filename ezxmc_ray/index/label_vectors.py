"""The vectors of all labels by one encoder: one file, which every process of a machine maps.

Comes in: slices that actors have embedded, a Parquet file each (label_vectors_schema). Goes out: ``vectors.npy``, all
of them in the order of the label texts, with a note of what it is (``vectors.json``); an array on the file, or the
vectors of some labels block by block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.node_files import FileNote, array_file, map_array
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.storage import Storage, damage_error
from ezxmc_ray.tables import flat

#: Labels whose vectors are read at once.
READ_AT_ONCE = 16_384


@dataclass(frozen=True)
class LabelVectors:
    """What ``vectors.npy`` is: [labels, dimension] of ``dtype``, rows of unit length, a row a text of a label.

    Without alternatives a label has one text, and its row is its number (index/label_texts.py).
    ``counts``: those of the slices, added up, and what was counted of all alike (the largest).
    """

    note: FileNote
    labels: int
    dimension: int
    dtype: str
    counts: dict[str, int]

    @property
    def files(self) -> list[str]:
        """In the run."""
        return [self.note.file, self.note.file.replace(layout.VECTORS, layout.VECTORS_NOTE)]

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return self.dimension * np.dtype(self.dtype).itemsize


def find_label_vectors(storage: Storage, folder: str) -> LabelVectors | None:
    """What the vectors in ``folder`` are; None: they have not been joined, or are not there as the note says."""
    note = f"{folder}/{layout.VECTORS_NOTE}"
    if not storage.exists(note):
        return None
    try:
        found = storage.read_note(note)
        vectors = LabelVectors(**found | {"note": FileNote(**found["note"])})
    except (KeyError, TypeError, ValueError):  # damaged
        return None
    return vectors if storage.sizes(folder).get(vectors.note.file) == vectors.note.bytes else None


def join_label_vectors(storage: Storage, folder: str) -> LabelVectors:
    """Task: write ``vectors.npy`` from the slices in ``folder``, unless that is done; the slices stay.

    One slice is in memory at a time. Errors: UserError where a slice is missing.
    """
    if (there := find_label_vectors(storage, folder)) is not None:
        return there
    names = storage.list(folder, ".parquet")
    counts = list(at_once(storage.read_counts, names))
    labels = sum(storage.rows_of(names))
    if not names:
        raise UserError(f"{folder} of the run {storage.root} holds no label vectors: remove it there and run again.")
    first = storage.read_table(names[0])["vector"].type
    dtype, dimension = first.value_type.to_pandas_dtype(), first.list_size
    done = 0
    with array_file(storage, f"{folder}/{layout.VECTORS}", (labels, dimension), dtype) as sink:
        for name in names:
            table = storage.read_table(name)
            if len(table) and table["label"][0].as_py() != done:
                raise UserError(f"{folder} of the run {storage.root} lacks a slice before {name}: remove the folder.")
            sink.write(np.ascontiguousarray(flat(table["vector"])))
            done += len(table)
    joined = {
        **{name: sum(one.get(name, 0) for one in counts) for name in ("truncated", "unreadable")},
        "unused_prompts": max(one.get("unused_prompts", 0) for one in counts),  # older runs have none
    }
    note = sink.note(f"{folder}/{layout.VECTORS}")
    vectors = LabelVectors(note, labels, dimension, np.dtype(dtype).name, joined)
    storage.write_note(f"{folder}/{layout.VECTORS_NOTE}", dataclasses.asdict(vectors))
    return vectors


def map_label_vectors(storage: Storage, folder: str) -> np.ndarray:
    """All label vectors in ``folder``: [n, d] as stored, mapped and read-only, rows of unit length.

    Errors: UserError for a file that is not there or not what was written, as far as its size and its header tell.
    """
    known = _known(storage, folder)
    return map_array(storage, known.note, (known.labels, known.dimension), np.dtype(known.dtype))


def label_vector_blocks(storage: Storage, folder: str, first: int, stop: int) -> Iterator[np.ndarray]:
    """The vectors of the labels ``first`` to ``stop``, in blocks of READ_AT_ONCE: [m, d] as stored.

    Only these labels' bytes are read, of an object store too.
    """
    vectors = _known(storage, folder)
    with storage.filesystem.open_input_file(storage.path(vectors.note.file)) as file:
        header = vectors.note.bytes - vectors.labels * vectors.row_bytes
        for start in range(first, stop, READ_AT_ONCE):
            rows = min(READ_AT_ONCE, stop - start)
            content = file.read_at(rows * vectors.row_bytes, header + start * vectors.row_bytes)
            yield np.frombuffer(content, vectors.dtype).reshape(rows, vectors.dimension)


def _known(storage: Storage, folder: str) -> LabelVectors:
    found = find_label_vectors(storage, folder)
    if found is None:
        raise damage_error(
            storage.path(f"{folder}/{layout.VECTORS}"), f"it is not what {layout.VECTORS_NOTE} beside it says"
        )
    return found

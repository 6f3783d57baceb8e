"""The verdict store: what a teacher has judged, kept under its key and the content of document and label.

Comes in: tables of verdicts (VERDICTS_SCHEMA), a batch at a time. Goes out: which pairs are held, and their raw scores.
Judging only ever adds files: verdicts/<teacher key>/<folder>/<batch key>.parquet, where a folder is a document shard's
name, ``priors``, or ``absent`` (imported verdicts on documents that the run does not have), and the batch key a hash of
the batch's pairs, so that a batch judged again is the same file. A pair may lie in several files and folders; within a
folder the first file, by name, decides. A file's footer says what its batches cost the engine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import HASH, HASH_BYTES, NO_DOCUMENT, VERDICTS_SCHEMA
from ezxmc_ray.verdicts.calibration import READOUTS

PRIORS, ABSENT = "priors", "absent"
#: In a description: verdicts made by hand, by people or elsewhere, were imported as the configured teacher's.
BY_HAND = "by_hand"
#: Folders of a store that a command works on at once: one may take some hundred MiB.
FOLDERS_AT_ONCE = 4
#: Marks in a footer what is of the step that had a batch judged, and no cost of its own.
_ASKED = "asked."
#: A pair's key: the bytes of document hash and label hash in a row; sorts as bytes do.
PAIR = np.dtype((np.void, 2 * HASH_BYTES))
Hashes: TypeAlias = "Sequence[bytes] | pa.Array | pa.ChunkedArray"


def pair_keys(document_hashes: Hashes, label_hashes: Hashes) -> np.ndarray:
    """Keys of aligned hashes, void32 [n]."""
    parts = [hash_bytes(hashes) for hashes in (document_hashes, label_hashes)]
    return np.ascontiguousarray(np.hstack(parts)).view(PAIR).reshape(-1)


def table_keys(table: pa.Table) -> np.ndarray:
    """Keys of the rows of ``table`` (VERDICTS_SCHEMA), void32 [n]."""
    return pair_keys(table["document_hash"], table["label_hash"])


def places(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of ``wanted`` [m] is in ``held`` [n], sorted: int64 [m], -1 where it is not."""
    if not len(held):
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
    return np.where(held[place] == wanted, place, -1)


def teacher_keys(storage: Storage) -> list[str]:
    """Keys of the teachers whose verdicts a run holds, sorted."""
    return [_last(path) for path in storage.folders(layout.VERDICTS)]


class VerdictStore:
    """The verdicts of the teacher ``key`` in a run directory.

    ``step``: which step of the run it is that has verdicts judged, for their footers (costs.py).
    """

    def __init__(self, storage: Storage, key: str, step: int | None = None) -> None:
        self._storage = storage
        self.key, self.step = key, step
        self._root = f"{layout.VERDICTS}/{key}"

    def folders(self) -> list[str]:
        """Names of the folders there are, sorted."""
        return [_last(path) for path in self._storage.folders(self._root)]

    def files(self, folder: str) -> list[str]:
        """The folder's files, in the order in which they decide on a pair's verdict."""
        return self._storage.list(f"{self._root}/{folder}", ".parquet")

    def held(self, folder: str) -> np.ndarray:
        """Keys of the pairs in ``folder``, void32 [n], sorted, each once."""
        return np.unique(table_keys(self._load(folder, ["document_hash", "label_hash"])))

    def read(self, folder: str) -> pa.Table:
        """All verdicts of ``folder`` (VERDICTS_SCHEMA) ordered by key; of a pair held twice the first file's."""
        table = self._load(folder, VERDICTS_SCHEMA.names)
        _, first = np.unique(table_keys(table), return_index=True)
        return table.take(pa.array(first))

    def counts(self, folder: str) -> dict[str, int]:
        """What the folder's batches cost, summed by name (see :meth:`append`)."""
        totals: Counter[str] = Counter()
        for name, value in self._batch_counts(self.files(folder)).items():
            what = name.partition(".")[2]
            if not what.startswith(_ASKED):
                totals[what] += value
        return dict(totals)

    def asked_by(self, folder: str, step: int) -> dict[str, int]:
        """What the folder's batches that were judged for ``step`` cost: as :meth:`counts`, pairs, prompt tokens."""
        batches: dict[str, dict[str, int]] = {}
        for name, value in self._batch_counts(self.files(folder)).items():
            batch, _, what = name.partition(".")
            batches.setdefault(batch, {})[what.removeprefix(_ASKED)] = value
        totals: Counter[str] = Counter()
        for counts in batches.values():
            if counts.pop("step", None) == step:
                totals.update(counts)
        return dict(totals)

    def append(self, folder: str, table: pa.Table, counts: Mapping[str, int] | None = None) -> str:
        """Commit a batch (VERDICTS_SCHEMA, at least a row); returns its file. The same pairs again replace it.

        ``counts``: what the batch cost, for the file's footer: ``computed_tokens``, ``engine_ms``. On an object
        store it is one request, and now and then one more for the lock (run_lock.py).
        """
        if not len(table):
            raise ValueError("a batch without verdicts cannot be stored")
        batch = _batch_key(table)
        name = self._file(folder, batch)
        # Under the batch's key, so that a batch that lies in two files for a while is counted once.
        footer = {f"{batch}.{what}": value for what, value in (counts or {}).items()}
        if counts and self.step is not None:
            asked = {
                "step": self.step,
                "pairs": len(table),
                "prompt_tokens": pc.sum(table["prompt_tokens"]).as_py(),
            }
            footer |= {f"{batch}.{_ASKED}{what}": value for what, value in asked.items()}
        self._storage.write_table(name, table.select(VERDICTS_SCHEMA.names).cast(VERDICTS_SCHEMA), footer)
        return name

    def append_missing(
        self, folder: str, table: pa.Table, costs_per_pair: Mapping[str, float] | None = None
    ) -> np.ndarray:
        """Append the rows whose pair ``folder`` lacks, as one batch; returns which they are, bool [n].

        ``costs_per_pair``: what each of them has cost, by the names of :meth:`append`.
        """
        missing = places(self.held(folder), table_keys(table)) < 0
        if missing.any():
            counts = {name: round(value * int(missing.sum())) for name, value in (costs_per_pair or {}).items()}
            self.append(folder, table.filter(pa.array(missing)), counts)
        return missing

    def compact(self, folder: str, kept: pa.Table) -> None:
        """Put ``kept``, rows of :meth:`read`, into one file in the place of all the folder's files; counts add up.

        Nobody else may write to the folder meanwhile. A kill in between loses nothing and changes no answer: the new
        file comes first, and the old ones go from the last name to the first, so that of a pair with several raw
        scores the one that decided still does. Compacting again removes what such a kill has left.
        """
        old = self.files(folder)
        counts = self._batch_counts(old)
        name = self._file(folder, _batch_key(kept))
        if len(kept) or counts:
            self._storage.write_table(name, kept, counts)
            old = [one for one in old if one != name]
        for one in reversed(old):
            self._storage.remove(one)

    def lookup(self, folder: str, document_hashes: Hashes, label_hashes: Hashes) -> np.ndarray:
        """Raw scores of the aligned pairs, float32 [n]; NaN where the store holds none."""
        return self.lookup_keys(folder, pair_keys(document_hashes, label_hashes))

    def label_priors(self, label_hashes: Hashes) -> np.ndarray:
        """What labels score by themselves, float32 [n]; NaN where the store holds none."""
        return self.lookup(PRIORS, [NO_DOCUMENT] * len(label_hashes), label_hashes)

    def lookup_keys(self, folder: str, wanted: np.ndarray) -> np.ndarray:
        """:meth:`lookup` of the pairs with the keys ``wanted``, void32 [n]."""
        raw = np.full(len(wanted), np.nan, dtype=np.float32)
        table = self._load(folder, ["document_hash", "label_hash", "raw"])
        keys, first = np.unique(table_keys(table), return_index=True)
        place = places(keys, wanted)
        found = place >= 0
        raw[found] = table["raw"].to_numpy()[first][place[found]]
        return raw

    def write_description(self, description: dict[str, Any]) -> None:
        """Note beside the verdicts which teacher they are from; that some were made by hand stays noted."""
        by_hand = {BY_HAND: True} if self.is_by_hand() else {}
        self._storage.write_note(f"{self._root}/{layout.TEACHER_NOTE}", description | by_hand)

    def is_by_hand(self) -> bool:
        """Whether verdicts that were made by hand were imported as the configured teacher's."""
        return bool((self.description() or {}).get(BY_HAND))

    def description(self) -> dict[str, Any] | None:
        """Which teacher the verdicts are from; None if nothing is noted, or a read-out that there is none of."""
        found: dict[str, Any] | None = self._note(layout.TEACHER_NOTE)
        return found if found is None or found.get("readout") in (None, *READOUTS) else None

    def write_placement(self, placement: dict[str, Any]) -> None:
        """Note that every folder holds what it should where the run's documents lie as ``placement`` says."""
        self._storage.write_note(f"{self._root}/{layout.PLACEMENT_NOTE}", placement)

    def placement(self) -> dict[str, Any] | None:
        """The placement of documents that the folders were last made to fit; None if nothing is noted."""
        found: dict[str, Any] | None = self._note(layout.PLACEMENT_NOTE)
        return found

    def _note(self, name: str) -> Any:
        """What a note holds; one that is not there or broken says nothing (it is written again)."""
        path = f"{self._root}/{name}"
        try:
            return self._storage.read_note(path) if self._storage.exists(path) else None
        except ValueError:
            return None

    def _file(self, folder: str, batch: str) -> str:
        return f"{self._root}/{folder}/{batch}.parquet"

    def _load(self, folder: str, columns: list[str]) -> pa.Table:
        tables = at_once(lambda name: self._storage.read_table(name, VERDICTS_SCHEMA, columns), self.files(folder))
        return pa.concat_tables(
            [pa.schema([VERDICTS_SCHEMA.field(column) for column in columns]).empty_table(), *tables]
        )

    def _batch_counts(self, names: list[str]) -> dict[str, int]:
        """Counts of the batches in the files ``names``: ``<batch key>.<name>`` to value."""
        counts: dict[str, int] = {}
        for one in at_once(self._storage.read_counts, names):
            counts |= one
        return counts


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _batch_key(table: pa.Table) -> str:
    """Hash of the pairs of ``table``, whatever their order."""
    return hashlib.blake2b(np.unique(table_keys(table)).tobytes(), digest_size=16).hexdigest()


def hash_bytes(hashes: Hashes) -> np.ndarray:
    """uint8 [n, 16]."""
    array = hashes if isinstance(hashes, pa.Array | pa.ChunkedArray) else pa.array(list(hashes), HASH)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.array([], HASH)
    buffer = array.buffers()[1]
    flat = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    return flat[array.offset * HASH_BYTES : (array.offset + len(array)) * HASH_BYTES].reshape(-1, HASH_BYTES)

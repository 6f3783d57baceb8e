"""Where verdicts belong: the folders of the document shards that hold their documents now.

Comes in: the shards of a run (their column content_hash) and a verdict store. Goes out: verdicts brought to where
judging looks for them, since documents move to other shards when others are added, and each pair of a store once. Only
hashes are read: 16 bytes a document are held, and the verdicts of a few folders at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.context import Prepared
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, HASH, HASH_BYTES
from ezxmc_ray.verdicts.store import (
    FOLDERS_AT_ONCE,
    PAIR,
    PRIORS,
    Hashes,
    VerdictStore,
    hash_bytes,
    places,
    table_keys,
)

#: Where a :class:`ShardLookup` lies, for all tasks to read, while verdicts are brought to their shards.
LOOKUP = ".shard_lookup.parquet"
_KEY = np.dtype((np.void, HASH_BYTES))
_SCHEMA = pa.schema([("content_hash", HASH), ("shard", pa.int32())])


class ShardLookup:
    """The shards that hold a document, by its content hash; the same text may lie in several.

    ``hashes`` uint8 [n, 16] and ``shards`` int32 [n] are aligned.
    """

    def __init__(self, hashes: np.ndarray, shards: np.ndarray) -> None:
        keys = np.ascontiguousarray(hashes).view(_KEY).reshape(-1)
        order = np.lexsort((shards, keys))
        keys, shards = keys[order], shards[order]
        first = np.ones(len(keys), bool)
        first[1:] = (keys[1:] != keys[:-1]) | (shards[1:] != shards[:-1])
        self._keys, self._shards = keys[first], shards[first]

    @classmethod
    def of_shards(cls, storage: Storage, shards: int) -> ShardLookup:
        """Of the documents in the shards 0 to ``shards`` - 1 of a run."""
        names = [layout.shard_file(layout.DOCUMENTS, shard) for shard in range(shards)]

        def hashes_in(name: str) -> np.ndarray:
            return hash_bytes(storage.read_table(name, DOCUMENTS_SCHEMA, ["content_hash"])["content_hash"])

        hashes = list(at_once(hashes_in, names))
        numbers = np.repeat(np.arange(shards, dtype=np.int32), [len(one) for one in hashes])
        return cls(np.concatenate([np.zeros((0, HASH_BYTES), np.uint8), *hashes]), numbers)

    @classmethod
    def load(cls, storage: Storage, name: str) -> ShardLookup:
        """What :meth:`save` wrote, in order as it is."""
        table = storage.read_table(name, _SCHEMA)
        lookup = cls.__new__(cls)
        lookup._keys = np.ascontiguousarray(hash_bytes(table["content_hash"])).view(_KEY).reshape(-1)
        lookup._shards = table["shard"].to_numpy()
        return lookup

    def save(self, storage: Storage, name: str) -> None:
        """Write a Parquet file."""
        content = [None, pa.py_buffer(self._keys.tobytes())]
        hashes = pa.FixedSizeBinaryArray.from_buffers(HASH, len(self._keys), content)
        storage.write_table(name, pa.Table.from_arrays([hashes, pa.array(self._shards)], schema=_SCHEMA))

    def first(self, document_hashes: Hashes) -> np.ndarray:
        """The first shard with each document, int32 [n]; -1: no shard has it."""
        start, count = self._ranges(document_hashes)
        shards = np.full(len(start), -1, np.int32)
        shards[count > 0] = self._shards[start[count > 0]]
        return shards

    def rows_by_shard(self, document_hashes: Hashes) -> dict[int, np.ndarray]:
        """For every shard with any of the documents their positions, int64 [m]; one may be in several shards."""
        start, count = self._ranges(document_hashes)
        rows = np.repeat(np.arange(len(start)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        shards = self._shards[np.repeat(start, count) + within]
        order = np.argsort(shards, kind="stable")
        numbers, begins = np.unique(shards[order], return_index=True)
        return dict(zip(numbers.tolist(), np.split(rows[order], begins[1:]), strict=True)) if len(numbers) else {}

    def _ranges(self, document_hashes: Hashes) -> tuple[np.ndarray, np.ndarray]:
        """Where each document's entries begin and how many there are, int64 [n] both."""
        keys = np.ascontiguousarray(hash_bytes(document_hashes)).view(_KEY).reshape(-1)
        start = np.searchsorted(self._keys, keys)
        return start, np.searchsorted(self._keys, keys, side="right") - start


def placement_of(known: Prepared) -> dict[str, Any]:
    """In which shards a run's documents lie, as VerdictStore.write_placement notes it."""
    return {"document_fingerprint": known.document_fingerprint, "shard_rows": known.shard_rows}


def relocate_verdicts(store: VerdictStore, lookup: ShardLookup, folder: str) -> int:
    """Append the verdicts of ``folder`` to the folders of the shards with their documents, where those lack them.

    Returns how many rows were appended. Nothing is removed: what lies elsewhere too is harmless.
    """
    return _relocate(store, lookup, folder, store.read(folder))


def _relocate(store: VerdictStore, lookup: ShardLookup, folder: str, table: pa.Table) -> int:
    added = 0
    for shard, rows in lookup.rows_by_shard(table["document_hash"]).items():
        if layout.shard_name(shard) != folder:
            added += int(store.append_missing(layout.shard_name(shard), table.take(pa.array(rows))).sum())
    return added


def compact_store(store: VerdictStore, lookup: ShardLookup) -> None:
    """Make one file of each folder, without the pairs whose documents lie only in other shards now.

    Documents that no shard has keep their verdicts where they are. Nobody else may write to the store meanwhile.
    """
    for folder, table in _read_each(store):  # one after the other: of two raw scores the first stays
        _relocate(store, lookup, folder, table)

    def compact(folder: str) -> None:
        table = store.read(folder)
        is_kept = lookup.first(table["document_hash"]) < 0
        for shard, rows in lookup.rows_by_shard(table["document_hash"]).items():
            is_kept[rows] |= layout.shard_name(shard) == folder
        store.compact(folder, table.filter(pa.array(is_kept)))

    for _ in at_once(compact, store.folders(), FOLDERS_AT_ONCE):
        pass


def _read_each(store: VerdictStore) -> Iterator[tuple[str, pa.Table]]:
    """Folder after folder with its verdicts; a few are read ahead, without what is appended meanwhile."""
    folders = store.folders()
    return zip(folders, at_once(store.read, folders, FOLDERS_AT_ONCE), strict=True)


def each_pair_once(store: VerdictStore, lookup: ShardLookup) -> Iterator[tuple[str, pa.Table]]:
    """Folder after folder with its verdicts (VERDICTS_SCHEMA, ordered by key), without pairs that another one gives.

    A pair is given by the folder of the first shard with its document; if that lacks it, by the first folder that has
    it. Memory: a few folders, and the keys (32 bytes) of pairs that do not lie where their document is.
    """
    seen = np.zeros(0, PAIR)
    for folder, table in _read_each(store):
        keys, home = table_keys(table), lookup.first(table["document_hash"])
        is_given, is_stray = np.ones(len(table), bool), np.full(len(table), folder != PRIORS)
        for shard in np.unique(home[home >= 0]):
            rows = np.flatnonzero(home == shard)
            if layout.shard_name(shard) == folder:
                is_stray[rows] = False
            else:
                is_given[rows] = places(store.held(layout.shard_name(shard)), keys[rows]) < 0
        strays = np.flatnonzero(is_stray & is_given)
        if strays.size:  # joining sorts all that was seen, which for each of thousands of folders would take hours
            is_given[strays] = places(seen, keys[strays]) < 0
            seen = np.union1d(seen, keys[strays])
        yield folder, table.filter(pa.array(is_given))

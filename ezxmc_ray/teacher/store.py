"""The verdict store: what a teacher has judged, kept under its key and the content of document and label.

Comes in: tables of verdicts (tables.VERDICTS), a batch at a time. Goes out: which pairs are held, and their raw scores.
Files are only ever added: verdicts/<teacher key>/<folder>/<batch key>.parquet, where a folder is a document shard's
name or ``priors`` and the batch key a hash of the batch's pairs, so that a batch judged again is the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import HASH, HASH_BYTES, VERDICTS

PRIORS = "priors"
#: A pair's key: the bytes of document hash and label hash in a row; sorts as bytes do.
PAIR = np.dtype((np.void, 2 * HASH_BYTES))
Hashes: TypeAlias = "Sequence[bytes] | pa.Array | pa.ChunkedArray"


def pair_keys(document_hashes: Hashes, label_hashes: Hashes) -> np.ndarray:
    """Keys of aligned hashes, void32 [n]."""
    parts = [_hash_bytes(hashes) for hashes in (document_hashes, label_hashes)]
    return np.ascontiguousarray(np.hstack(parts)).view(PAIR).reshape(-1)


class VerdictStore:
    """The verdicts of the teacher ``key`` in a run directory."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._root = f"verdicts/{key}"

    def held(self, folder: str) -> np.ndarray:
        """Keys of the pairs in ``folder``, void32 [n], sorted, each once."""
        table = self._load(folder, ["document_hash", "label_hash"])
        return np.unique(pair_keys(table["document_hash"], table["label_hash"]))

    def read(self, folder: str) -> pa.Table:
        """All verdicts of ``folder`` (tables.VERDICTS) ordered by key; of a pair held twice the first file's."""
        table = self._load(folder, VERDICTS.names)
        _, first = np.unique(pair_keys(table["document_hash"], table["label_hash"]), return_index=True)
        return table.take(pa.array(first))

    def append(self, folder: str, table: pa.Table) -> str:
        """Commit a batch (tables.VERDICTS, at least a row); returns its file. The same pairs again change nothing."""
        if not len(table):
            raise ValueError("a batch without verdicts cannot be stored")
        keys = np.unique(pair_keys(table["document_hash"], table["label_hash"]))
        name = f"{self._root}/{folder}/{hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()}.parquet"
        if not self._storage.exists(name):
            self._storage.write_table(name, table.select(VERDICTS.names).cast(VERDICTS))
        return name

    def lookup(self, folder: str, document_hashes: Hashes, label_hashes: Hashes) -> np.ndarray:
        """Raw scores of the aligned pairs, float32 [n]; NaN where the store holds none."""
        wanted = pair_keys(document_hashes, label_hashes)
        raw = np.full(len(wanted), np.nan, dtype=np.float32)
        table = self.read(folder)
        if not len(table) or not len(wanted):
            return raw
        held = pair_keys(table["document_hash"], table["label_hash"])
        place = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
        found = held[place] == wanted
        raw[found] = table["raw"].to_numpy()[place[found]]
        return raw

    def write_description(self, description: dict[str, Any]) -> None:
        """Note beside the verdicts which teacher they are from."""
        self._storage.write_json(f"{self._root}/teacher.json", description)

    def statistics(self) -> dict[str, int]:
        """``pairs`` (rows of all files, priors included) and ``files``."""
        names = self._storage.list(self._root, ".parquet", recursive=True)
        return {"pairs": sum(self._rows(name) for name in names), "files": len(names)}

    def _load(self, folder: str, columns: list[str]) -> pa.Table:
        names = self._storage.list(f"{self._root}/{folder}", ".parquet")
        tables = [self._table(name, columns) for name in names]
        return pa.concat_tables([pa.schema([VERDICTS.field(column) for column in columns]).empty_table(), *tables])

    def _table(self, name: str, columns: list[str]) -> pa.Table:
        try:
            return self._storage.read_table(name, VERDICTS, columns)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(name, error) from error

    def _rows(self, name: str) -> int:
        try:
            return self._storage.rows(name)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(name, error) from error

    def _broken(self, name: str, error: BaseException) -> UserError:
        path = self._storage.path(name)
        return UserError(
            f"The verdicts in {path} cannot be read ({one_line(error)}): remove the file; its pairs are judged again."
        )


def _hash_bytes(hashes: Hashes) -> np.ndarray:
    """uint8 [n, 16]."""
    array = hashes if isinstance(hashes, pa.Array | pa.ChunkedArray) else pa.array(list(hashes), HASH)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.array([], HASH)
    buffer = array.buffers()[1]
    flat = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    return flat[array.offset * HASH_BYTES : (array.offset + len(array)) * HASH_BYTES].reshape(-1, HASH_BYTES)

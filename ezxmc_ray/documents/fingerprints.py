"""Fingerprints of contents: what documents, labels and gold labels say, whatever Parquet makes of it on disk.

Comes in: tables. Goes out: hex strings (32 digits) that depend on values and their order only. Those of shards are
combined in the order of the shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def table_fingerprint(table: pa.Table, columns: Iterable[str]) -> str:
    """Of the named columns (strings, fixed-size binary, booleans, or lists of strings or int32) of ``table``."""
    digest = hashlib.blake2b(digest_size=16)
    for name in columns:
        _update(digest, table[name].combine_chunks())
    return digest.hexdigest()


def combined_fingerprint(parts: Iterable[str]) -> str:
    """One fingerprint of an ordered list of them."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _update(digest: hashlib.blake2b, column: pa.Array) -> None:
    """Lengths (-1 for null) and then contents, so that no two different columns give the same bytes."""
    lengths = np.ones(len(column), np.int64)
    content = b""
    if pa.types.is_list(column.type):
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        if pa.types.is_string(column.type.value_type):
            _update(digest, column.flatten())
        else:
            content = column.flatten().to_numpy(zero_copy_only=False).astype("<i4").tobytes()
    elif pa.types.is_string(column.type):
        lengths = pc.binary_length(column).to_numpy(zero_copy_only=False)
        content = "".join(value for value in column.to_pylist() if value is not None).encode()
    elif pa.types.is_boolean(column.type):
        content = column.to_numpy(zero_copy_only=False).astype(np.uint8).tobytes()
    else:
        content = b"".join(column.to_pylist())
    digest.update(np.nan_to_num(lengths.astype(np.float64), nan=-1).astype("<i8").tobytes())
    digest.update(content)

"""Fingerprints of contents: what documents, labels and gold labels say, whatever Parquet makes of it on disk.

Comes in: tables. Goes out: hex strings (32 digits) that depend on values and their order only. Those of shards are
combined in the order of the shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def table_fingerprint(table: pa.Table, columns: Iterable[str]) -> str:
    """Of the named columns (strings, fixed-size binary, booleans, or lists of strings or int32) of ``table``."""
    digest = hashlib.blake2b(digest_size=16)
    for name in columns:
        column = table[name]  # once: it may be read from a file for this
        _update(digest, column.type, column.chunks)
        del column  # before the next one is
    return digest.hexdigest()


def combined_fingerprint(parts: Iterable[str]) -> str:
    """One fingerprint of an ordered list of them."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _update(digest: hashlib.blake2b, kind: pa.DataType, chunks: Sequence[pa.Array]) -> None:
    """Lengths (-1 for null) and then contents, so that no two different columns give the same bytes.

    ``chunks``, of type ``kind``, are the column: texts of over 2 GiB are not to be had in one.
    """
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        _update(digest, kind.value_type, [chunk.flatten() for chunk in chunks])
    for chunk in chunks:
        digest.update(np.nan_to_num(_lengths(chunk).astype(np.float64), nan=-1).astype("<i8").tobytes())
    for chunk in chunks:
        digest.update(_content(chunk))  # which lets other threads work


def _lengths(chunk: pa.Array) -> npt.NDArray[Any]:
    """Of each value, NaN for null; 1 for those that are all of one length."""
    if pa.types.is_list(chunk.type):
        return np.asarray(pc.list_value_length(chunk).to_numpy(zero_copy_only=False))
    if pa.types.is_string(chunk.type):
        return np.asarray(pc.binary_length(chunk).to_numpy(zero_copy_only=False))
    return np.ones(len(chunk), np.int64)


def _content(chunk: pa.Array) -> bytes | memoryview:
    """The values one after the other; of lists of strings nothing, since their strings are a column of their own."""
    if pa.types.is_list(chunk.type):
        if pa.types.is_string(chunk.type.value_type):
            return b""
        return bytes(chunk.flatten().to_numpy(zero_copy_only=False).astype("<i4").tobytes())
    if pa.types.is_string(chunk.type):
        return _text_bytes(chunk)
    if pa.types.is_boolean(chunk.type):
        return bytes(chunk.to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
    return b"".join(chunk.to_pylist())


def _text_bytes(chunk: pa.StringArray) -> bytes | memoryview:
    """The texts one after the other, as UTF-8; without a null where they lie."""
    texts = chunk.drop_null()  # whose values may lie there all the same
    _, places, content = texts.buffers()
    if not len(texts) or content is None:
        return b""
    starts = np.frombuffer(places, np.int32, len(texts) + 1, texts.offset * 4)
    return memoryview(content)[starts[0] : starts[-1]]

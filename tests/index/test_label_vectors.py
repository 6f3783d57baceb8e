"""Joined label vectors whose files are not what was written: not used, and made anew by who has the slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.index.label_vectors import (
    find_label_vectors,
    join_label_vectors,
    label_vector_blocks,
    map_label_vectors,
)
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import label_vectors_schema

FOLDER = "cycle-0/label_vectors"


@pytest.fixture
def joined(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    vectors = pa.FixedSizeListArray.from_arrays(np.arange(12, dtype=np.float32), 3)
    table = pa.table([pa.array(range(4), pa.int32()), vectors], label_vectors_schema(3, "float32"))
    storage.write_table(f"{FOLDER}/shard-00000.parquet", table, {"truncated": 1, "unused_prompts": 0})
    join_label_vectors(storage, FOLDER)
    return storage


@pytest.mark.parametrize("name", ["vectors.json", "vectors.npy"])
@pytest.mark.parametrize("left", [0, 100, None])
def test_vectors_that_are_cut_or_gone_are_joined_anew(joined: Storage, name: str, left: int | None) -> None:
    file = Path(joined.path(f"{FOLDER}/{name}"))
    whole = file.read_bytes()
    file.unlink() if left is None else file.write_bytes(whole[:left])
    assert find_label_vectors(joined, FOLDER) is None
    with pytest.raises(UserError, match=r"vectors\.npy is damaged"):
        map_label_vectors(joined, FOLDER)
    with pytest.raises(UserError, match=r"vectors\.npy is damaged"):
        next(label_vector_blocks(joined, FOLDER, 0, 4))
    join_label_vectors(joined, FOLDER)
    assert file.read_bytes() == whole
    np.testing.assert_array_equal(map_label_vectors(joined, FOLDER), np.arange(12).reshape(4, 3))


def test_a_note_or_a_header_with_a_turned_bit_is_never_taken_for_whole(joined: Storage) -> None:
    for name, places in (("vectors.json", range(20, 2000)), ("vectors.npy", range(8 * 100))):
        file = Path(joined.path(f"{FOLDER}/{name}"))
        whole = file.read_bytes()
        for place in (one for one in places if one < 8 * len(whole)):
            flipped = bytearray(whole)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            try:
                found = map_label_vectors(joined, FOLDER)
            except UserError:
                continue
            assert found.shape == (4, 3) and found.dtype == np.float32
            np.testing.assert_array_equal(found, np.arange(12).reshape(4, 3))
        file.write_bytes(whole)

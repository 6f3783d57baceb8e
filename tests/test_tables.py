"""What tables.py does beside the schemas, against pyarrow's own on tables small enough for it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.tables import rows_of

TABLE = pa.table({"text": pa.chunked_array([["a", None], ["c"], ["d", "e"]]), "number": range(5)})


@pytest.mark.parametrize("rows", [[], [0, 1, 2, 3, 4], [1, 3], [4, 0, 2], [2, 2, 0, 2]])
def test_rows_are_those_that_take_gives(rows: list[int]) -> None:
    found = rows_of(TABLE, np.array(rows, np.int32))
    assert found.to_pylist() == TABLE.take(pa.array(rows, pa.int32())).to_pylist()


def test_rows_of_texts_beyond_two_gib() -> None:
    """Four times the same chunk, so that the texts are in memory once; a few short rows are taken."""
    chunk = pa.array(["x" * (1 << 27)] * 5 + ["short"])
    table = pa.table({"text": pa.chunked_array([chunk] * 4)})
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        table.take(pa.array([5, 11, 23]))
    assert rows_of(table, np.array([5, 11, 23])).to_pydict() == {"text": ["short"] * 3}


def test_rows_in_another_order_are_of_the_type_that_holds_more() -> None:
    """Texts beyond 2 GiB: take makes one array of all that it is asked for. (Tried by hand with 90 x 25 MiB.)"""
    assert rows_of(TABLE, np.array([4, 0])).schema.field("text").type == pa.large_string()

"""The summary of examples by chance, of three cycles, against a slow reference that looks at row after row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.run_files import summarize_examples
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.summary import (
    ALL,
    OWN,
    half_of,
    held_out_files,
    read_held_out,
    read_label_documents,
    read_shard_counts,
)
from ezxmc_ray.tables import EXAMPLES_SCHEMA, HELD_OUT_SCHEMA

SHARDS, DOCUMENTS, LABELS = 5, 12, 9
GROUPS = [range(2), range(2, 3), range(3, 5)]
Examples = list[list[list[dict[str, Any]]]]  # by cycle and shard


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def examples(storage: Storage) -> Examples:
    """Every cycle judged some documents of each shard; label 8 is in no shortlist, and shard 1 has no example."""
    draw = np.random.default_rng(0)
    found = [[[some(draw, row) for row in rows(draw, shard)] for shard in range(SHARDS)] for _ in range(3)]
    for cycle, shards in enumerate(found):
        for shard, table in enumerate(shards):
            storage.write_shard(f"cycle-{cycle}/examples", shard, pa.Table.from_pylist(table, EXAMPLES_SCHEMA))
        summarize_examples(storage, cycle, GROUPS)
    return found


def rows(draw: np.random.Generator, shard: int) -> list[int]:
    return [] if shard == 1 else sorted(draw.permutation(DOCUMENTS)[:7].tolist())


def some(draw: np.random.Generator, row: int) -> dict[str, Any]:
    size = int(draw.integers(0, 4))
    floats = {name: draw.random(size).tolist() for name in ("similarity", "base_similarity", "raw", "verdict")}
    return {"row": row, "held_out": row % 4 == 0, "labels": draw.permutation(LABELS - 1)[:size].tolist(), **floats}


@pytest.mark.parametrize(("cycle", "scope"), [(0, OWN), (1, OWN), (1, ALL), (2, OWN), (2, ALL)])
def test_counts_are_those_of_a_walk_through_the_examples(
    storage: Storage, examples: Examples, cycle: int, scope: str
) -> None:
    expected: list[tuple[int, int, int]] = []
    labels: Counter[int] = Counter()
    for shard in range(SHARDS):
        known: dict[int, dict[str, Any]] = {}
        for number in range(cycle + 1) if scope == ALL else [cycle]:
            known |= {one["row"]: one for one in examples[number][shard]}  # the latest one counts
        kinds = Counter((one["held_out"], bool(one["labels"])) for one in known.values())
        expected.append((kinds[False, True], kinds[False, False], kinds[True, True]))
        labels.update(label for one in known.values() if not one["held_out"] for label in one["labels"])
    found = read_shard_counts(storage, cycle, scope)
    assert list(zip(*(found[name].tolist() for name in found), strict=True)) == expected
    assert list(found) == ["rows", "empty_shortlists", "held_out"] and expected[1] == (0, 0, 0)
    of_labels = read_label_documents(storage, cycle, scope, LABELS)
    assert of_labels.tolist() == [labels[label] for label in range(LABELS)] and of_labels[8] == 0


def test_held_out_documents_come_in_their_order(storage: Storage, examples: Examples) -> None:
    names = ("row", "labels", "similarity", "base_similarity", "verdict")
    expected = [
        {"shard": shard, **{name: one[name] for name in names}}
        for shard, table in enumerate(examples[2])
        for one in table
        if one["held_out"]
    ]
    found = pa.concat_tables(read_held_out(storage, held_out_files(storage, 2))).to_pylist()
    assert [(one["shard"], one["row"], one["labels"]) for one in found] == [
        (one["shard"], one["row"], one["labels"]) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert all(one[name] == pytest.approx(other[name]) for name in names)


def test_trainings_and_the_selection_each_have_a_half_of_the_held_out_documents() -> None:
    """Also where the input has an order: documents of every second row, or of every second shard, are in both."""
    every_second_row = np.repeat(np.arange(40), 50), np.tile(np.arange(50) * 2, 40)
    for shard, row in (every_second_row, (np.arange(2000) * 2, [7] * 2000)):
        places = {"shard": shard, "row": row}
        columns = [
            pa.array(places[field.name], field.type) if field.name in places else pa.nulls(2000, field.type)
            for field in HELD_OUT_SCHEMA
        ]
        table = pa.Table.from_arrays(columns, schema=HELD_OUT_SCHEMA)
        halves = [half_of(table, of_training=which).select(["shard", "row"]).to_pylist() for which in (True, False)]
        assert sorted(map(str, halves[0] + halves[1])) == sorted(map(str, table.select(["shard", "row"]).to_pylist()))
        assert 900 < len(halves[0]) < 1100


@pytest.mark.usefixtures("examples")
def test_a_summary_that_is_not_there_is_one_sentence(storage: Storage) -> None:
    storage.remove("cycle-1/examples/summary/all-shards.parquet")
    with pytest.raises(UserError, match=r"all-shards\.parquet is damaged \(it is missing\)"):
        read_shard_counts(storage, 1, ALL)

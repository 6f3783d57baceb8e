"""The audit of the teacher reads the right rows of the right tables; without Ray, on tables made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.context import JudgedCycle
from ezxmc_ray.stages.evaluate import audit_teacher
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, GOLD_SCHEMA

NAN = float("nan")
SCALE = TargetScale(verdict_mean=0.0, verdict_std=1.0, similarity_mean=0.5, similarity_std=0.1)
JUDGED = JudgedCycle(pairs=0, pairs_asked=0, yes_threshold=0.0, scale=SCALE, own_scale=SCALE, readout="yes_no")


def example(row: int, labels: list[int], similarity: list[float], verdict: list[float]) -> dict[str, Any]:
    raw = [0.75 if value > 0 else 0.25 for value in verdict]
    return {
        "row": row,
        "held_out": False,
        "labels": labels,
        "similarity": similarity,
        "raw": raw,
        "verdict": verdict,
    }


#: A shard each: gold and excluded labels of every document, and the examples of those that were judged.
SHARDS: list[tuple[list[Any], list[list[int]], list[dict[str, Any]]]] = [
    (
        [[9], [5, 6], None, [7]],
        [[], [6], [], []],
        [
            example(1, [5, 6, 8], [0.6, 0.5, 0.4], [-1.0, 2.0, -2.0]),  # 6 is excluded, so only 5 is gold
            example(2, [5, 7], [0.6, 0.5], [1.0, 1.0]),  # no gold given
        ],
    ),
    ([None], [[]], []),
    (
        [[3, 4], []],
        [[], []],
        [
            example(0, [1, 3, 2, 4], [0.6, 0.5, 0.4, 0.3], [NAN, 1.0, -1.0, 2.0]),
            example(1, [1, 2], [0.6, 0.5], [1.0, -1.0]),  # gold given, but none
        ],
    ),
]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    for shard, (gold, excluded, examples) in enumerate(SHARDS):
        documents = [
            {"id": f"{shard}-{row}", "title": "", "text": "t", "split": "train", "held_out": False, "excluded": out}
            for row, out in enumerate(excluded)
        ]
        tables = {
            layout.DOCUMENTS: pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA),
            layout.GOLD: pa.table({"labels": pa.array(gold, GOLD_SCHEMA.field(0).type)}),
            "cycle-0/examples": pa.Table.from_pylist(examples, EXAMPLES_SCHEMA),
        }
        for folder, table in tables.items():
            storage.write_shard(folder, shard, table)
    return storage


def test_gold_measures_only_where_it_is_given_and_not_excluded(storage: Storage) -> None:
    found = audit_teacher(storage, 3, JUDGED, 5, True, 0)
    assert (found["gold_documents"], found["documents"]) == (2, 2)
    # Shard 0: 5 between 6 and 8. Shard 2: 3 and 4 above 2; the pair without a verdict is left out.
    assert found["auc"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["similarity_auc"] == pytest.approx((1.0 + 0.5) / 2)
    # A tenth of similarity weighs as much as one of the verdict: 5 at 0, 6 at 2, 8 at -3; 3 at 1, 2 at -2, 4 at 0.
    assert found["fusion_auc"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["P@1"] == {"verdict": 50.0, "similarity": 100.0, "fusion": 50.0}
    assert (found["at_yes_threshold"]["pairs"], found["at_yes_threshold"]["share_gold"]) == (6, 0.5)
    assert (found["at_yes_threshold"]["precision"], found["at_yes_threshold"]["recall"]) == (2 / 3, 2 / 3)
    assert found["unjudged_pairs"] == 1


@pytest.mark.parametrize("has_gold", [True, False])
def test_the_share_of_yes_by_rank_is_of_all_documents(storage: Storage, has_gold: bool) -> None:
    found = audit_teacher(storage, 3, JUDGED, 5, has_gold, 0)
    assert found["share_yes_by_rank"] == [2 / 3, 3 / 4, 0 / 2, 1.0]
    assert (found["auc"] is None) is not has_gold

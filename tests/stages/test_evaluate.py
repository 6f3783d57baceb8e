"""The audit of the teacher reads the right rows of the right tables; without Ray, on tables made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.context import Context, JudgedCycle, stored_configuration
from ezxmc_ray.stages import evaluate
from ezxmc_ray.stages.evaluate import AuditSettings, audit_teacher, commits_of, write_sample
from ezxmc_ray.storage import Storage, read_manifest
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, GOLD_SCHEMA, LABELS_SCHEMA, PREDICTIONS_SCHEMA
from tests.report.made_runs import made_run

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
    found = audit_teacher(storage, 3, AuditSettings(JUDGED, 5, True, 0))
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
    found = audit_teacher(storage, 3, AuditSettings(JUDGED, 5, has_gold, 0))
    assert found["share_yes_by_rank"] == [2 / 3, 3 / 4, 0 / 2, 1.0]
    assert (found["auc"] is None) is not has_gold


def test_of_too_many_pairs_documents_are_drawn_and_the_share_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    rows = [example(row, [1, 2], [0.6, 0.5], [1.0, -1.0]) for row in range(500)]
    documents = [{"id": str(n), "title": "", "text": "", "split": "train", "excluded": []} for n in range(500)]
    for shard in range(2):
        storage.write_shard("cycle-0/examples", shard, pa.Table.from_pylist(rows, EXAMPLES_SCHEMA))
        storage.write_shard("documents", shard, pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
        storage.write_shard("gold", shard, pa.table({"labels": pa.array([[1]] * 500, GOLD_SCHEMA.field(0).type)}))
    settings = AuditSettings(replace(JUDGED, pairs=2000), 2, True, 0)
    assert audit_teacher(storage, 2, settings)["gold_documents"] == 1000
    monkeypatch.setattr(evaluate, "MAX_AUDITED_PAIRS", 500)
    found = audit_teacher(storage, 2, settings)
    assert found["audited_share"] == 0.25
    assert 200 < found["gold_documents"] == found["documents"] < 300
    assert found == audit_teacher(storage, 2, settings)
    assert found["share_yes_by_rank"] == [1.0, 0.0]  # of all documents


class CountsReads(Storage):
    """Counts the tables and the columns that are read of each."""

    def read_table(self, relative: str, schema: pa.Schema | None = None, columns: list[str] | None = None) -> pa.Table:
        self.read = [*getattr(self, "read", []), (relative, columns)]
        return super().read_table(relative, schema, columns)


@pytest.mark.parametrize("has_gold", [True, False])
def test_the_sample_is_the_first_test_documents_and_reads_no_more_than_these(tmp_path: Path, has_gold: bool) -> None:
    storage, shards, given = CountsReads(str(tmp_path)), 100, {3: [1, 4], 20: [0, 1, 2, 3]}
    labels = [{"id": str(n), "text": f"label {n}", "description": "", "content_hash": bytes(16)} for n in range(9)]
    storage.write_table("labels.parquet", pa.Table.from_pylist(labels, LABELS_SCHEMA))
    for shard in range(shards):
        splits = ["test" if row in given.get(shard, []) else "train" for row in range(5)]
        ids = [f"{shard}-{row}" for row in range(5)]
        rows = [{"id": one, "title": f"T {one}", "text": "t", "split": s} for one, s in zip(ids, splits, strict=True)]
        tags = [{"id": one, "label_ids": ["x"], "label_texts": [f"of {one}"], "scores": [0.5]} for one in ids]
        gold = pa.array([[shard % 9, 8] if row else None for row in range(5)], GOLD_SCHEMA.field(0).type)
        for folder, table in {
            "documents": pa.Table.from_pylist(rows, DOCUMENTS_SCHEMA),
            "predictions": pa.Table.from_pylist(tags, PREDICTIONS_SCHEMA),
            "gold": pa.table({"labels": gold}),
        }.items():
            storage.write_shard(folder, shard, table)
    write_sample(storage, shards, 4, has_gold, "sample.parquet")
    read, found = storage.read, storage.read_table("sample.parquet").to_pylist()
    assert [row["id"] for row in found] == ["3-1", "3-4", "20-0", "20-1"]
    assert [row["title"] for row in found] == [f"T {row['id']}" for row in found]
    assert [row["predicted"] for row in found] == [[f"of {row['id']}"] for row in found]
    gold_texts = [["label 3", "label 8"]] * 2 + [None, ["label 2", "label 8"]]
    assert [row["gold"] for row in found] == (gold_texts if has_gold else [None] * 4)
    assert sum(columns == ["split"] for _, columns in read) == 20 + 16  # shards, sixteen at a time
    assert sum(name.startswith(("documents", "predictions", "gold")) for name, _ in read) == 36 + 4 + 2 * has_gold
    write_sample(storage, shards, 0, has_gold, "sample.parquet")
    assert len(storage.read_table("sample.parquet")) == 0


def test_the_sample_marks_the_same_label_and_not_one_of_the_same_text(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    labels = [("bank-of-a-river", "bank"), ("bank-of-money", "bank"), ("loan", "loan"), ("itself", "itself")]
    table = [{"id": one, "text": text, "description": "", "content_hash": bytes(16)} for one, text in labels]
    storage.write_table("labels.parquet", pa.Table.from_pylist(table, LABELS_SCHEMA))
    gold: list[list[int] | None] = [[1, 2, 3], [3], [], None]
    documents = [{"id": str(n), "text": "t", "split": "test", "excluded": [3]} for n in range(len(gold))]
    tags = {"label_ids": ["bank-of-a-river", "loan"], "label_texts": ["bank", "loan"], "scores": [0.75, 0.5]}
    predicted = [tags | {"id": str(n)} for n in range(len(gold))]
    storage.write_shard("documents", 0, pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
    storage.write_shard("predictions", 0, pa.Table.from_pylist(predicted, PREDICTIONS_SCHEMA))
    storage.write_shard("gold", 0, pa.table({"labels": pa.array(gold, GOLD_SCHEMA.field(0).type)}))
    write_sample(storage, 1, 4, True, "sample.parquet")
    found = storage.read_table("sample.parquet").to_pylist()
    assert [row["predicted"] for row in found] == [["bank", "loan"]] * 4
    # An excluded label counts in no measure, so it is no gold one here either.
    assert [row["gold"] for row in found] == [["bank", "loan"], [], [], None]
    assert [row["is_gold"] for row in found] == [[False, True], [False] * 2, [False] * 2, None]
    assert [row["is_predicted"] for row in found] == [[False, True], [], [], None]


@pytest.mark.parametrize("skills", [(0.2,), (0.2, 0.5, 0.7)])
def test_the_evaluation_notes_what_it_goes_back_to(tmp_path: Path, skills: tuple[float, ...]) -> None:
    """So that ``ezxmc compare`` knows a run that is being redone."""
    storage = Storage(made_run(tmp_path, skills, chosen=None))
    evaluated = read_manifest(storage, layout.EVALUATION)
    assert evaluated is not None
    commits = commits_of(Context(stored_configuration(storage), storage))
    assert commits == evaluated.details["commits"] and len(commits) == 2 * len(skills) - 1

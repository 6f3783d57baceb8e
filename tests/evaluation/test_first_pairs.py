"""The first few hundred pairs of cycle 0: which ones, in which order they are asked for, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig, load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.evaluation.first_pairs import FirstPairs, audit_first_pairs, lacking_shards
from ezxmc_ray.stages.judge import _items
from ezxmc_ray.stages.judge_worker import PAIRS
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    LABELS_SCHEMA,
    NO_DOCUMENT,
    SHORTLIST_SCHEMA,
    VERDICTS_SCHEMA,
    content_hash,
)
from ezxmc_ray.verdicts.shortlist_pairs import plan_priors
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore

SHARDS, ROWS, SIZE, LABEL_COUNT = 2, 40, 10, 30
SIMILARITY = np.linspace(0.9, 0.1, SIZE)


def labels_of(shard: int, row: int) -> list[int]:
    return np.random.default_rng([shard, row]).permutation(LABEL_COUNT)[:SIZE].tolist()


def label_hash(label: int) -> bytes:
    return content_hash("", f"label {label}")


def here(function: Callable[..., Any], *arguments: Any, cpus: float = 1) -> Any:
    """A task in this process."""
    return function(*arguments)


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """A run of two shards of 40 documents with shortlists of ten labels; nothing is judged."""
    storage = Storage(str(tmp_path))
    rows: list[dict[str, Any]] = [
        {"id": str(n), "text": f"label {n}", "description": "", "content_hash": label_hash(n)}
        for n in range(LABEL_COUNT)
    ]
    storage.write_table("labels.parquet", pa.Table.from_pylist(rows, LABELS_SCHEMA))
    for shard in range(SHARDS):
        document = {"title": "", "text": "", "split": "train", "held_out": False, "excluded": []}
        rows = [
            document | {"id": f"{shard}-{row}", "content_hash": content_hash("", f"{shard}-{row}")}
            for row in range(ROWS)
        ]
        storage.write_shard("documents", shard, pa.Table.from_pylist(rows, DOCUMENTS_SCHEMA))
        similarity = {"similarity": SIMILARITY.tolist(), "base_similarity": SIMILARITY.tolist()}
        rows = [{"row": row, "labels": labels_of(shard, row)} | similarity for row in range(ROWS)]
        storage.write_shard("cycle-0/shortlist", shard, pa.Table.from_pylist(rows, SHORTLIST_SCHEMA))
    config = load_config(None, ["teacher.batch_documents=16", "teacher.readout=yes_no"])
    return SimpleNamespace(storage=storage, shards=SHARDS, config=config, teacher=config.teacher)


def judge(context: Any, shard: int, row: int, raw: np.ndarray) -> None:
    """Store the raw scores, [SIZE], of a document's labels."""
    document = content_hash("", f"{shard}-{row}")
    append(context, layout.shard_name(shard), [(document, label_hash(n)) for n in labels_of(shard, row)], raw)


def append(context: Any, folder: str, pairs: list[tuple[bytes, bytes]], raw: np.ndarray) -> None:
    documents, labels = zip(*pairs, strict=True)
    columns = [documents, labels, raw, [1] * len(pairs), [False] * len(pairs)]
    table = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, VERDICTS_SCHEMA, strict=True)], schema=VERDICTS_SCHEMA
    )
    VerdictStore(context.storage, "key").append(folder, table)


def teacher(**knobs: Any) -> TeacherConfig:
    return TeacherConfig(**{"calibration": "none", "readout": "yes_no", **knobs})


def test_the_first_pairs_are_300_of_all_shards_and_the_others_follow_each_once(context: Any) -> None:
    rows = FirstPairs(context, "key", 0, here).rows
    assert rows == [(0, 15), (1, 15)]
    first, others = _items(context, 0, 1, dict(rows))
    expected = [{"kind": PAIRS, "shard": shard, "start": 0, "stop": 15} for shard in range(SHARDS)]
    assert first == expected
    asked = [(item["shard"], row) for item in first + others for row in range(item["start"], item["stop"])]
    assert sorted(asked) == [(shard, row) for shard in range(SHARDS) for row in range(ROWS)]
    assert FirstPairs(context, "key", 1, here).rows == []


def test_priors_of_the_first_pairs_labels_are_planned_before_the_others(context: Any) -> None:
    append(context, PRIORS, [(NO_DOCUMENT, label_hash(labels_of(0, 0)[0]))], np.array([0.5]))
    planned, ahead = plan_priors(context.storage, "key", 0, range(SHARDS), [(0, 2)])
    first = set(labels_of(0, 0)[1:] + labels_of(0, 1)) - {labels_of(0, 0)[0]}
    plan = context.storage.read_table(layout.pending_priors(0))["label"].to_pylist()
    assert (planned, ahead) == (LABEL_COUNT - 1, len(first))
    assert set(plan[:ahead]) == first and sorted(plan) == sorted(set(range(LABEL_COUNT)) - {labels_of(0, 0)[0]})


def test_labels_with_one_text_have_one_prior_in_the_plan(context: Any) -> None:
    labels = context.storage.read_table("labels.parquet", LABELS_SCHEMA).to_pylist()
    labels[7] |= {name: labels[3][name] for name in ("text", "content_hash")}
    context.storage.write_table("labels.parquet", pa.Table.from_pylist(labels, LABELS_SCHEMA))
    for first in ([], [(0, 2)], [(shard, ROWS) for shard in range(SHARDS)]):
        planned, ahead = plan_priors(context.storage, "key", 0, range(SHARDS), first)
        plan = context.storage.read_table(layout.pending_priors(0))["label"].to_pylist()
        assert planned == len(plan) == LABEL_COUNT - 1 and len({3, 7} & set(plan)) == 1
        on_top = {number for shard, rows in first for row in range(rows) for number in labels_of(shard, row)}
        assert set(plan[:ahead]) == on_top & set(plan) and not on_top & set(plan[ahead:])


def test_shards_whose_first_rows_are_all_judged_lack_nothing(context: Any) -> None:
    for row in range(15):
        judge(context, 0, row, SIMILARITY)
    assert lacking_shards(context.storage, "key", [(0, 15), (1, 15)]) == {1}
    assert lacking_shards(context.storage, "key", [(0, 16)]) == {0}
    assert lacking_shards(context.storage, "key", []) == set()


def test_documents_without_all_their_verdicts_are_left_out(context: Any) -> None:
    rows = [(0, 15), (1, 15)]
    for row in range(15):
        judge(context, 0, row, SIMILARITY)
    assert audit_first_pairs(context.storage, "key", rows, teacher()) is None
    for row in range(10):
        judge(context, 1, row, SIMILARITY)
    found = audit_first_pairs(context.storage, "key", rows, teacher())
    assert found is not None
    assert (found["documents"], found["pairs"], found["sentence"]) == (25, 250, None)
    assert found["agreement"] == pytest.approx(1)


def test_verdicts_are_looked_at_as_they_are_calibrated(context: Any) -> None:
    """A teacher that goes by the label alone is constant once the label's own score is taken away."""
    own = np.random.default_rng(0).uniform(0.1, 0.9, LABEL_COUNT)
    append(context, PRIORS, [(NO_DOCUMENT, label_hash(n)) for n in range(LABEL_COUNT)], own)
    for shard in range(SHARDS):
        for row in range(15):
            judge(context, shard, row, own[labels_of(shard, row)])
    found = audit_first_pairs(context.storage, "key", [(0, 15), (1, 15)], teacher(calibration="label_prior"))
    assert found is not None and found["ties"] == 1 and "the same score" in found["sentence"]


def judge_noise(context: Any) -> None:
    rng = np.random.default_rng(3)
    for shard in range(SHARDS):
        for row in range(15):
            judge(context, shard, row, rng.uniform(size=SIZE))


@pytest.mark.parametrize("held", [True, False])
def test_a_weak_teacher_is_told_once_when_its_first_pairs_are_there(
    context: Any, capsys: pytest.CaptureFixture[str], held: bool
) -> None:
    context.config.teacher.calibration = "none"
    first, items = FirstPairs(context, "key", 0, here), [{"kind": PAIRS, "shard": 0}, {"kind": PAIRS, "shard": 1}]
    if not held:
        first.wait_for(items)
        first.done({"kind": PAIRS, "shard": 7})
        first.done(items[1])
        assert first.found is None and capsys.readouterr().out == ""
    judge_noise(context)
    if held:
        first.wait_for([])
    else:
        first.done(items[0])
    assert first.found is not None and first.found["pairs"] == 300
    assert capsys.readouterr().out.count("After 300 pairs the teacher looks like noise") == 1
    first.done({"kind": PAIRS, "shard": 9})
    assert capsys.readouterr().out == ""


def test_a_weak_teacher_ends_the_run_if_that_is_wanted(context: Any) -> None:
    context.config.teacher.calibration, context.config.teacher.on_weak = "none", "fail"
    judge_noise(context)
    with pytest.raises(UserError, match=r"^After 300 pairs .* looks like noise.*teacher\.on_weak=fail\)\.$"):
        FirstPairs(context, "key", 0, here).wait_for([])
    FirstPairs(context, "key", 1, here).wait_for([])  # what has been paid for already

"""Verdicts minus what their labels score by themselves: by label number, read once a task."""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import context, layout
from ezxmc_ray.config import load_config
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import EXAMPLES_SCHEMA, NO_DOCUMENT, SHORTLIST_SCHEMA, content_hash
from ezxmc_ray.verdicts import examples
from tests.verdicts.judged_run import KEY, OLD, PAIRS, Run, score


def logit(value: float) -> float:
    return float(np.log(value) - np.log1p(-value))


@pytest.mark.parametrize("tasks", [1, 3])
def test_every_verdict_is_less_its_labels_prior_which_is_read_once_a_task(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    run = make_run(OLD)
    draw = np.random.default_rng(0)
    for shard, count in enumerate(run.context.prepared.shard_rows):
        labels = [draw.permutation(PAIRS + 1)[:PAIRS].tolist() for _ in range(count)]
        others = {"similarity": [0.5] * PAIRS, "base_similarity": [0.5] * PAIRS}
        rows = [{"row": row, "labels": one, **others} for row, one in enumerate(labels)]
        run.storage.write_shard("cycle-0/shortlist", shard, pa.Table.from_pylist(rows, SHORTLIST_SCHEMA))
    run.judge()
    run.judge_priors()
    read: list[str] = []
    read_table = Storage.read_table
    monkeypatch.setattr(Storage, "read_table", lambda *a: read.append(a[1]) or read_table(*a))
    monkeypatch.setattr(examples, "MAX_TASKS", tasks)
    teacher = load_config(None, ["teacher.readout=yes_no"]).teacher
    given: Any = SimpleNamespace(storage=run.storage, shards=run.context.shards, teacher=teacher)
    reading = examples.Reading(KEY, "yes_no", "label_prior")
    assert examples.make_examples(given, 0, reading, starmap).rows == PAIRS * len(OLD)
    assert read.count(layout.label_priors(0)) == tasks
    assert sum("/priors/" in name for name in read) == 1  # the store itself: once
    assert not run.storage.exists(layout.label_priors(0))
    for shard, count in enumerate(run.context.prepared.shard_rows):
        documents = run.storage.read_table(layout.shard_file("documents", shard)).to_pylist()
        rows = run.storage.read_shard("cycle-0/examples", shard, EXAMPLES_SCHEMA).to_pylist()
        assert len(rows) == count
        for row in rows:
            keys = [content_hash("", f"label {number}") for number in row["labels"]]
            raw = [score(documents[row["row"]]["content_hash"], key) for key in keys]
            prior = [score(NO_DOCUMENT, key) for key in keys]
            expected = [logit(one) - logit(other) for one, other in zip(raw, prior, strict=True)]
            assert row["verdict"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shards", [1, 2, 63, 64, 65, 2442])
def test_groups_are_all_shards_in_order_and_few(shards: int) -> None:
    groups = context.shard_groups(shards)
    assert [shard for group in groups for shard in group] == list(range(shards))
    assert len(groups) == min(shards, context.MAX_GROUPS)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1

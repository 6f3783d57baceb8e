"""The scales of a cycle's examples: that of the targets is of the base encoder's similarities, another of its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.run_files import summarize_examples
from ezxmc_ray.config import load_config
from ezxmc_ray.context import JudgedCycle
from ezxmc_ray.stages import select
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, SHORTLIST_SCHEMA, content_hash
from ezxmc_ray.verdicts import examples

RAW = [[1.0, 0.0], [0.5, 0.25, 0.75]]
OWN, START = [[0.9, 0.7], [0.8, 0.6, 0.5]], [[0.3, 0.4], [0.1, 0.2, 0.0]]


Made = tuple[Storage, dict[str, Any], list[str]]


class AnsweredPairs:
    """In place of verdicts.shortlist_pairs.ShortlistPairs: every pair has been judged."""

    def __init__(self, storage: Storage, key: str, cycle: int) -> None:
        """As its model; nothing is looked up."""
        self.storage, self.cycle = storage, cycle

    def pairs(self, shard: int) -> dict[str, list[Any]]:
        return {"label": []}

    def raw(self, shard: int, pairs: dict[str, list[Any]]) -> np.ndarray:
        return np.array(RAW[shard], np.float32)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Two shards of a document each, joined; what the manifest says of them, and their files."""
    monkeypatch.setattr(examples, "ShortlistPairs", AnsweredPairs)
    storage = Storage(str(tmp_path))
    for shard, (own, start) in enumerate(zip(OWN, START, strict=True)):
        document = {"id": str(shard), "title": "", "text": "", "split": "train", "held_out": False, "excluded": []}
        rows = [document | {"content_hash": content_hash("", str(shard))}]
        storage.write_shard("documents", shard, pa.Table.from_pylist(rows, DOCUMENTS_SCHEMA))
        row = {"row": 0, "labels": list(range(len(own))), "similarity": own, "base_similarity": start}
        storage.write_shard("cycle-1/shortlist", shard, pa.Table.from_pylist([row], SHORTLIST_SCHEMA))
        storage.write_shard("cycle-0/examples", shard, pa.Table.from_pylist([], EXAMPLES_SCHEMA))
    teacher = load_config(None, ["teacher.readout=yes_no"]).teacher
    context: Any = SimpleNamespace(storage=storage, shards=2, teacher=teacher)
    done = examples.make_examples(context, 1, examples.Reading("key", "yes_no", "none"), starmap)
    assert done.rows == 5
    return storage, done.details, done.files


def test_each_similarity_has_its_own_column_and_scale(made: Made) -> None:
    storage, details, _ = made
    verdicts: list[float] = []
    for shard, (own, start, raw) in enumerate(zip(OWN, START, RAW, strict=True)):
        (row,) = storage.read_shard("cycle-1/examples", shard, EXAMPLES_SCHEMA).to_pylist()
        assert row["similarity"] == pytest.approx(own) and row["base_similarity"] == pytest.approx(start)
        assert row["raw"] == pytest.approx(raw)
        verdicts += row["verdict"]
    for name, similarities in (("scale", START), ("own_scale", OWN)):
        values = [np.array(verdicts), np.concatenate(similarities)]
        assert details[name] == pytest.approx(
            {
                "verdict_mean": values[0].mean(),
                "verdict_std": values[0].std(),
                "similarity_mean": values[1].mean(),
                "similarity_std": values[1].std(),
            },
            rel=1e-5,
        )


def test_the_summary_is_that_of_the_examples_and_belongs_to_them(made: Made) -> None:
    storage, _, files = made
    names = [name for name in files if "/summary/" in name]
    written = {name: storage.read_table(name) for name in names}
    assert storage.list("cycle-1/examples/summary") == sorted(names)
    assert sorted(files) == sorted([*names, *storage.list("cycle-1/examples", ".parquet")])
    assert storage.list("cycle-1/label_documents") == []
    storage.remove("cycle-1/examples/summary")
    assert summarize_examples(storage, 1, examples.example_groups(2)) == names
    assert {name: storage.read_table(name) for name in names} == written


def test_the_threshold_of_a_yes_is_fitted_or_given(made: Made) -> None:
    storage, fitted, _ = made
    assert fitted["yes_threshold"] != 0
    # Of log ratios: P(yes) of a half and more.
    teacher = load_config(None, ["teacher.readout=yes_no", "teacher.yes_threshold=0"]).teacher
    context: Any = SimpleNamespace(storage=storage, shards=2, teacher=teacher)
    details = examples.make_examples(context, 1, examples.Reading("key", "yes_no", "none"), starmap).details
    assert (details["yes_threshold"], details["share_yes"]) == (0.0, 3 / 5)


def test_encoders_are_compared_by_the_scales_of_their_own_similarities(
    monkeypatch: pytest.MonkeyPatch, make_scale: Callable[[float], TargetScale]
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(select, "score_encoders", lambda *arguments: given.extend(arguments) or {"documents": 4})
    context: Any = SimpleNamespace(
        judged=lambda cycle: JudgedCycle(8, 8, 0.0, make_scale(9.0), make_scale(cycle), "yes_no"),
        prepared=SimpleNamespace(held_out=4),
        halves_held_out=False,
        config=load_config(None, []),
        storage=None,
        shards=1,
    )
    select._compare(context, 3, "select")
    assert given[3] == [make_scale(cycle) for cycle in range(3)]


@pytest.fixture
def make_scale() -> Callable[[float], TargetScale]:
    return lambda mean: TargetScale(0.0, 1.0, mean, 1.0)

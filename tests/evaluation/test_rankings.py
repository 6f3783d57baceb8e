"""Measuring a run's rankings reads the right rows, counts labels where gold is, and says where it counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezxmc_ray import metrics
from ezxmc_ray.config import EvaluateConfig
from ezxmc_ray.evaluation import rankings
from ezxmc_ray.evaluation.rankings import label_counts, measure_encoders, ranking_of_shard
from ezxmc_ray.storage import Storage
from tests.report.made_runs import LABEL_COUNT, TRAIN_DOCUMENTS, documents, made_run, ranking

NAMES = ["untrained", "cycle_0"]


def gold_labels(row: dict[str, Any]) -> list[int]:
    return [label for label in row["gold"] if label not in row["excluded"]]


def of_test_split(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["split"] == "test"]


def measured(root: str, shards: int = 2) -> dict[str, Any]:
    return measure_encoders(Storage(root), NAMES, shards, LABEL_COUNT, EvaluateConfig(), 0)


def test_measures_are_those_of_all_test_documents_with_gold(tmp_path: Path) -> None:
    rows = of_test_split(documents(0))
    found = measured(made_run(tmp_path))
    for name, skill in zip(NAMES, (0.2, 0.6), strict=True):
        ranked = np.array([ranking(row, skill) for row in rows], np.int32)
        expected = metrics.evaluate(ranked, [np.array(gold_labels(row)) for row in rows])
        assert {key: found["metrics"][name][key] for key in expected} == pytest.approx(expected, abs=1e-9)
        low, high = found["intervals"][name]["PSP@5"]
        assert low < found["metrics"][name]["PSP@5"] < high
    assert found["metrics"]["cycle_0"]["documents"] == sum(len(gold_labels(row)) > 0 for row in rows) < len(rows)
    over = found["over_untrained"]["cycle_0"]["P@1"]
    difference = found["metrics"]["cycle_0"]["P@1"] - found["metrics"]["untrained"]["P@1"]
    assert over["difference"] == pytest.approx(difference, abs=1e-9)
    assert over["interval"][0] > 0
    assert list(found["over_untrained"]) == ["cycle_0"]


def test_shards_do_not_change_a_measure(tmp_path: Path) -> None:
    one = measured(made_run(tmp_path / "one", cuts=()), 1)
    three = measured(made_run(tmp_path / "three", cuts=(25, 41)), 3)
    assert one == three


def test_sums_of_shards_give_the_same_measures_and_intervals_as_all_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are more documents than are drawn from; the interval is the bootstrap's but for its own chance."""
    rows = [row | {"id": f"{seed}-{row['id']}"} for seed in range(10) for row in documents(seed)]
    root = made_run(tmp_path, rows=rows, cuts=(130, 131, 400))
    drawn = measured(root, 4)
    monkeypatch.setattr(rankings, "MAX_DRAWN", 0)
    summed = measured(root, 4)
    assert summed["label_bins"] == drawn["label_bins"] and summed["label_counts"] == drawn["label_counts"]
    for name in NAMES:
        assert summed["metrics"][name] == pytest.approx(drawn["metrics"][name], rel=1e-9)
        check_intervals(summed["intervals"][name], drawn["intervals"][name])
    summed, drawn = (one["over_untrained"]["cycle_0"] for one in (summed, drawn))
    assert {k: v["difference"] for k, v in summed.items()} == pytest.approx(
        {k: v["difference"] for k, v in drawn.items()}, abs=1e-9
    )
    check_intervals({k: v["interval"] for k, v in summed.items()}, {k: v["interval"] for k, v in drawn.items()})


def check_intervals(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Their ends are apart by a fifteenth of the expected one's width at most."""
    for name, (low, high) in expected.items():
        assert found[name] == pytest.approx((low, high), abs=max(1e-9, (high - low) / 15)), name


@pytest.mark.parametrize(("gold", "split"), [("all", "train"), ("test", "test")])
def test_labels_are_counted_on_train_gold_or_else_on_the_test_documents(tmp_path: Path, gold: str, split: str) -> None:
    root = made_run(tmp_path, gold=gold)
    counted = label_counts(Storage(root), 2, LABEL_COUNT)
    rows = [row for row in documents(0) if row["split"] == split]
    expected = np.bincount([label for row in rows for label in gold_labels(row)], minlength=LABEL_COUNT)
    assert (counted.counted_from, counted.documents) == (split, len(rows))
    assert counted.counts.tolist() == expected.tolist()
    told = measured(root)["label_counts"]
    assert told == {"counted_from": split, "documents": len(rows), "propensity_a": 0.55, "propensity_b": 1.5}


def test_propensities_follow_the_counts_and_the_knobs(tmp_path: Path) -> None:
    storage = Storage(made_run(tmp_path))
    settings = EvaluateConfig(propensity_a=0.6, propensity_b=2.6)
    found = measure_encoders(storage, NAMES, 2, LABEL_COUNT, settings, 0)["metrics"]["cycle_0"]
    counted = label_counts(storage, 2, LABEL_COUNT)
    inverse = metrics.inverse_propensities(counted.counts, TRAIN_DOCUMENTS, 0.6, 2.6)
    rows = of_test_split(documents(0))
    ranked = np.array([ranking(row, 0.6) for row in rows], np.int32)
    gained, best = metrics.propensity_ndcg_at_k(ranked, [np.array(gold_labels(row)) for row in rows], inverse, 5)
    assert found["PSnDCG@5"] == pytest.approx(100 * gained.sum() / best.sum(), abs=1e-9)
    assert found["PSnDCG@5"] != measured(str(tmp_path))["metrics"]["cycle_0"]["PSnDCG@5"]


def test_bins_hold_every_label_once_and_say_what_is_tested(tmp_path: Path) -> None:
    bins = measured(made_run(tmp_path))["label_bins"]
    assert [row["bin"] for row in bins] == ["head", "torso", "tail", "never seen"]
    assert sum(row["labels"] for row in bins) == LABEL_COUNT
    wanted = [label for row in of_test_split(documents(0)) for label in gold_labels(row)]
    assert sum(row["test_assignments"] for row in bins) == len(wanted)
    assert sum(row["test_labels"] for row in bins) == len(set(wanted))
    assert (bins[3]["min_documents"], bins[3]["max_documents"]) == (0, 0)
    assert (
        bins[3]["encoders"]["untrained"]["macro-R@10"]["value"] < bins[3]["encoders"]["cycle_0"]["macro-R@10"]["value"]
    )


def test_rankings_shorter_than_ten_are_padded(tmp_path: Path) -> None:
    rows = of_test_split(documents(0))[:2]
    storage = Storage(made_run(tmp_path, rows=rows, cuts=()))
    table = storage.read_table("evaluation/encoder-0/shard-00000.parquet")
    short = table.set_column(1, "labels", [[[3, 1], []]]).cast(table.schema)
    storage.write_table("evaluation/encoder-0/shard-00000.parquet", short)
    found = ranking_of_shard(storage, 0, 0, np.ones(LABEL_COUNT))
    expected = [[3, 1, *[-1] * 8], [-1] * 10]
    assert found.first.tolist() == [row for row, document in zip(expected, rows, strict=True) if gold_labels(document)]


def test_test_documents_without_gold_labels_leave_nothing_to_measure(tmp_path: Path) -> None:
    rows = [row | {"gold": []} for row in documents(0)]
    found = measured(made_run(tmp_path, rows=rows))
    assert found["metrics"]["cycle_0"]["documents"] == 0
    assert math.isnan(found["metrics"]["cycle_0"]["PSP@1"])
    assert found["intervals"]["cycle_0"]["P@1"] is None
    assert found["label_counts"]["counted_from"] == "test"

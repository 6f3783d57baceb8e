"""The comparison of encoders by the teacher's judgment: scores, standard errors, and the newest one's lead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.run_files import summarize_examples
from ezxmc_ray.config import load_config
from ezxmc_ray.cycles import stops
from ezxmc_ray.stages.select import (
    ADDED_UP,
    Shortlist,
    fit_thresholds,
    pool_target,
    score_encoders,
    summarize,
    with_asked,
)
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.student.validation import gains_of, graded_ndcg
from ezxmc_ray.tables import EXAMPLES_SCHEMA
from ezxmc_ray.verdicts.examples import example_groups


def test_scores_and_leads_are_means_with_their_standard_errors() -> None:
    table = np.random.default_rng(0).uniform(0, 1, (40, 4))
    table[:, 2] += 0.3  # the best one before the newest
    found = summarize(table)
    for number, score in enumerate(found["scores"]):
        over_start = table[:, number] - table[:, 0]
        assert score["score"] == pytest.approx(100 * table[:, number].mean())
        assert score["standard_error"] == pytest.approx(100 * table[:, number].std(ddof=1) / np.sqrt(40))
        assert score["difference"] == pytest.approx(100 * over_start.mean())
        assert score["difference_standard_error"] == pytest.approx(100 * over_start.std(ddof=1) / np.sqrt(40))
    lead = table[:, 3] - table[:, 2]
    assert found["lead"] == {
        "over": "cycle_1",
        "difference": pytest.approx(100 * lead.mean()),
        "standard_error": pytest.approx(100 * lead.std(ddof=1) / np.sqrt(40)),
        "documents": 40,
    }


def test_noise_between_equally_good_encoders_seldom_stops_the_cycles() -> None:
    draw = np.random.default_rng(1)
    leads = [summarize(draw.uniform(0, 1, (60, 2)))["lead"] for _ in range(1000)]
    assert np.mean([stops(lead, -1.0) for lead in leads]) == pytest.approx(0.16, abs=0.03)
    assert np.mean([stops(lead, 1.0) for lead in leads]) == pytest.approx(0.84, abs=0.03)


def test_nothing_held_out_compares_nothing_and_stops_nothing() -> None:
    found = summarize(np.zeros((0, 3)))
    assert found["documents"] == 0 and [one["score"] for one in found["scores"]] == [None] * 3
    assert not stops(found["lead"], 1.0)


def shortlist(labels: list[int], similarity: list[float], verdict: list[float]) -> Shortlist:
    return Shortlist(np.array(labels, np.int32), np.array(similarity, np.float32), np.array(verdict, np.float32))


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 0.75), (0.95, -1.0)])
def test_without_a_yes_among_held_out_pairs_every_label_is_kept(
    tmp_path: Path, threshold: float, expected: float
) -> None:
    storage = Storage(str(tmp_path))
    lists = {"labels": [1, 2], "similarity": [0.75, 0.25], "base_similarity": [0.5, 0.5], "raw": [0.9, 0.1]}
    rows = [{"row": 0, "held_out": True, "verdict": [0.9, 0.1], **lists}]
    rows.append({"row": 1, "held_out": False, "verdict": [1.0, 1.0], **lists})
    for cycle in (0, 1):
        storage.write_shard(f"cycle-{cycle}/examples", 0, pa.Table.from_pylist(rows, EXAMPLES_SCHEMA))
    summarize_examples(storage, 1, [range(1)])
    found = fit_thresholds(storage, 1, 1, threshold)
    assert found["min_score"] == expected
    assert (found["precision_thresholds"] is None) == (expected == -1)
    assert found["probability"] is found["probability_error"] is None  # of two pairs


def test_encoders_are_scored_alike_however_the_documents_are_cut(tmp_path: Path) -> None:
    draw, config = np.random.default_rng(3), load_config(None, [])
    rows = [
        [
            {
                "held_out": bool(draw.random() < 0.4),
                "labels": draw.permutation(9)[:4].tolist(),
                "similarity": np.sort(draw.random(4))[::-1].tolist(),
                "base_similarity": [0.5] * 4,
                "raw": [0.5] * 4,
                "verdict": draw.normal(size=4).tolist(),
            }
            for _ in range(60)
        ]
        for _ in range(2)
    ]
    for cut in (60, 7):
        storage = Storage(str(tmp_path / str(cut)))
        for encoder, all_rows in enumerate(rows):
            for shard, start in enumerate(range(0, 60, cut)):
                held_out = [row["held_out"] for row in rows[0][start : start + cut]]
                part = [
                    row | {"row": number, "held_out": held}
                    for number, (row, held) in enumerate(zip(all_rows[start : start + cut], held_out, strict=True))
                ]
                storage.write_shard(f"cycle-{encoder}/examples", shard, pa.Table.from_pylist(part, EXAMPLES_SCHEMA))
            summarize_examples(storage, encoder, example_groups(shard + 1))
    scales = [TargetScale(0.0, 1.0, 0.5, 0.3)] * 2
    whole, several = Storage(str(tmp_path / "60")), Storage(str(tmp_path / "7"))
    scores = score_encoders(whole, config, 1, scales)
    assert 10 < scores["documents"] < 50
    assert score_encoders(several, config, 9, scales) == scores
    fitted = fit_thresholds(whole, 1, 1, 0.5)
    assert fit_thresholds(several, 1, 9, 0.5) == fitted
    half = score_encoders(whole, config, 1, scales, is_half=True)["documents"]
    assert 0 < half < scores["documents"]
    assert fit_thresholds(whole, 1, 1, 0.5, is_half=True)["probability"] != fitted["probability"]
    assert fitted["min_score"] > 0 and len(fitted["probability"]["scores"]) > 1 and 0 < fitted["probability_error"] < 1


def test_the_pools_target_takes_all_encoders_alike() -> None:
    lists = [shortlist([7, 3], [0.9, 0.5], [0.2, 0.8]), shortlist([3, 5], [0.6, 0.4], [0.8, 0.5])]
    scales = [TargetScale(0.4, 0.2, 0.5, 0.2), TargetScale(9.0, 9.0, 0.4, 0.1)]
    pool = [3, 5, 7]
    first, second = np.array([0.0, 0.0, 2.0]), np.array([2.0, 0.0, 0.0])  # what is not listed: as the last that is
    expected = (np.array([2.0, 0.5, -1.0]) + (first + second) / 2) / np.sqrt(2)
    np.testing.assert_allclose(pool_target(pool, lists, "fusion", scales), expected, atol=1e-6)
    np.testing.assert_allclose(pool_target(pool, lists, "verdict", scales), [2.0, 0.5, -1.0], rtol=1e-5)


def test_an_encoder_without_a_label_has_no_opinion() -> None:
    lists = [shortlist([1], [0.7], [0.4]), shortlist([], [], [])]
    scales = [TargetScale(0.4, 0.2, 0.5, 0.2)] * 2
    np.testing.assert_allclose(pool_target([1], lists, "fusion", scales), [1.0 / 2 / np.sqrt(2)], atol=1e-6)


def test_a_teacher_of_noise_prefers_no_encoder_though_students_are_alike() -> None:
    rng = np.random.default_rng(0)
    labels, size, scale = 40, 10, TargetScale(0.0, 1.0, 0.0, 1.0)
    values = []
    for _ in range(400):
        common = rng.normal(size=labels)
        opinions = [rng.normal(size=labels), *(0.95 * common + 0.3 * rng.normal(size=(3, labels)))]
        verdict = rng.normal(size=labels)
        orders = [np.argsort(-opinion)[:size] for opinion in opinions]
        lists = [Shortlist(order, op[order], verdict[order]) for order, op in zip(orders, opinions, strict=True)]
        pool = sorted({int(label) for order in orders for label in order})
        gains = gains_of(pool_target(pool, lists, "fusion", [scale] * 4), 0.5)
        gain = dict(zip(pool, gains, strict=True))
        values.append([graded_ndcg([gain[int(label)] for label in order], list(gains)) for order in orders])
    scores = [one["score"] for one in summarize(np.array(values))["scores"]]
    assert abs(scores[0] - np.mean(scores[1:])) < 5


def counts(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(ADDED_UP, 0) | values


def test_a_cycle_judged_in_two_parts_counts_both() -> None:
    asked = counts(pairs_asked=40, prior_pairs_asked=5, engine_seconds=9.0) | {"seconds": 21.5}
    details = counts(pairs_asked=150, prior_pairs_asked=5, engine_seconds=31.0) | {"pairs_held": 50, "pairs": 200}
    whole = with_asked(details, asked)
    assert (whole["pairs"], whole["pairs_asked"], whole["pairs_held"]) == (200, 190, 10)
    assert whole["engine_pairs_per_s"] == pytest.approx(200 / 40)
    assert whole["seconds_before"] == 21.5

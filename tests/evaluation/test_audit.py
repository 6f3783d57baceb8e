"""The audit against loops that follow its definitions word for word, and where there is little to measure."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import numpy as np
import pytest

from ezxmc_ray.evaluation.audit import (
    AuditPairs,
    audit_by_gold,
    count_by_rank,
    join,
    share_yes_by_rank,
)

SCORES = {"auc": "verdict", "similarity_auc": "similarity", "fusion_auc": "fusion"}


def pairs_of(lengths: list[int], seed: int = 0, gold_share: float = 0.3, **columns: Any) -> AuditPairs:
    """Shortlists of ``lengths`` labels with scores that have ties; the verdict knows more than the similarity."""
    draw = np.random.default_rng(seed)
    count = sum(lengths)
    is_gold = draw.random(count) < gold_share
    verdict = np.round(1.5 * is_gold + draw.normal(-1, 1, count), 1).astype(np.float32)
    similarity = np.round(0.1 * is_gold + draw.normal(0.4, 0.2, count), 2).astype(np.float32)
    values = {
        "document": np.repeat(100 + np.arange(len(lengths)), lengths),
        "rank": np.concatenate([np.arange(0), *(np.arange(length) for length in lengths)]),
        "raw": (1 / (1 + np.exp(-verdict))).astype(np.float32),
        "verdict": verdict,
        "similarity": similarity,
        "fusion": verdict + 4 * similarity,
        "is_gold": is_gold,
    }
    return AuditPairs(**values | {name: np.asarray(value) for name, value in columns.items()})


def slow_auc(pairs: AuditPairs, score: str) -> dict[int, float]:
    """AUC by document, of those with a gold label and another one."""
    values: dict[int, list[float]] = {}
    rows = list(zip(pairs.document.tolist(), getattr(pairs, score).tolist(), pairs.is_gold.tolist(), strict=True))
    for document, above, gold in rows:
        for other, below, other_gold in rows:
            if document == other and gold and not other_gold:
                values.setdefault(document, []).append(1.0 if above > below else 0.5 if above == below else 0.0)
    return {document: sum(outcomes) / len(outcomes) for document, outcomes in values.items()}


@pytest.fixture
def pairs() -> AuditPairs:
    return pairs_of([1, 3, 5, 8, 10, 10, 2] * 5)


def test_auc_and_paired_intervals_equal_a_slow_loop(pairs: AuditPairs) -> None:
    found = audit_by_gold(pairs, "yes_no", 0.0, 0)
    slow = {name: slow_auc(pairs, score) for name, score in SCORES.items()}
    documents = sorted(slow["auc"])
    assert found["documents"] == len(documents) < found["gold_documents"] == 35
    for name, values in slow.items():
        assert found[name] == pytest.approx(statistics.mean(values.values()), abs=1e-9)
    draw = random.Random(1)
    drawn = [[draw.choice(documents) for _ in documents] for _ in range(4000)]
    for over, name in (("verdict_over_similarity", "auc"), ("fusion_over_similarity", "fusion_auc")):
        difference = {document: slow[name][document] - slow["similarity_auc"][document] for document in documents}
        assert found[over]["difference"] == pytest.approx(statistics.mean(difference.values()), abs=1e-9)
        quantiles = statistics.quantiles((statistics.mean(difference[d] for d in sample) for sample in drawn), n=40)
        assert found[over]["interval"] == pytest.approx((quantiles[0], quantiles[-1]), abs=0.012)
    quantiles = statistics.quantiles((statistics.mean(slow["auc"][d] for d in sample) for sample in drawn), n=40)
    assert found["intervals"]["auc"] == pytest.approx((quantiles[0], quantiles[-1]), abs=0.012)


def test_precision_recall_and_first_places_equal_a_slow_loop(pairs: AuditPairs) -> None:
    threshold = float(pairs.verdict[4])  # one of the verdicts: it is a yes itself
    found = audit_by_gold(pairs, "yes_no", threshold, 0)
    rows = list(zip(pairs.verdict.tolist(), pairs.is_gold.tolist(), strict=True))
    yes = [gold for verdict, gold in rows if verdict >= threshold]
    ties = sorted(pairs.similarity.tolist(), reverse=True)[len(yes) - 1]
    sure = [g for s, g in zip(pairs.similarity.tolist(), pairs.is_gold.tolist(), strict=True) if s > ties]
    tied = [g for s, g in zip(pairs.similarity.tolist(), pairs.is_gold.tolist(), strict=True) if s == ties]
    similar = (sum(sure) + (len(yes) - len(sure)) * sum(tied) / len(tied)) / len(yes)
    assert found["at_yes_threshold"] == {
        "pairs": len(rows),
        "share_gold": pytest.approx(sum(gold for _, gold in rows) / len(rows)),
        "share_yes": pytest.approx(len(yes) / len(rows)),
        "precision": pytest.approx(sum(yes) / len(yes)),
        "recall": pytest.approx(sum(yes) / sum(gold for _, gold in rows)),
        "similarity_precision": pytest.approx(similar),
    }
    for score in ("verdict", "similarity", "fusion"):
        shares = []
        for document in set(pairs.document.tolist()):
            values = getattr(pairs, score)[pairs.document == document]
            first = pairs.is_gold[pairs.document == document][values == max(values)]
            shares.append(100 * sum(first) / len(first))
        assert found["P@1"][score] == pytest.approx(statistics.mean(shares))


def test_the_calibration_curve_has_ten_equal_groups_of_rising_verdict() -> None:
    pairs = pairs_of([10] * 12, verdict=np.random.default_rng(3).permutation(120) / np.float32(30) - 2)
    found = audit_by_gold(pairs, "yes_no", 0.0, 0)
    order = sorted(range(120), key=lambda pair: pairs.verdict[pair])
    for number, group in enumerate(found["calibration_curve"]):
        members = order[12 * number : 12 * number + 12]
        assert group["pairs"] == 12
        assert group["verdict"] == pytest.approx(statistics.mean(pairs.verdict[members].tolist()))
        assert group["p_yes"] == pytest.approx(statistics.mean(pairs.raw[members].tolist()))
        assert group["share_gold"] == pytest.approx(statistics.mean(pairs.is_gold[members].astype(float).tolist()))
    assert number == 9
    sigmoid = [
        abs(statistics.mean(1 / (1 + math.exp(-pairs.verdict[p])) for p in m) - pairs.is_gold[m].mean())
        for m in (order[start : start + 12] for start in range(0, 120, 12))
    ]
    assert found["calibration_error"]["verdict"] == pytest.approx(statistics.mean(sigmoid))
    assert found["calibration_error"]["p_yes"] != pytest.approx(found["calibration_error"]["verdict"])


def test_a_readout_that_is_no_probability_has_no_calibration_error(pairs: AuditPairs) -> None:
    found = audit_by_gold(pairs, "likelihood", 0.0, 0)
    assert found["calibration_error"] is None
    assert {group["p_yes"] for group in found["calibration_curve"]} == {None}


FLAT = {name: np.full(100, 0.25, np.float32) for name in ("raw", "verdict", "similarity", "fusion")}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("lengths", "changes"),
    [
        ([], {}),
        ([1], {}),
        ([10], {}),
        ([3, 4], {}),
        ([5] * 20, FLAT),
        ([5] * 12, {"is_gold": np.ones(60, bool)}),
        ([5] * 12, {"is_gold": np.zeros(60, bool)}),
        ([5] * 12, {"verdict": np.full(60, -13.8, np.float32), "raw": np.zeros(60, np.float32)}),
        ([5] * 12, {"verdict": np.repeat(np.float32([-1e4, 1e4]), 30)}),
    ],
)
@pytest.mark.parametrize("threshold", [-math.inf, 0.25, math.inf])
def test_whatever_comes_in_numbers_are_finite(lengths: list[int], changes: dict[str, Any], threshold: float) -> None:
    found = audit_by_gold(pairs_of(lengths, **changes), "yes_no", threshold, 0)
    json.dumps(found, allow_nan=False)
    assert set(found) == set(audit_by_gold(pairs_of([5] * 20), "yes_no", 0.0, 0))


def test_without_a_document_with_a_gold_label_and_another_there_is_no_auc() -> None:
    only = np.repeat([True, False], 30)
    found = audit_by_gold(pairs_of([5] * 12, is_gold=only), "yes_no", 0.0, 0)
    assert (found["documents"], found["gold_documents"]) == (0, 12)
    names = (*SCORES, "verdict_over_similarity", "fusion_over_similarity")
    assert {name: found[name] for name in names} == dict.fromkeys(names)
    assert found["intervals"] == dict.fromkeys(SCORES)
    assert found["P@1"] == {"verdict": 50.0, "similarity": 50.0, "fusion": 50.0}


def test_constant_scores_are_chance() -> None:
    found = audit_by_gold(pairs_of([5] * 20, **FLAT), "yes_no", 0.25, 0)
    assert (found["auc"], found["similarity_auc"]) == (0.5, 0.5)
    assert found["verdict_over_similarity"] == {"difference": 0.0, "interval": (0.0, 0.0)}
    share = pairs_of([5] * 20).is_gold.mean()
    at = found["at_yes_threshold"]
    assert (at["share_yes"], at["recall"]) == (1.0, 1.0)
    assert at["precision"] == at["similarity_precision"] == at["share_gold"] == pytest.approx(share)
    assert [group["pairs"] for group in found["calibration_curve"]] == [100]
    assert found["calibration_error"]["p_yes"] == pytest.approx(abs(0.25 - share))


def test_one_document_has_an_auc_and_no_interval() -> None:
    found = audit_by_gold(pairs_of([10]), "yes_no", 0.0, 0)
    assert found["documents"] == 1
    assert found["auc"] == pytest.approx(slow_auc(pairs_of([10]), "verdict")[100])
    assert found["verdict_over_similarity"]["interval"] is None
    assert found["intervals"] == dict.fromkeys(SCORES)


def test_a_threshold_that_no_verdict_reaches_has_no_precision(pairs: AuditPairs) -> None:
    found = audit_by_gold(pairs, "yes_no", 1e6, 0)["at_yes_threshold"]
    assert (found["share_yes"], found["precision"], found["recall"], found["similarity_precision"]) == (
        0,
        None,
        0,
        None,
    )


def test_shares_of_yes_by_rank_add_up_over_shards() -> None:
    parts = [pairs_of([3, 0, 2], seed=1), pairs_of([], seed=2), pairs_of([4, 1], seed=3)]
    counts = sum((count_by_rank(part, -0.5, 6) for part in parts), np.zeros((2, 6), np.int64))
    expected = []
    for rank in range(4):
        yes = [v >= -0.5 for part in parts for v, r in zip(part.verdict, part.rank, strict=True) if r == rank]
        expected.append(sum(yes) / len(yes))
    assert share_yes_by_rank(counts) == expected  # no shortlist has a fifth label
    assert share_yes_by_rank(np.zeros((2, 6), np.int64)) == []


def test_joined_and_taken_pairs_keep_their_documents_apart() -> None:
    one, other = pairs_of([2, 3]), pairs_of([4], document=[7] * 4)
    joined = join([one, other])
    assert [len(values) for values in joined.by_document(joined.verdict)] == [2, 3, 4]
    taken = joined.take(joined.rank > 0)
    assert [len(values) for values in taken.by_document(taken.verdict)] == [1, 2, 3]
    np.testing.assert_array_equal(taken.similarity, joined.similarity[joined.rank > 0])

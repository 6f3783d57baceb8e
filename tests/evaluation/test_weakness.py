"""What is told apart by 300 pairs, without gold labels. Orders are made here from gold labels that nobody else sees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ezxmc_ray.evaluation.weakness import DOCUMENTS, MIN_LEAD, Weakness, weakness

Rows = list[np.ndarray]


def sample(seed: int, documents: int = 30, labels: int = 10) -> tuple[Rows, Rows]:
    """Similarities, falling, and relevance that goes with them as loosely as in shortlists (Spearman about 0.3)."""
    rng = np.random.default_rng(seed)
    similarity = [np.sort(rng.normal(size=labels))[::-1] for _ in range(documents)]
    return similarity, [0.35 * one + rng.normal(size=labels) for one in similarity]


def judged(verdicts: Rows, similarity: Rows, readout: str = "yes_no", threshold: float | None = None) -> Weakness:
    found = weakness(verdicts, similarity, readout, threshold)
    assert found is not None
    return found


def test_the_measures_are_those_of_a_plain_reference() -> None:
    similarity, relevance = sample(0)
    rounded = [np.round(one) for one in relevance]
    found = judged(rounded, similarity)
    expected = np.mean([spearmanr(v, s).statistic for v, s in zip(rounded, similarity, strict=True)])
    assert found.agreement == pytest.approx(expected)
    assert found.lead == pytest.approx(expected * np.sqrt(30 * 9))
    equal = [np.mean([a == b for i, a in enumerate(v) for j, b in enumerate(v) if i != j]) for v in rounded]
    assert found.ties == pytest.approx(np.mean(equal))
    assert (found.documents, found.pairs) == (30, 300)
    shares = judged(relevance, similarity, threshold=0.5).share_yes_by_rank
    assert shares == pytest.approx(np.mean(np.stack(relevance) >= 0.5, axis=0).tolist())


def flagged(verdicts_of: str, seeds: int = 200) -> float:
    """How often a teacher of the kind is called weak."""
    hits = 0
    for seed in range(seeds):
        similarity, relevance = sample(seed)
        rng = np.random.default_rng(seed + 10_000)
        verdicts = {
            "useful": relevance,
            "yes or no": [(one + 0.4 * s > 1.2).astype(float) for one, s in zip(relevance, similarity, strict=True)],
            "noise": [rng.normal(size=10) for _ in relevance],
            "constant": [np.zeros(10) for _ in relevance],
            "of the document": [np.full(10, rng.normal()) for _ in relevance],
            "inverted": [-one for one in relevance],
        }[verdicts_of]
        hits += judged(verdicts, similarity).sentence is not None
    return hits / seeds


def test_of_a_second_read_out_the_sentence_says_that_it_can_be_left_out() -> None:
    similarity, relevance = sample(0)
    noise = [np.random.default_rng(number).normal(size=10) for number in range(len(relevance))]
    found = weakness(noise, similarity, "likelihood", is_second=True)
    assert found is not None and found.sentence is not None
    assert "the teacher, read a second time by its likelihood, looks like noise" in found.sentence
    assert found.sentence.endswith(
        "try teacher.second_readout=none, another teacher.model, teacher.prompt or teacher.examples."
    )
    useful = weakness(relevance, similarity, "likelihood", is_second=True)
    assert useful is not None and useful.sentence is None


@pytest.mark.parametrize("kind", ["useful", "yes or no"])
def test_a_useful_teacher_is_left_alone_though_most_of_its_scores_may_be_equal(kind: str) -> None:
    assert flagged(kind) <= 0.02


@pytest.mark.parametrize(("kind", "least"), [("noise", 0.95), ("constant", 1), ("of the document", 1), ("inverted", 1)])
def test_a_teacher_that_knows_nothing_is_found_out(kind: str, least: float) -> None:
    assert flagged(kind) >= least


def test_the_sentence_says_what_is_wrong_and_what_to_try() -> None:
    similarity, relevance = sample(1)
    rng = np.random.default_rng(5)
    noise = judged([rng.normal(size=10) for _ in relevance], similarity).sentence or ""
    assert noise.startswith("After 300 pairs the teacher looks like noise: its order of a document's labels")
    assert noise.endswith(
        "try teacher.readout=likelihood (for small models), another teacher.model, teacher.prompt or teacher.examples."
    )
    constant = judged([np.zeros(10) for _ in relevance], similarity, "likelihood").sentence or ""
    assert "gives labels of a document the same score (100% of their pairs, in 30 documents)" in constant
    assert "teacher.readout" not in constant
    inverted = judged([-one for one in relevance], similarity)
    assert inverted.lead < -MIN_LEAD
    assert "puts the labels that are least like a document first" in (inverted.sentence or "")


def test_few_documents_say_nothing() -> None:
    similarity, relevance = sample(2, DOCUMENTS - 1)
    one_label = [np.zeros(1)] * 10
    assert weakness(relevance + one_label, similarity + one_label, "yes_no") is None
    similarity, relevance = sample(2, DOCUMENTS)
    assert judged(relevance + one_label, similarity + one_label).documents == DOCUMENTS

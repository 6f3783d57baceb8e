"""What the verdicts say about the teacher: its counts over all cycles, and a judgement in plain words.

Comes in: the details of each cycle's ``judge`` manifest and what the ``evaluate`` stage measured against gold labels.
Goes out: the ``teacher`` part of report.json.
"""

from __future__ import annotations

from typing import Any

#: Differences of AUC within a document that are smaller than this are noise on 100 documents (measured).
NOISE = 0.02

#: The name of the teacher that comes from PyPI with the demo.
STAND_IN = "smollm2-135m"

_SUMS = ("pairs", "pairs_asked", "pairs_held", "prior_pairs_asked", "prompt_tokens", "computed_tokens")


def teacher_part(judged: dict[int, dict[str, Any]], measured: dict[str, Any] | None) -> dict[str, Any] | None:
    """The teacher's identity, counts and sentence; None if no cycle has been judged.

    ``judged``: details of the judge manifests by encoder number. ``measured``: ``auc``, ``similarity_auc`` and
    ``fusion_auc`` (within a document, 0 to 1) and ``documents``; None without gold labels. Counts are sums over the
    cycles, ``share_yes`` is their mean by pairs, ``histogram`` is the first cycle's.
    """
    if not judged:
        return None
    cycles = [{"cycle": number, **_counts(details)} for number, details in sorted(judged.items())]
    first = judged[min(judged)]
    part: dict[str, Any] = {"model": None, "key": None, "readout": None} | dict(first.get("teacher") or {})
    part |= {name: _sum(cycles, name) for name in (*_SUMS, "engine_seconds")}
    part["share_yes"] = _mean_share_yes(cycles)
    part["yes_threshold"] = first.get("yes_threshold")
    part |= {name: (measured or {}).get(name) for name in ("auc", "similarity_auc", "fusion_auc")}
    part["auc_documents"] = (measured or {}).get("documents") or 0
    part["histogram"] = first.get("histogram")
    part["cycles"] = cycles
    part["stand_in"] = STAND_IN in str(part["model"]).lower()
    part["sentence"] = sentence(part)
    return part


def sentence(part: dict[str, Any]) -> str:
    """What the numbers in ``part`` say about the teacher, for a reader who does not know what an AUC is."""
    parts = [_judgement(part), _fusion(part), _yes(part), _stand_in(part)]
    return " ".join(text for text in parts if text)


def _judgement(part: dict[str, Any]) -> str:
    teacher, similarity = part["auc"], part["similarity_auc"]
    if teacher is None:
        return (
            "No judged document has gold labels, so nothing here says how good this teacher is: "
            "look at its share of yes and at the documents below."
        )
    opening = (
        f"Within a document, this teacher puts a gold label above another one with AUC {teacher:.2f} (0.50 is chance"
    )
    opening += f"; {part['auc_documents']:,} documents)" if part["auc_documents"] else ")"
    if similarity is None:
        return opening + "."
    opening += f", against {similarity:.2f} for the encoder's similarity alone: "
    if teacher < similarity - NOISE:
        chance = "it cannot tell the labels apart" if teacher < 0.5 + NOISE else "it is weak"
        return opening + f"{chance}, and a student that followed it alone would get worse."
    if teacher > similarity + NOISE:
        return opening + "it knows more than the encoder, so there is something for the student to learn."
    return opening + "it knows about as much as the encoder, so by itself it teaches little."


def _fusion(part: dict[str, Any]) -> str:
    fusion, alone = part["fusion_auc"], [a for a in (part["auc"], part["similarity_auc"]) if a is not None]
    if fusion is None or len(alone) < 2:
        return ""
    opening = f"The sum of both (student.target=fusion) has AUC {fusion:.2f}, "
    if fusion > max(alone):
        small = ", if only just" if fusion - max(alone) < NOISE else ""
        return opening + f"more than either alone{small}: the verdicts add to the similarity."
    better = "similarity" if alone[1] >= alone[0] else "the teacher"
    if better == "similarity":
        return opening + "no more than similarity alone: these verdicts add nothing here, so take a better teacher."
    return opening + "no more than the teacher alone: student.target=verdict is worth a try."


def _yes(part: dict[str, Any]) -> str:
    share = part["share_yes"]
    if part["readout"] != "yes_no" or share is None or 0.01 <= share <= 0.99:
        return ""
    return (
        f"It says yes to {100 * share:.1f} % of the pairs, so its yes or no by itself tells nothing; "
        "what is used is the order of its scores."
    )


def _stand_in(part: dict[str, Any]) -> str:
    if not part["stand_in"]:
        return ""
    return (
        "This is the bundled model of 135 million parameters, a stand-in that shows the machine working: "
        "for real use set teacher.model to a larger instruction-tuned model."
    )


def _counts(details: dict[str, Any]) -> dict[str, Any]:
    names = (*_SUMS, "engine_seconds", "truncated_documents", "truncated_labels", "share_yes", "yes_threshold")
    return {name: details.get(name) for name in names}


def _sum(cycles: list[dict[str, Any]], name: str) -> Any:
    known = [cycle[name] for cycle in cycles if cycle[name] is not None]
    return sum(known) if known else None


def _mean_share_yes(cycles: list[dict[str, Any]]) -> float | None:
    known = [(c["share_yes"], c["pairs"]) for c in cycles if c["share_yes"] is not None and c["pairs"]]
    total = sum(pairs for _, pairs in known)
    return sum(share * pairs for share, pairs in known) / total if total else None

"""What the verdicts say about the teacher: its counts over all cycles, and a judgment in plain words.

Comes in: the details of each cycle's ``judge`` manifest and what the ``evaluate`` stage measured against gold labels.
Goes out: the ``teacher`` part of report.json.
"""

from __future__ import annotations

from typing import Any

from ezxmc_ray.metrics import MIN_DOCUMENTS
from ezxmc_ray.models import is_bundled
from ezxmc_ray.verdicts.costs import busy_share, pairs_asked
from ezxmc_ray.verdicts.second_readout import SECOND

#: Without an interval, differences of AUC within a document that are smaller than this count as noise: so they were
#: on 100 documents (measured).
NOISE = 0.02

#: Counts and seconds of a cycle that add up over the cycles.
_SUMS = (
    "pairs",
    "pairs_asked",
    "pairs_held",
    "prior_pairs_asked",
    "second_pairs_asked",
    "prompt_tokens",
    "computed_tokens",
    "engine_seconds",
    "engine_start_seconds",
    "map_seconds",
)

#: What else report.json holds of each cycle.
_OF_A_CYCLE = (
    "truncated_documents",
    "truncated_labels",
    "share_yes",
    "yes_threshold",
    "engines",
    "engine_pairs_per_s",
    "busy_share",
)

#: What the audit of the stage evaluate measured, under the same names.
_MEASURED = (
    "auc",
    "similarity_auc",
    "fusion_auc",
    "intervals",
    "verdict_over_similarity",
    "fusion_over_similarity",
    "gold_documents",
    "P@1",
    "at_yes_threshold",
    "calibration_curve",
    "calibration_error",
    "share_yes_by_rank",
    "audited_share",
    "unjudged_pairs",
)


def teacher_part(judged: dict[int, dict[str, Any]], measured: dict[str, Any] | None) -> dict[str, Any] | None:
    """The teacher's identity, counts, speed, audit and sentence (docs/report.md); None if no cycle has been judged.

    ``judged``: details of the judge manifests by encoder number. ``measured``: the audit of the stage evaluate, None
    if that has not been done. Counts are sums over the cycles, ``share_yes`` is their mean by pairs,
    ``histogram`` is the first cycle's. What a manifest does not hold is None.
    """
    if not judged:
        return None
    measured = measured or {}
    cycles = [{"cycle": number, **_of_a_cycle(details)} for number, details in sorted(judged.items())]
    first = judged[min(judged)]
    part: dict[str, Any] = {"model": None, "key": None, "readout": None, "by_hand": False} | dict(
        first.get("teacher") or {}
    )
    part |= {name: _sum(cycles, name) for name in _SUMS}
    part |= _speed(part, cycles)
    part["share_yes"] = _mean_share_yes(cycles)
    part["yes_threshold"] = first.get("yes_threshold")
    part |= {name: measured.get(name) for name in _MEASURED}
    part["auc_documents"] = measured.get("documents") or 0
    part["first_pairs"] = first.get("first_pairs")
    part[SECOND] = first.get(SECOND)
    part["histogram"] = first.get("histogram")
    part["cycles"] = cycles
    part["stand_in"] = is_bundled(str(part["model"]))
    part["sentence"] = sentence(part)
    return part


def sentence(part: dict[str, Any]) -> str:
    """What the numbers in ``part`` say about the teacher, for a reader who does not know what an AUC is."""
    parts = [
        _judgment(part),
        _first_pairs(part),
        _fusion(part),
        _yes(part),
        _drawn(part),
        "Some or all of these verdicts were made by hand and imported." if part.get("by_hand") else "",
        _stand_in(part),
    ]
    return " ".join(text for text in parts if text)


def _drawn(part: dict[str, Any]) -> str:
    """That gold labels measure the teacher on a part of the documents, where they do."""
    share = part.get("audited_share")
    if not part.get("gold_documents") or share is None or share >= 1:
        return ""
    return f"Gold labels measure it on {100 * share:.2g} % of the judged documents, drawn at random."


def _judgment(part: dict[str, Any]) -> str:
    teacher, similarity = part["auc"], part["similarity_auc"]
    if teacher is None:
        lacking = "both a gold label and another one in its shortlist" if part["gold_documents"] else "gold labels"
        return (
            f"No judged document has {lacking}, so nothing here says how good this teacher is: "
            "look at its share of yes and at the documents with their labels, or give some train documents gold labels."
        )
    over = _over(part, "verdict_over_similarity", teacher)
    opening = (
        f"Within a document, this teacher puts a gold label above another one with AUC {teacher:.2f} (0.50 is chance; "
        f"{part['auc_documents']:,} documents), against {similarity:.2f} for the encoder's similarity alone "
        f"({_difference(over)}): "
    )
    if part["auc_documents"] < MIN_DOCUMENTS:
        return opening + "so few documents say nothing about a teacher."
    if _direction(over) < 0:
        chance = "it cannot tell the labels apart" if _at_chance(part) else "it is weak"
        return opening + f"{chance}, and a student that followed it alone would get worse."
    if _direction(over) > 0:
        return opening + "it knows more than the encoder, so there is something for the student to learn."
    return opening + "these documents do not tell which of the two knows more."


def _first_pairs(part: dict[str, Any]) -> str:
    """What the run said of a weak teacher before the rest was asked, by either read-out; where gold labels judge it,
    they know better."""
    found = [part["first_pairs"], (part.get(SECOND) or {}).get("first_pairs")]
    told = [one["sentence"] for one in found if one and one["sentence"]]
    return " ".join(told) if part["auc"] is None else ""


def _fusion(part: dict[str, Any]) -> str:
    """Whether the teacher adds anything to the similarity."""
    fusion = part["fusion_auc"]
    if fusion is None or part["auc_documents"] < MIN_DOCUMENTS:
        return ""
    over = _over(part, "fusion_over_similarity", fusion)
    told = {
        1: "this teacher adds to the encoder's similarity.",
        0: "that this teacher adds anything to the encoder's similarity is not shown.",
        -1: "this teacher adds nothing to the encoder's similarity and takes from it: take a better one.",
    }[_direction(over)]
    alone = " The teacher alone has more: student.target=verdict is worth a try." if part["auc"] > fusion else ""
    return (
        f"The sum of both (student.target=fusion) has AUC {fusion:.2f} "
        f"(against similarity alone: {_difference(over)}): {told}{alone}"
    )


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


def _over(part: dict[str, Any], name: str, auc: float) -> dict[str, Any]:
    """The difference of ``auc`` to the similarity's: as measured, or without an interval from a run that has none."""
    found: dict[str, Any] = part[name] or {"difference": auc - part["similarity_auc"], "interval": None}
    return found


def _direction(over: dict[str, Any]) -> int:
    """1 or -1 if a difference is shown to be one: its interval excludes zero, or without one it is above the noise."""
    low, high = over["interval"] or (over["difference"] - NOISE, over["difference"] + NOISE)
    return 1 if low > 0 else -1 if high < 0 else 0


def _difference(over: dict[str, Any]) -> str:
    told = f"difference {over['difference']:+.3f}"
    return told + ", 95 % interval {:+.3f} to {:+.3f}".format(*over["interval"]) if over["interval"] else told


def _at_chance(part: dict[str, Any]) -> bool:
    interval = (part["intervals"] or {}).get("auc") or (part["auc"] - NOISE, 1.0)
    return bool(interval[0] <= 0.5)


def _of_a_cycle(details: dict[str, Any]) -> dict[str, Any]:
    return {name: details.get(name) for name in (*_SUMS, *_OF_A_CYCLE)}


def _speed(part: dict[str, Any], cycles: list[dict[str, Any]]) -> dict[str, float | None]:
    """What the engines did in their time, over all cycles: ``part`` holds the sums.

    ``busy_share`` is the share of the engines' time, starts apart, in which they judged: the mean over the cycles by
    this time. The rest, ``overhead_share``, they waited for work: Ray, reading and writing.
    """
    asked, seconds = pairs_asked(part), part["engine_seconds"]
    share = busy_share(cycles)
    return {
        "engine_pairs_per_s": asked / seconds if asked and seconds else None,
        "busy_share": share,
        "overhead_share": None if share is None else 1 - share,
    }


def _sum(cycles: list[dict[str, Any]], name: str) -> Any:
    known = [cycle[name] for cycle in cycles if cycle[name] is not None]
    return sum(known) if known else None


def _mean_share_yes(cycles: list[dict[str, Any]]) -> float | None:
    known = [(c["share_yes"], c["pairs"]) for c in cycles if c["share_yes"] is not None and c["pairs"]]
    total = sum(pairs for _, pairs in known)
    return sum(share * pairs for share, pairs in known) / total if total else None

"""What a judged step has cost over all its starts: a run that was killed asks for the rest only, and its manifest is to
say what all of it cost.

Comes in: the footers of the verdict store's files, in which each batch says by which step it was asked, and what the
engines did since the last start. Goes out: the manifest's counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.context import RunTasks
from ezxmc_ray.integrity import begun_number, begun_with
from ezxmc_ray.storage import Storage
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore

#: What a second read-out's engines add to the first's counts in a judge manifest.
_ADDED = ("prompt_tokens", "computed_tokens", "engine_seconds", "engine_start_seconds", "worker_seconds", "map_seconds")


def step_of(storage: Storage, cycle: int) -> int | None:
    """A number for the judging of ``cycle`` that is under way, the same after a kill; None outside of a run."""
    folder = layout.examples(cycle)
    if (number := begun_number(storage, folder)) is not None:
        return number
    begun = begun_with(storage, folder)
    return int(begun, 16) if begun else None


def asked_by(storage: Storage, key: str, folder: str, step: int) -> dict[str, int]:
    """Task: what the batches in ``folder`` that were asked by ``step`` cost."""
    return VerdictStore(storage, key).asked_by(folder, step)


def with_all_starts(
    details: dict[str, Any], storage: Storage, key: str, step: int | None, run_tasks: RunTasks
) -> dict[str, Any]:
    """``details`` of a judge manifest, of the last start, with the counts of all starts of ``step``.

    Pairs, tokens and the engines' seconds; what is known of the last start only (of starting engines, of cuts) stays.
    """
    folders = VerdictStore(storage, key).folders() if step is not None else []
    found = list(run_tasks(asked_by, [(storage, key, folder, step) for folder in folders if folder != PRIORS]))
    priors = Counter(asked_by(storage, key, PRIORS, step) if step is not None and PRIORS in folders else {})
    pairs = sum(map(Counter, found), Counter[str]())
    total = pairs + priors
    earlier = pairs["pairs"] - details["pairs_asked"]
    if total["pairs"] <= details["pairs_asked"] + details["prior_pairs_asked"]:
        return details
    seconds = total["engine_ms"] / 1000
    return details | {
        "pairs_asked": pairs["pairs"],
        "pairs_held": max(0, details["pairs_held"] - earlier),
        "prior_pairs_asked": priors["pairs"],
        "prompt_tokens": total["prompt_tokens"],
        "computed_tokens": total["computed_tokens"],
        "engine_seconds": seconds,
        "engine_pairs_per_s": total["pairs"] / seconds if seconds else None,
    }


def with_second(details: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """``details`` of a judge manifest with what the second read-out cost, in ``second``, added up.

    ``second_pairs_asked``: pairs that were asked a second time; the other counts of pairs stay those of the first.
    """
    both = details | {name: details[name] + second[name] for name in _ADDED}
    both |= {"second_pairs_asked": second["pairs_asked"], "engines": max(details["engines"], second["engines"])}
    asked, seconds = pairs_asked(both) or 0, both["engine_seconds"]
    busy = busy_share([details, second])
    return both | {"engine_pairs_per_s": asked / seconds if seconds else None, "busy_share": busy}


def busy_share(parts: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the engines' time, starts apart, in which they judged: the mean of the ``parts``' by this time.

    Not by ``worker_seconds``, which are of the last start, where ``engine_seconds`` are of all.
    """
    known = [(part["engine_seconds"], part["busy_share"]) for part in parts if part["busy_share"]]
    held = sum(seconds / share for seconds, share in known)
    return sum(seconds for seconds, _ in known) / held if held else None


def pairs_asked(details: Mapping[str, Any]) -> int | None:
    """Questions that the engines were asked; ``details``: of a judge manifest, or sums; None: it does not say.

    That is pairs, pairs of a second read-out, and labels by themselves.
    """
    asked = details.get("pairs_asked")
    if asked is None:
        return None
    return int(asked + sum(details.get(name) or 0 for name in ("prior_pairs_asked", "second_pairs_asked")))

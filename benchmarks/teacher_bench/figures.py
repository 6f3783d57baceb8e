"""The figures of benchmarks/teacher.py: tokens against the ideal, agreement with float32, medians over the rounds.

Comes in: what each method gave in each round (methods.Timing as a dict, or ``error``), the pairs' prompts, raw
scores. Goes out: the fields of the result, its table and its notes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from common.rounds import median, quotient, rate, ratio
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import DocumentPairs, PairPrompt, build_prompts, load_teacher
from ezxmc_ray.verdicts.calibration import calibrate, yes_threshold_of

#: How far the stage's P(yes) may be from float32's.
TOLERANCE = 0.02
Round: TypeAlias = "dict[str, Any]"


def tokens_of(config: TeacherConfig, documents: Sequence[DocumentPairs]) -> dict[str, int]:
    """Tokens of the stage's prompts: ``prompts`` in full, ``padding`` (a document's once), and the ``ideal``.

    The ideal is without padding, and counts what prompts share once: what they all begin with, and what a document's
    prompts have before the label.
    """
    plain, padded = (
        _prompts(replace(config, pad_prefix_tokens=pad), documents) for pad in (0, config.pad_prefix_tokens)
    )
    first = [True] + [one.document_hash != other.document_hash for one, other in pairwise(plain)]
    prefixes = [pair.tokens[: pair.label_start] for pair, new in zip(plain, first, strict=True) if new]
    head = _shared_tokens(prefixes) if len(prefixes) > 1 else 0
    with_padding = sum(pair.label_start for pair, new in zip(padded, first, strict=True) if new)
    without = sum(map(len, prefixes))
    return {
        "prompts": sum(len(pair.tokens) for pair in padded),
        "ideal": without - head * (len(prefixes) - 1) + sum(len(pair.tokens) - pair.label_start for pair in plain),
        "padding": with_padding - without,
    }


def agreement_of(raw: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Decisions and P(yes) of the stage (``raw``, float [pairs]) against float32's (``exact``, of the first pairs).

    The threshold is the one that is fitted on all of ``raw``. A pair is clear if float32 has it farther than TOLERANCE
    from the threshold.
    """
    fitted = yes_threshold_of(calibrate(raw, None, "yes_no", "none"))
    threshold = float(1 / (1 + np.exp(-fitted)))
    some = raw[: len(exact)]
    same = (some >= threshold) == (exact >= threshold)
    clear = np.abs(exact - threshold) > TOLERANCE
    difference = np.abs(some - exact)
    return {
        "decision_agreement": float(same.mean()),
        "decision_agreement_clear": float(same[clear].mean()) if clear.any() else None,
        "clear_pairs": int(clear.sum()),
        "share_within_tolerance": float((difference <= TOLERANCE).mean()),
        "largest_difference": float(difference.max()),
        "reference_pairs": len(exact),
        "threshold": threshold,
    }


def summary(rounds: list[Round], tokens: dict[str, int], agreement: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds, of ratios those within a round; null for a method that could not run."""
    methods = [name for name in rounds[0] if name != "bare"]

    def medians(figure: Callable[[Round, str], float | None]) -> dict[str, float | None]:
        return {name: median([figure(done, name) for done in rounds]) for name in methods}

    rates = medians(lambda done, name: rate(done[name], "pairs"))
    ratios = medians(lambda done, name: ratio(done, "ezxmc", name, "pairs"))
    a_pair = medians(lambda done, name: _tokens_a_pair(done[name]))
    bounds = {name: quotient(a_pair[name], a_pair["ezxmc"]) for name in methods}
    computed = median([done["ezxmc"]["computed_tokens"] for done in rounds])
    result = {
        "rows": [_row(name, rounds[0][name], rates, ratios, a_pair, bounds) for name in methods],
        "pairs_per_s": rates,
        "bare_pairs_per_s": median([rate(done["bare"], "pairs") for done in rounds]),
        "ratios": ratios,
        "token_ratios": bounds,
        "tokens": {**tokens, "computed": computed},
        "tokens_over_ideal": quotient(computed, tokens["ideal"]),
        "stage_over_bare": median([ratio(done, "ezxmc", "bare", "pairs") for done in rounds]),
        "busy_share": median([done["ezxmc"]["details"]["busy_share"] for done in rounds]),
        "could_not_run": {name: done[name]["error"] for done in rounds for name in methods if "error" in done[name]},
        **agreement,
    }
    return result | {"notes": _notes(result, len(rounds))}


def _row(name: str, timing: dict[str, Any], rates: Any, ratios: Any, a_pair: Any, bounds: Any) -> dict[str, Any]:
    return {
        "method": name,
        "pairs": timing.get("pairs"),
        "pairs/s": rates[name],
        "ezxmc is faster by": ratios[name],
        "tokens computed a pair": a_pair[name],
        "times ezxmc's tokens": bounds[name],
        "answers neither yes nor no": timing.get("unreadable"),
    }


def _notes(result: dict[str, Any], rounds: int) -> list[str]:
    """What the table does not say."""
    tokens = result["tokens"]
    clear = result["decision_agreement_clear"]
    return [
        *(f"{name} could not run here: {reason}." for name, reason in result["could_not_run"].items()),
        f"Tokens computed over the ideal: {result['tokens_over_ideal']:.3f} ({tokens['computed']:,.0f} over "
        f"{tokens['ideal']:,}; {tokens['padding']:,} are padding; the prompts in full have {tokens['prompts']:,}).",
        f"The stage over its engine in a bare loop ({result['bare_pairs_per_s']:.2f} pairs/s): "
        f"{result['stage_over_bare']:.3f}; its engine was busy {result['busy_share']:.1%} of the time.",
        f"Decisions as in float32: {result['decision_agreement']:.1%} of {result['reference_pairs']} pairs, threshold "
        f"{result['threshold']:.3f}"
        + (f"; {clear:.1%} of the {result['clear_pairs']} farther than {TOLERANCE} from it. " if clear else ". ")
        + f"|ΔP| is at most {TOLERANCE} for {result['share_within_tolerance']:.1%}, and at most "
        f"{result['largest_difference']:.4f}.",
        f"Medians over {rounds} round{'' if rounds == 1 else 's'}, of ratios those within a round. Loading and a "
        "warm-up batch are not timed; the stage and its bare loop go without the warm-up. ray_data_llm does not tell "
        "the tokens that it computes; it runs vLLM with the same settings as vllm_default.",
    ]


def _prompts(config: TeacherConfig, documents: Sequence[DocumentPairs]) -> list[PairPrompt]:
    return build_prompts(load_teacher(config).plan, documents).pairs


def _shared_tokens(prompts: list[list[int]]) -> int:
    """How many tokens all ``prompts`` begin with."""
    for position, tokens in enumerate(zip(*prompts, strict=False)):
        if len(set(tokens)) > 1:
            return position
    return min(map(len, prompts))


def _tokens_a_pair(timing: dict[str, Any]) -> float | None:
    return quotient(timing.get("computed_tokens"), timing.get("pairs"))

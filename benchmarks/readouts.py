"""Would another read-out of the same LLM order a shortlist better? Read-outs alone and beside the default's target.

    python benchmarks/readouts.py --name readouts-debian --teacher DIRECTORY --data data/debian-packages-all \\
        prompt=package

--documents train documents with gold, those whose id has the least hash, each with its first shortlist by default
settings (encoder, words and names). Read-outs: ``yes_no``; ``likelihood``, and that minus the label's prior; ``second
wording``, a statement that is true or false; ``choice``, all labels behind letters in one prompt, the letters' log
probabilities over --orders orders, each letter's mean taken off (FIRST, arXiv 2406.15657). The target is the
standardized sum of yes_no and similarity; another read-out joins it by the mean of the two verdicts. Gold labels are
used for measuring only; differences are paired by document. The knobs hold for all read-outs, which one vLLM serves:
head_dtype=model is by far the faster one for the likelihood. Raw scores are kept in --scores, so that a second call
asks only for what is new.
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.arguments import name_of
from common.publish import ROOT, publish
from ezxmc_ray.metrics import auc_per_document
from ezxmc_ray.teacher.engine import DocumentPairs, TeacherSpec, build_prompts, load_teacher
from ezxmc_ray.verdicts.calibration import calibrate
from ezxmc_ray.versions import versions
from teacher_quality import Pairs, interval, sample, scores, standard, start_llm, variant

PROMPTS = Path(__file__).parent / "prompts"
LETTERS = string.ascii_uppercase
#: Tokens of all options of a choice.
OPTION_TOKENS = 480
#: Beside yes_no.
JOINED = ("likelihood", "second wording")
TARGET = "yes_no + similarity: the target"
TITLE = "Read-outs of one LLM, alone and beside the target"
SEED = 0

Read = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """Of each document AUC (NaN: its shortlist has no gold label, or no other) and P@1 in percent, float64."""

    auc: np.ndarray
    first: np.ndarray


def main() -> None:
    """Ask for every read-out and publish the table."""
    given = parse()
    configs = {name: variant(given.teacher, text) for name, text in variants(given.knobs).items()}
    pairs = sample(given.data, given.labels, given.skip, given.documents, given.shortlist, by_words=True)
    choice = load_teacher(
        replace(configs["second wording"], prompt=str(PROMPTS / "choice.yaml"), max_label_tokens=OPTION_TOKENS)
    )
    llm = start_llm([*map(load_teacher, configs.values()), choice])
    asked = dict(zip(configs, scores(list(configs.values()), pairs, given.scores, llm), strict=True))
    read = verdicts(asked)
    read["choice"] = chosen(llm, choice, pairs, given.orders)
    publish(given.name, TITLE, result(pairs, read, given) | {"versions": versions()})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--teacher", required=True, help="hub id, directory or package:NAME/PATH")
    parser.add_argument("--data", type=Path, required=True, help="directory with documents.jsonl.gz")
    parser.add_argument("--labels", default="labels.jsonl.gz", help="file in --data")
    parser.add_argument("--documents", type=int, default=250)
    parser.add_argument("--skip", type=int, default=0, help="documents with the least hashes to pass over")
    parser.add_argument("--shortlist", type=int, default=10, choices=range(2, len(LETTERS) + 1), metavar="LABELS")
    parser.add_argument("--orders", type=int, default=4, help="of the options, for choice")
    parser.add_argument("--scores", type=Path, default=ROOT / "runs" / "benchmark" / "readouts")
    parser.add_argument("knobs", nargs="*", help="knob=value of the teacher")
    return parser.parse_args()


def variants(knobs: list[str]) -> dict[str, str]:
    """The teacher's knobs by read-out."""
    common = ",".join(knobs)
    return {
        "yes_no": f"{common},readout=yes_no",
        "likelihood": f"{common},readout=likelihood",
        "second wording": f"{common},readout=yes_no,prompt={PROMPTS / 'statement.yaml'}",
    }


def verdicts(asked: dict[str, Any]) -> Read:
    """Verdicts of the read-outs that vLLM gave, float32 [documents, size]; yes_no and wording by their default, minus
    the label's prior."""

    def verdict(name: str, calibration: str) -> np.ndarray:
        raw, prior, _ = asked[name]
        readout = "likelihood" if name == "likelihood" else "yes_no"
        return calibrate(raw.ravel(), prior.ravel(), readout, calibration).reshape(raw.shape)

    return {
        "yes_no": verdict("yes_no", "label_prior"),
        "likelihood": verdict("likelihood", "none"),
        "likelihood minus the label's prior": verdict("likelihood", "label_prior"),
        "second wording": verdict("second wording", "label_prior"),
    }


def chosen(llm: Any, teacher: TeacherSpec, pairs: Pairs, orders: int) -> np.ndarray:
    """How much each label is chosen, float64 [documents, size]: its letters' log probabilities, summed over ``orders``
    orders, each letter's mean over all prompts taken off."""
    from vllm import SamplingParams

    count, size = pairs.labels.shape
    rng = np.random.default_rng(SEED)
    places = np.stack([[rng.permutation(size) for _ in range(orders)] for _ in range(count)])
    asked = [options(document, order) for document, order in zip(pairs.documents, places, strict=True)]
    letters = letter_tokens(teacher)[:size]
    parameters = SamplingParams(
        max_tokens=1, temperature=0.0, ignore_eos=True, logprob_token_ids=letters, flat_logprobs=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": pair.tokens} for pair in build_prompts(teacher.plan, asked).pairs]
    answers = [one.outputs[0].logprobs for one in llm.generate(prompts, parameters, use_tqdm=False)]
    found = [dict(zip(flat.token_ids, flat.logprobs, strict=True)) for flat in answers]
    by_letter = np.array([[one[token] for token in letters] for one in found]).reshape(count, orders, size)
    return by_label(by_letter, places)


def options(document: DocumentPairs, orders: np.ndarray) -> DocumentPairs:
    """``document`` with a list of options for each of ``orders`` in the place of its labels: ``orders[o, p]`` is the
    label at place p."""
    texts = tuple(
        "\n".join(f"{LETTERS[place]}. {document.labels[label]}" for place, label in enumerate(order))
        for order in orders
    )
    return replace(document, labels=texts, label_hashes=tuple(text.encode() for text in texts), descriptions=())


def letter_tokens(teacher: TeacherSpec) -> list[int]:
    """The token of each letter as an answer begins."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher.resolved)
    tokens = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in LETTERS]
    assert all(len(one) == 1 for one in tokens)
    return [one[0] for one in tokens]


def by_label(by_letter: np.ndarray, places: np.ndarray) -> np.ndarray:
    """``by_letter`` float64 [documents, orders, size], minus each letter's mean, added up by the label that stood there
    (``places`` int [documents, orders, size]): float64 [documents, size]."""
    fair = by_letter - by_letter.mean(axis=(0, 1))
    back = np.argsort(places, axis=2)
    summed: np.ndarray = np.take_along_axis(fair, back, axis=2).sum(axis=1)
    return summed


def result(pairs: Pairs, read: Read, given: argparse.Namespace) -> dict[str, Any]:
    """Rows and notes."""
    target = standard(read["yes_no"]) + standard(pairs.with_words)
    alone = {"similarity": pairs.with_words, **read, TARGET: target}
    others = {name: [values] for name, values in read.items() if name != "yes_no"}
    others[" and of ".join(JOINED)] = [read[name] for name in JOINED]
    joined = {
        f"the same with the mean of {name}": standard(sum(map(standard, values), standard(read["yes_no"])))
        + standard(pairs.with_words)
        for name, values in others.items()
    }
    at_target = measured(target, pairs)
    rows = [row(name, measured(values, pairs)) for name, values in alone.items()]
    rows += [row(name, measured(values, pairs), at_target) for name, values in joined.items()]
    return {
        "data": name_of(str(given.data.absolute())),
        "teacher": name_of(given.teacher),
        "rows": rows,
        "notes": [
            f"{len(pairs.documents)} train documents by hash of their ids, {pairs.labels.shape[1]} labels each, of the "
            f"first shortlist by default settings. AUC is of {int(np.isfinite(at_target.auc).sum())} of them, which "
            "have a gold and another label there; P@1 of all. 95 % intervals, bootstrap over documents; differences "
            "are paired, to the target's row."
        ],
    }


def measured(values: np.ndarray, pairs: Pairs) -> Measured:
    """What an order by ``values`` (float [documents, size]) is worth on each document."""
    first = pairs.is_gold[np.arange(len(values)), values.argmax(1)]
    return Measured(auc_per_document(list(values), list(pairs.is_gold)), 100.0 * first)


def row(name: str, one: Measured, other: Measured | None = None) -> dict[str, Any]:
    """Means with intervals, and the differences to ``other``."""
    shown: dict[str, Any] = {"what orders the shortlist": name}
    for measure, of, form in (("AUC", lambda m: m.auc, "{:.3f}"), ("P@1", lambda m: m.first, "{:.1f}")):
        shown[measure] = text(of(one), form)
        if other is not None:
            shown[f"{measure}, difference"] = text(of(one) - of(other), form.replace(":", ":+"))
    return shown


def text(values: np.ndarray, form: str) -> str:
    """Mean and interval of the values that are there."""
    there = values[np.isfinite(values)]
    low, high = interval(there)
    show: Callable[[float], str] = form.format
    return f"{show(float(there.mean()))} ({show(low)} to {show(high)})"


if __name__ == "__main__":
    main()

"""How a raw score is read from the teacher's next-token distribution.

Three read-outs. ``yes_no``: P(yes) = sum over the spellings of yes / (sum over yes + sum over no), from the logits of
one step, the exact two-way softmax (as in monoT5, arXiv 2003.06713, with every spelling). ``likelihood``: the mean over
the label's tokens of log P(token | document, tokens before it), natural logarithm, as in UPR (Sachan et al., arXiv
2204.07496). ``classify``: P(relevant) of a checkpoint's classification head; of a checkpoint without one, the head is
made of two rows of its output layer, one spelling of yes and one of no (as Qwen3-Reranker's, arXiv 2506.05176), so that
the whole vocabulary's logits are never computed. Comes in: a tokenizer, log probabilities. Goes out: token sets and raw
scores; calibration is a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import architecture, is_bundled
from ezxmc_ray.teacher.prompts import YesNoForm, load_template


def resolve_readout(config: TeacherConfig) -> str:
    """The read-out that ``config.readout`` means; auto goes by the model.

    The bundled SmolLM2-135M cannot answer: asked yes or no about tickets, its AUC within a document was 0.42, below
    chance; its likelihood does rank (benchmarks/RESULTS.md). A checkpoint with a classification head gives a score and
    nothing else. Any other LLM is asked. Errors: UserError for a model that is not there.
    """
    if config.readout != "auto":
        return config.readout
    if is_bundled(config.model):
        return "likelihood"
    return "classify" if is_classifier(architecture(config.model)) else "yes_no"


def second_teacher(config: TeacherConfig) -> TeacherConfig | None:
    """The teacher as every pair asks it a second time (``teacher.second_readout``); None: a pair asks once.

    It is the same LLM, read by its likelihood, without the label's prior: the verdict is the sum of both read-outs, and
    on library records the prior made that worse (docs/experiments.md). Errors: UserError for a likelihood that is the
    first read-out already, that a checkpoint with a classification head cannot give, or that the prompt has no form of.
    """
    if config.second_readout == "none":
        return None
    lacking = _no_likelihood(config)
    if config.second_readout == "auto" and lacking:
        return None
    if lacking:
        raise UserError(f"teacher.second_readout is likelihood, but {lacking}: set teacher.second_readout=none.")
    return replace(config, readout="likelihood", calibration="none", yes_threshold=None, second_readout="none")


def _no_likelihood(config: TeacherConfig) -> str | None:
    """Why the teacher's likelihood cannot be its second read-out, None if it can."""
    if resolve_readout(config) == "likelihood":
        return "that is what the teacher is read by first"
    if is_classifier(architecture(config.model)):
        return f"the teacher {config.model} has a classification head and gives no likelihood"
    template = load_template(config.prompt, config.examples)
    if template.likelihood is None:
        return f"the prompt {template.name} has no likelihood form"
    if not template.has_likelihood_examples:
        return f"no worked example of the prompt {template.name} has a label that fits"
    return None


def is_classifier(architecture: str) -> bool:
    """Whether a network of that class has a classification head of its own."""
    return "ForSequenceClassification" in architecture


#: As many tokens as vLLM gives the log probabilities of.
ANSWER_TOKENS_AT_MOST = 128


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids of all spellings of yes and of no, sorted; the two do not overlap."""

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @property
    def all(self) -> list[int]:
        """Both sets, yes first."""
        return [*self.yes, *self.no]


def answer_tokens(tokenizer: Any, form: YesNoForm) -> AnswerTokens:
    """Spellings of the two answers (lower, capitalized, upper case; with and without a space before) of one token.

    Tokenizers that put a space before every text have those without one only behind something, as a line break.

    Errors: UserError if an answer has no spelling that is one token of this tokenizer, if both share one, or if there
    are more of them than vLLM reads.
    """
    yes, no = (_single_tokens(tokenizer, words) for words in (form.yes, form.no))
    for words, found in ((form.yes, yes), (form.no, no)):
        if not found:
            raise UserError(
                f"No spelling of {', '.join(words)} is one token of this teacher's tokenizer: choose other words "
                "for yes and no in a prompt template of your own, or set teacher.readout=likelihood."
            )
    if yes & no:
        raise UserError(
            f"The answers {form.yes[0]} and {form.no[0]} share a token of this teacher: choose other words."
        )
    if (count := len(yes) + len(no)) > ANSWER_TOKENS_AT_MOST:
        raise UserError(
            f"The answers have {count} spellings that are one token of this teacher, and {ANSWER_TOKENS_AT_MOST} is "
            "the most that can be read: leave some of the words for yes and no out of the prompt template."
        )
    return AnswerTokens(tuple(sorted(yes)), tuple(sorted(no)))


def head_tokens(answers: AnswerTokens, tokenizer: Any, form: YesNoForm, end: str, gap: str) -> AnswerTokens:
    """The one spelling of yes and of no that a classification head is made of, out of ``answers``.

    It is the form's first word as it is written behind ``end``, the prompt's last words, with ``gap`` before it (a
    space where these are no marks); another spelling where that one is not a token.
    """
    # Behind a mark without a line break the answer is as at the beginning of a text: Llama 2's begins with a space.
    before = end if gap or end.endswith("\n") else ""
    chosen = []
    for word, found in ((form.yes[0], answers.yes), (form.no[0], answers.no)):
        written = (_one_token(tokenizer, place, gap + word) for place in (before, ""))
        chosen.append((next((token for token in written if token in found), found[0]),))
    return AnswerTokens(*chosen)


def probability_of_yes(log_probabilities: dict[int, float], answers: AnswerTokens) -> float:
    """P(yes) from the log probabilities (or logits) of all of ``answers.all``, in float64."""
    values = np.array([log_probabilities[token] for token in answers.all], dtype=np.float64)
    weights = np.exp(values - values.max())
    return float(weights[: len(answers.yes)].sum() / weights.sum())


def mean_log_likelihood(log_probabilities: Sequence[float]) -> float:
    """Mean of the label tokens' log probabilities (natural logarithm), in float64."""
    return float(np.mean(np.asarray(log_probabilities, dtype=np.float64)))


def _single_tokens(tokenizer: Any, words: Sequence[str]) -> set[int]:
    spellings = {case for word in words for case in (word, word.lower(), word.capitalize(), word.upper())}
    places = [(before, gap + spelling) for spelling in spellings for before, gap in (("", ""), ("", " "), ("a\n", ""))]
    return {token for place in places if (token := _one_token(tokenizer, *place)) is not None}


def _one_token(tokenizer: Any, before: str, text: str) -> int | None:
    """The token that ``text`` is behind ``before``, None where it is not exactly one known token more."""
    known, tokens = (tokenizer(words, add_special_tokens=False)["input_ids"] for words in (before, before + text))
    is_one = len(tokens) == len(known) + 1 and tokens[:-1] == known and tokens[-1] != tokenizer.unk_token_id
    return int(tokens[-1]) if is_one else None

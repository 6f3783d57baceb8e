"""A yes/no prompt as the teacher's own chat template shows it, or as plain text where it has none.

Comes in: a tokenizer, a template, and the texts that stand in for document and label. Goes out: the whole prompt as one
text, at whose end the answer is read. Chat templates differ in what they do with an instruction: some refuse the role
(Gemma), some leave it out without a word (Phi-3). Some begin the answer with a thought (QwQ, DeepSeek-R1), or with the
day's date (Llama). Here the instruction is always there, the thought is over, and the date is always the same, so that
a verdict does not depend on the day.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.teacher.prompts import DOCUMENT, LABEL, Example, PromptTemplate, YesNoForm, fill

#: What templates are told that today is: the day that Llama 3's takes where it is told none.
TODAY = date(2024, 7, 26)
#: Before the answer where there is no chat template, unless the prompt has words of its own.
PLAIN_CUE = "Answer:"
#: How a thought begins and ends: Qwen3 and DeepSeek-R1, Seed-OSS, Magistral, Command A, MedGemma.
THOUGHTS = {
    "<think>": "</think>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<unused94>thought": "<unused95>",
}
#: A mark at the very end that begins a thought by its name: <thinking>, [REASON], ◁think▷, <|begin_of_thought|>, …
_OPENS = re.compile(
    r"(?P<left><\|?|\[|◁)(?P<name>[\w:.-]*(?:think|thought|reason|analysis)[\w:.-]*)(?P<right>\|?>|\]|▷)\s*\Z",
    re.IGNORECASE,
)
#: Words of such a name by which it ends a thought, or says that there is to be none; and of one that is nothing else.
_NO_THOUGHT = frozenset(("end", "off", "no", "not", "nothink", "nothinking", "effort", "disabled"))
_THOUGHT = frozenset(("think", "thinking", "thought", "thoughts", "reason", "reasoning", "analysis"))
_BEGIN_END = (("begin", "end"), ("BEGIN", "END"), ("start", "end"), ("START", "END"))
#: gpt-oss opens a channel after the role; without one it would think. Its answers stand in the channel "final".
_ROLE_WITHOUT_CHANNEL, _ANSWER_CHANNEL = "<|start|>assistant", "<|channel|>final<|message|>"
_THOUGHT_CHANNEL = "<|channel|>analysis<|message|>"


def chat_prompt(tokenizer: Any, template: PromptTemplate, document: str, label: str) -> str:
    """The prompt of ``template`` about ``document`` and ``label``, worked examples before them as turns.

    Errors: UserError for a chat template that fails, and for one that leaves the instruction out wherever it stands.
    """
    form = template.yes_no
    assert form is not None
    turns = [{"role": "user", "content": filled(form.user, document, label)}]
    turns = [turn for example in template.examples for turn in _example_turns(form, example)] + turns
    text = _rendered(tokenizer, template.name, form.system, turns)
    return text + _after_thought(text[text.rfind(label) :]) + form.answer_prefix


def plain_prompt(template: PromptTemplate, document: str, label: str) -> str:
    """The prompt for a model without a chat template: turns as paragraphs, the answer after :data:`PLAIN_CUE`."""
    form = template.yes_no
    assert form is not None
    cue = form.answer_prefix or PLAIN_CUE
    parts = [form.system] if form.system else []
    for example in template.examples:
        for shown, fits in example.answers:
            parts.append(f"{filled(form.user, example.document, shown)}\n{_answered(form, fits, cue)}")
    parts.append(f"{filled(form.user, document, label)}\n{cue}")
    return "\n\n".join(parts)


def filled(text: str, document: str, label: str) -> str:
    """``text`` with both slots filled."""
    return fill(text, {DOCUMENT: document, LABEL: label})


def gap_after(cue: str) -> str:
    """What stands between ``cue`` and an answer: a space, where it is not empty and does not end in white space."""
    return " " if cue and not cue[-1].isspace() else ""


def _rendered(tokenizer: Any, prompt: str, system: str, turns: list[dict[str, str]]) -> str:
    """The turns after the instruction: in the role that is for it, else before the first turn's words."""
    if not system:
        return _tried(tokenizer, turns, _refused(prompt))
    text = _tried(tokenizer, [{"role": "system", "content": system}, *turns])
    if text is not None and system.strip() in text:
        return text
    first = {**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}
    text = _tried(tokenizer, [first, *turns[1:]], _refused(prompt))
    if system.strip() not in text:
        raise UserError(
            f"The teacher's chat template leaves out the instruction of the prompt {prompt} ({system!r}): "
            "take another teacher, or a prompt without system."
        )
    return text


def _refused(prompt: str) -> Callable[[Exception], str]:
    def refuse(error: Exception) -> str:
        raise UserError(f"The teacher's chat template refuses the prompt {prompt}: {one_line(error)}.") from error

    return refuse


def _tried(tokenizer: Any, turns: list[dict[str, str]], refuse: Callable[[Exception], Any] = lambda error: None) -> Any:
    """The turns through the template; what ``refuse`` makes of its failure, which can be any: a template is a program.

    enable_thinking: templates that know it (Qwen3's) start with the answer itself; others ignore it.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                strftime_now=TODAY.strftime,
            )
        )
    except Exception as error:
        return refuse(error)


def _after_thought(end: str) -> str:
    """What ends the thought that the prompt's ``end`` opens, so that the next token is the answer's; mostly nothing."""
    if end.endswith(_ROLE_WITHOUT_CHANNEL):
        return _ANSWER_CHANNEL
    if end.endswith(_THOUGHT_CHANNEL):
        return f"<|end|>{_ROLE_WITHOUT_CHANNEL}{_ANSWER_CHANNEL}"
    closes = next((closes for opens, closes in THOUGHTS.items() if end.rfind(opens) > end.rfind(closes)), None)
    if closes is None and (opened := _OPENS.search(end)):
        closes = _closing(opened)
    if closes is None:
        return ""
    return f"\n{closes}\n\n" if end.endswith("\n") else closes


def _closing(opened: re.Match[str]) -> str | None:
    """The mark that ends what ``opened`` begins; None: it begins none. UserError where nobody can know it."""
    left, name, right = opened["left"], opened["name"], opened["right"]
    words = re.split(r"[^a-z]+", name.lower())
    if _NO_THOUGHT.intersection(words):
        return None
    for begin, end in _BEGIN_END:
        if name.startswith(begin) or name.endswith(begin):
            return f"{left}{name.replace(begin, end)}{right}"
    if left != "<|":
        return f"{left}/{name}{right}"
    if not _THOUGHT.issuperset(words):
        return None
    raise UserError(
        f"The teacher's chat template opens a thought by {left}{name}{right}, and what ends it is not known: the "
        "answer would be read in the thought; take a teacher.model that answers at once."
    )


def _example_turns(form: YesNoForm, example: Example) -> list[dict[str, str]]:
    turns = []
    for label, fits in example.answers:
        turns.append({"role": "user", "content": filled(form.user, example.document, label)})
        turns.append({"role": "assistant", "content": _answered(form, fits, form.answer_prefix)})
    return turns


def _answered(form: YesNoForm, fits: bool, cue: str) -> str:
    return cue + gap_after(cue) + (form.yes if fits else form.no)[0]

"""Chat templates of the common families, in our words by their marks: what the teacher reads, from head to tail.

Each does what its family's does with the instruction, with thoughts, and with the day's date.
"""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher.chat import TODAY
from ezxmc_ray.teacher.plan import PromptPlan
from ezxmc_ray.teacher.prompts import Example, PromptTemplate, YesNoForm

FORM = YesNoForm(user="Text: {document}\nTag: {label}", yes=("yes",), no=("no",), system="Answer yes or no.")
TEMPLATE = PromptTemplate("test", 1, FORM, None)
ASKED = "Text: Stars\nTag: astronomy"


def says(text: str) -> str:
    """A template's expression that prints ``text``: the line break at a template's own end is dropped."""
    return "{{ " + repr(text) + " }}"


def each(turn: str) -> str:
    """A template's loop over the messages."""
    return "{% for m in messages %}" + turn + "{% endfor %}"


CHATML = each("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n")
CHATML_BEGUN = (
    f"<|im_start|>system\nAnswer yes or no.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"
)
CHATML_END = "<|im_start|>assistant\n"
LLAMA3 = (
    "<|start|>system\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n{{ messages[0].content }}<|eot|>"
    "{% for m in messages[1:] %}<|start|>{{ m.role }}\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
)
LLAMA2 = each(
    "{% if m.role == 'user' %}[INST] {% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }} {% endif %}"
)
MISTRAL = each(  # the instruction stands in the last user turn
    "{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{% endif %}"
)
GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + each(
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n"
)
PHI3 = each(  # every user turn opens the answer, asked for one or not
    "{% if m.role == 'user' %}<|user|>\n{{ m.content }}<|end|>\n<|assistant|>\n"
    "{% elif m.role == 'assistant' %}{{ m.content }}<|end|>\n{% endif %}"
)
HARMONY = each("<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>") + "<|start|>assistant"
TWO_TURNS = "<S>{{ messages[0].content }}<U>{{ messages[1].content }}<A>"
NO_THOUGHT = "{% if enable_thinking is false %}" + says("<think>\n\n</think>\n\n") + "{% endif %}"

#: Family -> its template, and the whole prompt.
FAMILIES = {
    "Qwen2.5, SmolLM2": (CHATML + says(CHATML_END), CHATML_BEGUN),
    "Qwen3": (CHATML + says(CHATML_END) + NO_THOUGHT, CHATML_BEGUN + "<think>\n\n</think>\n\n"),
    "Qwen3-Thinking, QwQ": (CHATML + says(CHATML_END + "<think>\n"), CHATML_BEGUN + "<think>\n\n</think>\n\n"),
    "DeepSeek-R1": (TWO_TURNS + says("<think>\n"), f"<S>Answer yes or no.<U>{ASKED}<A><think>\n\n</think>\n\n"),
    "DeepSeek-V3.1": (TWO_TURNS + "</think>", f"<S>Answer yes or no.<U>{ASKED}<A></think>"),
    "Phi-4, GLM-4, Zephyr": (
        each("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n") + says("<|assistant|>\n"),
        f"<|system|>\nAnswer yes or no.<|end|>\n<|user|>\n{ASKED}<|end|>\n<|assistant|>\n",
    ),
    "Phi-3": (PHI3, f"<|user|>\nAnswer yes or no.\n\n{ASKED}<|end|>\n<|assistant|>\n"),
    "Gemma": (GEMMA + says("<turn>model\n"), f"<turn>user\nAnswer yes or no.\n\n{ASKED}<end>\n<turn>model\n"),
    "Llama 2": (LLAMA2, f"[INST] <<SYS>>\nAnswer yes or no.\n<</SYS>>\n\n{ASKED} [/INST]"),
    "Llama 3": (
        LLAMA3 + says("<|start|>assistant\n\n"),
        "<|start|>system\nToday Date: 26 Jul 2024\n\nAnswer yes or no.<|eot|>"
        f"<|start|>user\n\n{ASKED}<|eot|><|start|>assistant\n\n",
    ),
    "Mistral": (MISTRAL, f"[INST] Answer yes or no.\n\n{ASKED}[/INST]"),
    "Magistral": (TWO_TURNS + "[THINK]", f"<S>Answer yes or no.<U>{ASKED}<A>[THINK][/THINK]"),
    "Command A": (
        TWO_TURNS + "<|START_THINKING|>",
        f"<S>Answer yes or no.<U>{ASKED}<A><|START_THINKING|><|END_THINKING|>",
    ),
    "gpt-oss": (
        HARMONY,
        f"<|start|>system<|message|>Answer yes or no.<|end|><|start|>user<|message|>{ASKED}<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
    ),
}


@pytest.fixture(scope="module")
def tokenizer(small_teacher_directory: str) -> Any:
    """Each test gives it a chat template."""
    return AutoTokenizer.from_pretrained(small_teacher_directory)


def prompt(tokenizer: Any, chat_template: Any, template: PromptTemplate = TEMPLATE) -> str:
    tokenizer.chat_template = chat_template
    plan = PromptPlan(tokenizer, template, "yes_no", 64, 16, 2048)
    return str(tokenizer.decode([*plan.prefix("", "Stars")[0], *plan.suffix("astronomy").tokens]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_instruction_is_there_and_the_next_token_is_the_answer(tokenizer: Any, family: str) -> None:
    chat_template, whole = FAMILIES[family]
    assert prompt(tokenizer, chat_template) == whole


def test_an_instruction_that_is_left_out_stands_before_the_first_turn_once(tokenizer: Any) -> None:
    shown = PromptTemplate("test", 1, FORM, None, (Example("Bread", ("baking",), ("chess",)),))
    text = prompt(tokenizer, PHI3, shown)
    assert text.startswith(
        "<|user|>\nAnswer yes or no.\n\nText: Bread\nTag: baking<|end|>\n<|assistant|>\nyes<|end|>\n"
    )
    assert text.count("Answer yes or no.") == 1
    assert text.endswith(f"no<|end|>\n<|user|>\n{ASKED}<|end|>\n<|assistant|>\n")


def test_an_answer_that_begins_with_words_of_its_own_comes_after_the_thought(tokenizer: Any) -> None:
    form = YesNoForm(FORM.user, FORM.yes, FORM.no, FORM.system, answer_prefix="Fits:")
    text = prompt(tokenizer, CHATML + says(CHATML_END + "<think>\n"), PromptTemplate("test", 1, form, None))
    assert text.endswith("<think>\n\n</think>\n\nFits:")


@pytest.mark.parametrize(("prefix", "gap"), [("Fits:", " "), ("Fits: ", ""), ("Fits:\n", ""), ("", "")])
def test_worked_examples_answer_as_the_prompt_asks(tokenizer: Any, prefix: str, gap: str) -> None:
    """The word has a space before it where the prompt's own words bring none, in chats and in plain text."""
    form = YesNoForm(FORM.user, FORM.yes, FORM.no, FORM.system, answer_prefix=prefix)
    shown = PromptTemplate("test", 1, form, None, (Example("Bread", ("baking",), ("chess",)),))
    text = prompt(tokenizer, CHATML + says(CHATML_END), shown)
    for answer in ("yes", "no"):
        assert f"assistant\n{prefix}{gap}{answer}<|im_end|>" in text
    assert text.endswith(f"assistant\n{prefix}")
    plain, cue = prompt(tokenizer, None, shown), prefix or "Answer:"
    assert f"Tag: baking\n{cue}{gap if prefix else ' '}yes\n\n" in plain
    assert plain.endswith(f"Tag: astronomy\n{cue}")


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("<thinking>", "</thinking>"),
        ("<longcat_think>\n", "\n</longcat_think>\n\n"),
        ("<mm:think>", "</mm:think>"),
        ("<THINK>", "</THINK>"),
        ("[REASON]", "[/REASON]"),
        ("◁think▷", "◁/think▷"),
        ("<|begin_of_thought|>\n\n", "\n<|end_of_thought|>\n\n"),
        ("<|START_REASONING|>", "<|END_REASONING|>"),
        ("<unused94>thought\n", "\n<unused95>\n\n"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|end_of_thought|>", ""),
        ("</thinking>\n\n", ""),
        ("<answer>", ""),
        ("<think_end>", ""),
        ("<|thinking_end|>", ""),
        ("<|nothink|>", ""),
        ("<no_think>", ""),
        ("<|reasoning_effort|>", ""),
        ("<|think_fast|>", ""),
        ("<think_start>", "<think_end>"),
    ],
)
def test_a_thought_by_whatever_mark_is_ended(tokenizer: Any, opens: str, closes: str) -> None:
    assert prompt(tokenizer, CHATML + says(CHATML_END + opens)) == f"{CHATML_BEGUN}{opens}{closes}"


def test_a_thought_whose_end_nobody_knows_is_one_sentence(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"opens a thought by <\|think\|>, and what ends it is not known"):
        prompt(tokenizer, CHATML + says(CHATML_END + "<|think|>"))


def test_a_thought_in_the_document_opens_none(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML + says(CHATML_END)
    plan = PromptPlan(tokenizer, TEMPLATE, "yes_no", 64, 16, 2048)
    text = tokenizer.decode([*plan.prefix("", "a <think> b")[0], *plan.suffix("<think>").tokens])
    assert text.endswith("Tag: <think><|im_end|>\n<|im_start|>assistant\n")


def test_templates_are_told_the_same_day_always() -> None:
    assert TODAY.strftime("%d %b %Y") == "26 Jul 2024"  # what Llama 3's template says by itself


@pytest.mark.parametrize(
    ("chat_template", "said"),
    [
        ("{{ 'a' + 1 }}", "refuses the prompt test: can only concatenate str"),
        (
            "{% for m in messages %}{{ m.content.nothing.more }}{% endfor %}",
            "refuses the prompt test: .*has no attribute",
        ),
        ("{% for %}", "refuses the prompt test"),
        ({"tool_use": CHATML, "rag": CHATML}, "refuses the prompt test: .* multiple chat templates with no default"),
        (
            "{{ messages[-1].content.split('\n\n')[-1] }}",
            "leaves out the instruction of the prompt test .'Answer yes or no",
        ),
        ("{{ messages[0].content }}", "does not carry the prompt test"),
    ],
)
def test_a_template_that_cannot_carry_the_prompt_is_one_sentence(tokenizer: Any, chat_template: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        prompt(tokenizer, chat_template)

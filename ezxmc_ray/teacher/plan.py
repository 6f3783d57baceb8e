"""From a template to token ids: what a prompt shares with others comes first, tokens are joined and not strings.

Comes in: a tokenizer, a template, and limits in tokens. Goes out: for a document its prefix (everything that does not
depend on the label), for a label its suffix (the label and the fewest closing tokens); a prompt is the two in a row.
Control tokens come from the chat template and the template's own words only: a document or a label is tokenized as
plain text, whatever it contains; worked examples are refused if they contain the name of one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher.chat import chat_prompt, filled, plain_prompt
from ezxmc_ray.teacher.prompts import DESCRIPTION, LABEL, PromptTemplate, fill

#: What the document slot reads where a label's prior is asked for.
NO_DOCUMENT_TEXT = "N/A"
#: Raise when joining, cutting or rendering changes what the engine sees: it is part of the teacher key.
PLAN_VERSION = 5
#: Stand for the slots while a chat template renders: plain letters that no template trims or escapes.
_DOCUMENT_MARK, _LABEL_MARK = "EZXMCDOCUMENTSLOT", "EZXMCLABELSLOT"
#: No tokenizer takes more characters into a token on average, so text beyond is cut before it is tokenized.
_CHARACTERS_PER_TOKEN = 100
#: Labels whose tokens are kept, since common ones are in many shortlists.
_KEPT_SUFFIXES = 100_000
#: Between a likelihood prompt's worked examples and its document.
_EXAMPLE_GAP = "\n\n"
#: White space, as vocabularies write it too.
_SPACES = "\u2581 \t\r\n"
#: The form of a control token.
_MARK = re.compile(r"[<\[].*[>\]]", re.DOTALL)
#: Formatting that Gemma has tokens of. Not <s>, which begins texts elsewhere, and nothing that stands for an image.
_HTML = re.compile(
    "</?(a|b|blockquote|body|br|caption|code|div|em|footer|h[1-6]|html|i|iframe|li|ol|p|span|strong|sub|sup|table"
    "|tbody|td|tfoot|th|thead|tr|u|ul)>"
)


@dataclass(frozen=True)
class Suffix:
    """A label's end of the prompt: ``tokens``, of which ``label_tokens`` first ones are the label; cut or not."""

    tokens: list[int]
    label_tokens: int
    truncated: bool


class PromptPlan:
    """Token ids of every prompt of one teacher.

    The document is cut to ``max_document_tokens``, and further where the longest label would not fit into
    ``context_tokens`` otherwise (one token is left for the answer). ``pad_tokens``: line breaks before the line that
    the document begins in make what its pairs share end with a block of so many tokens (0: no padding; none in the
    first line of a chat), so that an engine that caches by blocks computes nothing of it twice; for the likelihood one
    token later, since the token before the label must be computed for every pair. Errors: UserError for a template
    without a form for ``readout``, a chat template that cannot carry it, and a context that has no room for the prompt.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: PromptTemplate,
        readout: str,
        max_document_tokens: int,
        max_label_tokens: int,
        context_tokens: int,
        pad_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._added = _added_tokens(tokenizer)
        _check_examples(template, readout, self._added)
        head, middle, tail = _rendered(tokenizer, template, readout)
        # A space before a slot belongs to the text that fills it: most vocabularies hold " word" as one token.
        head, self._document_lead = _split_spaces(head)
        middle, self._label_lead = _split_spaces(middle)
        is_chat = _is_chat(tokenizer, readout)
        start = [] if is_chat else _start_tokens(tokenizer)
        before, line_break, line = head.rpartition("\n")
        pad = _pad_token(tokenizer)
        # The first line of a chat begins with marks, and no line break stands before those.
        self._pad = pad if pad_tokens and (line_break or not is_chat) else None
        self._pad_tokens = pad_tokens if self._pad is not None else 0
        self._break = _break_alone(tokenizer, pad)
        # Without padding in between, the two are tokenized as one text, as the model knows it.
        self._head, self._line = start + self._trusted(head), list[int]()
        if self._pad_tokens:
            self._head = start + self._trusted(before + line_break)
            self._line = self._trusted(line, begins=not line_break)
        self._middle = self._trusted(middle, begins=False)
        self._tail = self._trusted(tail, begins=False)
        self._document_begins = self._slot_begins(head, self._document_lead)
        self._label_begins = self._slot_begins("a" + middle, self._label_lead)
        #: What stands behind the label; the answer is read at its end.
        self.end = tail
        self._described_label = template.described_label
        self._suffixes: dict[tuple[str, str], Suffix] = {}
        self.max_label_tokens = max_label_tokens
        self._shared_end = 1 if readout == "likelihood" else 0
        room = context_tokens - 1 - self._fixed_tokens - max_label_tokens
        if room < 1:
            raise UserError(
                f"The prompt {template.name} ({len(self._head):,} tokens before the document, worked examples "
                f"included; padding {self._pad_tokens}) with labels of {max_label_tokens} tokens leaves no room for a "
                f"document in the teacher's context of {context_tokens:,} tokens; shorten teacher.examples, or lower "
                "teacher.max_label_tokens."
            )
        self.max_document_tokens = min(max_document_tokens, room)

    @property
    def head(self) -> list[int]:
        """Tokens that all prompts begin with, worked examples among them; none of a document's or of its padding."""
        return self._head

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt that this plan makes."""
        return self._fixed_tokens + self.max_document_tokens + self.max_label_tokens

    @property
    def _fixed_tokens(self) -> int:
        """Tokens of a prompt beside document and label, the most padding included."""
        texts = len(self._head) + len(self._line) + len(self._middle) + len(self._tail)
        return texts + max(0, self._pad_tokens - 1)

    def prefix(self, title: str, text: str) -> tuple[list[int], bool]:
        """Tokens up to the label for a document, and whether the document was cut."""
        return self.prefixes([(title, text)])[0]

    def prefixes(self, documents: Sequence[tuple[str, str]]) -> list[tuple[list[int], bool]]:
        """:meth:`prefix` of each (title, text)."""
        texts = [self._document_lead + "\n".join(part for part in document if part) for document in documents]
        cuts = self._cut(texts, self.max_document_tokens, self._document_begins)
        return [(self._joined(tokens), cut) for tokens, cut in cuts]

    def prior_prefix(self) -> list[int]:
        """Tokens up to the label where there is no document."""
        text = self._document_lead + NO_DOCUMENT_TEXT
        [(tokens, _)] = self._cut([text], self.max_document_tokens, self._document_begins)
        return self._joined(tokens)

    def _joined(self, document: list[int]) -> list[int]:
        """Head, padding, document and what comes before the label."""
        rest = self._line + document + self._middle
        if self._pad is None:
            return self._head + rest
        shared = len(self._head) + len(rest) - self._shared_end
        return self._head + [self._pad] * (-shared % self._pad_tokens) + rest

    def suffix(self, label: str, description: str = "") -> Suffix:
        """Tokens from the label on, as the template shows one that has a description.

        An empty label is one space, so that there is something to judge.
        """
        return self.suffixes([(label, description)])[0]

    def suffixes(self, labels: Sequence[tuple[str, str]]) -> list[Suffix]:
        """:meth:`suffix` of each (label, description); those of the latest labels are at hand."""
        found = {label: self._suffixes[label] for label in dict.fromkeys(labels) if label in self._suffixes}
        fresh = [label for label in dict.fromkeys(labels) if label not in found]
        texts = [(self._label_lead + self._shown(*label)) or " " for label in fresh]
        cuts = self._cut(texts, self.max_label_tokens, self._label_begins)
        for label, (tokens, cut) in zip(fresh, cuts, strict=True):
            found[label] = Suffix(tokens + self._tail, len(tokens), cut)
        if len(self._suffixes) + len(fresh) > _KEPT_SUFFIXES:
            self._suffixes.clear()
        self._suffixes |= {label: found[label] for label in fresh}
        return [found[label] for label in labels]

    def _shown(self, label: str, description: str) -> str:
        return fill(self._described_label, {LABEL: label, DESCRIPTION: description}) if description else label

    def _cut(self, texts: Sequence[str], limit: int, begins: bool) -> list[tuple[list[int], bool]]:
        """The first ``limit`` tokens of each text, and whether it has more; ``begins``: see :meth:`_tokens`."""
        short = [text[: limit * _CHARACTERS_PER_TOKEN] for text in texts]
        found = zip(texts, short, self._untrusted(short, begins), strict=True)
        return [(tokens[:limit], len(tokens) > limit or len(part) < len(text)) for text, part, tokens in found]

    def _trusted(self, text: str, begins: bool = True) -> list[int]:
        return self._tokens([text], begins)[0] if text else []

    def _untrusted(self, texts: Sequence[str], begins: bool) -> list[list[int]]:
        """Tokens of users' texts, in which the name of a control token is letters like any others."""
        filled = [text for text in texts if text]
        if not filled:
            return [[] for _ in texts]
        # split_special_tokens covers the tokens marked special. Others that are found by name (Qwen's <think>) are not.
        plain = self._tokens(filled, begins, split_special_tokens=True)
        found = (self._without_names(*one, begins) for one in zip(filled, plain, strict=True))
        return [next(found) if text else [] for text in texts]

    def _without_names(self, text: str, tokens: list[int], begins: bool) -> list[int]:
        """``tokens`` of ``text``; where one was found by name, those of the text cut after each name's first letter."""
        if self._added is None or self._added.ids.isdisjoint(tokens):
            return tokens
        cuts = [0, *(match.start() + 1 for match in self._added.names.finditer(text)), len(text)]
        parts = [text[start:end] for start, end in itertools.pairwise(cuts)]
        return [token for at, part in enumerate(parts) for token in self._trusted(part, begins and not at)]

    def _tokens(self, texts: Sequence[str], begins: bool, **options: Any) -> list[list[int]]:
        """Tokens of each text; ``begins``: of one as it is by itself, and not in the middle of a prompt.

        Some tokenizers put a space before every text (Llama 2's, Phi-3's). Behind a line break they put none.
        """
        options |= {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        if begins or not self._break:
            return list(map(list, self._tokenizer(list(texts), **options)["input_ids"]))
        led = self._tokenizer(["\n" + text for text in texts], **options)["input_ids"]
        size = len(self._break)
        return [
            list(tokens[size:]) if tokens[:size] == self._break else self._tokens([text], True, **options)[0]
            for text, tokens in zip(texts, led, strict=True)
        ]

    def _slot_begins(self, before: str, lead: str) -> bool:
        """Whether what fills a slot behind ``before`` has the tokens of a text by itself.

        It has where the prompt begins with it, and behind a mark in tokenizers that begin anew there (Llama 2's).
        """
        if not before or not self._break:
            return True
        alone = self._trusted(lead + "a")
        return self._trusted(before + lead + "a")[-len(alone) :] == alone


@dataclass(frozen=True)
class _AddedTokens:
    """``ids`` and ``names`` of tokens that are found by name; ``controls``: names of those that may steer the model."""

    ids: frozenset[int]
    names: re.Pattern[str]
    controls: re.Pattern[str]


def _added_tokens(tokenizer: Any) -> _AddedTokens | None:
    """Tokens that are found by name before a text is split (control tokens and the like), None if there are none.

    Those of white space alone (Gemma's, GPT-NeoX's) are left out: they say no more than the text itself.
    """
    added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if len(str(token)) > 1}
    added = {number: token for number, token in added.items() if str(token).strip(_SPACES)}
    if not added:
        return None
    controls = [str(token) for token in added.values() if token.special or _is_mark(str(token))]
    return _AddedTokens(frozenset(added), _any_of(map(str, added.values())), _any_of(controls))


def _is_mark(name: str) -> bool:
    """Whether a token that is not said to be special has the form of one, as <think> and [INST], and is no HTML."""
    return bool(_MARK.fullmatch(name.strip(_SPACES))) and not _HTML.fullmatch(name)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest name first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def _pad_token(tokenizer: Any) -> int | None:
    """The line break as one token (None: this tokenizer has none)."""
    alone, before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", "a", "a\n"))
    if len(alone) == 1:
        return int(alone[0])
    # Tokenizers that put a space before every text have one only after something else.
    return int(after[-1]) if after[:-1] == before else None


def _break_alone(tokenizer: Any, pad: int | None) -> list[int]:
    """Tokens of a line break by itself, where a tokenizer puts a space before every text; else none."""
    alone = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
    return alone if pad is not None and alone != [pad] else []


def _is_chat(tokenizer: Any, readout: str) -> bool:
    return readout != "likelihood" and bool(tokenizer.chat_template)


def _check_examples(template: PromptTemplate, readout: str, added: _AddedTokens | None) -> None:
    """Examples are part of the template's text, so the name of a control token in them would become one."""
    for number, example in enumerate(template.examples, 1):
        for text in (example.document, *example.yes, *example.no):
            if added is not None and (found := added.controls.search(text)):
                raise UserError(
                    f"The worked example {number} contains {found[0]}, which is a control token of this teacher: "
                    "write it in another way."
                )
    if readout == "likelihood" and not template.has_likelihood_examples:
        raise UserError("No worked example has a label that fits (yes), and the read-out likelihood shows no others.")


def _start_tokens(tokenizer: Any) -> list[int]:
    """The token that this tokenizer puts before a text by itself, if it does."""
    ids = tokenizer("")["input_ids"]
    return [ids[0]] if ids and ids[0] == tokenizer.bos_token_id else []


def _rendered(tokenizer: Any, template: PromptTemplate, readout: str) -> tuple[str, str, str]:
    """The text before the document, between document and label, and after the label."""
    if readout == "likelihood":
        if template.likelihood is None:
            raise UserError(f"The prompt {template.name} has no likelihood form: set teacher.readout=yes_no.")
        form = template.likelihood.text
        shown = [filled(form, example.document, label) for example in template.examples for label in example.yes]
        text = _EXAMPLE_GAP.join([*shown, filled(form, _DOCUMENT_MARK, _LABEL_MARK)])
    else:
        if template.yes_no is None:
            raise UserError(f"The prompt {template.name} has no yes_no form: set teacher.readout=likelihood.")
        if tokenizer.chat_template:
            text = chat_prompt(tokenizer, template, _DOCUMENT_MARK, _LABEL_MARK)
        else:
            text = plain_prompt(template, _DOCUMENT_MARK, _LABEL_MARK)
    head, found_document, rest = text.partition(_DOCUMENT_MARK)
    middle, found_label, tail = rest.partition(_LABEL_MARK)
    if not found_document or not found_label or _DOCUMENT_MARK in tail:
        raise UserError(
            f"The teacher's chat template does not carry the prompt {template.name}: it drops or repeats it."
        )
    return head, middle, tail


def _split_spaces(text: str) -> tuple[str, str]:
    stripped = text.rstrip(" ")
    return stripped, text[len(stripped) :]

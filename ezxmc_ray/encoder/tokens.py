"""From texts to token ids: special tokens, prompt, and what is read of a text that is longer than its limit.

Comes in: a fast tokenizer and texts. Goes out: token ids within a limit with the count of the texts that were cut, and
padded arrays. Three ways to read a long text: its head; its head and its tail (arXiv 1905.05583, section 5.3.1, which
found the two together best); or chunks of it, one after the other. Little more of a long text is tokenized than read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

#: Characters that are tokenized first for each token that is read: most languages have 3 to 5 a token. Where they are
#: too few, so many times more.
CHARACTERS_PER_TOKEN = 8
#: Where a text is cut before it is tokenized, so many tokens more are made: a word is read as a whole by
#: BERT's tokenizers, up to 100 characters of it.
MARGIN_TOKENS = 128


@dataclass(frozen=True)
class Tokens:
    """``token_ids``: of each text, special tokens and prompt included; ``truncated``: how many texts were cut.

    ``unreadable``: how many texts the tokenizer knows nothing of: they get one and the same vector.
    """

    token_ids: list[list[int]]
    truncated: int
    unreadable: int


@dataclass(frozen=True)
class Chunks:
    """``token_ids``: of the chunks, text after text; ``first``: int64 [n], each text's first chunk.

    ``truncated`` and ``unreadable``: as those of :class:`Tokens`.
    """

    token_ids: list[list[int]]
    first: np.ndarray
    truncated: int
    unreadable: int


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


class TextReader:
    """A fast tokenizer that cuts texts; ``after``: the special tokens that it puts behind a text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.after = _special_tokens_after(tokenizer)
        # The padding is masked: a tokenizer without a padding token can take any.
        self.pad_id = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    def head(self, texts: Sequence[str], prompt: str, max_tokens: int) -> Tokens:
        """``prompt`` + each text; of a longer one the first ``max_tokens`` tokens."""
        return self._cut(texts, prompt, max_tokens, cut_head)

    def head_tail(self, texts: Sequence[str], prompt: str, max_tokens: int) -> Tokens:
        """``prompt`` + each text; of a longer one the first and the last half of ``max_tokens`` tokens."""
        lead = len(self.lead(prompt))
        return self._cut(texts, prompt, max_tokens, partial(cut_head_tail, lead=lead), with_end=True)

    def chunks(self, texts: Sequence[str], prompt: str, max_tokens: int, max_chunks: int) -> Chunks:
        """``prompt`` + each text in up to ``max_chunks`` chunks of ``max_tokens``, each with prompt and all."""
        lead, tail = self.lead(prompt), len(self.after)
        enough = self._enough(texts, prompt, max_tokens * max_chunks)
        of_texts = [cut_chunks(ids, max_tokens, lead, tail) for ids in enough]
        kept = [chunks[:max_chunks] for chunks in of_texts]
        first = np.cumsum([0, *map(len, kept)], dtype=np.int64)[:-1]
        truncated = sum(len(chunks) > max_chunks for chunks in of_texts)
        token_ids = [ids for chunks in kept for ids in chunks]
        return Chunks(token_ids, first, truncated, self._unreadable(enough, lead))

    def lead(self, prompt: str) -> list[int]:
        """What stands before every text: special tokens and ``prompt``."""
        ids = self._tokenize([prompt])[0]
        return ids[: len(ids) - len(self.after)]

    def features(self, token_ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """``input_ids`` and ``attention_mask``, int64 [n, longest], padded on the tokenizer's side."""
        longest = max(map(len, token_ids))
        input_ids = np.full((len(token_ids), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, ids in enumerate(token_ids):
            start = longest - len(ids) if self.tokenizer.padding_side == "left" else 0
            input_ids[row, start : start + len(ids)] = ids
            attention_mask[row, start : start + len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _cut(
        self,
        texts: Sequence[str],
        prompt: str,
        max_tokens: int,
        cut: Callable[[list[int], int, int], list[int]],
        with_end: bool = False,
    ) -> Tokens:
        enough = self._enough(texts, prompt, max_tokens, with_end)
        token_ids = [cut(ids, max_tokens, len(self.after)) for ids in enough]
        truncated = sum(len(ids) > max_tokens for ids in enough)
        return Tokens(token_ids, truncated, self._unreadable(enough, self.lead(prompt)))

    def _enough(self, texts: Sequence[str], prompt: str, wanted: int, with_end: bool = False) -> list[list[int]]:
        """Token ids of each text: all of them, or more than ``wanted`` of its beginning.

        ``with_end``: followed by more than ``wanted`` of its end.
        """
        found: list[list[int]] = [[] for _ in texts]
        enough, missing = wanted + MARGIN_TOKENS, list(range(len(texts)))
        characters = enough * CHARACTERS_PER_TOKEN
        while missing:
            begun = self._tokenize([prompt + texts[place][:characters] for place in missing])
            cut = [place for place in missing if len(texts[place]) > characters]
            ended = self._tokenize([texts[place][-characters:] for place in cut]) if with_end else [[]] * len(cut)
            ends = dict(zip(cut, ended, strict=True))
            too_few = []
            for place, beginning in zip(missing, begun, strict=True):
                # A text of which nothing is left (a tokenizer without special tokens, an empty text) needs a vector.
                found[place] = [*beginning, *ends.get(place, ())] or [self.pad_id]
                if place in ends and min(len(beginning), len(ends[place]) if with_end else enough) < enough:
                    too_few.append(place)
            missing = too_few
            characters *= CHARACTERS_PER_TOKEN
        return found

    def _unreadable(self, token_ids: Sequence[Sequence[int]], lead: Sequence[int]) -> int:
        """How many texts have no known token behind the ``lead``; special tokens say nothing.

        A text may begin within it: where tokens hold the blank before a word, the prompt's last blank is the text's.
        """
        unknown = {self.tokenizer.unk_token_id, self.pad_id, *self.lead(""), *self.after}
        return sum(unknown.issuperset(ids[_common(lead, ids) :]) for ids in token_ids)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids with special tokens, uncut."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            texts,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would warn of texts that the model cannot read whole
        )["input_ids"]
        return ids


def cut_head(ids: list[int], max_tokens: int, tail: int) -> list[int]:
    """The first ``max_tokens`` of ``ids``, the last ``tail`` of which (special tokens) are kept."""
    if len(ids) <= max_tokens:
        return ids
    return ids[: max_tokens - tail] + ids[len(ids) - tail :]


def cut_head_tail(ids: list[int], max_tokens: int, tail: int, lead: int = 0) -> list[int]:
    """The first half of ``max_tokens`` (rounded up) and the last half of ``ids``, special tokens among them.

    The first ``lead`` (special tokens and prompt) and a token of the text behind them are kept, however long.
    """
    if len(ids) <= max_tokens:
        return ids
    head = min(max(math.ceil(max_tokens / 2), lead + 1), max_tokens - tail)
    return ids[:head] + ids[len(ids) - (max_tokens - head) :]


def cut_chunks(ids: list[int], max_tokens: int, lead: list[int], tail: int) -> list[list[int]]:
    """All of ``ids`` in chunks of at most ``max_tokens``: each begins with ``lead`` and ends with the last ``tail``."""
    if len(ids) <= max_tokens:
        return [ids]
    text, end = ids[: len(ids) - tail], ids[len(ids) - tail :]
    step = max_tokens - len(lead) - tail
    following = range(max_tokens - tail, len(text), step)
    return [text[: max_tokens - tail] + end, *(lead + text[start : start + step] + end for start in following)]


def _special_tokens_after(tokenizer: Any) -> list[int]:
    """Ids of the special tokens that the tokenizer puts behind a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids: list[int] = encoded["input_ids"]
    text_places = np.flatnonzero(np.logical_not(encoded["special_tokens_mask"]))
    return ids[text_places[-1] + 1 :] if len(text_places) else []

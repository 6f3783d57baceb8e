from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from ezxmc_ray.encoder.tokens import TextReader, cut_chunks, cut_head, cut_head_tail
from ezxmc_ray.models import resolve_model
from tests.conftest import SMALL_TEACHER
from tests.encoder.texts import MINILM

CLS, SEP, PAD = 101, 102, 0
#: Words that are one token each to MiniLM's tokenizer.
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader(AutoTokenizer.from_pretrained(resolve_model(MINILM)))


def words(reader: TextReader, token_ids: list[int]) -> str:
    return str(reader.tokenizer.decode(token_ids, skip_special_tokens=True))


def test_the_special_tokens_around_a_text_are_found(reader: TextReader) -> None:
    assert reader.after == [SEP]
    assert reader.lead("") == [CLS]
    assert words(reader, reader.lead("query: ")) == "query :"


@pytest.mark.parametrize("limit", [5, 8, 24, 400])
def test_the_head_is_what_sentence_transformers_reads(
    reader: TextReader, plain: SentenceTransformer, limit: int
) -> None:
    texts = ["", "one", " ".join(WORDS), " ".join(WORDS * 40), "unbelievably antidisestablishmentarian ☃ 𓀀 words"]
    expected = plain[0].tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    found = reader.head(texts, "", limit)
    assert found.token_ids == expected
    whole = plain[0].tokenizer(texts)["input_ids"]
    assert found.truncated == sum(len(ids) > limit for ids in whole)


def test_head_and_tail_are_half_of_the_budget_each(reader: TextReader) -> None:
    found = reader.head_tail([" ".join(WORDS), "one two"], "", 8)
    assert [words(reader, ids) for ids in found.token_ids] == ["one two three ten eleven twelve", "one two"]
    assert found.token_ids[0][0] == CLS and found.token_ids[0][-1] == SEP and len(found.token_ids[0]) == 8
    assert found.truncated == 1
    # The odd token goes to the head.
    assert words(reader, reader.head_tail([" ".join(WORDS)], "", 7).token_ids[0]) == "one two three eleven twelve"
    prompted = reader.head_tail([" ".join(WORDS)], "query: ", 10).token_ids[0]
    assert words(reader, prompted) == "query : one two nine ten eleven twelve"


def test_chunks_hold_every_word_once_each_after_the_prompt(reader: TextReader) -> None:
    found = reader.chunks([" ".join(WORDS), "", "one two"], "query: ", 9, 8)
    assert [words(reader, ids) for ids in found.token_ids] == [
        "query : one two three four five",
        "query : six seven eight nine ten",
        "query : eleven twelve",
        "query :",
        "query : one two",
    ]
    assert all(ids[0] == CLS and ids[-1] == SEP and len(ids) <= 9 for ids in found.token_ids)
    assert found.first.tolist() == [0, 3, 4]
    assert found.truncated == 0


def test_chunks_beyond_the_most_are_cut_and_counted(reader: TextReader) -> None:
    found = reader.chunks([" ".join(WORDS), "one"], "", 6, 2)
    assert [words(reader, ids) for ids in found.token_ids] == ["one two three four", "five six seven eight", "one"]
    assert (found.first.tolist(), found.truncated) == ([0, 2], 1)
    assert reader.chunks([" ".join(WORDS)], "", 6, 3).truncated == 0  # twelve words are three chunks of four


@pytest.mark.parametrize("length", [1, 7, 8, 9, 13, 14, 15, 200])
def test_at_the_limit(length: int) -> None:
    """Without a tokenizer: ids 1 to length, the last one a special token."""
    ids = list(range(1, length + 1))
    whole = length <= 8
    assert cut_head(ids, 8, 1) == (ids if whole else [*ids[:7], length])
    assert cut_head_tail(ids, 8, 1) == (ids if whole else [*ids[:4], *ids[-4:]])
    chunks = cut_chunks(ids, 8, [1], 1)
    assert chunks[0] == cut_head(ids, 8, 1)
    assert [token for chunk in chunks for token in (chunk[1:-1] if length > 1 else [])] == ids[1:-1]
    assert all(len(chunk) <= 8 and chunk[0] == 1 and chunk[-1] == length for chunk in chunks)


def test_head_and_tail_without_special_tokens() -> None:
    assert cut_head([1, 2, 3, 4], 2, 0) == [1, 2]
    assert cut_head_tail([1, 2, 3, 4, 5], 3, 0) == [1, 2, 5]
    assert cut_head_tail([1, 2, 3, 4, 5], 1, 0) == [1]
    # Of five that are kept four stand before the text: they stay whole, and a token of it with them.
    assert cut_head_tail(list(range(9)), 5, 0, lead=4) == [0, 1, 2, 3, 4]
    assert cut_head_tail(list(range(9)), 6, 1, lead=3) == [0, 1, 2, 3, 7, 8]


def test_a_long_prompt_is_not_cut_by_head_and_tail(reader: TextReader) -> None:
    prompt = "one two three four five: "
    lead = reader.lead(prompt)
    (ids,) = reader.head_tail([" ".join(WORDS)], prompt, len(lead) + 3).token_ids
    assert ids[: len(lead)] == lead and words(reader, ids[len(lead) :]) == "one twelve"
    assert cut_chunks([1, 2, 3, 4, 5], 2, [], 0) == [[1, 2], [3, 4], [5]]


def test_no_texts(reader: TextReader) -> None:
    assert reader.head([], "query: ", 8).token_ids == []
    assert reader.head_tail([], "", 8).truncated == 0
    assert reader.chunks([], "", 8, 2).first.shape == (0,)


@pytest.mark.parametrize("side", ["right", "left"])
def test_features_are_what_the_tokeniser_pads(reader: TextReader, side: str) -> None:
    reader = TextReader(AutoTokenizer.from_pretrained(resolve_model(MINILM), padding_side=side))
    token_ids = reader.head(["one two three", "", "one"], "", 8).token_ids
    expected = reader.tokenizer.pad({"input_ids": token_ids}, return_tensors="np")
    found = reader.features(token_ids)
    assert set(found) == {"input_ids", "attention_mask"}
    for name in found:
        assert found[name].dtype == np.int64
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_tokeniser_without_special_tokens_has_a_token_for_an_empty_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MINILM))
    tokenizer.backend_tokenizer.post_processor = None
    reader = TextReader(tokenizer)
    assert (reader.lead(""), reader.after) == ([], [])
    assert reader.head(["", "one"], "", 4).token_ids[0] == [PAD]
    assert reader.chunks(["", "one"], "", 4, 2).token_ids[0] == [PAD]


LONG = {
    "words": " ".join(f"{WORDS[n % 12]}{n}" for n in range(10_000)),
    "one word": "abc" * 30_000,
    "blanks first": " " * 100_000 + " ".join(WORDS * 20),
    "no blanks": "".join(chr(0x4E00 + n * 7919 % 5000) for n in range(30_000)),
    "accents": "e\u0301u\u0308 " * 20_000,
    "unknown": "𓀀𓀁 " * 20_000,
}


@pytest.mark.parametrize("model", [MINILM, SMALL_TEACHER])
def test_a_long_text_is_read_as_if_all_of_it_were_tokenized(model: str) -> None:
    reader = TextReader(AutoTokenizer.from_pretrained(resolve_model(model)))
    texts = [*LONG.values(), "", "one"]
    for prompt in ("", "query: "):
        whole = [ids or [reader.pad_id] for ids in reader.tokenizer([prompt + text for text in texts])["input_ids"]]
        lead, tail = reader.lead(prompt), len(reader.after)
        truncated = sum(len(ids) > 32 for ids in whole)
        head, both = reader.head(texts, prompt, 32), reader.head_tail(texts, prompt, 32)
        assert head.token_ids == [cut_head(ids, 32, tail) for ids in whole]
        assert both.token_ids == [cut_head_tail(ids, 32, tail, len(lead)) for ids in whole]
        assert (head.truncated, both.truncated) == (truncated, truncated)
        chunks = [cut_chunks(ids, 32, lead, tail) for ids in whole]
        found = reader.chunks(texts, prompt, 32, 3)
        assert found.token_ids == [ids for of_text in chunks for ids in of_text[:3]]
        assert found.truncated == sum(len(of_text) > 3 for of_text in chunks)


def test_of_a_long_text_no_more_is_tokenized_than_is_read(reader: TextReader, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(TextReader, "_tokenize", spied(given))
    reader.head([LONG["words"], "one"], "", 32)
    assert sum(map(len, given)) < 2000 < len(LONG["words"])


def spied(given: list[str]) -> Callable[[TextReader, list[str]], list[list[int]]]:
    plain = TextReader._tokenize

    def tokenize(self: TextReader, texts: list[str]) -> list[list[int]]:
        given.extend(texts)
        return plain(self, texts)

    return tokenize


def test_a_blank_that_belongs_to_the_first_word_hides_no_text() -> None:
    """As where a byte-level tokenizer reads "query: Physics": the prompt by itself ends in a token of its blank."""
    reader = TextReader(AutoTokenizer.from_pretrained(resolve_model(SMALL_TEACHER)))
    texts = ["Physics", "Biology", "history of music"]
    assert len(reader.lead("query: ")) > len(reader.lead("query:"))
    for read in (reader.head, reader.head_tail, partial(reader.chunks, max_chunks=4)):
        assert read(texts, "query: ", 16).unreadable == 0
    assert reader.head([""], "query: ", 16).unreadable == 1


def test_texts_that_the_tokenizer_knows_nothing_of_are_counted(reader: TextReader) -> None:
    texts = ["😀 😀", "ดาราศาสตร์", "\u200b", "", "one", "one 😀", LONG["unknown"]]
    for prompt in ("", "query: "):
        assert reader.head(texts, prompt, 16).unreadable == 5
        assert reader.head_tail(texts, prompt, 16).unreadable == 5
        assert reader.chunks(texts, prompt, 16, 4).unreadable == 5

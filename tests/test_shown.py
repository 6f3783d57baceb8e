"""Text of others moves nothing on a terminal, and is text in a page."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import say
from ezxmc_ray.shown import shown
from ezxmc_ray.terminal import print_plan, print_table

HOSTILE = "a\x1b]0;owned\x07b\x9b31mc\u202ed\rover\x00"
ESCAPED = r"a\x1b]0;owned\x07b\x9b31mc\u202ed\x0dover\x00"


def test_control_characters_are_escapes_and_all_else_stays() -> None:
    assert shown(HOSTILE) == ESCAPED
    plain = "Straße, naïve, 東京, emoji 🙂, a\ttab\nand a line; zero\u200dwidth joiner"
    assert shown(plain) == plain
    assert shown("a\tb\nc", one_line=True) == r"a\tb\nc"
    assert {ord(c) for c in map(chr, range(0x100)) if shown(c) != c} == {*range(32), *range(0x7F, 0xA0)} - {9, 10}


def test_neither_sentences_nor_tables_carry_them(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ezxmc_ray"):
        say(HOSTILE)
    print_table([{"step": HOSTILE, "rows": 1}])
    print_plan({"run": HOSTILE, "steps": []})
    printed = capsys.readouterr().out
    for text in (str(UserError(HOSTILE)), printed, caplog.text):
        assert ESCAPED in text.replace("\n", "")
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\r", "\x00"}


def test_a_configuration_key_with_them_is_one_plain_sentence(tmp_path: Path, ezxmc: object) -> None:
    done = ezxmc("config", "--", f"{HOSTILE}=1")  # type: ignore[operator]
    assert done.returncode == 2 and r"\x1b]0;owned" in done.stderr and "\x1b" not in done.stderr

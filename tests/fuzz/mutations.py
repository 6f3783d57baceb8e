"""Files that are nearly right: whole ones with bytes turned, cut, doubled or put in, or values of another kind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: Inputs of each of seven tests: EZXMC_EXAMPLES=1500 gives 10,500 in all.
EXAMPLES = int(os.environ.get("EZXMC_EXAMPLES", "6"))
#: What parsers stumble over.
FRAGMENTS = (
    *(sign.encode() for sign in "\0\n\r\"',:{}[]<#é\ufeff"),
    *(word.encode() for word in ("null", "NaN", "-1", "1e999", "2024-02-30", "true", "{label}", "!!float ")),
    b'"\\ud800"',
    b"[" * 3000,
    b'{"a":' * 3000,
    b"- " * 3000,
    b"9" * 5000,
    b"\xff\xfe",
    b"\xff\xff\xff\x7f",
    b"\x80" * 9,
    b"&a [*a]",
    b"*a",
    b"? [a]\n: b",
    b"!!python/object/apply:os.getcwd []",
    b"<!DOCTYPE x [<!ENTITY e 'f'>]>",
)
#: Seconds of CPU after which an input counts as one that hangs.
HANGS_S = 10
#: For every test here. In the suite the same inputs each time.
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,  # see in_time: a busy machine lets a process wait
    database=None,
    derandomize=EXAMPLES == 6,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def in_time() -> Iterator[None]:
    """What takes this process more than HANGS_S seconds of CPU hangs."""
    began = time.process_time()
    yield
    assert time.process_time() - began < HANGS_S


@st.composite
def nearly(draw: Any, wholes: Sequence[bytes]) -> bytes:
    """One of ``wholes``, changed in one to four places."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        change = draw(st.sampled_from(["turn", "cut", "put in", "double", "replace", "drop"]))
        if change == "turn" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del content[at:]
        elif change == "put in":
            content[at:at] = draw(st.sampled_from(FRAGMENTS))
        elif change == "double":
            content[at:at] = content[at : at + length]
        elif change == "replace":
            content[at : at + length] = draw(st.sampled_from(FRAGMENTS))
        elif change == "drop":
            del content[at : at + length]
    return bytes(content)


#: Values of any kind that JSON or YAML can hold.
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["{document}", "{label}", "yes", "1e400", "2024-02-30", "~", "auto", 2**70, -(10**300)]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)

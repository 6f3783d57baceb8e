"""The one class of error that a user can cause.

The command line prints such an error as one sentence (what, where, what to do) without a traceback and exits with
status 2; every other exception is a fault of this program, keeps its traceback and exits with status 1.
"""

from __future__ import annotations

from ezxmc_ray.shown import shown


class UserError(Exception):
    """A mistake in the user's input, configuration or environment, told in one sentence.

    The message says what is wrong, where (file, line, column, key), and what to do instead; credentials in its URIs are
    left out, and control characters shown as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first line of ``error``'s message, cut at ``limit`` characters, for use inside a UserError's sentence."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"

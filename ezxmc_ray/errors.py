"""The one class of error that a user can cause.

The command line prints such an error as one sentence (what, where, what to do) without a traceback and exits with
status 2; every other exception is a fault of this program, keeps its traceback and exits with status 1.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ezxmc_ray.shown import shown

#: Errors of the machine, not of the program: told in one sentence.
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file would be larger than this process may write (see ulimit -f)",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a regular file",
    errno.EEXIST: "a part of the path is a regular file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EISDIR: "it is a directory",
}
#: Those of a file that can be written to, but not on.
NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})


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


@contextmanager
def writing_to(path: str, by_way_of: str = "") -> Iterator[None]:
    """For as long as ``path`` is written to: errors of the machine are a UserError that names it.

    ``by_way_of``: a local folder where it is written first. Errors that name another file are raised as they are.
    """
    try:
        yield
    except OSError as error:
        name = "" if error.filename is None else os.fsdecode(error.filename)
        is_of_path = path.startswith(name) or name.startswith(path) or (by_way_of and name.startswith(by_way_of))
        if error.errno in DISK_ERRORS and is_of_path:
            way = f" by way of {by_way_of}" if by_way_of else ""
            raise UserError(
                f"Cannot write {path}{way}: {DISK_ERRORS[error.errno]}; make room there, or name another place (of a "
                "run: run=<directory>)."
            ) from error
        raise

"""What Ray's C++ side and its child processes print: kept off the terminal, in a log file.

In: a block of code. Out: the file, which goes with the block unless an error that names it ends it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ezxmc_ray.leftovers import temporary_prefix


@contextmanager
def native_output_logged() -> Iterator[str]:
    """Keep what C++ and child processes print to the standard error off the terminal; yields the file that takes it.

    Python's own ``sys.stderr`` stays where it is. The file goes with the block, unless an error that names it ends it.
    """
    with tempfile.NamedTemporaryFile("w", prefix=temporary_prefix("ezxmc-ray"), suffix=".log", delete=False) as log:
        sys.stderr.flush()
        kept, stderr, named = os.dup(2), sys.stderr, False
        os.dup2(log.fileno(), 2)
        try:
            if _descriptor(stderr) == 2:
                sys.stderr = os.fdopen(kept, "w", 1, "utf-8", "backslashreplace", closefd=False)
            yield log.name
        except BaseException as error:
            named = log.name in " ".join([str(error), *getattr(error, "__notes__", [])])
            raise
        finally:
            if not named:
                Path(log.name).unlink(missing_ok=True)
            sys.stderr.flush()
            sys.stderr = stderr
            os.dup2(kept, 2)
            os.close(kept)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError):  # a notebook's, a test's
        return None


def says_something(log: str) -> bool:
    """Whether a file, if nobody has tidied it, has more in it than what Ray says of its log level at every start."""
    try:
        lines = Path(log).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any("Set ray log level" not in line for line in lines)

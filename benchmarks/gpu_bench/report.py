"""What a part has found so far, in a file that is whole after every row, so that a crash costs no figure before it.

Comes in: rows of figures. Goes out: a JSON object with ``rows``, what else was noted, and ``error`` of a part that
failed.
"""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ERROR_CHARACTERS = 300


class Report:
    """Rows and notes of one part, written to ``file`` after each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data: dict[str, Any] = {"rows": []}

    def row(self, what: str, **values: Any) -> None:
        """Add a row; numbers are kept to four digits."""
        self.data["rows"].append({"what": what, **{name: rounded(value) for name, value in values.items()}})
        print(self.data["rows"][-1], flush=True)
        self._write()

    def note(self, **values: Any) -> None:
        """Add facts that are true of the part."""
        self.data |= {name: rounded(value) for name, value in values.items()}
        self._write()

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do ``work``; an error becomes the row ``what``, and the part goes on."""
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self.row(what, error=told(error))

    def _write(self) -> None:
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.data, indent=1, default=str))
        os.replace(temporary, self.file)


def told(error: Exception) -> str:
    """Its kind and the beginning of what it says, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:ERROR_CHARACTERS]


def rounded(value: Any) -> Any:
    """``value`` to four digits, if it is a float that is finite and not zero."""
    if isinstance(value, float) and math.isfinite(value) and value:
        return float(f"{value:.4g}")
    return value

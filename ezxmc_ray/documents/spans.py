"""Records of CSV that span lines: how many there are, and where the longest begins.

Comes in: rows, and their files' names. Goes out: counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ezxmc_ray.documents.sources import RawRow


@dataclass
class Spans:
    """``records`` that span lines; the longest has so many ``lines`` and begins at ``where`` (file and line)."""

    records: int = 0
    lines: int = 0
    where: str = ""

    def take(self, row: RawRow, name: str) -> None:
        """Count a good row, of more lines than one, of the file ``name``."""
        self._add(1, row.lines, f"{name}:{row.line}")

    def _add(self, records: int, lines: int, where: str) -> None:
        self.records += records
        if lines > self.lines:
            self.lines, self.where = lines, where

    @classmethod
    def of_all(cls, found: Iterable[Spans]) -> Spans:
        """Of several files; of two longest ones the first."""
        together = cls()
        for one in found:
            together._add(one.records, one.lines, one.where)
        return together

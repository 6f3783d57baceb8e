"""What is odd in rows that are read: records of CSV that span lines, cells that hold a sign for no text, JSON objects
that give a key two values.

Comes in: rows, and their files' names. Goes out: counts, and a place of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ezxmc_ray.documents.sources import RawRow


@dataclass
class Oddities:
    """``records`` that span lines; the longest has so many ``lines`` and begins at ``where`` (file and line).

    ``repeated``: rows with a key of two values; ``first``: such a key, and where. ``by_sign``: rows with a
    text that is empty by a sign (values.is_no_text); ``first_by_sign``: where the first is.
    """

    records: int = 0
    lines: int = 0
    where: str = ""
    repeated: int = 0
    first: str = ""
    by_sign: int = 0
    first_by_sign: str = ""

    def take(self, row: RawRow, name: str, by_sign: bool = False) -> None:
        """Count a good row of the file ``name`` that is odd. ``by_sign``: a text of it is empty by a sign."""
        if row.lines > 1:
            self.records += 1
            if row.lines > self.lines:
                self.lines, self.where = row.lines, f"{name}:{row.line}"
        if row.repeated:
            self.repeated += 1
            self.first = self.first or f"{row.repeated}, {name}:{row.line}"
        if by_sign:
            self.by_sign += 1
            self.first_by_sign = self.first_by_sign or f"{name}:{row.line}"

    def _add(self, other: Oddities) -> None:
        self.records += other.records
        if other.lines > self.lines:
            self.lines, self.where = other.lines, other.where
        self.repeated += other.repeated
        self.first = self.first or other.first
        self.by_sign += other.by_sign
        self.first_by_sign = self.first_by_sign or other.first_by_sign

    @classmethod
    def of_all(cls, found: Iterable[Oddities]) -> Oddities:
        """Of several files; of two longest ones the first."""
        together = cls()
        for one in found:
            together._add(one)
        return together

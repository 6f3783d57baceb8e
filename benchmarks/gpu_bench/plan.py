"""Which parts benchmarks/gpu.py has, in which order, and what each process is told.

Comes in and goes out: a JSON file of :class:`Settings` in the folder of the parts. Imports nothing heavy: the parent
reads it before it knows whether there is time for anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Part:
    """``limit_s``: it is ended then, and what it wrote so far counts; ``min_s``: with less left it is not begun."""

    limit_s: float
    min_s: float


#: By name, the most telling first. After a teacher's kind stands the model.
PARTS = {
    "device": Part(60, 10),
    "packed-smollm2": Part(120, 60),
    "teacher-random-7b": Part(120, 60),
    "packed-random-7b": Part(60, 30),
    "packed-random-0.5b": Part(40, 20),
    "encoder": Part(80, 30),
    "search": Part(80, 25),
    "student": Part(90, 30),
    "teacher-random-0.5b": Part(110, 50),
    "teacher-smollm2": Part(110, 50),
    "packed-random-1.5b": Part(50, 20),
    "teacher-random-1.5b": Part(110, 50),
    "compiled-random-1.5b": Part(150, 90),
    "transformers-smollm2": Part(40, 20),
    "run": Part(150, 70),
}


@dataclass(frozen=True)
class Settings:
    """``folder``: of all parts; ``tiny``: toy sizes; ``tokenizer``: a directory, without it the bundled teacher's;
    ``faiss``: a directory with another FAISS, taken where it works."""

    folder: str
    tiny: bool = False
    tokenizer: str | None = None
    faiss: str | None = None

    def write(self) -> None:
        """Into its folder."""
        Path(self.folder, SETTINGS).write_text(json.dumps(asdict(self)))

    def path(self, name: str) -> Path:
        """The absolute path of ``name`` in the folder; a directory is not made."""
        return Path(self.folder, name).absolute()


def read_settings(folder: str) -> Settings:
    """What :meth:`Settings.write` wrote."""
    return Settings(**json.loads(Path(folder, SETTINGS).read_text()))

"""Made-up texts of English words, so that nothing has to be brought along: documents, labels, pairs to judge.

The words are those of this project's documentation. Texts are drawn by seed, and no document comes twice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from common.publish import ROOT
from ezxmc_ray.tables import content_hash
from ezxmc_ray.teacher.engine import DocumentPairs

LABELS = 2000


def words() -> list[str]:
    """English words, sorted, none twice."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return sorted({word.lower() for file in files for word in re.findall(r"[A-Za-z]{3,12}", file.read_text())})


def random_texts(vocabulary: Sequence[str], count: int, length: int, seed: int) -> list[str]:
    """``count`` texts of ``length`` words."""
    drawn = np.random.default_rng(seed).integers(0, len(vocabulary), (count, length))
    return [" ".join(vocabulary[number] for number in row) for row in drawn]


def documents_of(tokens: int, labels: int, seed: int) -> Iterator[DocumentPairs]:
    """Documents of more than ``tokens`` tokens (the teacher cuts them) with ``labels`` labels each, endlessly."""
    vocabulary, random = words(), np.random.default_rng(seed)
    texts = list(dict.fromkeys(random_texts(vocabulary, LABELS, 3, seed + 1)))
    hashes = [content_hash("", text) for text in texts]
    for number in itertools.count():
        text = f"{number} " + " ".join(vocabulary[i] for i in random.integers(0, len(vocabulary), tokens + 10))
        chosen = random.choice(len(texts), labels, replace=False)
        yield DocumentPairs(
            content_hash("", text), "", text, tuple(hashes[i] for i in chosen), tuple(texts[i] for i in chosen)
        )

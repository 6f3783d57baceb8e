"""Why a text got a label: the cosine, and the words that both have.

score = cosine + lexical.weight * share (index/hybrid.py): the words are those that the share counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ezxmc_ray.index.hybrid import HybridSearcher


@dataclass(frozen=True)
class Why:
    """``share``: of the label's words, by weight, that the document names, 0 to 1; ``words``: of the document, in lower
    case (LexicalTable.named)."""

    cosine: float
    share: float
    words: list[str]


def why(searcher: HybridSearcher, title: str, text: str, labels: Sequence[int], scores: Sequence[float]) -> list[Why]:
    """Of one document: why it has these ``labels`` (label numbers) with these ``scores``."""
    if searcher.lexical is None:
        return [Why(score, 0.0, []) for score in scores]
    shares = searcher.lexical.shares([title], [text], np.array([labels], np.int32).reshape(1, -1))[0].tolist()
    named = searcher.lexical.named(title, text, labels)
    weight = searcher.config.weight
    return [
        Why(*one)
        for one in zip((s - weight * h for s, h in zip(scores, shares, strict=True)), shares, named, strict=True)
    ]

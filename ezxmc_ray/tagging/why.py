"""Why a text got a label: the cosine, the words that both have, and whether the label's whole name stands in the text.

score = cosine + lexical.weight * (share + lexical.name_bonus * name) (index/hybrid.py) + cross_encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ezxmc_ray.index.hybrid import HybridSearcher, added_by_words, find_names
from ezxmc_ray.index.parts import PartedSearcher


@dataclass(frozen=True)
class Why:
    """``share``: of the label's words, by weight, that the document names, 0 to 1; ``name``: how much its whole name
    stands there, 0 to 1 (names.Named); ``words``: of the document, in lower case (LexicalTable.named);
    ``cross_encoder``: what it added to the score; None: there is none."""

    cosine: float
    share: float
    name: float
    words: list[str]
    cross_encoder: float | None = None


def why(searcher: PartedSearcher, title: str, text: str, labels: Sequence[int], scores: Sequence[float]) -> list[Why]:
    """Of one document: why it has these ``labels`` (label numbers) with these ``scores``."""
    numbers = np.array(labels, np.int64)
    part_of = np.searchsorted(searcher.starts, numbers, side="right") - 1
    found: dict[int, Why] = {}
    for part in np.unique(part_of):
        here = np.flatnonzero(part_of == part)
        own = (numbers[here] - searcher.starts[part]).tolist()
        found |= zip(here, _why(searcher.parts[part], title, text, own, [scores[place] for place in here]), strict=True)
    return [found[place] for place in range(len(labels))]


def _why(searcher: HybridSearcher, title: str, text: str, labels: Sequence[int], scores: Sequence[float]) -> list[Why]:
    """As :func:`why`, of labels of one part."""
    if searcher.lexical is None:
        return [Why(score, 0.0, 0.0, []) for score in scores]
    numbers = np.array([labels], np.int32).reshape(1, -1)
    shares = searcher.lexical.shares([title], [text], numbers)[0]
    found = find_names(searcher.lexical, searcher.config, [title], [text])
    names = np.zeros_like(shares) if found is None else found.of(numbers)[0]
    cosines = np.asarray(scores) - added_by_words(searcher.config, shares, names)
    words = searcher.lexical.named(title, text, labels)
    columns = (cosines.tolist(), shares.tolist(), names.tolist(), words)
    return [Why(*one) for one in zip(*columns, strict=True)]

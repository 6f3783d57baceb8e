"""Label sets that came one after the other, searched as one: what an export began with, and what was added since.

Comes in: documents with their vectors, as for HybridSearcher. Goes out: scores and label numbers, which go on from part
to part, so that a label's number stays as it is when others come. Encoder and document propose labels in each part by
itself (index/hybrid.py), so that a label is found in parts where it is found in one, and scores the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.search import NO_LABEL

Found = tuple[np.ndarray, np.ndarray]


class PartedSearcher:
    """Several searchers over labels of their own; with one part it answers as that one does."""

    def __init__(self, parts: Sequence[HybridSearcher]) -> None:
        self.parts = list(parts)
        #: Where the label numbers of each part begin, and how many there are.
        self.starts = [0, *accumulate(part.index.labels for part in self.parts)]
        removed = [part.index.removed for part in self.parts]
        #: The parts of which not all labels are removed.
        self._in_use = [number for number, one in enumerate(removed) if one is None or not one.all()]

    @property
    def is_on_gpus(self) -> bool:
        """Whether GPUs search it."""
        return any(part.index.is_on_gpus for part in self.parts)

    def search(
        self,
        vectors: np.ndarray,
        titles: Sequence[str | None],
        texts: Sequence[str],
        k: int,
        excluded: Sequence[Sequence[int]] | None = None,
    ) -> Found:
        """As :meth:`HybridSearcher.search`."""
        found = []
        for number in self._in_use:
            own = None
            if excluded is not None:
                own = [self._own(np.asarray(row, np.int64), number).tolist() for row in excluded]
            found.append(self.parts[number].search(vectors, titles, texts, k, own))
        return self._merge(self._in_use, found, k)

    def search_among(
        self, vectors: np.ndarray, titles: Sequence[str | None], texts: Sequence[str], k: int, among: np.ndarray
    ) -> Found:
        """As :meth:`HybridSearcher.search_among`."""
        own = [self._own(among, number) for number in range(len(self.parts))]
        asked = [number for number, labels in enumerate(own) if len(labels)] or [0]
        found = [self.parts[number].search_among(vectors, titles, texts, k, own[number]) for number in asked]
        return self._merge(asked, found, k)

    def _own(self, labels: np.ndarray, number: int) -> np.ndarray:
        """Those of ``labels`` (label numbers) that are of a part, as it numbers them."""
        first, stop = self.starts[number : number + 2]
        return labels[(labels >= first) & (labels < stop)] - first

    def _merge(self, numbers: Sequence[int], found: Sequence[Found], k: int) -> Found:
        """The ``k`` best of what the parts ``numbers`` found, ties by label number."""
        if len(found) == 1 and numbers[0] == 0:
            return found[0]
        scores = np.concatenate([one[0] for one in found], axis=1)
        labels = np.concatenate(
            [
                np.where(one[1] == NO_LABEL, NO_LABEL, one[1] + np.int32(self.starts[number]))
                for number, one in zip(numbers, found, strict=True)
            ],
            axis=1,
        )
        order = np.lexsort((labels, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(labels, order, axis=1)

"""Label sets that came one after the other, searched as one: what an export began with, and what was added since.

Comes in: documents with their vectors, as for HybridSearcher. Goes out: scores and label numbers, which go on from part
to part, so that a label's number stays as it is when others come. Encoder and document propose labels in each part by
itself (index/hybrid.py), so that a label is found in parts where it is found in one, and scores the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from ezxmc_ray.index.hybrid import HybridSearcher, find_names
from ezxmc_ray.index.pairs import scores_pairs
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
        since: int = 0,
    ) -> Found:
        """As :meth:`HybridSearcher.search`; ``since``: the first part that is asked, one of them in use."""
        found, asked = [], [number for number in self._in_use if number >= since]
        for number in asked:
            own = None
            if excluded is not None:
                own = [self._own(np.asarray(row, np.int64), number).tolist() for row in excluded]
            found.append(self.parts[number].search(vectors, titles, texts, k, own))
        return self._merge(asked, found, k)

    def labels_since(self, part: int) -> int:
        """How many labels, none of them removed, there are in the parts from ``part`` on."""
        there = (one.index.labels - _count(one.index.removed) for one in self.parts[part:])
        return sum(there)

    def parts_that_lost(self, k: int, removed: np.ndarray) -> dict[int, np.ndarray]:
        """The parts that may propose other labels now than when only ``removed`` were removed (bool by label number,
        of whole parts; now they are still), and which labels went, as the part numbers them (rising, int32).

        A search for ``k`` labels proposed not all labels of these parts, so that another one may take the place.
        """
        lost = {}
        for number, part in enumerate(self.parts):
            first, stop = self.starts[number : number + 2]
            if stop > len(removed) or part.index.removed is None or part.lexical is None:
                continue
            went = np.flatnonzero(part.index.removed & ~removed[first:stop]).astype(np.int32)
            if len(went) and (~removed[first:stop]).sum() > max(k, part.config.candidates):
                lost[number] = went
        return lost

    def newly_proposed(
        self,
        vectors: np.ndarray,
        titles: Sequence[str | None],
        texts: Sequence[str],
        lost: Mapping[int, np.ndarray],
    ) -> np.ndarray:
        """The similarity that no label exceeds which a part proposes since it ``lost`` others (parts_that_lost).

        Its cosine is at most that of a label which went, and its words add the most that they can, its name apart: a
        label that is named is proposed anyway, unless the document names too many.

        Returns:
            float32 [q]; inf where nothing is known.
        """
        bounds = [_bound(self.parts[number], vectors, titles, texts, went) for number, went in lost.items()]
        highest: np.ndarray = np.max(bounds, axis=0)
        return highest

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


def _count(removed: np.ndarray | None) -> int:
    return 0 if removed is None else int(removed.sum())


def _bound(
    part: HybridSearcher, vectors: np.ndarray, titles: Sequence[str | None], texts: Sequence[str], went: np.ndarray
) -> np.ndarray:
    """As PartedSearcher.newly_proposed, of one part."""
    assert part.lexical is not None
    if not all(map(scores_pairs, part.index.shards)):
        return np.full(len(vectors), np.inf, np.float32)
    bound = part.index.search_among(vectors, 1, went)[0][:, 0] + np.float32(part.config.weight)
    named = find_names(part.lexical, part.config, titles, texts)
    if named is not None:
        bound[np.diff(named.starts) >= part.config.candidates] = np.inf
    return bound

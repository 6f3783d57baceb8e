"""Groups of texts of like length, cut by a budget of tokens: little of a batch is padding, and its memory is bounded.

Goes in: the length of every text in tokens. Goes out: positions of the texts of each group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def length_groups(lengths: Sequence[int] | np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cut texts of these ``lengths`` into groups of at most ``max_tokens`` tokens each, padding included.

    Args:
        lengths: tokens of each text, int [n].
        max_tokens: the most that a group's texts times its longest one may be; a longer text is a group by itself.

    Returns:
        int64 positions, longest text first, ties by position; every position is in exactly one group. So a group that
        does not fit in memory is met at once, not at the end.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-tokens, kind="stable")
    groups: list[np.ndarray] = []
    start = 0
    while start < len(order):
        longest = max(1, int(tokens[order[start]]))
        stop = start + max(1, max_tokens // longest)
        groups.append(order[start:stop])
        start = stop
    return groups

"""Bootstrap intervals over documents (Efron 1979): of means, of any other statistic, and of paired differences.

Comes in: values of documents (or of labels, where those are what a mean is over), or a function of their weights. Goes
out: 95 % percentile intervals. Whatever is computed from the same number of documents with the same seed sees the same
samples, so that the difference of two statistics in one call gets its paired interval. Over more documents than
MAX_DRAWN the intervals are the normal ones that the bootstrap's come to (moments.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ezxmc_ray.metrics.moments import Z_95
from ezxmc_ray.metrics.ranking import Values

#: A spread over fewer documents says nothing: a bootstrap interval is much too narrow to be shown, and no difference
#: between encoders is believed.
MIN_DOCUMENTS = 10
RESAMPLES = 2000
#: Over more documents nothing is drawn: at a skewness of 10, as of hits on rare labels, the ends of the normal interval
#: are a fiftieth of the standard error from the bootstrap's at so many.
MAX_DRAWN = 1 << 16
#: Samples are drawn in blocks of about so many numbers (16 MB), since one matrix product beats many with a vector.
BLOCK_NUMBERS = 2**21

Interval = tuple[float, float] | None


def bootstrap_intervals(values: dict[str, Values], seed: int) -> dict[str, Interval]:
    """95 % intervals of the means of ``values``: percentile bootstrap over documents, up to MAX_DRAWN, else normal.

    ``values``: float64 [n] each, without NaN, document for document. All are drawn together, so a difference of two of
    them gets its paired interval. None for each where n is under MIN_DOCUMENTS.
    """
    table = np.stack(list(values.values()), axis=1)
    documents = len(table)
    if documents > MAX_DRAWN:
        middle, reach = table.mean(axis=0), Z_95 * table.std(axis=0, ddof=1) / np.sqrt(documents)
        return dict(zip(values, zip((middle - reach).tolist(), (middle + reach).tolist(), strict=True), strict=True))
    intervals = intervals_of(lambda weights: weights @ table / max(documents, 1), documents, seed)
    return dict(zip(values, intervals, strict=True))


def intervals_of(statistic: Callable[[Values], npt.NDArray[np.float64]], documents: int, seed: int) -> list[Interval]:
    """95 % intervals of each number in ``statistic(weights)``, by the percentile bootstrap over documents.

    ``statistic``: takes float64 [samples, documents], how often each document was drawn, and returns float64 [samples,
    m], without NaN. None for each number where there are fewer documents than MIN_DOCUMENTS.
    """
    if documents < MIN_DOCUMENTS:
        return [None] * statistic(np.ones((1, documents))).shape[1]
    found = np.concatenate([statistic(weights) for weights in _samples(documents, seed)])
    low, high = np.percentile(found, (2.5, 97.5), axis=0).tolist()
    return list(zip(low, high, strict=True))


def _samples(documents: int, seed: int) -> Iterator[Values]:
    """How often each document was drawn in each of RESAMPLES samples, a block of samples at a time."""
    generator = np.random.default_rng(seed)
    samples_per_block = max(1, BLOCK_NUMBERS // documents)
    for start in range(0, RESAMPLES, samples_per_block):
        block = np.empty((min(samples_per_block, RESAMPLES - start), documents))
        for row in block:
            row[:] = np.bincount(generator.integers(documents, size=documents), minlength=documents)
        yield block

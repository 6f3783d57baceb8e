"""Many prompts in one sequence: what prompts share stands there once, and no label sees another.

Comes in: prompts of pairs, a document's in a row. Goes out: token ids with the positions that each token has in its own
prompt, and an attention mask: a token sees the head that all prompts begin with, its document's prefix, and of the
labels its own. So every number is that of the prompt alone, and a document is computed once for all its labels.
Other engines reach the same by a cache (vLLM's prefix cache), or call it multi-item scoring (SGLang, pull request
10979).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ezxmc_ray.teacher.engine import PairPrompt

#: The label of a prefix's tokens.
_NO_LABEL = -1


@dataclass(frozen=True)
class Packed:
    """One sequence of T tokens for some pairs.

    ``tokens``, ``positions``, ``documents``, ``labels``: int64 [T]; ``labels`` is the pair's number, -1 in a prefix.
    ``prefix_ends``, ``starts``, ``ends``: int64 [pairs]: where the last token before the label stands, which all of a
    document's labels share; the label's first one; the pair's last one. ``pairs``: the prompts, in their order.
    """

    tokens: np.ndarray
    positions: np.ndarray
    documents: np.ndarray
    labels: np.ndarray
    prefix_ends: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    pairs: list[PairPrompt]

    def mask(self, head: int) -> np.ndarray:
        """bool [T, head + T]: what each token sees; the ``head`` tokens before the sequence are seen by all."""
        earlier = np.tri(len(self.tokens), dtype=bool)
        same_document = self.documents[:, None] == self.documents
        shared = (self.labels == _NO_LABEL) | (self.labels[:, None] == self.labels)
        return np.hstack([np.ones((len(self.tokens), head), bool), earlier & same_document & shared])


def packs(
    pairs: Sequence[PairPrompt], head: int, budget: int, longest: int, of_labels: bool = False
) -> Iterator[Packed]:
    """``pairs`` in sequences of at most ``budget`` tokens, or of one document, in their order.

    Each prompt begins with the same ``head`` tokens, which are left out, and has a token more before its label. A
    document's labels are divided where they are more than ``longest`` tokens; its prefix is in each of the parts.
    ``of_labels``: the labels' own tokens are what is asked for, so that nothing from a label's last one on is computed.
    """
    gathered: list[list[PairPrompt]] = []
    size = 0
    for part in _parts(pairs, head, longest):
        tokens = part[0].label_start - head + sum(_stop(pair, of_labels) - pair.label_start for pair in part)
        if gathered and size + tokens > budget:
            yield _pack(gathered, head, of_labels)
            gathered, size = [], 0
        gathered.append(part)
        size += tokens
    if gathered:
        yield _pack(gathered, head, of_labels)


def _parts(pairs: Iterable[PairPrompt], head: int, longest: int) -> Iterator[list[PairPrompt]]:
    """The pairs by document, and those of a document in parts of at most ``longest`` tokens, or of one label."""
    for _, of_document in groupby(pairs, key=lambda pair: pair.tokens[: pair.label_start]):
        part: list[PairPrompt] = []
        size = 0
        for pair in of_document:
            label = len(pair.tokens) - pair.label_start
            if part and size + label > longest:
                yield part
                part = []
            size = size + label if part else len(pair.tokens) - head
            part.append(pair)
        yield part


def _stop(pair: PairPrompt, of_labels: bool) -> int:
    """Where the tokens end that are computed for a pair."""
    return pair.label_stop - 1 if of_labels else len(pair.tokens)


def _pack(parts: list[list[PairPrompt]], head: int, of_labels: bool) -> Packed:
    tokens: list[int] = []
    positions, documents, labels = [], [], []
    prefix_ends: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    for document, part in enumerate(parts):
        first, begin = part[0].label_start, len(tokens)
        tokens += part[0].tokens[head:first]
        positions.append(np.arange(head, first))
        labels.append(np.full(first - head, _NO_LABEL))
        prefix_ends += [len(tokens) - 1] * len(part)
        for pair in part:
            stop = _stop(pair, of_labels)
            positions.append(np.arange(first, stop))
            labels.append(np.full(stop - first, len(starts)))
            starts.append(len(tokens))
            tokens += pair.tokens[first:stop]
            ends.append(len(tokens) - 1)
        documents.append(np.full(len(tokens) - begin, document))
    return Packed(
        np.array(tokens, np.int64),
        np.concatenate(positions),
        np.concatenate(documents),
        np.concatenate(labels),
        np.array(prefix_ends, np.int64),
        np.array(starts, np.int64),
        np.array(ends, np.int64),
        [pair for part in parts for pair in part],
    )

"""Scores of (document, label) pairs by a network that reads both together: a cross-encoder, whatever runs it.

Comes in: documents, and labels of each. Goes out: a score a pair, the more the better; those of one document are
comparable, those of two are not (Nogueira and Cho, "Passage Re-ranking with BERT", arXiv 1901.04085). The network is a
:class:`DocumentEncoder` whose vectors have one number: :class:`ezxmc_ray.encoder.cross_encoder.CrossEncoder` in
PyTorch, or what onnx_export.py wrote of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ezxmc_ray.config import CrossEncoderConfig, EncoderConfig
from ezxmc_ray.encoder.document_encoder import DocumentEncoder, uncut
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.label_tokens import LabelTokens
from ezxmc_ray.encoder.tokens import Chunks, Tokens

#: A document's token ids, and a label's text.
Pair = tuple[list[int], str]


def pair_config(encoder: EncoderConfig, cross_encoder: CrossEncoderConfig) -> EncoderConfig:
    """How a cross-encoder reads texts: as the encoder whose weights it began with, but for the documents' length."""
    return replace(encoder, max_document_tokens=cross_encoder.max_document_tokens, vector_dtype="float32")


def tokens_between(tokenizer: Any) -> list[int]:
    """Ids of the special tokens that a fast tokenizer puts between two texts."""
    encoded = tokenizer("a", "a")
    of_text = encoded.sequence_ids(0)
    first = max(place for place, number in enumerate(of_text) if number == 0)
    ids: list[int] = encoded["input_ids"]
    return ids[first + 1 : of_text.index(1)]


class PairReader:
    """Joins the token ids of documents and labels, as ``encoder`` reads them; ``between``: :func:`tokens_between`."""

    def __init__(self, encoder: DocumentEncoder, between: Sequence[int]) -> None:
        self.between = list(between)
        self._lead, self._after = len(encoder.reader.lead("")), len(encoder.reader.after)

    def join(self, document: Sequence[int], label: Sequence[int]) -> list[int]:
        """The token ids of a pair, special tokens included, of those of its texts."""
        return [*document[: len(document) - self._after], *self.between, *label[self._lead :]]


class PairNetwork:
    """A cross-encoder: ``network`` gives a number for each text that ``reader`` joins."""

    def __init__(self, network: DocumentEncoder, reader: PairReader) -> None:
        self.network, self.reader = network, reader
        network.length_key = "cross_encoder.max_document_tokens"
        self._labels = LabelTokens(network)

    def count_documents(self, told: Callable[[int], object], labels: int) -> None:
        """Have ``told`` know after every part how many documents of a call are done, of so many ``labels`` each."""
        self.network.on_part = lambda pairs: told(pairs // labels)

    def scores(self, titles: Sequence[str], texts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Of each document the scores of its ``labels`` (their texts): float32 [k]. Errors: as :meth:`read`."""
        return self.read(titles, texts, labels)[0]

    def read(
        self, titles: Sequence[str], texts: Sequence[str], labels: Sequence[Sequence[str]]
    ) -> tuple[list[np.ndarray], int]:
        """As :meth:`scores`, and how many of the documents were cut.

        Errors: UserError where a score is not finite, or memory runs out.
        """
        documents = [document_text(title, text) for title, text in zip(titles, texts, strict=True)]
        tokens = self.network.document_tokens(documents)
        pairs = [(ids, label) for ids, own in zip(tokens.token_ids, labels, strict=True) for label in own]
        found = self.network.encode(pairs, "", self._join).vectors[:, 0]
        counts = [len(own) for own in labels]
        return np.split(found, np.cumsum(counts)[:-1]) if counts else [], tokens.truncated

    def _join(self, pairs: Sequence[Pair]) -> Chunks:
        """The token ids of ``pairs``."""
        of_labels = self._labels.of([label for _, label in pairs])
        joined = [self.reader.join(document, label) for (document, _), label in zip(pairs, of_labels, strict=True)]
        return uncut(Tokens(joined, 0, 0))

"""From documents to vectors, whatever runs the network: texts are tokenized, grouped by length, and put together again.

Comes in: titles and texts. Goes out: vectors with the count of the texts that were cut. Texts are tokenized and padded
in a thread, a part ahead of the network. :class:`ezxmc_ray.encoder.encoder.Encoder` runs the network in PyTorch, with
gradients where wanted; :class:`ezxmc_ray.encoder.onnx_encoder.OnnxEncoder` in ONNX Runtime, without PyTorch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.groups import length_groups
from ezxmc_ray.encoder.tokens import Chunks, TextReader, Tokens
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import memory_errors
from ezxmc_ray.prefetch import prefetch

#: Texts that are tokenized and grouped by length together, while the network works on those before.
PART_TEXTS = 1024
#: Tokens of a forward pass on a CPU where ``encoder.batch_tokens`` is null.
CPU_BATCH_TOKENS = 2048

#: A text, or what a network reads as one.
Text = TypeVar("Text")
#: What the network takes of some texts: ``input_ids``, ``attention_mask`` and what else it wants, int64 [n, longest].
Features = dict[str, np.ndarray]


@dataclass(frozen=True)
class Encoded:
    """``vectors``: [n, d], unit rows in the order of the texts, float32 or float16 as ``encoder.vector_dtype`` says.

    ``truncated``: how many texts were cut. ``unreadable``: how many hold nothing that the encoder knows; they all have
    the same vector.
    """

    vectors: np.ndarray
    truncated: int
    unreadable: int


@dataclass(frozen=True)
class _Part:
    """Some texts, ready for the network: their ``chunks``, and of each group the chunks' positions and features."""

    chunks: Chunks
    groups: list[tuple[np.ndarray, Features]]


class DocumentEncoder(ABC):
    """What turns documents into vectors of unit length."""

    def __init__(self, reader: TextReader, config: EncoderConfig, name: str) -> None:
        self.reader, self.config, self.name = reader, config, name
        #: The knob that bounds what it reads of a document.
        self.length_key = "encoder.max_document_tokens"
        #: Told after every part how many texts of the call are done.
        self.on_part: Callable[[int], object] = lambda done: None

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass, padding included."""
        return self.config.batch_tokens or CPU_BATCH_TOKENS

    @property
    def dtype(self) -> str:
        """What the network computes in."""
        return "float32"

    @abstractmethod
    def forward(self, groups: Sequence[Features]) -> np.ndarray:
        """The vectors of the texts of ``groups``, one group after the other: float32 [n, d], unit rows."""

    def encoding(self) -> AbstractContextManager[object]:
        """Entered while texts are encoded."""
        return nullcontext()

    def encode_documents(self, titles: Sequence[str], texts: Sequence[str]) -> Encoded:
        """Vectors of documents, long ones read as ``encoder.long_documents`` says; none: [0, d].

        Of a document in several chunks: the mean of the chunks' unit vectors, of unit length again.
        """
        joined = [document_text(title, text) for title, text in zip(titles, texts, strict=True)]
        if self.config.long_documents == "chunks":
            return self.encode(joined, self.config.document_prompt, self._document_chunks)
        return self.encode(joined, self.config.document_prompt, lambda part: uncut(self.document_tokens(part)))

    def encode_labels(self, texts: Sequence[str]) -> Encoded:
        """Vectors of labels, each cut to ``max_label_tokens``; none: [0, d]."""
        return self.encode(texts, self.config.label_prompt, lambda part: uncut(self.label_tokens(part)))

    def label_tokens(self, texts: Sequence[str]) -> Tokens:
        """Token ids of labels, at most ``max_label_tokens`` each."""
        return self.reader.head(texts, self.config.label_prompt, self.config.max_label_tokens)

    def document_tokens(self, texts: Sequence[str], max_tokens: int | None = None) -> Tokens:
        """Token ids of documents (:func:`document_text`), at most ``max_tokens`` each (None: as configured).

        One sequence a document, which is what training takes: where long documents are read in chunks, the first one.
        """
        limit = max_tokens or self.config.max_document_tokens
        if self.config.long_documents == "head_tail":
            return self.reader.head_tail(texts, self.config.document_prompt, limit)
        return self.reader.head(texts, self.config.document_prompt, limit)

    def padded(self, token_ids: Sequence[Sequence[int]], prompt: str) -> Features:
        """What the network takes of texts that begin with ``prompt``."""
        del prompt  # of use where the pooling leaves it out
        return self.reader.features(token_ids)

    def encode(self, texts: Sequence[Text], prompt: str, read: Callable[[Sequence[Text]], Chunks]) -> Encoded:
        """Vectors of ``texts``, part by part; ``read`` gives the token ids of a part, which begin with ``prompt``."""
        vectors = np.empty((len(texts), self.dimension), dtype=self.config.vector_dtype)
        truncated = unreadable = done = 0
        parts = [texts[start : start + PART_TEXTS] for start in range(0, len(texts), PART_TEXTS)]
        with self.encoding():
            for part in prefetch(lambda part: self._prepare(read(part), prompt), parts):
                found = self._run(part)
                vectors[done : done + len(found)] = found
                done += len(found)
                truncated += part.chunks.truncated
                unreadable += part.chunks.unreadable
                self.on_part(done)
        return Encoded(vectors, truncated, unreadable)

    def _document_chunks(self, texts: Sequence[str]) -> Chunks:
        config = self.config
        return self.reader.chunks(texts, config.document_prompt, config.max_document_tokens, config.max_chunks)

    def _prepare(self, chunks: Chunks, prompt: str) -> _Part:
        """Group the chunks by length, and pad each group."""
        groups = length_groups([len(ids) for ids in chunks.token_ids], self.batch_tokens)
        features = [self.padded([chunks.token_ids[place] for place in group], prompt) for group in groups]
        return _Part(chunks, list(zip(groups, features, strict=True)))

    def _run(self, part: _Part) -> np.ndarray:
        """Vectors of the texts of ``part``: float32 [n, d], unit rows.

        Errors: UserError where one is not finite, or memory runs out.
        """
        vectors = np.empty((len(part.chunks.token_ids), self.dimension), dtype=np.float32)
        remedy = f"set encoder.batch_tokens lower than {self.batch_tokens:,}, or {self.length_key} lower"
        with memory_errors(f"when the encoder {self.name} encoded", remedy):
            vectors[np.concatenate([group for group, _ in part.groups])] = self.forward([one for _, one in part.groups])
        if not np.isfinite(vectors).all():
            remedy = "take another model" if self.dtype == "float32" else "set encoder.dtype=float32"
            raise UserError(f"The encoder {self.name} gives vectors that are not finite in {self.dtype}: {remedy}.")
        return _means(vectors, part.chunks.first)


def uncut(tokens: Tokens) -> Chunks:
    """One chunk a text."""
    return Chunks(tokens.token_ids, np.arange(len(tokens.token_ids)), tokens.truncated, tokens.unreadable)


def _means(vectors: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Of unit rows [c, d], the mean of every text's, from its ``first`` on, of unit length again: float32 [n, d]."""
    if len(first) == len(vectors):
        return vectors
    sums = np.add.reduceat(vectors, first, axis=0)
    # Chunks that point in opposite directions: any vector is as good, NaN is none.
    norms = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(sums / norms, dtype=np.float32)

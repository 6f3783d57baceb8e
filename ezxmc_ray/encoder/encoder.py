"""The bi-encoder: one network that turns documents and labels into vectors of unit length.

Comes in: a model reference (hub id, directory or ``package:NAME/PATH``) and texts. Goes out: vectors with the count of
the texts that were cut; a directory that plain ``SentenceTransformer(path)`` loads; and, for training, token ids,
features and a forward pass with gradients. Texts are tokenized and padded in a thread, a part ahead of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.groups import length_groups
from ezxmc_ray.encoder.loading import load_module, pooling_of
from ezxmc_ray.encoder.precision import chosen_dtype, copy_in, weights_state
from ezxmc_ray.encoder.tokens import Chunks, TextReader, Tokens
from ezxmc_ray.errors import UserError
from ezxmc_ray.prefetch import prefetch

#: Texts that are tokenized and grouped by length together, while the network works on those before.
PART_TEXTS = 1024
#: Tokens of a forward pass where ``encoder.batch_tokens`` is null.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 65536


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
    groups: list[tuple[np.ndarray, dict[str, Tensor]]]


def unit_vectors(module: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
    """Run ``module`` (a SentenceTransformer) on ``features``; float32 [n, d], rows of unit length, with gradients.

    ``features`` is copied, because the modules of sentence-transformers write into it.
    """
    embedding = module(dict(features))["sentence_embedding"]
    # Again in float32: in half precision the network's own normalization is only as good as that.
    return functional.normalize(embedding.float(), dim=-1)


class Encoder:
    """A SentenceTransformer with the lengths and prompts of the configuration; see :meth:`load`."""

    def __init__(self, module: SentenceTransformer, config: EncoderConfig, name: str) -> None:
        self.module = module
        self.config = config
        self.name = name
        self.reader = TextReader(module[0].tokenizer)
        #: Told after every part how many texts of the call are done.
        self.on_part: Callable[[int], object] = lambda done: None
        self._copy: nn.Module = module
        self._copied_state: tuple[object, ...] = ()

    @classmethod
    def load(cls, reference: str, config: EncoderConfig, device: str | None = None) -> Encoder:
        """Load the model ``reference`` onto ``device`` (None: cuda if there is one, else cpu); errors: UserError."""
        return cls(load_module(reference, config, device), config, reference)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.module.get_embedding_dimension() or 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def unused_prompts(self) -> dict[str, str]:
        """Prompts that the model brings along, by name, and that the configuration puts before no text."""
        used = ("", self.config.document_prompt, self.config.label_prompt)
        return {name: prompt for name, prompt in self.module.prompts.items() if prompt not in used}

    def encode_documents(self, titles: Sequence[str], texts: Sequence[str]) -> Encoded:
        """Vectors of documents, long ones read as ``encoder.long_documents`` says; none: [0, d].

        Of a document in several chunks: the mean of the chunks' unit vectors, of unit length again.
        """
        joined = [document_text(title, text) for title, text in zip(titles, texts, strict=True)]
        if self.config.long_documents == "chunks":
            return self._encode(joined, self.config.document_prompt, self._document_chunks)
        return self._encode(joined, self.config.document_prompt, lambda part: _uncut(self.document_tokens(part)))

    def encode_labels(self, texts: Sequence[str]) -> Encoded:
        """Vectors of labels, each cut to ``max_label_tokens``; none: [0, d]."""
        return self._encode(texts, self.config.label_prompt, lambda part: _uncut(self.label_tokens(part)))

    def document_tokens(self, texts: Sequence[str], max_tokens: int | None = None) -> Tokens:
        """Token ids of documents (:func:`document_text`), at most ``max_tokens`` each (None: as configured).

        One sequence a document, which is what training takes: where long documents are read in chunks, the first one.
        """
        limit = max_tokens or self.config.max_document_tokens
        if self.config.long_documents == "head_tail":
            return self.reader.head_tail(texts, self.config.document_prompt, limit)
        return self.reader.head(texts, self.config.document_prompt, limit)

    def label_tokens(self, texts: Sequence[str]) -> Tokens:
        """Token ids of labels, at most ``max_label_tokens`` each."""
        return self.reader.head(texts, self.config.label_prompt, self.config.max_label_tokens)

    def features(self, token_ids: Sequence[Sequence[int]], prompt: str = "") -> dict[str, Tensor]:
        """What the network takes: int64 tensors [n, longest] on the CPU, padded.

        The length of the ``prompt`` that the token ids begin with comes along where the pooling leaves it out.
        """
        features = self.reader.features(token_ids)
        pooling = pooling_of(self.module)
        if prompt and pooling is not None and not pooling.include_prompt:
            features["prompt_length"] = torch.full((len(token_ids),), len(self.reader.lead(prompt)))
        return features

    def save(self, directory: str | Path) -> None:
        """Write a directory that plain ``SentenceTransformer(directory)`` loads, in float32.

        Its ``encode(texts)`` is :meth:`encode_documents`'s (prompt "document", the default one, and the same limit;
        of long documents it reads the head), ``encode(texts, prompt_name="label")`` reads labels. The model's own
        prompts, if they were not used, are not the student's.
        """
        self.module.max_seq_length = self.config.max_document_tokens
        self.module.prompts = {"document": self.config.document_prompt, "label": self.config.label_prompt}
        self.module.default_prompt_name = "document" if self.config.document_prompt else None
        self.module.save(str(directory), create_model_card=False)

    def _document_chunks(self, texts: Sequence[str]) -> Chunks:
        config = self.config
        return self.reader.chunks(texts, config.document_prompt, config.max_document_tokens, config.max_chunks)

    def _encode(self, texts: Sequence[str], prompt: str, read: Callable[[Sequence[str]], Chunks]) -> Encoded:
        """Vectors of ``texts``, part by part; ``read`` gives the token ids of a part."""
        vectors = np.empty((len(texts), self.dimension), dtype=self.config.vector_dtype)
        truncated = unreadable = done = 0
        parts = [texts[start : start + PART_TEXTS] for start in range(0, len(texts), PART_TEXTS)]
        was_training = self.module.training
        network = self._encoding_network().eval()
        try:
            for part in prefetch(lambda part: self._prepare(read(part), prompt), parts):
                found = self._run(network, part)
                vectors[done : done + len(found)] = found
                done += len(found)
                truncated += part.chunks.truncated
                unreadable += part.chunks.unreadable
                self.on_part(done)
        finally:
            self.module.train(was_training)
        return Encoded(vectors, truncated, unreadable)

    def _prepare(self, chunks: Chunks, prompt: str) -> _Part:
        """Group the chunks by length, and pad each group."""
        budget = self.config.batch_tokens or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS)
        groups = length_groups([len(ids) for ids in chunks.token_ids], budget)
        features = [self.features([chunks.token_ids[place] for place in group], prompt) for group in groups]
        return _Part(chunks, list(zip(groups, features, strict=True)))

    @torch.inference_mode()
    def _run(self, network: nn.Module, part: _Part) -> np.ndarray:
        """Vectors of the texts of ``part``: float32 [n, d], unit rows. Errors: UserError where one is not finite."""
        found = []
        for _, features in part.groups:
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in features.items()}
            found.append(unit_vectors(network, on_device))
        vectors = np.empty((len(part.chunks.token_ids), self.dimension), dtype=np.float32)
        # Back once a part: each way to the CPU waits for all that the device has been given.
        vectors[np.concatenate([group for group, _ in part.groups])] = torch.cat(found).cpu().numpy()
        if not np.isfinite(vectors).all():
            dtype = chosen_dtype(self.device, self.config.dtype)
            remedy = "take another model" if dtype == torch.float32 else "set encoder.dtype=float32"
            raise UserError(
                f"The encoder {self.name} gives vectors that are not finite in {str(dtype).removeprefix('torch.')}: "
                f"{remedy}."
            )
        return _means(vectors, part.chunks.first)

    def _encoding_network(self) -> nn.Module:
        """The network that encodes: the module, or its copy in half precision, made again when the weights change."""
        dtype = chosen_dtype(self.device, self.config.dtype)
        if dtype == torch.float32:
            return self.module
        state = weights_state(self.module)
        if state != self._copied_state:
            self._copy, self._copied_state = copy_in(self.module, dtype), state
        return self._copy


def _uncut(tokens: Tokens) -> Chunks:
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

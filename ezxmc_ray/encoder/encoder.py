"""The bi-encoder: one network that turns documents and labels into vectors of unit length.

Comes in: a model reference (hub id, directory or ``package:NAME/PATH``) of a SentenceTransformer or of a plain
Hugging Face encoder, which then gets mean pooling and normalisation. Goes out: float32 vectors with the count of the
texts that were cut; a directory that plain ``SentenceTransformer(path)`` loads; and, for training, token tensors and
a forward pass with gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.models import resolve_model

#: Texts that are tokenised and sorted by length together: bounds the memory of encoding a million labels.
CHUNK_TEXTS = 16_384


@dataclass(frozen=True)
class Encoded:
    """``vectors``: float32 [n, d], unit rows, in the order of the texts; ``truncated``: how many texts were cut."""

    vectors: np.ndarray
    truncated: int


@dataclass(frozen=True)
class _Tokenized:
    """Token ids of some texts, cut to their limit, and how many were cut."""

    token_ids: list[list[int]]
    truncated: int


def document_text(title: str, text: str) -> str:
    """What the encoder reads of a document: title, line break, text; without blanks at its ends."""
    return f"{title}\n{text}".strip()


def unit_vectors(module: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
    """Run ``module`` (a SentenceTransformer) on ``features``; float32 [n, d], rows of unit length, with gradients.

    ``features`` is copied, because the modules of sentence-transformers write into it.
    """
    embedding = module(dict(features))["sentence_embedding"]
    # Again in float32: under autocast the network's own normalisation is only as good as bfloat16.
    return functional.normalize(embedding.float(), dim=-1)


class Encoder:
    """A SentenceTransformer with the lengths and prompts of the configuration; see :meth:`load`."""

    def __init__(self, module: SentenceTransformer, config: EncoderConfig, name: str) -> None:
        self.module = module
        self.config = config
        self.name = name
        self.tokenizer = module[0].tokenizer

    @classmethod
    def load(cls, reference: str, config: EncoderConfig, device: str | None = None) -> Encoder:
        """Load the model ``reference`` onto ``device`` (None: cuda if there is one, else cpu), weights in float32.

        Errors: UserError for a model that is not found or is no text encoder, and for lengths beyond what it reads.
        """
        path = resolve_model(reference)
        transformers_logging.disable_progress_bar()  # a bar of 0.1 s for every worker that loads the model
        try:
            module = SentenceTransformer(path, device=device or _best_device(), model_kwargs={"dtype": torch.float32})
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
            raise UserError(
                f"The encoder {reference} cannot be loaded ({one_line(error)}): give a SentenceTransformer or a "
                "Hugging Face encoder as encoder.model."
            ) from error
        _check_model(module, reference, config)
        if not isinstance(module[-1], Normalize):
            module.append(Normalize())
        module.max_seq_length = config.max_document_tokens
        return cls(module, config, reference)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.module.get_embedding_dimension() or 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    def encode_documents(self, titles: Sequence[str], texts: Sequence[str]) -> Encoded:
        """Vectors of documents, each cut to ``max_document_tokens``; none: float32 [0, d]."""
        joined = [document_text(title, text) for title, text in zip(titles, texts, strict=True)]
        return self._encode(joined, self.config.document_prompt, self.config.max_document_tokens)

    def encode_labels(self, texts: Sequence[str]) -> Encoded:
        """Vectors of labels, each cut to ``max_label_tokens``; none: float32 [0, d]."""
        return self._encode(texts, self.config.label_prompt, self.config.max_label_tokens)

    def tokenize(self, texts: Sequence[str], max_tokens: int, prompt: str = "") -> dict[str, Tensor]:
        """Features of ``prompt`` + each text, cut to ``max_tokens``, padded: int64 tensors [n, longest] on the CPU."""
        return self._features(self._token_ids(texts, max_tokens, prompt).token_ids, prompt)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """float32 [n, d] of the features of :meth:`tokenize`: rows of unit length, with gradients."""
        return unit_vectors(self.module, {name: tensor.to(self.device) for name, tensor in features.items()})

    def save(self, directory: str | Path) -> None:
        """Write a directory that plain ``SentenceTransformer(directory)`` loads, in float32.

        Its ``encode(texts)`` is :meth:`encode_documents`'s (prompt "document", the default one, and the same limit);
        ``encode(texts, prompt_name="label")`` reads labels.
        """
        self.module.max_seq_length = self.config.max_document_tokens
        self.module.prompts = {
            **self.module.prompts,
            "document": self.config.document_prompt,
            "label": self.config.label_prompt,
        }
        self.module.default_prompt_name = "document" if self.config.document_prompt else None
        self.module.save(str(directory), create_model_card=False)

    def _encode(self, texts: Sequence[str], prompt: str, max_tokens: int) -> Encoded:
        """Vectors of ``prompt`` + each text, chunk by chunk."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        truncated = 0
        was_training = self.module.training
        self.module.eval()
        with torch.inference_mode(), autocast(self.device, self.config.dtype):
            for start in range(0, len(texts), CHUNK_TEXTS):
                tokens = self._token_ids(texts[start : start + CHUNK_TEXTS], max_tokens, prompt)
                self._encode_chunk(tokens.token_ids, prompt, vectors[start : start + CHUNK_TEXTS])
                truncated += tokens.truncated
        self.module.train(was_training)
        return Encoded(vectors, truncated)

    def _encode_chunk(self, token_ids: list[list[int]], prompt: str, out: np.ndarray) -> None:
        """Fill ``out`` with the vectors of the texts; batches hold texts of like length, so that little is padding."""
        order = sorted(range(len(token_ids)), key=lambda row: -len(token_ids[row]))
        for start in range(0, len(order), self.config.batch_size):
            rows = order[start : start + self.config.batch_size]
            features = self._features([token_ids[row] for row in rows], prompt)
            out[rows] = self.forward(features).cpu().numpy()

    def _token_ids(self, texts: Sequence[str], max_tokens: int, prompt: str) -> _Tokenized:
        """Token ids with the model's special tokens, at most ``max_tokens`` a text."""
        if not len(texts):
            return _Tokenized([], 0)
        encoding = self.tokenizer([prompt + text for text in texts], truncation=True, max_length=max_tokens)
        # A text of which nothing is left (a tokeniser without special tokens, an empty text) still needs a vector.
        token_ids = [ids or [self.tokenizer.pad_token_id] for ids in encoding["input_ids"]]
        return _Tokenized(token_ids, sum(bool(one.overflowing) for one in encoding.encodings))

    def _features(self, token_ids: list[list[int]], prompt: str) -> dict[str, Tensor]:
        """Pad token ids to a batch; the prompt's length comes along where the pooling leaves the prompt out."""
        features = dict(self.tokenizer.pad({"input_ids": token_ids}, return_tensors="pt"))
        pooling = next((one for one in self.module if isinstance(one, Pooling)), None)
        if prompt and pooling is not None and not pooling.include_prompt:
            ids = self.tokenizer(prompt)["input_ids"]
            length = len(ids) - int(ids[-1] in self.tokenizer.all_special_ids)
            features["prompt_length"] = torch.full((len(token_ids),), length)
        return features


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager[object]:
    """Autocast on ``device`` to the configured ``dtype`` (auto: bfloat16 on a GPU that has it, else float32: none)."""
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype={"bfloat16": torch.bfloat16, "float16": torch.float16}[dtype])


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_model(module: SentenceTransformer, reference: str, config: EncoderConfig) -> None:
    """Refuse what is no text transformer with a fast tokeniser, and lengths that its positions do not reach."""
    first = module[0]
    if not isinstance(first, Transformer) or not getattr(first.tokenizer, "is_fast", False):
        raise UserError(
            f"The encoder {reference} is not a transformer with a fast tokeniser: give another one as encoder.model."
        )
    limit = _position_limit(first)
    for key in ("max_document_tokens", "max_label_tokens"):
        if getattr(config, key) > limit:
            raise UserError(
                f"encoder.{key}={getattr(config, key)} is more than the encoder {reference} can read: "
                f"set it to {limit} at most."
            )


def _position_limit(module: nn.Module) -> int:
    """Tokens that learned position embeddings reach (RoBERTa's begin after the padding's); unbounded without them."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Embedding) and name.endswith("position_embeddings"):
            return child.num_embeddings - (0 if child.padding_idx is None else child.padding_idx + 1)
    return 2**31

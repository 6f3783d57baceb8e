"""The bi-encoder: one network that turns documents and labels into vectors of unit length, in PyTorch.

Comes in: a model reference (hub id, directory or ``package:NAME/PATH``) and texts. Goes out: vectors with the count of
the texts that were cut; a directory that plain ``SentenceTransformer(path)`` loads; and, for training, token ids,
features and a forward pass with gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.document_encoder import CPU_BATCH_TOKENS, DocumentEncoder, Features
from ezxmc_ray.encoder.loading import load_module, pooling_of
from ezxmc_ray.encoder.precision import chosen_dtype, copy_in, dtype_name, weights_state
from ezxmc_ray.encoder.tokens import TextReader

#: Tokens of a forward pass on a GPU where ``encoder.batch_tokens`` is null.
GPU_BATCH_TOKENS = 65536


def unit_vectors(module: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
    """Run ``module`` (a SentenceTransformer) on ``features``; float32 [n, d], rows of unit length, with gradients.

    ``features`` is copied, because the modules of sentence-transformers write into it.
    """
    embedding = module(dict(features))["sentence_embedding"]
    # Again in float32: in half precision the network's own normalization is only as good as that.
    return functional.normalize(embedding.float(), dim=-1)


class Encoder(DocumentEncoder):
    """A SentenceTransformer with the lengths and prompts of the configuration; see :meth:`load`."""

    def __init__(self, module: SentenceTransformer, config: EncoderConfig, name: str) -> None:
        super().__init__(TextReader(module[0].tokenizer), config, name)
        self.module = module
        self._copy: nn.Module = module
        self._copied_state: tuple[object, ...] = ()

    @classmethod
    def load(cls, reference: str, config: EncoderConfig, device: str | None = None) -> Encoder:
        """Load the model ``reference`` onto ``device`` (None: cuda if there is one, else cpu); errors: UserError."""
        return cls(load_module(reference, config, device), config, reference)

    @staticmethod
    def outputs(network: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
        """What ``network`` makes of some texts: float32 [n, d], with gradients."""
        return unit_vectors(network, features)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.module.get_embedding_dimension() or 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass, padding included."""
        return self.config.batch_tokens or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS)

    @property
    def dtype(self) -> str:
        """What the network computes in."""
        return dtype_name(self.device, self.config.dtype)

    @property
    def unused_prompts(self) -> dict[str, str]:
        """Prompts that the model brings along, by name, and that the configuration puts before no text."""
        used = ("", self.config.document_prompt, self.config.label_prompt)
        return {name: prompt for name, prompt in self.module.prompts.items() if prompt not in used}

    def features(self, token_ids: Sequence[Sequence[int]], prompt: str = "") -> dict[str, Tensor]:
        """What the network takes: int64 tensors [n, longest] on the CPU, padded.

        The length of the ``prompt`` that the token ids begin with comes along where the pooling leaves it out.
        """
        return {name: torch.from_numpy(array) for name, array in self.padded(token_ids, prompt).items()}

    def padded(self, token_ids: Sequence[Sequence[int]], prompt: str) -> Features:
        """As :meth:`features`, arrays."""
        features = self.reader.features(token_ids)
        pooling = pooling_of(self.module)
        if prompt and pooling is not None and not pooling.include_prompt:
            features["prompt_length"] = np.full(len(token_ids), len(self.reader.lead(prompt)))
        return features

    @torch.inference_mode()
    def forward(self, groups: Sequence[Features]) -> np.ndarray:
        """The vectors of the texts of ``groups``, one group after the other: float32 [n, d], unit rows."""
        network = self._encoding_network()
        found = []
        for features in groups:
            tensors = {name: torch.from_numpy(array) for name, array in features.items()}
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()}
            found.append(self.outputs(network, on_device))
        # Back once a part: each way to the CPU waits for all that the device has been given.
        return np.asarray(torch.cat(found).cpu().numpy())

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """In evaluation mode, and afterwards as before."""
        was_training = self.module.training
        self._encoding_network().eval()
        try:
            yield
        finally:
            self.module.train(was_training)

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

    def _encoding_network(self) -> nn.Module:
        """The network that encodes: the module, or its copy in half precision, made again when the weights change."""
        dtype = chosen_dtype(self.device, self.config.dtype)
        if dtype == torch.float32:
            return self.module
        state = weights_state(self.module)
        if state != self._copied_state:
            self._copy, self._copied_state = copy_in(self.module, dtype), state
        return self._copy

"""The student without PyTorch: ONNX Runtime runs the network, the tokenizers library reads its tokenizer.json.

Comes in: a directory that onnx_export.py wrote, and documents, or labels that come to those whose vectors lie in the
index. Goes out: vectors of unit length, in float32. It is what a service loads: ready in a fraction of the seconds that
importing sentence-transformers takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.document_encoder import DocumentEncoder, Encoded, Features
from ezxmc_ray.encoder.pairs import PairNetwork, PairReader
from ezxmc_ray.encoder.tokens import TextReader
from ezxmc_ray.errors import UserError, one_line

#: The files of the directory.
NETWORK = "model.onnx"
TOKENIZER = "tokenizer.json"
#: What Hugging Face keeps beside tokenizer.json, as far as it is needed, the length of a vector, and whether labels may
#: be read too.
ABOUT = "encoder.json"


class OnnxEncoder(DocumentEncoder):
    """A network in the ONNX format with its tokenizer; see :meth:`load`. Several threads may use one."""

    def __init__(
        self, session: Any, reader: TextReader, config: EncoderConfig, name: str, dimension: int, reads_labels: bool
    ) -> None:
        """``reads_labels``: see onnx_export.reads_labels."""
        super().__init__(reader, config, name)
        self._session, self._dimension, self.reads_labels = session, dimension, reads_labels

    @classmethod
    def load(cls, directory: Path, config: EncoderConfig, threads: int = 0) -> OnnxEncoder:
        """The encoder in ``directory``. ``threads``: of one forward pass, 0 = as many as
        OMP_NUM_THREADS says (as PyTorch takes it; Ray sets it by an actor's CPUs), or all cores.

        Errors: UserError where ONNX Runtime is missing, or the files cannot be read.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"The encoder in {directory} is for ONNX Runtime, which is not installed: pip install 'ezxmc-ray[tag]'."
            ) from error
        options = onnxruntime.SessionOptions()
        told = os.environ.get("OMP_NUM_THREADS", "")
        options.intra_op_num_threads = threads or (int(told) if told.isascii() and told.isdigit() else 0)
        options.log_severity_level = 3  # errors; it warns of what it optimizes
        try:
            about = json.loads((directory / ABOUT).read_text("utf-8"))
            reader = TextReader(JsonTokenizer(directory / TOKENIZER, about))
            providers = onnxruntime.get_available_providers()
            session = onnxruntime.InferenceSession(str(directory / NETWORK), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own kinds share no class, tokenizers raises bare ones
            raise UserError(f"The encoder in {directory} cannot be loaded ({one_line(error, 200)}).") from error
        return cls(session, reader, config, str(directory), int(about["dimension"]), bool(about["reads_labels"]))

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    def encode_labels(self, texts: Sequence[str]) -> Encoded:
        """As :meth:`DocumentEncoder.encode_labels`. Errors: UserError where the network was written for documents
        alone."""
        if not self.reads_labels:
            raise UserError(
                f"The encoder {self.name} takes other prompts for labels than for documents, and its pooling leaves "
                "them out, so that it reads documents alone: export the run again with --encoder torch."
            )
        return super().encode_labels(texts)

    def forward(self, groups: Sequence[Features]) -> np.ndarray:
        """The vectors of the texts of ``groups``, one group after the other: float32 [n, d], unit rows."""
        return np.concatenate([self._session.run(None, dict(group))[0] for group in groups])


def load_onnx_pairs(directory: Path, config: EncoderConfig) -> PairNetwork:
    """The cross-encoder that onnx_export.export_onnx_pairs wrote into the directory. Errors: as OnnxEncoder.load."""
    network = OnnxEncoder.load(directory, config)
    return PairNetwork(network, PairReader(network, json.loads((directory / ABOUT).read_text("utf-8"))["between"]))


class JsonTokenizer:
    """What :class:`TextReader` needs of a fast tokenizer of transformers, from its tokenizer.json alone."""

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        """``about``: ``pad_token_id`` and ``unk_token_id`` (null: none), ``padding_side``."""
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(file.read_text("utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.pad_token_id, self.unk_token_id = about["pad_token_id"], about["unk_token_id"]
        self.padding_side: str = about["padding_side"]

    def __call__(self, texts: str | list[str], **options: Any) -> dict[str, Any]:
        """``input_ids`` of a text or of several; of a text also its ``special_tokens_mask``. Options are not looked
        at: nothing is ever cut or padded."""
        del options
        if isinstance(texts, str):
            found = self._tokenizer.encode(texts)
            return {"input_ids": found.ids, "special_tokens_mask": found.special_tokens_mask}
        return {"input_ids": [one.ids for one in self._tokenizer.encode_batch(texts)]}

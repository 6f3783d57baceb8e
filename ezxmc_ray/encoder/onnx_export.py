"""An encoder as files for ONNX Runtime: the network, pooling and all, and its tokenizer.

Comes in: an :class:`Encoder`. Goes out: a directory for :class:`OnnxEncoder`, which gives the same vectors: that is
tried before the export counts as done, on texts of all kinds, read as documents and as labels. The network is written
in float32, by PyTorch's own exporter (https://docs.pytorch.org/docs/stable/onnx.html), for batches of any size and
length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.onnx_encoder import ABOUT, NETWORK, TOKENIZER, OnnxEncoder, load_onnx_pairs
from ezxmc_ray.errors import UserError, one_line

#: How far numbers of a vector may lie apart in the two: sums in another order.
CLOSE = 1e-5
#: And scores of a cross-encoder, which are numbers near 10.
CLOSE_SCORES = 1e-4
#: Bytes of weights from which they lie in a file beside the network: ONNX's format holds no more than 2 GiB.
LARGE = 1 << 30
#: Texts of which tokens and vectors must be the same: short and long, of several scripts, and with what tokenizers
#: treat in ways of their own.
TRIED = (
    "",
    "a",
    "An editor for text files, with syntax highlighting.",
    "Größe, naïve café, ﬁne, ΑΒΓ, Привет, 日本語の文書, नमस्ते, สวัสดี",
    "emoji 🙂, tabs\tand\nlines, e\u0301, soft\u00adhyphen, \u200bzero width, \ufeffmark",
    "[CLS] not a special token </s> <s> [MASK] <pad>",
    "numbers 3.14159, 1,000,000; C++ and C#; snake_case; e-mail@example.org; https://example.org/a?b=c",
    "word " * 700,
)


class _Network(nn.Module):
    """The network with positional arguments, as the exporter wants it; ``prompt_tokens``: that pooling leaves out."""

    def __init__(self, encoder: Encoder, prompt_tokens: int | None) -> None:
        super().__init__()
        self.module, self._outputs, self.prompt_tokens = encoder.module, encoder.outputs, prompt_tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Float32 [n, d]: unit rows, or scores [n, 1]."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.prompt_tokens is not None:
            features["prompt_length"] = torch.full_like(input_ids[:, 0], self.prompt_tokens)
        return self._outputs(self.module, features)


def export_onnx(encoder: Encoder, directory: Path) -> None:
    """Write ``encoder``, on a CPU and in float32, into the directory, which must be there.

    Errors: UserError where the exporter is not installed, cannot write such a network, or what it wrote gives other
    vectors.
    """
    config = dataclasses.replace(encoder.config, dtype="float32", vector_dtype="float32")
    reference = Encoder(encoder.module.to("cpu").float(), config, encoder.name)
    _write_files(reference, directory)
    _try(reference, OnnxEncoder.load(directory, config), TRIED)


def export_onnx_pairs(encoder: CrossEncoder, directory: Path) -> None:
    """Write a cross-encoder, on a CPU and in float32, into the directory, which must be there, for load_onnx_pairs.

    Errors: UserError as :func:`export_onnx`.
    """
    config = dataclasses.replace(encoder.config, dtype="float32", vector_dtype="float32")
    encoder.module.set_keep_in_fp32_modules([])  # as all of it is
    reference = CrossEncoder(encoder.module.to("cpu").float(), config, encoder.name)
    _write_files(reference, directory, {"between": reference.pair_reader.between})
    labels = [list(TRIED)] * len(TRIED)
    scores, others = (
        np.concatenate(one.scores([""] * len(TRIED), TRIED, labels))
        for one in (reference.pairs, load_onnx_pairs(directory, config))
    )
    farthest = float(np.abs(scores - others).max())
    if not farthest <= CLOSE_SCORES:
        raise _unlike(reference, f"its scores in ONNX Runtime lie up to {farthest:.1e} apart")


def _write_files(reference: Encoder, directory: Path, told: dict[str, Any] | None = None) -> None:
    """Network and tokenizer of ``reference``; ``told``: what its reader has to know besides."""
    config = reference.config
    prompt = "" if isinstance(reference, CrossEncoder) else config.document_prompt  # no prompt of a pair is left out
    ids = reference.document_tokens(["two texts", "of unequal length"]).token_ids
    features = reference.features(ids, prompt)
    network = _Network(reference, _left_out(reference, prompt)).eval()
    try:
        _write(network, (features["input_ids"], features["attention_mask"]), directory / NETWORK)
    except ImportError as error:
        raise UserError(
            f"PyTorch's exporter needs {error.name or one_line(error)}, which is not installed: pip install onnxscript,"
            " or give --encoder torch."
        ) from error
    except Exception as error:  # of any kind: what a network does is up to it
        raise _unlike(reference, one_line(error, 200)) from error
    _write_tokenizer(reference, directory, told or {})


def reads_labels(encoder: Encoder) -> bool:
    """Whether labels can be read by what is written for documents: pooling leaves as much of both's prompts out."""
    config = encoder.config
    return _left_out(encoder, config.document_prompt) == _left_out(encoder, config.label_prompt)


def _left_out(encoder: Encoder, prompt: str) -> int | None:
    """How many tokens of ``prompt`` the pooling leaves out; None: it does not look at prompts."""
    length = encoder.features([[0]], prompt).get("prompt_length")
    return None if length is None else int(length[0])


def _write(network: nn.Module, example: tuple[Tensor, Tensor], path: Path) -> None:
    count, length = torch.export.Dim("texts"), torch.export.Dim("tokens")
    with _quiet():
        torch.onnx.export(
            network,
            example,
            path,
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes=({0: count, 1: length}, {0: count, 1: length}),
            dynamo=True,
            external_data=sum(one.nbytes for one in network.parameters()) >= LARGE,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's account of its own steps."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def _write_tokenizer(encoder: Encoder, directory: Path, told: dict[str, Any]) -> None:
    tokenizer = encoder.reader.tokenizer
    (directory / TOKENIZER).write_text(tokenizer.backend_tokenizer.to_str(), "utf-8")
    names = ("pad_token_id", "unk_token_id", "padding_side")
    about = {name: getattr(tokenizer, name) for name in names}
    about |= {"dimension": encoder.dimension, "reads_labels": reads_labels(encoder)} | told
    (directory / ABOUT).write_text(json.dumps(about, indent=2) + "\n", "utf-8")


def _try(reference: Encoder, written: OnnxEncoder, texts: Sequence[str]) -> None:
    """Errors: UserError where ``written`` reads or encodes one of the ``texts`` otherwise than ``reference``."""
    tokens, again = (one.document_tokens(texts).token_ids for one in (reference, written))
    if tokens != again:
        first = next(text for text, one, other in zip(texts, tokens, again, strict=True) if one != other)
        raise _unlike(reference, f"its tokenizer.json alone reads {first[:60]!r} otherwise")
    vectors, others = (
        np.concatenate(
            [
                one.encode_documents([""] * len(texts), texts).vectors,
                one.encode_labels(texts if written.reads_labels else []).vectors,
            ]
        )
        for one in (reference, written)
    )
    farthest = float(np.abs(vectors - others).max())
    if not farthest <= CLOSE:
        raise _unlike(reference, f"its vectors in ONNX Runtime lie up to {farthest:.1e} apart")


def _unlike(encoder: Encoder, reason: str) -> UserError:
    return UserError(
        f"The encoder {encoder.name} cannot be exported for ONNX Runtime ({reason}): give --encoder torch, which keeps "
        "it as sentence-transformers loads it."
    )

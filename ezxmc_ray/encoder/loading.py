"""Loading the network: from a model reference to a SentenceTransformer with the configured pooling and dimensions.

Comes in: a hub id, a directory or ``package:NAME/PATH`` of a SentenceTransformer or of a plain Hugging Face encoder.
Goes out: a SentenceTransformer in float32 whose vectors have unit length. All that is changed here is made of
sentence-transformers' own modules, so a saved student gives the same vectors to plain ``SentenceTransformer(path)``.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from torch import nn
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.tokens import TextReader
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import is_out_of_memory
from ezxmc_ray.models import LOAD_ERRORS, hub_place, load_error, resolve_model

#: How the learned position embeddings are called: BERT's family, GPT-2's, BART's and OPT's.
POSITIONS = ("position_embeddings", "wpe", "embed_positions")
_POOLING_MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


def load_module(reference: str, config: EncoderConfig, device: str | None = None) -> SentenceTransformer:
    """The network ``reference`` on ``device`` (None: cuda if there is one, else cpu): float32, no dropout.

    Errors: UserError for a model that is not found or is no text encoder, for lengths beyond what it reads or without
    room for a text, for another pooling where it has none, and for more dimensions than it has.
    """
    path, revision = hub_place(resolve_model(reference))
    transformers_logging.disable_progress_bar()  # a bar of 0.1 s for every worker that loads the model
    try:
        where = device or best_device()
        module = SentenceTransformer(path, device=where, revision=revision, model_kwargs={"dtype": torch.float32})
    except LOAD_ERRORS as error:
        if is_out_of_memory(error):
            raise load_error(reference, error) from error
        raise UserError(
            f"The encoder {reference} cannot be loaded ({one_line(error)}): give a SentenceTransformer or a "
            "Hugging Face encoder as encoder.model."
        ) from error
    _check_model(module, reference, config)
    _read_texts_as_they_are(module, reference, path, revision)
    _set_pooling(module, reference, config.pooling)
    _set_dimensions(module, reference, config.dimensions)
    if not isinstance(module[-1], Normalize):
        module.append(Normalize())
    module.max_seq_length = config.max_document_tokens
    module[0].tokenizer.truncation_side = "right"  # a saved student reads the head, as this encoder does
    return module.eval()


def _read_texts_as_they_are(module: SentenceTransformer, reference: str, path: str, revision: str | None) -> None:
    """Have a saved student be given texts as this encoder reads them, and not inside its tokenizer's chat template.

    sentence-transformers 6 puts every text into the template where there is one, unless the model says otherwise (its
    ``modality_config``: https://sbert.net/docs/package_reference/base/modules.html).
    Errors: UserError for a model that says that it was trained so.
    """
    first = module[0]
    if "message" not in first.modality_config:
        return
    modules = _read_json(path, revision, "modules.json")
    own = _read_json(path, revision, "sentence_bert_config.json", modules[0].get("path", "") if modules else "")
    is_student = {"document", "label"} <= set(module.prompts)  # of a version that left it there
    if "message" in own.get("modality_config", {}) and not is_student:
        raise UserError(
            f"The encoder {reference} reads texts inside its tokenizer's chat template (sentence_bert_config.json), "
            "which ezxmc does not: give another one as encoder.model."
        )
    del first.modality_config["message"]
    first.input_formatter.supported_modalities = list(first.modality_config)


def _read_json(path: str, revision: str | None, name: str, folder: str = "") -> Any:
    """What a file of a model, in a ``folder`` of it, holds; {} where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        file = cached_file(path, name, subfolder=folder, revision=revision, _raise_exceptions_for_missing_entries=False)
        if file:
            return json.loads(Path(file).read_text("utf-8"))
    return {}


def pooling_of(module: SentenceTransformer) -> Pooling | None:
    """The module that makes one vector of a text's tokens, if it is one of its own."""
    return next((one for one in module if isinstance(one, Pooling)), None)


def _set_pooling(module: SentenceTransformer, reference: str, pooling: str) -> None:
    """Pool as configured; auto: as the model says (sentence-transformers gives a plain encoder the mean, a causal one
    its last token)."""
    if pooling == "auto":
        return
    for place, one in enumerate(module):
        if isinstance(one, Pooling):
            module[place] = Pooling(one.embedding_dimension, _POOLING_MODES[pooling], one.include_prompt)
            return
    raise UserError(f"The encoder {reference} has no pooling that could be {pooling}: set encoder.pooling=auto.")


def _set_dimensions(module: SentenceTransformer, reference: str, dimensions: int | None) -> None:
    """Keep the first ``dimensions`` of every vector (None: what the model says), of unit length again.

    For models trained to be cut (Matryoshka representation learning, arXiv 2205.13147). sentence-transformers' own
    ``truncate_dim`` cuts behind the last module, so that vectors lose their unit length and training does not see the
    cut; so it is a fixed linear layer before the normalization here.
    """
    wanted = dimensions or module.truncate_dim
    module.truncate_dim = None
    full = int(module.get_embedding_dimension())
    if wanted is not None and wanted > full:
        raise UserError(
            f"encoder.dimensions={wanted} is more than the {full} that the encoder {reference} has: set it to {full} "
            "at most, or to null for all."
        )
    if wanted is not None and wanted < full:
        if isinstance(module[-1], Normalize):
            del module[-1]
        module.append(_truncation(full, wanted).to(module.device))
    for one in module:
        if is_truncation(one):
            one.requires_grad_(False)


def _truncation(full: int, kept: int) -> Dense:
    """A linear layer that keeps the first ``kept`` of ``full`` numbers as they are."""
    return Dense(full, kept, bias=False, activation_function=nn.Identity(), init_weight=torch.eye(kept, full))


def is_truncation(module: nn.Module) -> bool:
    """Whether it is the layer that keeps the first numbers of a vector."""
    if not isinstance(module, Dense):
        return False
    if module.linear.bias is not None or not isinstance(module.activation_function, nn.Identity):
        return False
    weight = module.linear.weight
    return torch.equal(weight, torch.eye(*weight.shape, device=weight.device))


def best_device() -> str:
    """Where a network goes if nobody says."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_model(module: SentenceTransformer, reference: str, config: EncoderConfig) -> None:
    """Refuse what is no text transformer with a fast tokenizer, and lengths that it cannot read."""
    first = module[0]
    if not isinstance(first, Transformer) or not getattr(first.tokenizer, "is_fast", False):
        raise UserError(
            f"The encoder {reference} is not a transformer with a fast tokenizer: give another one as encoder.model."
        )
    _check_lengths(first, reference, config)


def _check_lengths(transformer: nn.Module, reference: str, config: EncoderConfig) -> None:
    for what in ("document", "label"):
        key, prompt = f"max_{what}_tokens", getattr(config, f"{what}_prompt")
        check_length(transformer, reference, f"encoder.{key}", getattr(config, key), prompt)


def check_length(transformer: nn.Module, reference: str, key: str, tokens: int, prompt: str) -> None:
    """Refuse more tokens than the positions reach, and so few that prompt and special tokens leave no room for text.

    ``key``: the knob that says ``tokens``. Errors: UserError.
    """
    limit = position_limit(transformer)
    if tokens > limit:
        raise UserError(f"{key}={tokens} is more than the encoder {reference} can read: set it to {limit} at most.")
    reader = TextReader(transformer.tokenizer)
    taken = len(reader.lead(prompt)) + len(reader.after)
    if tokens <= taken:
        raise UserError(
            f"{key}={tokens} leaves no room for text: special tokens and the encoder's prompt take {taken}; set it "
            "higher."
        )


def position_limit(module: nn.Module) -> int:
    """Tokens that learned position embeddings reach; unbounded without them.

    RoBERTa's begin after the padding's, BART's and OPT's after an offset of their own.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Embedding) and name.endswith(POSITIONS):
            before = 0 if child.padding_idx is None else child.padding_idx + 1
            return int(child.num_embeddings - getattr(child, "offset", before))
    return 2**31

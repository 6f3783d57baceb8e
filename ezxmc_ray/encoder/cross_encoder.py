"""The cross-encoder: one network that reads a document and a label together and gives the pair a score, in PyTorch.

Comes in: a bi-encoder, whose weights and pooling it begins with, or a directory that was saved. Goes out: scores, a
number a pair; and, for training, features and a forward pass with gradients. It is made of sentence-transformers' own
modules: the transformer, the pooling, and a linear layer. So plain ``CrossEncoder(path)`` loads what is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder as PairModel
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.loading import best_device, is_truncation, position_limit
from ezxmc_ray.encoder.pairs import PairNetwork, PairReader, tokens_between
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.models import LOAD_ERRORS


class CrossEncoder(Encoder):
    """An :class:`Encoder` whose texts are pairs, and whose vectors have one number, of any size."""

    @classmethod
    def begin(cls, encoder: Encoder, config: EncoderConfig) -> CrossEncoder:
        """One with the weights of ``encoder``, and a last layer by chance (``torch.manual_seed``).

        ``config``: as pairs.pair_config makes it. Errors: UserError for documents and labels that are together longer
        than the encoder reads.
        """
        check_pair_tokens(encoder, config)
        modules = [one for one in encoder.module if not isinstance(one, Normalize) and not is_truncation(one)]
        head = Dense(_width(modules), 1, activation_function=nn.Identity(), module_output_name="scores")
        model = PairModel(
            modules=[*modules, head.to(encoder.device)], device=str(encoder.device), activation_fn=nn.Identity()
        )
        return cls(_in_float32(model), config, encoder.name)

    @classmethod
    def load(cls, reference: str, config: EncoderConfig, device: str | None = None) -> CrossEncoder:
        """The one that :meth:`save` wrote into the directory; ``device``: None: cuda if there is one, else cpu.

        Errors: UserError where it cannot be loaded.
        """
        transformers_logging.disable_progress_bar()
        try:
            where = device or best_device()
            model = PairModel(reference, device=where, model_kwargs={"dtype": torch.float32}, local_files_only=True)
        except LOAD_ERRORS as error:
            raise UserError(f"The cross-encoder {reference} cannot be loaded ({one_line(error)}).") from error
        return cls(_in_float32(model).eval(), config, reference)

    @property
    def pairs(self) -> PairNetwork:
        """What scores pairs by it."""
        return PairNetwork(self, self.pair_reader)

    @property
    def pair_reader(self) -> PairReader:
        """What joins the token ids of its texts."""
        return PairReader(self, tokens_between(self.reader.tokenizer))

    @staticmethod
    def outputs(network: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
        """The scores of some pairs: float32 [n, 1], with gradients."""
        scores: Tensor = network(dict(features))["scores"].float()
        return scores

    @property
    def dimension(self) -> int:
        """A score is one number."""
        return 1

    def save(self, directory: str | Path) -> None:
        """Write a directory that plain ``CrossEncoder(directory)`` of sentence-transformers loads, in float32."""
        _forget_segments(self.module)
        self.module.max_seq_length = self.config.max_document_tokens + self.config.max_label_tokens
        self.module.save_pretrained(str(directory), create_model_card=False)


def check_border(encoder: Encoder) -> None:
    """Refuse a tokenizer that puts nothing between the two texts of a pair, whose border the network could not see:
    UserError."""
    if not tokens_between(encoder.reader.tokenizer):
        raise UserError(
            f"The tokenizer of the encoder {encoder.name} puts no token between two texts, so a cross-encoder could "
            "not tell a document from its label: set predict.rerank=0, or take an encoder of BERT's kind."
        )


def check_pair_tokens(encoder: Encoder, config: EncoderConfig) -> None:
    """Refuse documents of ``cross_encoder.max_document_tokens`` beside which a label has no room: UserError."""
    most = position_limit(encoder.module[0]) - config.max_label_tokens
    taken = len(encoder.reader.lead(config.document_prompt)) + len(encoder.reader.after)
    tokens, key = config.max_document_tokens, "cross_encoder.max_document_tokens"
    if tokens > most:
        raise UserError(
            f"{key}={tokens} is more than the encoder {encoder.name} can read beside a label of "
            f"encoder.max_label_tokens={config.max_label_tokens}: set it to {most} at most."
        )
    if tokens <= taken:
        raise UserError(
            f"{key}={tokens} leaves no room for text: prompt and special tokens take {taken}; set it higher."
        )


def _width(modules: list[nn.Module]) -> int:
    """Length of what the last of ``modules`` gives that has one."""
    lengths = (getattr(one, "get_embedding_dimension", None) for one in reversed(modules))
    return int(next(length() for length in lengths if length is not None))


def _forget_segments(model: nn.Module) -> None:
    """Have other programs, which tell BERT's networks that the label is a second segment, get the scores that we get:
    here all is one segment, as the bi-encoder learned it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("token_type_embeddings"):
            module.weight.data[1:] = module.weight.data[0]


def _in_float32(model: PairModel) -> PairModel:
    """With the last layer in float32, whatever the rest computes in: a score near 8 would come in steps of 1/16."""
    model.set_keep_in_fp32_modules([f"{len(model) - 1}.linear"])
    return model

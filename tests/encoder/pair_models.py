"""Tiny networks of several families for the tests of the cross-encoder, and the scores of pairs one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.encoder import Encoder
from tests.encoder.texts import TEXTS, TITLES

#: A document of 24 tokens at most, a label of 8.
PAIRS = EncoderConfig(max_document_tokens=24, max_label_tokens=8, batch_tokens=96, dtype="float32")
#: Of each document of texts.py; of one none, of one two alike.
LABELS = [["Waves", "Rough surfaces"], [], ["Gardens"], ["A", "Steel"], ["Law", "Law"], ["Floods", "Tax"], ["x y z"]]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def save_tiny_roberta(directory: Path, around: str = "roberta") -> Path:
    """A RoBERTa of random weights that reads 64 tokens, with a byte-level tokenizer.

    ``around`` a text it puts ``<s>`` and ``</s>``, two of these between two texts ("roberta"); or ``</s>`` behind each
    text, as T5's does ("t5"); or nothing ("none").
    """
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    words.train_from_iterator([*TITLES, *TEXTS], trainer)
    if around == "roberta":
        words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    elif around == "t5":
        words.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(
        vocab_size=words.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, initializer_range=0.2, **sizes
    )
    RobertaModel(config).save_pretrained(directory)
    return directory


def begin(directory: Path, config: EncoderConfig = PAIRS, seed: int = 0) -> CrossEncoder:
    """A cross-encoder of the encoder in ``directory``; both read as ``config`` says."""
    encoder = Encoder.load(str(directory), config, "cpu")
    torch.manual_seed(seed)
    return CrossEncoder.begin(encoder, config)


def scores(cross: CrossEncoder) -> np.ndarray:
    """Of the documents of texts.py with :data:`LABELS`, one after the other."""
    return np.concatenate(cross.pairs.scores(TITLES, TEXTS, LABELS))


def short_pairs(words: int = 8) -> list[list[str]]:
    """The same pairs of the documents' first words, which are not cut."""
    first = [" ".join(document_text(*one).split()[:words]) for one in zip(TITLES, TEXTS, strict=True)]
    return [[document, label] for document, labels in zip(first, LABELS, strict=True) for label in labels]


@torch.no_grad()
def slow_scores(cross: CrossEncoder, pairs: Sequence[Sequence[str]]) -> np.ndarray:
    """Scores of pairs of texts, one by one, by the tokenizer's own token ids."""
    found = []
    for document, label in pairs:
        ids = torch.tensor([cross.reader.tokenizer(document, label)["input_ids"]])
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        found.append(float(cross.module.eval()(features)["scores"]))
    return np.array(found, np.float32)

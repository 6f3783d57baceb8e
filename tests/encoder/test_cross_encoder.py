from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as Plain
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import BertModel

from ezxmc_ray.config import CrossEncoderConfig, EncoderConfig
from ezxmc_ray.encoder import label_tokens
from ezxmc_ray.encoder.cross_encoder import CrossEncoder, check_border
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.pairs import PairReader, pair_config, tokens_between
from ezxmc_ray.errors import UserError
from tests.encoder.pair_models import LABELS, PAIRS, begin, save_tiny_roberta, scores, short_pairs, slow_scores
from tests.encoder.texts import MINILM, TEXTS, TITLES

pytestmark = pytest.mark.usefixtures("one_thread")

#: Words that are one token each to MiniLM's tokenizer.
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@pytest.fixture(scope="module")
def model(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny encoder by the name of what its tokenizer puts around texts; bert: MiniLM's tokenizer."""
    made = {"bert": tiny_bert}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny_roberta(tmp_path_factory.mktemp(family), family)
        return made[family]

    return make


@pytest.fixture(scope="module")
def cross(tiny_bert: Path) -> CrossEncoder:
    """Not to be changed."""
    return begin(tiny_bert)


@pytest.mark.parametrize(("family", "between"), [("bert", 1), ("roberta", 2), ("t5", 1), ("none", 0)])
@pytest.mark.parametrize("prompts", [("", ""), ("query: ", "topic: ")])
def test_a_pairs_tokens_are_those_of_the_tokenizer(
    model: Callable[[str], Path], family: str, between: int, prompts: tuple[str, str]
) -> None:
    config = replace(PAIRS, document_prompt=prompts[0], label_prompt=prompts[1], max_label_tokens=24)
    encoder = Encoder.load(str(model(family)), config, "cpu")
    tokenizer = encoder.reader.tokenizer
    reader = PairReader(encoder, tokens_between(tokenizer))
    assert len(reader.between) == between
    for document in ("a", "Wave scattering\nof 3 kinds", "größe ☃", "[SEP] </s> x"):
        for label in ("b", " C++ ", "naïve", "[CLS] <s>"):
            (one,), (other,) = encoder.document_tokens([document]).token_ids, encoder.label_tokens([label]).token_ids
            assert reader.join(one, other) == tokenizer(prompts[0] + document, prompts[1] + label)["input_ids"]
    if family != "none":  # which has no token for a text without any
        (empty,), (label_ids,) = encoder.document_tokens([""]).token_ids, encoder.label_tokens(["b"]).token_ids
        assert reader.join(empty, label_ids) == tokenizer([(prompts[0], prompts[1] + "b")])["input_ids"][0]


@pytest.mark.parametrize("batch_tokens", [1, 96, 10_000, None])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_score_is_that_of_the_pair_by_itself(
    model: Callable[[str], Path], family: str, batch_tokens: int | None
) -> None:
    network = begin(model(family), replace(PAIRS, batch_tokens=batch_tokens, max_document_tokens=40))
    pairs = short_pairs()
    expected = slow_scores(network, pairs)
    assert expected.std() > 1e-2
    for order in (np.arange(len(pairs)), np.random.default_rng(0).permutation(len(pairs))):
        some = [pairs[place] for place in order]
        found = network.pairs.scores([""] * len(some), [one for one, _ in some], [[label] for _, label in some])
        assert [one.dtype for one in found] == [np.float32] * len(some)
        np.testing.assert_allclose(np.concatenate(found), expected[order], atol=1e-5)


def test_scores_come_document_by_document_however_they_are_cut_into_parts(
    cross: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cross.pairs.scores(TITLES, TEXTS, LABELS)
    assert [len(one) for one in whole] == [len(own) for own in LABELS]
    assert whole[4][0] == pytest.approx(whole[4][1], abs=1e-6)  # the same label
    told: list[int] = []
    monkeypatch.setattr("ezxmc_ray.encoder.document_encoder.PART_TEXTS", 3)
    monkeypatch.setattr(cross, "on_part", told.append)
    np.testing.assert_allclose(scores(cross), np.concatenate(whole), atol=1e-6)
    assert told == [3, 6, 9, 10]  # pairs
    for row, own in enumerate(LABELS):
        (alone,) = cross.pairs.scores([""], [document_text(TITLES[row], TEXTS[row])], [own])
        np.testing.assert_allclose(alone, whole[row], atol=1e-6)


def test_without_documents_or_labels_there_are_no_scores(cross: CrossEncoder) -> None:
    assert cross.pairs.scores([], [], []) == []
    found = cross.pairs.scores(["", ""], ["a", "b"], [[], []])
    assert [one.shape for one in found] == [(0,), (0,)]


def test_a_long_document_is_cut_and_its_label_is_whole(tiny_bert: Path) -> None:
    # With [CLS] and [SEP], ten tokens are eight words; with [SEP] alone, six tokens of a label are four.
    config = replace(PAIRS, max_document_tokens=10, max_label_tokens=6)
    long, label = " ".join(WORDS * 40), "river wave steel tax"
    for how, read in (("head", WORDS[:8]), ("head_tail", [*WORDS[:4], *WORDS[-4:]])):
        network = begin(tiny_bert, replace(config, long_documents=how))
        labels = [label, "river wave steel law", f"{label} soil"]
        (found,) = network.pairs.scores([""], [long], [labels])
        assert network.pairs.read(["", ""], [long, "short"], [labels, labels])[1] == 1  # each document counts once
        expected = slow_scores(network, [[" ".join(read), one] for one in (labels[0], labels[1], labels[0])])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert abs(found[0] - found[1]) > 1e-4  # the label's last word is read


def test_a_label_is_tokenized_once_or_again_where_they_are_too_many(
    cross: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, asked = cross.pairs, list[str]()
    tokenize = cross.label_tokens
    monkeypatch.setattr(cross, "label_tokens", lambda texts: asked.extend(texts) or tokenize(texts))
    first = network.scores(TITLES, TEXTS, LABELS)
    again = network.scores(TITLES, TEXTS, LABELS)
    distinct = {label for own in LABELS for label in own}
    assert sorted(asked) == sorted(distinct)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(first))
    monkeypatch.setattr(label_tokens, "CACHED_LABELS", 2)
    np.testing.assert_array_equal(np.concatenate(network.scores(TITLES, TEXTS, LABELS)), np.concatenate(first))
    assert len(asked) == 2 * len(distinct)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_saved_one_gives_the_same_scores_here_and_to_sentence_transformers(
    model: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    network = begin(model(family), replace(PAIRS, max_document_tokens=40))
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.add_(0.01)
    before = scores(network)
    network.save(tmp_path / "network")
    np.testing.assert_array_equal(scores(network), before)
    again = CrossEncoder.load(str(tmp_path / "network"), network.config, "cpu")
    np.testing.assert_array_equal(scores(again), before)
    assert not again.module.training and not (tmp_path / "network" / "README.md").exists()
    plain = Plain(str(tmp_path / "network"), device="cpu")
    assert plain.max_seq_length == 48
    pairs = short_pairs()
    found = plain.predict(pairs, show_progress_bar=False)
    np.testing.assert_allclose(found, slow_scores(network, pairs), atol=1e-5)
    assert np.std(found) > 1e-2


def test_minilm_as_a_cross_encoder_and_its_scores_in_bfloat16(tmp_path: Path) -> None:
    encoder = Encoder.load(MINILM, replace(PAIRS, batch_tokens=None), "cpu")
    torch.manual_seed(0)
    network = CrossEncoder.begin(encoder, replace(PAIRS, batch_tokens=None))
    with torch.no_grad():
        network.module[-1].linear.weight.mul_(3)  # so that scores lie apart
        network.module[-1].linear.bias.fill_(8.0)
    exact, pairs = scores(network), short_pairs()
    network.save(tmp_path)
    found = Plain(str(tmp_path), device="cpu").predict(pairs, show_progress_bar=False)
    np.testing.assert_allclose(found, slow_scores(network, pairs), atol=1e-5)
    half = CrossEncoder.load(str(tmp_path), replace(network.config, dtype="bfloat16"), "cpu")
    rounded = scores(half)
    # Beside 8, bfloat16 has steps of 1/16: the last layer is computed in float32.
    assert exact.std() > 0.05 and 1e-6 < np.abs(rounded - exact).max() < 0.02
    assert len(np.unique(rounded)) == len(np.unique(exact))


def test_it_begins_with_the_encoders_weights_and_pooling_and_a_layer_by_chance(tiny_bert: Path) -> None:
    texts = [["a river", "law"], ["the wave", "steel"]]
    bert = BertModel.from_pretrained(tiny_bert).eval()
    for pooling in ("mean", "cls"):
        network = begin(tiny_bert, replace(PAIRS, pooling=pooling))
        assert [type(one).__name__ for one in network.module] == ["Transformer", "Pooling", "Dense"]
        layer = network.module[-1].linear
        expected = []
        for pair in texts:
            encoded = network.reader.tokenizer(*pair, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                states = bert(**encoded).last_hidden_state[0]
                expected.append(float(layer(states.mean(dim=0) if pooling == "mean" else states[0])))
        found = network.pairs.scores(["", ""], [one for one, _ in texts], [[label] for _, label in texts])
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)
    np.testing.assert_array_equal(scores(begin(tiny_bert, seed=1)), scores(begin(tiny_bert, seed=1)))
    assert np.abs(scores(begin(tiny_bert, seed=1)) - scores(begin(tiny_bert, seed=2))).max() > 1e-2


def test_a_cut_of_the_vectors_plays_no_part(tiny_bert: Path, tmp_path: Path) -> None:
    whole, cut = begin(tiny_bert), begin(tiny_bert, replace(PAIRS, dimensions=5))
    np.testing.assert_array_equal(scores(cut), scores(whole))
    Encoder.load(str(tiny_bert), replace(PAIRS, dimensions=5), "cpu").save(tmp_path)
    np.testing.assert_array_equal(scores(begin(tmp_path)), scores(whole))  # of a student that was saved so


def test_a_layer_of_the_encoders_own_stays(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    torch.manual_seed(0)
    model.append(Dense(16, 7))
    model.save(str(tmp_path / "model"), create_model_card=False)
    network = begin(tmp_path / "model")
    assert [type(one).__name__ for one in network.module] == ["Transformer", "Pooling", "Dense", "Dense"]
    assert network.module[-1].linear.weight.shape == (1, 7)
    network.save(tmp_path / "network")
    again = CrossEncoder.load(str(tmp_path / "network"), PAIRS, "cpu")
    np.testing.assert_array_equal(scores(again), scores(network))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_documents_as_long_as_there_is_room_beside_a_label(model: Callable[[str], Path], family: str) -> None:
    encoder = Encoder.load(str(model(family)), PAIRS, "cpu")
    name, config = encoder.name, replace(PAIRS, max_document_tokens=57)
    with pytest.raises(UserError) as told:
        CrossEncoder.begin(encoder, config)
    assert str(told.value) == (
        f"cross_encoder.max_document_tokens=57 is more than the encoder {name} can read beside a label of "
        "encoder.max_label_tokens=8: set it to 56 at most."
    )
    network = CrossEncoder.begin(encoder, replace(config, max_document_tokens=56))
    (found,) = network.pairs.scores([""], ["river " * 900], [["wave " * 900, "x"]])
    assert np.isfinite(found).all()


def test_documents_without_room_for_text_are_refused(model: Callable[[str], Path]) -> None:
    for prompt, taken in (("", 2), ("query: ", 4)):
        encoder = Encoder.load(str(model("bert")), replace(PAIRS, document_prompt=prompt), "cpu")
        with pytest.raises(
            UserError, match=rf"^cross_encoder\.max_document_tokens={taken} leaves .* take {taken}; set"
        ):
            CrossEncoder.begin(encoder, replace(encoder.config, max_document_tokens=taken))
        CrossEncoder.begin(encoder, replace(encoder.config, max_document_tokens=taken + 1))


def test_it_reads_as_the_encoder_does_but_for_the_documents_length(tiny_bert: Path) -> None:
    encoder = EncoderConfig(max_label_tokens=8, label_prompt="topic: ", vector_dtype="float16", dtype="float32")
    config = pair_config(encoder, CrossEncoderConfig(max_document_tokens=40))
    assert config == replace(encoder, max_document_tokens=40, vector_dtype="float32")
    assert scores(begin(tiny_bert, config)).dtype == np.float32  # vectors in float16 would have three digits


def test_one_that_is_damaged_is_one_sentence(cross: CrossEncoder, tmp_path: Path) -> None:
    cross.save(tmp_path)
    weights = next(tmp_path.glob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^The cross-encoder .* cannot be loaded \(.*\)\.$"):
        CrossEncoder.load(str(tmp_path), PAIRS, "cpu")


def test_a_tokenizer_that_puts_nothing_between_two_texts_is_refused(model: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"puts no token between two texts, so a cross-encoder could not tell"):
        check_border(Encoder.load(str(model("none")), PAIRS, "cpu"))
    for family in ("bert", "roberta", "t5"):
        check_border(Encoder.load(str(model(family)), PAIRS, "cpu"))

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ezxmc_ray.config import fingerprinted_settings, load_config
from ezxmc_ray.student.cross_training import cross_encoder_training
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.loop import StudentTrainer
from ezxmc_ray.student.targets import target_scores
from tests.student.pair_toy import pair_trainer
from tests.student.toy import LABELS, SCALE, assert_resumes, gradients, learn, save_tiny_bert, toy_batch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("with-dropout"), 0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout."""
    return save_tiny_bert(tmp_path_factory.mktemp("model"), 0.0)


def shortlists(batch: Batch) -> list[np.ndarray]:
    """The places of each document's judged labels that it may have."""
    return [np.flatnonzero(np.isfinite(row) & ~out) for row, out in zip(batch.verdict, batch.excluded, strict=True)]


def least_loss_and_loss(batch: Batch, scores: list[np.ndarray], temperature: float) -> tuple[float, float]:
    """The entropy of the targets and their cross-entropy with ``scores``, by a plain loop over documents."""
    target = target_scores(batch.verdict, batch.similarity, "fusion", SCALE).astype(np.float64)
    least, losses = [], []
    for row, (places, score) in enumerate(zip(shortlists(batch), scores, strict=True)):
        if len(places):
            goal = np.exp(target[row, places] / temperature)
            goal /= goal.sum()
            log_chance = score - np.log(np.exp(score.astype(np.float64)).sum())
            least.append(-(goal * np.log(goal)).sum())
            losses.append(-(goal * log_chance).sum())
    return float(np.mean(least)), float(np.mean(losses))


def scores_of(trained_by: Path, batch: Batch) -> list[np.ndarray]:
    """What the network gives the judged pairs before it has learned anything."""
    labels = [[batch.label_texts[place] for place in places] for places in shortlists(batch)]
    texts = batch.document_texts
    return pair_trainer(trained_by, 3).encoder.pairs.scores([""] * len(texts), texts, labels)


@pytest.mark.parametrize("batch_tokens", [1, 32, 10_000])
def test_the_loss_is_listnets_over_each_documents_own_shortlist(model: Path, batch_tokens: int) -> None:
    batch = toy_batch(3)
    batch.similarity[:] = np.random.default_rng(0).random(batch.similarity.shape)  # also of pairs without a verdict
    batch.excluded[2] = np.isfinite(batch.verdict[2])
    batch.excluded[0, shortlists(batch)[0][:2]] = True
    batch.verdict[4] = np.nan
    batch.best_verdict[[2, 4]] = -np.inf  # two that teach nothing
    trained = pair_trainer(model, 3, batch_tokens=batch_tokens)
    texts = trained.tokenize(batch)
    assert sum(len(group["input_ids"]) for group in texts.groups) == sum(map(len, shortlists(batch))) < 20
    temperature = trained.config.target_temperature
    expected = least_loss_and_loss(batch, scores_of(model, batch), temperature)[1]
    found = trained.step(texts)
    assert found.loss == pytest.approx(expected, rel=1e-5) and found.documents == 6
    assert found.gradient_norm > 1e-3


def test_the_loss_falls_to_the_least_there_is_when_steps_repeat(model: Path) -> None:
    trained = pair_trainer(model, 20, learning_rate=5e-3, warmup_share=0.0)
    batch = toy_batch(0)
    losses = [learn(trained, batch).loss for _ in range(20)]
    least, _ = least_loss_and_loss(batch, scores_of(model, batch), trained.config.target_temperature)
    assert losses[0] - least > 0.3 and losses[-1] - least < 0.1 * (losses[0] - least)
    network = trained.encoder.pairs
    labels = [[batch.label_texts[place] for place in places] for places in shortlists(batch)]
    found = network.scores([""] * 6, batch.document_texts, labels)
    best = [int(places[score.argmax()]) for places, score in zip(shortlists(batch), found, strict=True)]
    assert best == np.nanargmax(batch.verdict, axis=1).tolist()


def test_pairs_that_were_not_judged_or_are_excluded_have_no_influence(model: Path) -> None:
    def learned(changed: bool) -> tuple[float, dict[str, np.ndarray]]:
        batch = toy_batch(3)
        places = shortlists(batch)[1]
        judged = np.isfinite(batch.verdict)
        batch.excluded[1, places[0]] = True
        lonely = np.flatnonzero(judged.sum(axis=0) == 1)[0]  # a label of one document, from which it is taken
        batch.verdict[judged[:, lonely], lonely] = np.nan
        if changed:
            batch.verdict[1, places[0]], batch.similarity[1, places[0]] = 9.0, -3.0
            batch.similarity[~judged] = 7.0
            batch.similarity[judged[:, lonely], lonely] = -7.0
            batch.label_texts[lonely] = "river law steel"
            batch.label_weights[:] = 5.0
            batch.excluded[~judged] = True
        trained = pair_trainer(model, 3)
        return learn(trained, batch).loss, gradients(trained)

    (loss, own), (other_loss, other) = learned(False), learned(True)
    assert loss == other_loss and own.keys() == other.keys() and len(own) > 20
    for name, gradient in own.items():
        np.testing.assert_array_equal(other[name], gradient, err_msg=name)


@pytest.mark.parametrize("cache", [False, True])
def test_a_part_without_documents_or_judged_pairs_has_no_loss(model: Path, cache: bool) -> None:
    unjudged, empty = toy_batch(0), toy_batch(0, part=slice(0, 0))
    unjudged.verdict[:] = np.nan
    unjudged.best_verdict[:] = -np.inf
    excluded = toy_batch(0)
    excluded.excluded[:] = True
    for batch, documents in ((unjudged, 6), (empty, 0), (excluded, 6)):
        trained = pair_trainer(model, 3, gradient_cache=cache)
        texts = trained.tokenize(batch)
        assert [len(group["input_ids"]) for group in texts.groups] == [1]  # the others wait for its gradients
        found = trained.step(texts)
        assert (found.loss, found.documents, found.gradient_norm) == (0.0, documents, 0.0)
        assert len(gradients(trained)) > 20


def test_a_resumed_training_has_the_losses_of_the_undisturbed_one(with_dropout: Path) -> None:
    def disturb(second: StudentTrainer) -> None:
        torch.manual_seed(99)
        with torch.no_grad():
            second.encoder.module[-1].linear.weight.fill_(1.0)  # a last layer of another chance

    assert_resumes(lambda: pair_trainer(with_dropout, 6), disturb)


def test_the_gradient_cache_changes_no_gradient(with_dropout: Path) -> None:
    whole, cached = (pair_trainer(with_dropout, 3, gradient_cache=cache) for cache in (False, True))
    assert len(whole.tokenize(toy_batch(2)).groups) > 3
    expected, found = learn(whole, toy_batch(2)), learn(cached, toy_batch(2))
    assert found.loss == pytest.approx(expected.loss, abs=1e-6)
    for name, gradient in gradients(whole).items():
        np.testing.assert_allclose(gradients(cached)[name], gradient, atol=1e-6, err_msg=name)


def test_how_pairs_are_grouped_changes_no_gradient(model: Path) -> None:
    fine, coarse = (pair_trainer(model, 3, batch_tokens=tokens) for tokens in (1, 10_000))
    assert len(fine.tokenize(toy_batch(2)).groups) > len(coarse.tokenize(toy_batch(2)).groups) == 1
    assert learn(fine, toy_batch(2)).loss == pytest.approx(learn(coarse, toy_batch(2)).loss, abs=1e-5)
    for name, gradient in gradients(coarse).items():
        np.testing.assert_allclose(gradients(fine)[name], gradient, atol=1e-5, err_msg=name)


def test_half_precision_learns_what_float32_does(model: Path) -> None:
    exact, half = (pair_trainer(model, 6, dtype=dtype) for dtype in ("float32", "bfloat16"))
    losses = np.array([[learn(one, toy_batch(step)).loss for step in range(6)] for one in (exact, half)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_documents_that_are_cut_are_counted_and_labels_are_tokenized_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, batch, asked = pair_trainer(model, 3), toy_batch(0), list[str]()
    long = replace(batch, document_texts=["river " * 40, *batch.document_texts[1:]])
    tokenize = trained.encoder.label_tokens
    monkeypatch.setattr(trained.encoder, "label_tokens", lambda texts: asked.extend(texts) or tokenize(texts))
    texts = trained.tokenize(long)
    assert (texts.truncated, texts.documents) == (1, 6)
    assert max(group["input_ids"].shape[1] for group in texts.groups) == 16 + 1  # a label is a word
    for seed in range(5):
        trained.tokenize(toy_batch(seed))
    assert sorted(asked) == sorted(set(asked)) == sorted(LABELS)


def test_a_cross_encoders_training_is_the_students_but_for_its_own_knobs() -> None:
    own = {"epochs": 3.0, "batch_size": 7, "learning_rate": 2e-5, "max_document_tokens": 99, "dropout": False}
    knobs = ["student.validate_every_steps=5", "student.patience=2", "student.loss=bce", "student.max_batch_size=512"]
    knobs += ["student.target=verdict", "student.gradient_cache=true", "cross_encoder.weight=0.7"]
    config = load_config(None, [*knobs, *(f"cross_encoder.{name}={value}" for name, value in own.items())])
    before = asdict(config)
    found = cross_encoder_training(config)
    assert asdict(config) == before
    changed = {"loss": "listwise", "temperature": 1.0, "sampling_correction": False, "max_batch_size": None}
    changed |= {"validate_every_steps": 0, "patience": 0}
    assert asdict(found) == before | {"student": before["student"] | own | changed}
    for student in ("student.temperature=0.5", "student.epochs=9", "student.batch_size=99", "student.learning_rate=1"):
        other = cross_encoder_training(load_config(None, [student]))
        plain = cross_encoder_training(load_config(None))
        assert fingerprinted_settings(other, "student") == fingerprinted_settings(plain, "student")

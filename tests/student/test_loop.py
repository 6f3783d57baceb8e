from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.student import forward
from ezxmc_ray.student.data import Batch
from tests.student.toy import (
    LABELS,
    LOSSES,
    TOPICS,
    assert_resumes,
    gradients,
    learn,
    save_tiny_bert,
    toy_batch,
    trainer,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("with-dropout"), 0.1)


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("without-dropout"), 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_resumed_run_has_the_losses_of_the_undisturbed_one(with_dropout: Path, loss: str) -> None:
    assert_resumes(lambda: trainer(with_dropout, 6, loss=loss), lambda second: None)


def test_what_is_encoded_after_a_step_is_of_the_weights_after_it(without_dropout: Path) -> None:
    """In half precision the encoder works on a copy of its weights; looks at a training encode between its steps."""
    trained = trainer(without_dropout, 3)
    trained.encoder.config = replace(trained.encoder.config, dtype="bfloat16")
    before = trained.encoder.encode_labels(LABELS).vectors
    learn(trained, toy_batch(0))
    after = trained.encoder.encode_labels(LABELS).vectors
    assert np.abs(after - before).max() > 0.01
    fresh = trainer(without_dropout, 3).encoder
    fresh.config = trained.encoder.config
    fresh.module.load_state_dict(trained.encoder.module.state_dict())
    np.testing.assert_array_equal(fresh.encode_labels(LABELS).vectors, after)


def test_a_checkpoint_of_another_run_is_refused(with_dropout: Path) -> None:
    state = trainer(with_dropout, 6).state()
    with pytest.raises(ValueError, match=r"^The checkpoint has total_steps=6, this run 7\.$"):
        trainer(with_dropout, 7).load_state(state)


def test_dropout_follows_seed_step_and_rank(with_dropout: Path) -> None:
    def first_loss(steps_before: int) -> float:
        one = trainer(with_dropout, 6)
        one.step_number = steps_before
        return learn(one, toy_batch(0)).loss

    assert first_loss(0) == first_loss(0) != first_loss(1)
    seeds = [trainer(with_dropout, 6, rank=rank, world=2)._seeds(3) for rank in (0, 0, 1)]
    assert seeds[0] == seeds[1] and len({*seeds[0], *seeds[2]}) == 6


def test_without_dropout_a_step_is_that_of_an_encoder_that_has_none(with_dropout: Path, without_dropout: Path) -> None:
    off, none, on = (
        learn(trainer(directory, 6, dropout=dropout), toy_batch(0)).loss
        for directory, dropout in ((with_dropout, False), (without_dropout, True), (with_dropout, True))
    )
    assert off == pytest.approx(none, abs=1e-6) and abs(on - none) > 1e-3


@pytest.mark.parametrize(
    ("steps", "share", "expected"),
    [
        (5, 0.4, [0.5, 1, 1, 2 / 3, 1 / 3]),
        (4, 0.0, [1, 0.75, 0.5, 0.25]),
        (1, 0.1, [1]),
        (3, 1.0, [1 / 3, 2 / 3, 1]),
    ],
)
def test_the_learning_rate_rises_and_falls_within_the_run(
    without_dropout: Path, steps: int, share: float, expected: list[float]
) -> None:
    one = trainer(without_dropout, steps, warmup_share=share, learning_rate=1.0)
    assert [one.learning_rate_at(step) for step in range(steps)] == pytest.approx(expected)


def test_decay_leaves_biases_and_norms_alone_and_unused_weights_are_frozen(without_dropout: Path) -> None:
    one = trainer(without_dropout, 3)
    decayed, others = one.optimizer.param_groups
    assert decayed["weight_decay"] == 0.01 and others["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in one.encoder.module.named_parameters()}
    assert all(names[id(parameter)].endswith("weight") for parameter in decayed["params"])
    assert all("bias" in names[id(parameter)] or "LayerNorm" in names[id(parameter)] for parameter in others["params"])
    frozen = [name for name, parameter in one.encoder.module.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 2 and all("pooler" in name for name in frozen)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_cache_changes_no_gradient(with_dropout: Path, loss: str) -> None:
    whole, cached = (trainer(with_dropout, 3, loss=loss, gradient_cache=cache) for cache in (False, True))
    assert len(whole.tokenize(toy_batch(2)).groups) > 3
    expected, found = learn(whole, toy_batch(2)), learn(cached, toy_batch(2))
    assert found.loss == pytest.approx(expected.loss, abs=1e-6)
    for name, gradient in gradients(whole).items():
        np.testing.assert_allclose(gradients(cached)[name], gradient, atol=1e-6, err_msg=name)


def test_the_gradient_cache_loses_no_gradient_under_autocast(without_dropout: Path) -> None:
    whole, cached = (trainer(without_dropout, 3, dtype="bfloat16", gradient_cache=cache) for cache in (False, True))
    learn(whole, toy_batch(2)), learn(cached, toy_batch(2))
    expected, found = gradients(whole), gradients(cached)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        # bfloat16 has two to three digits.
        assert np.linalg.norm(found[name] - gradient) <= 0.05 * np.linalg.norm(gradient) + 1e-6, name


def test_how_texts_are_grouped_changes_no_gradient(without_dropout: Path) -> None:
    fine, coarse = (trainer(without_dropout, 3, batch_tokens=tokens) for tokens in (1, 10_000))
    assert len(fine.tokenize(toy_batch(2)).groups) > len(coarse.tokenize(toy_batch(2)).groups) == 2
    assert learn(fine, toy_batch(2)).loss == pytest.approx(learn(coarse, toy_batch(2)).loss, abs=1e-5)
    for name, gradient in gradients(coarse).items():
        np.testing.assert_allclose(gradients(fine)[name], gradient, atol=1e-5, err_msg=name)


def test_a_label_is_tokenized_once(without_dropout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(without_dropout, 3)
    asked: list[str] = []
    tokenize = one.encoder.label_tokens
    monkeypatch.setattr(one.encoder, "label_tokens", lambda texts: asked.extend(texts) or tokenize(texts))
    for seed in range(5):
        one.tokenize(toy_batch(seed))
    assert sorted(asked) == sorted(set(asked)) == sorted(LABELS)


def test_more_tokens_than_the_encoder_reads_are_a_users_mistake(without_dropout: Path) -> None:
    with pytest.raises(
        UserError, match=r"^student\.max_document_tokens=33 is more than .* can read: set it to 32 at most\.$"
    ):
        trainer(without_dropout, 3, max_document_tokens=33)


@pytest.mark.parametrize("cache", [False, True])
def test_a_loss_that_is_not_finite_stops_the_training_before_it_spoils_the_weights(
    without_dropout: Path, cache: bool
) -> None:
    one = trainer(without_dropout, 3, temperature=1e-40, gradient_cache=cache)  # similarities / 1e-40: infinite
    before = {name: weights.clone() for name, weights in one.encoder.module.state_dict().items()}
    with pytest.raises(UserError, match=r"^Training broke down at step 1: the loss is (nan|inf), .*; lower ") as told:
        learn(one, toy_batch(0))
    for knob in ("student.learning_rate", "student.dtype=float32", "student.temperature"):
        assert knob in str(told.value)
    assert one.step_number == 0
    for name, weights in one.encoder.module.state_dict().items():
        assert torch.equal(weights, before[name]), name


def test_weights_that_ran_away_stop_the_training_at_the_next_step(without_dropout: Path) -> None:
    one = trainer(without_dropout, 3, learning_rate=1e30)
    learn(one, toy_batch(0))
    with pytest.raises(UserError, match=r"^Training broke down at step 2: "):
        learn(one, toy_batch(1))


def more_than_there_is(*_: object) -> None:
    """Ask the CPU's allocator for a petabyte."""
    torch.empty(1 << 50)


def fake_full_device(*_: object) -> None:
    """What torch raises where a GPU's memory is full."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("allocate", [more_than_there_is, fake_full_device])
def test_too_little_memory_is_one_sentence_with_the_knobs_to_turn(
    without_dropout: Path, monkeypatch: pytest.MonkeyPatch, allocate: Callable[..., None]
) -> None:
    # What is kept of a batch is all its activations, or with the cache those of one forward.
    for cache, remedy in ((False, "set student.gradient_cache=true"), (True, "lower student.batch_tokens")):
        one = trainer(without_dropout, 3, gradient_cache=cache)
        monkeypatch.setattr(one, "_loss", allocate)
        with pytest.raises(UserError) as told:
            learn(one, toy_batch(0))
        assert str(told.value) == (f"Memory ran out at step 1 of the training: {remedy}, or lower student.batch_size.")


def test_other_errors_of_a_step_stay_what_they_are(without_dropout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(without_dropout, 3)
    monkeypatch.setattr(one, "_loss", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        learn(one, toy_batch(0))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_the_step_runs_under_ddp_with_the_same_losses(with_dropout: Path) -> None:
    plain, wrapped = trainer(with_dropout, 4), trainer(with_dropout, 4)
    wrapped.module = DistributedDataParallel(wrapped.module)
    for step in range(4):
        # An empty part in between: it must not leave DDP waiting for gradients.
        batch = toy_batch(step, part=slice(0, 0) if step == 2 else slice(None))
        expected, found = learn(plain, batch), learn(wrapped, batch)
        assert found.loss == pytest.approx(expected.loss, abs=1e-6)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, abs=1e-5)
    assert set(wrapped.state()["network"]) == set(plain.state()["network"])


def precision_at_1(encoder: Encoder) -> float:
    documents = encoder.encode_documents([""] * len(TOPICS), [f"{topic} {topic} and more" for topic in TOPICS]).vectors
    best = (documents @ encoder.encode_labels(LABELS).vectors.T).argmax(axis=1)
    return float(np.mean(best == np.arange(len(TOPICS))))


@pytest.mark.parametrize(
    ("loss", "learning_rate", "temperature"),
    [("listwise", 5e-3, 0.05), ("lmtx", 5e-3, 0.05), ("bce", 2e-3, 0.2), ("infonce", 5e-3, 0.05)],
)
def test_training_learns_what_the_verdicts_say(
    with_dropout: Path, loss: str, learning_rate: float, temperature: float
) -> None:
    knobs = {"loss": loss, "target": "verdict", "learning_rate": learning_rate, "temperature": temperature}
    one = trainer(with_dropout, 90, **knobs)
    before = precision_at_1(one.encoder)
    losses = [learn(one, toy_batch(step, documents=16)).loss for step in range(90)]
    assert before < 0.2 and precision_at_1(one.encoder) > 0.6
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_excluded_labels_are_neither_learned_nor_pushed_away(without_dropout: Path) -> None:
    def loss_with(change: Callable[[Batch], None]) -> float:
        batch = toy_batch(3)
        change(batch)
        return learn(trainer(without_dropout, 3), batch).loss

    def exclude(batch: Batch) -> None:
        batch.excluded[:, 0] = True

    def exclude_and_praise(batch: Batch) -> None:
        batch.excluded[:, 0] = True
        batch.verdict[:, 0], batch.similarity[:, 0] = 1.0, 1.0

    assert loss_with(exclude) == pytest.approx(loss_with(exclude_and_praise))
    assert loss_with(exclude) < loss_with(lambda batch: None)


@pytest.mark.parametrize(
    ("dtype", "limit", "plain"), [("bfloat16", 16, True), ("bfloat16", 2, False), ("float32", 16, False)]
)
def test_short_texts_in_bfloat16_have_the_plain_attention(
    without_dropout: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, limit: int, plain: bool
) -> None:
    monkeypatch.setattr(forward, "PLAIN_ATTENTION_TOKENS", limit)
    one, fused = trainer(without_dropout, 3, dtype=dtype), []
    one.encoder.module.register_forward_pre_hook(lambda *_: fused.append(torch.backends.cuda.flash_sdp_enabled()))
    batch = toy_batch(0)
    learn(one, replace(batch, document_texts=[" ".join(TOPICS[:8])] * len(batch.document_texts)))
    assert fused[0] is not plain  # the documents come first
    assert torch.backends.cuda.flash_sdp_enabled()


def test_which_attention_is_taken_changes_gradients_by_rounding_only(
    without_dropout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for tokens in (128, 0):
        monkeypatch.setattr(forward, "PLAIN_ATTENTION_TOKENS", tokens)
        one = trainer(without_dropout, 3, dtype="bfloat16")
        learn(one, toy_batch(0))
        found.append(gradients(one))
    for name, gradient in found[0].items():
        scale = max(1e-3, np.abs(gradient).max())
        np.testing.assert_allclose(found[1][name] / scale, gradient / scale, atol=0.05, err_msg=name)


@pytest.mark.parametrize("cache", [False, True])
def test_float16_learns_what_float32_does(without_dropout: Path, cache: bool) -> None:
    exact, half = (trainer(without_dropout, 20, dtype=dtype, gradient_cache=cache) for dtype in ("float32", "float16"))
    losses = np.array([[learn(one, toy_batch(step)).loss for step in range(20)] for one in (exact, half)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert half.scaler.get_scale() > 1 and not exact.scaler.is_enabled()


def test_a_step_beyond_the_range_of_float16_is_done_again_with_a_smaller_scale(without_dropout: Path) -> None:
    found = []
    for scale in (2.0**8, 2.0**40):
        one = trainer(without_dropout, 3, dtype="float16")
        one.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        found.append((learn(one, toy_batch(0)), learn(one, toy_batch(1)), one.scaler.get_scale(), one.repeated_steps))
    (fits, fits_then, scale, none), (first, then, lowered, repeated) = found
    assert none == 0 and scale == 2.0**8 and repeated > 0 and lowered == 2.0 ** (40 - repeated)
    assert first.loss == fits.loss and first.gradient_norm == pytest.approx(fits.gradient_norm, rel=0.01)
    assert then.loss == pytest.approx(fits_then.loss, rel=0.01)


def test_gradients_that_no_scale_makes_finite_end_the_training(without_dropout: Path) -> None:
    one = trainer(without_dropout, 3, dtype="float16")
    one.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    parameter = next(weights for weights in one.encoder.module.parameters() if weights.requires_grad)
    parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    with pytest.raises(UserError, match=r"broke down at step 1: .* set student\.dtype=float32"):
        learn(one, toy_batch(0))


@pytest.mark.parametrize(("then", "scale"), [("float16", 2.0**7), ("float32", 1.0)])
def test_a_training_in_float16_goes_on_with_its_scale_or_on_a_machine_without(
    without_dropout: Path, then: str, scale: float
) -> None:
    first = trainer(without_dropout, 6, dtype="float16")
    first.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
    learn(first, toy_batch(0))
    first.repeated_steps = 3
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = trainer(without_dropout, 6, dtype=then)
    second.load_state(torch.load(file, weights_only=True))
    assert second.scaler.get_scale() == scale and second.repeated_steps == 3
    assert np.isfinite(learn(second, toy_batch(1)).gradient_norm)

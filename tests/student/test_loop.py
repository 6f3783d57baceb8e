from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ezxmc_ray.config import EncoderConfig, StudentConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.loop import StudentTrainer
from ezxmc_ray.student.targets import TargetScale

SCALE = TargetScale(0.3, 0.4, 0.5, 0.2)
ENCODER = EncoderConfig(max_document_tokens=16, max_label_tokens=8)
TOPICS = ["river", "tax", "bridge", "garden", "poem", "law", "steel", "wave", "soil", "horse"]
LABELS = ["glass", "wheel", "salt", "cloud", "paint", "music", "iron", "lamp", "bread", "wool"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny network more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_tiny_bert(directory: Path, dropout: float) -> Path:
    """A Hugging Face encoder with random weights, whose tokens are whole words."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *TOPICS, *LABELS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,  # so that the vectors of different texts differ
    )
    BertModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("with-dropout"), 0.1)


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("without-dropout"), 0.0)


def toy_batch(seed: int, documents: int = 6, part: slice = slice(None), shortlist: int = 4) -> Batch:
    """Documents about one topic each; the right label has the same place in its list, which no text tells."""
    random = np.random.default_rng(seed)
    topics = random.integers(0, len(TOPICS), documents)
    verdict = np.full((documents, len(LABELS)), np.nan, dtype=np.float32)
    for row, topic in enumerate(topics):
        verdict[row, random.permutation(len(LABELS))[:shortlist]] = 0.0
        verdict[row, topic] = 1.0
    best = np.nanmax(verdict, axis=1)
    verdict = verdict[part]
    used = np.flatnonzero(np.isfinite(verdict).any(axis=0)).astype(np.int32)
    verdict = verdict[:, used]
    similarity = np.where(np.isfinite(verdict), 0.5, np.nan).astype(np.float32)
    return Batch(
        document_texts=[f"{TOPICS[topic]} {TOPICS[topic]} and more" for topic in topics[part]],
        label_numbers=used,
        label_texts=[LABELS[number] for number in used],
        verdict=verdict,
        similarity=similarity,
        excluded=np.zeros(verdict.shape, dtype=bool),
        best_verdict=best,
    )


def trainer(directory: Path, total_steps: int, rank: int = 0, world: int = 1, **knobs: object) -> StudentTrainer:
    encoder = Encoder.load(str(directory), ENCODER, "cpu")
    values = {"learning_rate": 1e-3, "max_document_tokens": 16, **knobs}
    return StudentTrainer(encoder, StudentConfig(**values), ENCODER, total_steps, "cpu", 7, rank, world)  # type: ignore[arg-type]


def gradients(trained: StudentTrainer) -> dict[str, np.ndarray]:
    named = trained.encoder.module.named_parameters()
    return {name: one.grad.numpy() for name, one in named if one.grad is not None}


@pytest.mark.parametrize("loss", ["listwise", "lmtx", "bce"])
def test_a_resumed_run_has_the_losses_of_the_undisturbed_one(with_dropout: Path, loss: str) -> None:
    undisturbed = trainer(with_dropout, 6, loss=loss)
    expected = [undisturbed.step(toy_batch(step), SCALE, 0.5) for step in range(6)]
    first = trainer(with_dropout, 6, loss=loss)
    found = [first.step(toy_batch(step), SCALE, 0.5) for step in range(3)]
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = trainer(with_dropout, 6, loss=loss)
    second.load_state(torch.load(file, weights_only=True))
    torch.rand(17)  # whatever else the process draws changes nothing
    found += [second.step(toy_batch(step), SCALE, 0.5) for step in range(3, 6)]
    np.testing.assert_allclose([one.loss for one in found], [one.loss for one in expected], atol=1e-6)
    assert [one.learning_rate for one in found] == [one.learning_rate for one in expected]
    for name, weights in undisturbed.encoder.module.state_dict().items():
        np.testing.assert_allclose(second.encoder.module.state_dict()[name], weights, atol=1e-6)


def test_a_checkpoint_of_another_run_is_refused(with_dropout: Path) -> None:
    state = trainer(with_dropout, 6).state()
    with pytest.raises(ValueError, match=r"^The checkpoint has total_steps=6, this run 7\.$"):
        trainer(with_dropout, 7).load_state(state)


def test_dropout_follows_seed_step_and_rank(with_dropout: Path) -> None:
    def first_loss(rank: int, steps_before: int) -> float:
        one = trainer(with_dropout, 6, rank=rank, world=2)
        one.step_number = steps_before
        return one.step(toy_batch(0), SCALE, 0.5).loss

    assert first_loss(0, 0) == first_loss(0, 0)
    assert len({first_loss(0, 0), first_loss(1, 0), first_loss(0, 1)}) == 3


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


@pytest.mark.parametrize("loss", ["listwise", "lmtx", "bce"])
def test_workers_with_unequal_parts_average_to_the_global_batch(without_dropout: Path, loss: str) -> None:
    # Three parts: two documents, one document, none; and for lmtx one of the three has no yes.
    parts = [slice(0, 2), slice(2, 3), slice(3, 3)]
    batches = [toy_batch(1, documents=3, part=part) for part in parts]
    if loss == "lmtx":
        batches[0].verdict[0] = np.where(np.isfinite(batches[0].verdict[0]), 0.0, np.nan)
        for batch in batches:
            batch.best_verdict[0] = 0.0
    workers = [trainer(without_dropout, 3, rank=rank, world=3, loss=loss, max_gradient_norm=1e9) for rank in range(3)]
    results = [worker.step(batch, SCALE, 0.5) for worker, batch in zip(workers, batches, strict=True)]
    # What each worker would find alone, weighted by its documents that teach something.
    counts = {0: 1, 1: 1} if loss == "lmtx" else {0: 2, 1: 1}
    shares = {rank: count / sum(counts.values()) for rank, count in counts.items()}
    alone = {rank: trainer(without_dropout, 3, loss=loss, max_gradient_norm=1e9) for rank in counts}
    losses = {
        rank: one.step(replace(batches[rank], best_verdict=np.ones(counts[rank], np.float32)), SCALE, 0.5).loss
        for rank, one in alone.items()
    }
    expected_loss = sum(losses[rank] * share for rank, share in shares.items())
    assert np.mean([result.loss for result in results]) == pytest.approx(expected_loss, rel=1e-5)
    assert [result.documents for result in results] == [2, 1, 0]
    found = [gradients(worker) for worker in workers]
    single = {rank: gradients(one) for rank, one in alone.items()}
    for name in single[0]:
        expected = sum(single[rank][name] * share for rank, share in shares.items())
        np.testing.assert_allclose(sum(one[name] for one in found) / 3, expected, atol=1e-5, rtol=1e-5)


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
        expected, found = plain.step(batch, SCALE, 0.5), wrapped.step(batch, SCALE, 0.5)
        assert found.loss == pytest.approx(expected.loss, abs=1e-6)
        assert found.gradient_norm == pytest.approx(expected.gradient_norm, abs=1e-5)
    assert set(wrapped.state()["network"]) == set(plain.state()["network"])


def precision_at_1(encoder: Encoder) -> float:
    documents = encoder.encode_documents([""] * len(TOPICS), [f"{topic} {topic} and more" for topic in TOPICS]).vectors
    best = (documents @ encoder.encode_labels(LABELS).vectors.T).argmax(axis=1)
    return float(np.mean(best == np.arange(len(TOPICS))))


@pytest.mark.parametrize(
    ("loss", "learning_rate", "temperature"), [("listwise", 5e-3, 0.05), ("lmtx", 5e-3, 0.05), ("bce", 2e-3, 0.2)]
)
def test_training_learns_what_the_verdicts_say(
    with_dropout: Path, loss: str, learning_rate: float, temperature: float
) -> None:
    knobs = {"loss": loss, "target": "verdict", "learning_rate": learning_rate, "temperature": temperature}
    one = trainer(with_dropout, 60, **knobs)
    before = precision_at_1(one.encoder)
    losses = [one.step(toy_batch(step, documents=16), SCALE, 0.5).loss for step in range(60)]
    assert before < 0.2 and precision_at_1(one.encoder) > 0.6
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_excluded_labels_are_neither_learned_nor_pushed_away(without_dropout: Path) -> None:
    def loss_with(change: Callable[[Batch], None]) -> float:
        batch = toy_batch(3)
        change(batch)
        return trainer(without_dropout, 3).step(batch, SCALE, 0.5).loss

    def exclude(batch: Batch) -> None:
        batch.excluded[:, 0] = True

    def exclude_and_praise(batch: Batch) -> None:
        batch.excluded[:, 0] = True
        batch.verdict[:, 0], batch.similarity[:, 0] = 1.0, 1.0

    assert loss_with(exclude) == pytest.approx(loss_with(exclude_and_praise))
    assert loss_with(exclude) < loss_with(lambda batch: None)

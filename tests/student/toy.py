"""What the tests of the student share: an encoder with random weights, and batches about ten topics."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ezxmc_ray.config import EncoderConfig, StudentConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.loop import StepResult, StudentTrainer
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale

LOSSES = ("listwise", "lmtx", "bce", "infonce")
SCALE = TargetScale(0.3, 0.4, 0.5, 0.2)
YES_THRESHOLD = 0.5
ENCODER = EncoderConfig(max_document_tokens=16, max_label_tokens=8, dtype="float32")
TOPICS = ["river", "tax", "bridge", "garden", "poem", "law", "steel", "wave", "soil", "horse"]
LABELS = ["glass", "wheel", "salt", "cloud", "paint", "music", "iron", "lamp", "bread", "wool"]


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


def toy_batch(seed: int, documents: int = 6, part: slice = slice(None), shortlist: int = 4) -> Batch:
    """Documents about one topic each; the right label has the same place in its list, which no text tells.

    ``part``: a worker's documents; the labels are those of all.
    """
    random = np.random.default_rng(seed)
    topics = random.integers(0, len(TOPICS), documents)
    verdict = np.full((documents, len(LABELS)), np.nan, dtype=np.float32)
    for row, topic in enumerate(topics):
        verdict[row, random.permutation(len(LABELS))[:shortlist]] = 0.0
        verdict[row, topic] = 1.0
    best = np.nanmax(verdict, axis=1)
    used = np.flatnonzero(np.isfinite(verdict).any(axis=0)).astype(np.int32)
    verdict = verdict[part][:, used]
    similarity = np.where(np.isfinite(verdict), 0.5, np.nan).astype(np.float32)
    # Texts of unlike lengths, so that there is more than one group.
    texts = [" ".join([TOPICS[topic]] * (2 + topic % 4) + ["and more"]) for topic in topics[part]]
    return Batch(
        document_texts=texts,
        label_numbers=used,
        label_texts=[LABELS[number] for number in used],
        label_weights=np.linspace(0.1, 1.9, len(LABELS))[used],
        verdict=verdict,
        similarity=similarity,
        excluded=np.zeros(verdict.shape, dtype=bool),
        best_verdict=best,
    )


def trainer(directory: Path, total_steps: int, rank: int = 0, world: int = 1, **knobs: object) -> StudentTrainer:
    """A trainer of the encoder in ``directory``; ``knobs``: of StudentConfig."""
    encoder = Encoder.load(str(directory), ENCODER, "cpu")
    values = {
        "learning_rate": 1e-3,
        "max_document_tokens": 16,
        "batch_tokens": 16,
        "dropout": True,
        "dtype": "float32",
        **knobs,
    }
    objective = Objective(StudentConfig(**values), SCALE, YES_THRESHOLD)  # type: ignore[arg-type]
    return StudentTrainer(encoder, objective, total_steps, "cpu", 7, rank, world)


def learn(trained: StudentTrainer, batch: Batch) -> StepResult:
    """One step."""
    return trained.step(trained.tokenize(batch))


def gradients(trained: StudentTrainer) -> dict[str, np.ndarray]:
    """By the names of the weights."""
    named = trained.encoder.module.named_parameters()
    return {name: one.grad.numpy() for name, one in named if one.grad is not None}


def assert_resumes(make: Callable[[], StudentTrainer], disturb: Callable[[StudentTrainer], object]) -> None:
    """A trainer that goes on from the state of one has its losses, rates, weights; ``disturb``: done to it before."""
    undisturbed = make()
    expected = [learn(undisturbed, toy_batch(step)) for step in range(6)]
    first = make()
    found = [learn(first, toy_batch(step)) for step in range(3)]
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = make()
    disturb(second)
    second.load_state(torch.load(file, weights_only=True))
    torch.rand(17)  # whatever else the process draws changes nothing
    found += [learn(second, toy_batch(step)) for step in range(3, 6)]
    np.testing.assert_allclose([one.loss for one in found], [one.loss for one in expected], atol=1e-6)
    assert [one.learning_rate for one in found] == [one.learning_rate for one in expected]
    for name, weights in undisturbed.encoder.module.state_dict().items():
        np.testing.assert_allclose(second.encoder.module.state_dict()[name], weights, atol=1e-6)


@contextmanager
def process_group(store: Path, rank: int, world: int) -> Iterator[None]:
    """The block is one of ``world`` processes that meet in the file ``store``; no trainer may outlive it."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    yield
    # One that outlives its group ends it with Python's lock in hand, for which a thread of the group may wait.
    gc.collect()
    distributed.destroy_process_group()


def averaged_step(one: StudentTrainer, batch: Batch, name: str) -> dict[str, np.ndarray]:
    """Take a step in a :func:`process_group`: loss and averaged gradients, under names that begin with ``name``."""
    one.module = DistributedDataParallel(one.module)
    found = {f"{name}/loss": np.array(learn(one, batch).loss)}
    return found | {f"{name}/{weights}": gradient for weights, gradient in gradients(one).items()}

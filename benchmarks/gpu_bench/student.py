"""Documents/s of the project's training step, without Ray around it, and of SentenceTransformers' trainer.

Goes out: a row for each batch size, tokens a forward and number format. The project's documents have a shortlist of ten
labels each, the trainer's one label each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

import encode
from ezxmc_ray.config import Config, EncoderConfig, StudentConfig, to_dict
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.loop import StudentTrainer
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale
from gpu_bench.device import Utilisation, device, free_memory, on_gpu, sync
from gpu_bench.models import LABELS_PER_DOCUMENT
from gpu_bench.plan import Settings
from gpu_bench.report import Report
from gpu_bench.texts import random_texts, words

TOKENS, TINY_TOKENS = 128, 16
TEXTS, TINY_TEXTS = 8192, 64
#: Documents a method learns from, in as many steps as that is; at least LEAST_STEPS.
DOCUMENTS, LEAST_STEPS, TINY_STEPS, WARM_UP_STEPS = 3072, 8, 3, 3
#: (documents, tokens a forward, dtype, gradient cache).
OURS = (
    (48, 8192, "bfloat16", False),
    (48, 32768, "bfloat16", False),
    (256, 8192, "bfloat16", False),
    (256, 32768, "bfloat16", False),
    (256, 131072, "bfloat16", False),
    (48, 8192, "float32", False),
    (1024, 65536, "bfloat16", True),
)
TINY_OURS = ((4, 256, "float32", False),)
THEIRS, TINY_THEIRS = (48, 256), (4,)
LOSSES = ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss")
#: The losses' speed does not depend on what the made-up verdicts and similarities are.
SCALE, YES = TargetScale(0.3, 0.4, 0.5, 0.2), 0.5


@dataclass(frozen=True)
class Made:
    """Made-up texts, of which batches are drawn by number."""

    documents: list[str]
    labels: list[str]

    def batch(self, number: int, size: int) -> Batch:
        """``size`` documents with ten labels each, verdicts and similarities between 0 and 1."""
        draw = np.random.default_rng([7, number])
        lists = np.stack([draw.choice(len(self.labels), LABELS_PER_DOCUMENT, replace=False) for _ in range(size)])
        used = np.unique(lists).astype(np.int32)
        verdict = np.full((size, len(used)), np.nan, np.float32)
        np.put_along_axis(verdict, np.searchsorted(used, lists), draw.random(lists.shape, np.float32), axis=1)
        similarity = np.where(np.isfinite(verdict), draw.random(verdict.shape, np.float32), np.float32(np.nan))
        texts = [self.documents[(number * size + place) % len(self.documents)] for place in range(size)]
        names, weights, excluded = [self.labels[one] for one in used], np.ones(len(used)), np.zeros(verdict.shape, bool)
        return Batch(texts, used, names, weights, verdict, similarity, excluded, np.nanmax(verdict, axis=1))


def student_part(settings: Settings, report: Report) -> None:
    """The project's step in several settings, then the trainer with two losses."""
    tokens = TINY_TOKENS if settings.tiny else TOKENS
    made = Made(
        random_texts(words(), TINY_TEXTS if settings.tiny else TEXTS, tokens, 3),
        list(dict.fromkeys(random_texts(words(), 5000, 3, 2))),
    )
    for size, budget, dtype, cached in TINY_OURS if settings.tiny else OURS:
        config = StudentConfig(
            batch_size=size, batch_tokens=budget, dtype=dtype, max_document_tokens=tokens, gradient_cache=cached
        )
        report.attempt("project's training step", partial(_ours, report, made, config, _steps(settings, size)))
        free_memory()
    for size in TINY_THEIRS if settings.tiny else THEIRS:
        for loss in LOSSES:
            config = StudentConfig(
                batch_size=size, dtype="bfloat16" if on_gpu() else "float32", max_document_tokens=tokens
            )
            work = partial(_theirs, settings, report, made, config, loss, _steps(settings, size))
            report.attempt(_name_of(loss), work)
            free_memory()


def _steps(settings: Settings, size: int) -> int:
    return TINY_STEPS if settings.tiny else max(LEAST_STEPS, DOCUMENTS // size)


def _name_of(loss: str) -> str:
    return f"SentenceTransformers, {loss}, one label a document"


def _ours(report: Report, made: Made, config: StudentConfig, steps: int) -> None:
    encoder = Encoder.load(encode.MODEL, EncoderConfig(max_document_tokens=config.max_document_tokens), device())
    trainer = StudentTrainer(encoder, Objective(config, SCALE, YES), steps + WARM_UP_STEPS, device(), 7)
    size = config.batch_size
    batches = (made.batch(number, size) for number in range(steps + WARM_UP_STEPS))
    for _, batch in zip(range(WARM_UP_STEPS), batches, strict=False):
        trainer.step(trainer.tokenize(batch))
    rest = list(batches)
    sync()
    with Utilisation() as used:
        began = time.perf_counter()
        documents = sum(trainer.step(texts).documents for texts in prefetch(trainer.tokenize, rest, 2))
        sync()
        took = time.perf_counter() - began
    report.row(
        "project's training step",
        batch=size,
        batch_tokens=config.batch_tokens,
        dtype=config.dtype,
        gradient_cache=config.gradient_cache,
        documents_per_s=documents / took,
        texts_per_s=documents * (1 + LABELS_PER_DOCUMENT) / took,
        gpu_utilisation=used.mean,
    )


def _theirs(settings: Settings, report: Report, made: Made, student: StudentConfig, loss: str, steps: int) -> None:
    from student_bench import rivals  # it imports Ray
    from student_bench.task import Job

    config = Config(run=str(settings.path("trainer")), student=student)
    size = student.batch_size
    job = Job(loss, "", to_dict(config), student.learning_rate)
    model = rivals.load(config, student.max_document_tokens)
    pairs = [
        (made.documents[place % len(made.documents)], made.labels[place % len(made.labels)])
        for place in range(size * steps)
    ]
    rivals.train(model, pairs[: size * WARM_UP_STEPS], job, loss, 1, "batch_sampler")
    with Utilisation() as used:
        took, done = rivals.train(model, pairs, job, loss, 1, "batch_sampler")
    report.row(
        _name_of(loss),
        batch=size,
        dtype=student.dtype,
        documents_per_s=size * done / took,
        texts_per_s=2 * size * done / took,
        gpu_utilisation=used.mean,
    )

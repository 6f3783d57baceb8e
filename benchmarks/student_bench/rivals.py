"""SentenceTransformers as a rival of the student: its trainer with two losses, and its ``encode``.

Comes in: a job (task.Job). Goes out: the method's figures. Its trainer takes a row a pair, so a document with
several labels comes several times; one limit of tokens holds for documents and labels (the documents'; few labels
reach their own). Batch size, weight decay, clipping, warm-up, decay and precision are those of the student's
configuration, the learning rate is the job's, all else SentenceTransformers' own default. Needs the package datasets
(``pip install 'ezxmc-ray[benchmarks]'``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ezxmc_ray.config import Config, from_dict
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.precision import chosen_dtype
from ezxmc_ray.models import resolve_model
from student_bench.task import WARM_UP_STEPS, Job, texts_to_encode, time_encoding, yes_labels

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Pairs = list[tuple[str, str]]


def learn_st_mnrl(job: Job, folder: str) -> dict[str, Any]:
    """Train with MultipleNegativesRankingLoss on the yes pairs of the base, and save the student in ``folder``."""
    return _learn(job, folder, "MultipleNegativesRankingLoss")


def learn_st_cached_mnrl(job: Job, folder: str) -> dict[str, Any]:
    """Train with CachedMultipleNegativesRankingLoss on the yes pairs of the base, and save it in ``folder``."""
    return _learn(job, folder, "CachedMultipleNegativesRankingLoss")


def time_st_mnrl(job: Job) -> dict[str, Any]:
    """An epoch with MultipleNegativesRankingLoss over the yes pairs of the base."""
    return _time(job, "MultipleNegativesRankingLoss")


def time_st_cached_mnrl(job: Job) -> dict[str, Any]:
    """An epoch with CachedMultipleNegativesRankingLoss over the yes pairs of the base."""
    return _time(job, "CachedMultipleNegativesRankingLoss")


def encode_sentence_transformers(job: Job) -> dict[str, Any]:
    """``SentenceTransformer.encode`` with its default batches; ``vectors``: the file with what it gave."""
    started = time.perf_counter()
    config = from_dict(job.config)
    texts = [document_text(title, text) for title, text in zip(*texts_to_encode(job.base), strict=True)]
    model = load(config, config.encoder.max_document_tokens)
    return time_encoding(
        lambda part: model.encode(texts[part], normalize_embeddings=True, show_progress_bar=False),
        config.run,
        started,
        str(model.dtype),
    )


def _learn(job: Job, folder: str, loss: str) -> dict[str, Any]:
    """Its batches hold no text twice, as its documentation advises for these losses."""
    config = from_dict(job.config)
    model, pairs = load(config, config.student.max_document_tokens), _pairs(job)
    seconds, steps = train(model, pairs, job, loss, config.student.epochs, "no_duplicates")
    model.save(folder, create_model_card=False)
    return {"seconds": seconds, "steps": steps, "rows": len(pairs)}


def _time(job: Job, loss: str) -> dict[str, Any]:
    """Its batches are the plain ones, of the same size each."""
    started = time.perf_counter()
    config = from_dict(job.config)
    model, pairs = load(config, config.student.max_document_tokens), _pairs(job)
    train(model, pairs[: WARM_UP_STEPS * config.student.batch_size], job, loss, 1, "batch_sampler")
    began = time.perf_counter()
    seconds, steps = train(model, pairs, job, loss, 1, "batch_sampler")
    documents = len({document for document, _ in pairs})
    return {
        "documents": documents,
        "rows": len(pairs),
        "steps": steps,
        "seconds": seconds,
        "start_seconds": began - started,
    }


def load(config: Config, max_tokens: int) -> SentenceTransformer:
    """The untrained encoder of ``config``."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(resolve_model(config.encoder.model))
    model.max_seq_length = max_tokens
    return model


def _pairs(job: Job) -> Pairs:
    """A pair for every label that got a yes."""
    return [(document, label) for document, labels in yes_labels(job.base) for label in labels]


def train(
    model: SentenceTransformer, pairs: Pairs, job: Job, loss: str, epochs: float, sampler: str
) -> tuple[float, int]:
    """Train ``model`` on ``pairs``; seconds from the first step to the last, and steps."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    config = from_dict(job.config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    columns = {"anchor": [document for document, _ in pairs], "positive": [label for _, label in pairs]}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=f"{config.run}/trainer",
        num_train_epochs=epochs,
        per_device_train_batch_size=config.student.batch_size,
        learning_rate=job.learning_rate,
        warmup_steps=config.student.warmup_share,
        weight_decay=config.student.weight_decay,
        max_grad_norm=config.student.max_gradient_norm,
        bf16=chosen_dtype(device, config.student.dtype) == torch.bfloat16,
        fp16=chosen_dtype(device, config.student.dtype) == torch.float16,
        use_cpu=device.type == "cpu",
        batch_sampler=sampler,
        seed=config.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    clock = _clock()
    trainer = SentenceTransformerTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=getattr(losses, loss)(model),
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds, trainer.state.global_step


def _clock() -> Any:
    """A callback of the trainer: ``seconds`` from before its first step to after its last."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        seconds = began = 0.0

        def on_train_begin(self, *args: Any, **more: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *args: Any, **more: Any) -> None:
            self.seconds = time.perf_counter() - self.began

    return Clock()

"""Rivals that learn from the documents alone, with no teacher: pairs of texts of one document (text_pairs.py).

Comes in: a job (student_bench.task.Job) and the prepared documents of its base. Goes out: a trained encoder, and the
seconds that its steps took. The training loop is this project's own, in one process and without Ray; the loss is
``infonce``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ezxmc_ray.config import Config, from_dict
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.stages.train_worker import READ_AHEAD
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import BatchPlan, Part
from ezxmc_ray.student.loop import StepInput, StudentTrainer
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale
from quality_bench.text_pairs import PairReader
from student_bench.task import Job

#: By method the trainings in their order: kind of pairs (text_pairs.PAIRS) and passes over the documents.
#: ``title`` is MACLR's inverse cloze task, then its titles (arXiv 2112.08652); ``segments`` is RTS (EMNLP 2022).
TRAININGS: dict[str, Sequence[tuple[str, float]]] = {
    "title": (("sentence", 1.0), ("title", 1.0)),
    "segments": (("segment", 2.0),),
}
#: The pair of a document is its yes, of verdict 1; nothing is standardized.
YES_THRESHOLD = 0.5
SCALE = TargetScale(verdict_mean=0.0, verdict_std=1.0, similarity_mean=0.0, similarity_std=1.0)


def learn_pairs(job: Job, folder: str) -> dict[str, Any]:
    """Train the base encoder as TRAININGS says and save it in ``folder``; seconds and documents, and what was skipped.

    The job's configuration has ``student.loss=infonce student.target=verdict``.
    """
    config = from_dict(job.config)
    # The label of a pair is a part of a document, and read as long as one.
    lengths = replace(config.encoder, max_label_tokens=config.student.max_document_tokens)
    encoder = Encoder.load(config.encoder.model, lengths)
    seconds, documents, skipped = 0.0, 0, {}
    for kind, epochs in TRAININGS[job.method]:
        reader = PairReader(Storage(job.base), kind, config.seed)
        began = time.perf_counter()
        documents += _train(encoder, reader, config, epochs)
        seconds += time.perf_counter() - began
        skipped[kind] = reader.skipped
    encoder.save(folder)
    return {"train_seconds": seconds, "documents_seen": documents, "skipped_documents": skipped}


def _train(encoder: Encoder, reader: PairReader, config: Config, epochs: float) -> int:
    """Train ``encoder`` on the pairs of ``reader``; documents seen."""
    plan = BatchPlan(reader.rows_of_shards, config.student.batch_size, config.seed)
    steps = plan.total_steps(epochs)
    objective = Objective(config.student, SCALE, YES_THRESHOLD)
    trainer = StudentTrainer(encoder, objective, steps, encoder.device, config.seed)

    def texts(one: tuple[int, Part]) -> StepInput:
        step, part = one
        return trainer.tokenize(reader.read(part.rows, step))

    batches = enumerate(plan.parts(0, steps))
    return sum(trainer.step(batch).documents for batch in prefetch(texts, batches, READ_AHEAD))

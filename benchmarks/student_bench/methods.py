"""The methods that benchmarks/student.py compares, each in a process of its own:

    python -m student_bench.methods JOB OUTPUT

Comes in: a job (task.Job). Goes out: OUTPUT, a JSON object with the method's figures, or, for a method that
cannot run here, ``error``. Loading a model and a few warm-up steps are not timed. What uses SentenceTransformers is in
rivals.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common.publish import write_answer
from common.run_files import label_texts
from ezxmc_ray.cluster.session import ray_cluster
from ezxmc_ray.config import Config, from_dict
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.precision import chosen_dtype
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.metrics import evaluate
from ezxmc_ray.models import resolve_model
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.stages.shortlist import hybrid_searcher, lexical_table
from ezxmc_ray.stages.train_worker import READ_AHEAD
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Manifest, Storage
from ezxmc_ray.student.batches import BatchPlan, Part
from ezxmc_ray.student.data import ExampleReader
from ezxmc_ray.student.loop import StepInput, StudentTrainer
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale
from student_bench.rivals import (
    encode_sentence_transformers,
    learn_st_cached_mnrl,
    learn_st_mnrl,
    time_st_cached_mnrl,
    time_st_mnrl,
)
from student_bench.task import (
    EXAMPLES_FOLDER,
    WARM_UP_STEPS,
    Job,
    ranked_documents,
    read_job,
    texts_to_encode,
    time_encoding,
)

#: Labels ranked a document: R@100 needs no more.
DEPTH = 100
STUDENT = "cycle-0/student"
Figures = dict[str, Any]


def main() -> None:
    """Run one method and write what it gave."""
    do_job(METHODS)


def do_job(methods: dict[str, Callable[[Job], Figures]]) -> None:
    """Do the job that the command line names by one of ``methods``; an error is written too, and raised."""
    job, output = sys.argv[1:]

    def work() -> Figures:
        given = read_job(job)
        if os.path.isdir(resolve_model(from_dict(given.config).encoder.model)):
            os.environ["HF_HUB_OFFLINE"] = "1"
        return methods[given.method](given)

    write_answer(output, work)


def learn_ezxmc(job: Job) -> Figures:
    """The train stage, through Ray Train, on the examples of the base; then its student ranks the test documents."""
    done = _train(job)
    return {
        **ranked(job, from_dict(job.config).run + "/" + STUDENT),
        "steps": done.details["steps"],
        "seconds": done.details["training_seconds"],
        "stage_seconds": done.seconds,
    }


def stage(job: Job) -> Figures:
    """The train stage alone, timed by its own manifest; ``start_seconds``: until its workers could begin."""
    details = _train(job).details
    names = ("documents", "workers", "steps", "start_seconds")
    return {name: details[name] for name in names} | {"seconds": details["training_seconds"]}


def _train(job: Job) -> Manifest:
    """Do the step ``train`` of cycle 0 in a copy of the base."""
    config = from_dict(job.config)
    shutil.rmtree(config.run, ignore_errors=True)
    shutil.copytree(job.base, config.run)
    work = RunPlan(config, Storage(config.run))
    train = next(step for step in work.steps() if step.stage == "train")
    with ray_cluster(config.cluster):
        return work.execute(train)


def untrained(job: Job) -> Figures:
    """The base encoder ranks the test documents."""
    return ranked(job, from_dict(job.config).encoder.model)


def learn_rival(learn: Callable[[Job, str], Figures]) -> Callable[[Job], Figures]:
    """A method that trains by ``learn``, into a directory that is named to it; then its student ranks."""

    def method(job: Job) -> Figures:
        folder = from_dict(job.config).run + "/student"
        figures = learn(job, folder)
        return {**ranked(job, folder), **figures}

    return method


def ranked(job: Job, encoder: str) -> Figures:
    """The measures, in percent, of ``encoder`` on the test documents of the base."""
    return dict(evaluate(ranking(job, encoder), ranked_documents(job.base)[2]))


def ranking(job: Job, encoder: str) -> np.ndarray:
    """The first labels of each test document of the base, by ``encoder`` and lexical.weight: int32 [n, DEPTH]."""
    return search(job, encoder)[1]


def search(job: Job, encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`ranking`, with the similarity of each label before it, float32 [n, DEPTH]."""
    config = from_dict(job.config)
    storage = Storage(job.base)
    texts = label_texts(storage)
    titles, bodies, _ = ranked_documents(job.base)
    loaded = Encoder.load(encoder, config.encoder)
    index = ShardedIndex.from_vectors(loaded.encode_labels(texts).vectors)
    number = int(encoder != config.encoder.model)  # any student's
    searcher = hybrid_searcher(index, lexical_table(storage, config.lexical), config.lexical, number)
    vectors = loaded.encode_documents(titles, bodies).vectors
    return searcher.search(vectors, titles, bodies, min(DEPTH, len(texts)))


def time_ezxmc(job: Job) -> Figures:
    """An epoch of this project's training loop over the base, in this process and without Ray.

    As in the train stage a thread reads and tokenizes ahead; checkpoints and the report to Ray Train are left out.
    """
    started = time.perf_counter()
    config, storage = from_dict(job.config), Storage(job.base)
    reader = ExampleReader(storage, 0)
    plan = BatchPlan(reader.rows_of_shards, config.student.batch_size, config.seed)
    encoder = Encoder.load(config.encoder.model, config.encoder)
    _timed_steps(_trainer(job, config, encoder, WARM_UP_STEPS), reader, plan, WARM_UP_STEPS)
    trainer = _trainer(job, config, encoder, plan.steps_per_epoch)
    began = time.perf_counter()
    documents, seconds = _timed_steps(trainer, reader, plan, plan.steps_per_epoch)
    return {
        "documents": documents,
        "rows": documents,
        "steps": plan.steps_per_epoch,
        "seconds": seconds,
        "start_seconds": began - started,
    }


def _trainer(job: Job, config: Config, encoder: Encoder, steps: int) -> StudentTrainer:
    details = Storage(job.base).read_json(f"{EXAMPLES_FOLDER}/manifest.json")["details"]
    objective = Objective(config.student, TargetScale(**details["scale"]), details["yes_threshold"])
    return StudentTrainer(encoder, objective, steps, encoder.device, config.seed)


def _timed_steps(trainer: StudentTrainer, reader: ExampleReader, plan: BatchPlan, steps: int) -> tuple[int, float]:
    """Documents and seconds of ``steps`` steps."""

    def texts(part: Part) -> StepInput:
        return trainer.tokenize(reader.read(part))

    began = time.perf_counter()
    documents = sum(trainer.step(one).documents for one in prefetch(texts, plan.parts(0, steps), READ_AHEAD))
    return documents, time.perf_counter() - began


def encode_ezxmc(job: Job) -> Figures:
    """This project's encoder over the texts of the base; ``vectors``: the file with what it gave."""
    started = time.perf_counter()
    config = from_dict(job.config)
    titles, texts = texts_to_encode(job.base)
    encoder = Encoder.load(config.encoder.model, config.encoder)
    dtype = chosen_dtype(encoder.device, config.encoder.dtype)
    return time_encoding(
        lambda part: encoder.encode_documents(titles[part], texts[part]).vectors, config.run, started, str(dtype)
    )


METHODS: dict[str, Callable[[Job], Figures]] = {
    "untrained": untrained,
    "learn_ezxmc": learn_ezxmc,
    "learn_st_mnrl": learn_rival(learn_st_mnrl),
    "learn_st_cached_mnrl": learn_rival(learn_st_cached_mnrl),
    "time_ezxmc": time_ezxmc,
    "time_st_mnrl": time_st_mnrl,
    "time_st_cached_mnrl": time_st_cached_mnrl,
    "encode_ezxmc": encode_ezxmc,
    "encode_sentence_transformers": encode_sentence_transformers,
    "stage": stage,
}


if __name__ == "__main__":
    main()

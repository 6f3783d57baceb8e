"""What growth_run.py lets its tasks' process do in place of a machine with GPUs: judge and train; and the label priors.

Comes in: what the stages give their actors and training workers. Goes out: what these return. The actor of ``judge`` is
the stage's own, with an engine that takes no time; the training worker too, and it ends after some steps.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from common.simulated_ray import simulated_ray_train
from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.stages import judge_worker
from ezxmc_ray.stages.judge_worker import JudgeWorker
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import HASH, LABELS_SCHEMA, NO_DOCUMENT, VERDICTS_SCHEMA
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore
from scale_bench.judge import SimulatedEngine

#: Pairs a second of an engine that takes no time, and seconds of its steps.
RATE, STEP_S = 1e9, 1.0
#: Steps of a training: two shards of documents.
STEPS = 160


def write_priors(storage: Storage, config: TeacherConfig) -> None:
    """Task: a prior by chance of every label, in the store of the teacher."""
    hashes = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["content_hash"])["content_hash"]
    count = len(hashes)
    raw = pa.array(np.random.default_rng(3).random(count), pa.float32())
    nothing = pa.array([NO_DOCUMENT] * count, HASH)
    columns = [nothing, hashes, raw, pa.array(np.full(count, 9, np.int32)), pa.array(np.zeros(count, bool))]
    store = VerdictStore(storage, teacher_key(config))
    store.append(PRIORS, pa.Table.from_arrays(columns, schema=VERDICTS_SCHEMA))


def simulated_judge_worker(storage: Storage, config: TeacherConfig, key: str, cycle: int) -> JudgeWorker:
    """The actor of the stage ``judge`` with a simulated engine: scores by the labels' tokens, at once.

    It has no watchdog, which would end with this process only.
    """
    engine = SimulatedEngine(config, RATE, STEP_S)
    with (
        mock.patch.object(judge_worker, "start_engine", lambda config: engine),
        mock.patch.object(judge_worker, "start_watchdog", lambda: None),
    ):
        return JudgeWorker(storage, config, key, cycle)


def train_some_steps(name: str, settings: Any, workers: int) -> tuple[float, float, int]:
    """Train by the stage's own worker for STEPS steps at most, and write the student.

    Returns CPU seconds until the first step is done, those from then to the end of the last one, and the documents of
    the steps after the first.
    """
    from ezxmc_ray.stages import train_worker

    began, ended = time.process_time(), []
    settings = replace(settings, steps=min(STEPS, settings.steps))
    with simulated_ray_train(name), temporary_folder() as folder:
        worker = train_worker.TrainWorker(settings, folder, time.monotonic())
        step = worker.trainer.step

        def counted(texts: Any) -> Any:
            result = step(texts)
            ended.append((time.process_time(), texts.batch.global_documents))
            return result

        with mock.patch.object(worker.trainer, "step", counted):
            worker.train()
        worker.finish()
    documents = sum(count for _, count in ended[1:])
    return ended[0][0] - began, ended[-1][0] - ended[0][0], documents

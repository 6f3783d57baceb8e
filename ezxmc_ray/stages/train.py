"""Stage ``train``: train the student of one cycle on the examples, with Ray Train (DDP).

    ezxmc train conf.yaml

In: cycle-c/examples/ (and those of the cycles before), documents/, the base encoder. Out: cycle-c/student/, a
SentenceTransformer directory. Every worker walks through the same seeded plan of global batches and takes its share of
each, so the order does not depend on the number of workers and can be taken up again at any step, by as many workers as
there are then (elastic training: student.min_workers). Checkpoints go through Ray Train, which hands them back after a
worker or the driver has died. What a worker does is in ``train_worker.py``; here is the driver's side.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Any

from ray import train as ray_train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api import data_parallel_trainer

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import watched
from ezxmc_ray.cluster.pools import ENCODER_CPUS, free_gpus, look_with_encoder
from ezxmc_ray.cluster.session import cluster_gpus, cluster_limit, is_local, node_cpus, user_errors, wait_for_gpus
from ezxmc_ray.config import Config, fingerprint, fingerprinted_settings
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.train_settings import TrainingPlace, TrainSettings
from ezxmc_ray.stages.train_snapshot import mend_snapshot
from ezxmc_ray.stages.train_wait import TrainingWait, bound_tries
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import (
    MIN_WORKER_DOCUMENTS,
    BatchPlan,
    global_batch_size,
    lanes_of,
    scaled_learning_rate,
)
from ezxmc_ray.student.summary import ALL, OWN, read_shard_counts
from ezxmc_ray.student.trackers import check_trackers

#: Workers where there is no GPU, at most.
CPU_WORKERS = 2
#: How long Ray Train may wait for word of its controller.
CLEANER_ASK_S = 1.0


def train(context: Context, cycle: int) -> StageResult:
    """Train the student of ``cycle``; returns documents seen, files and details of the manifest.

    The checkpoints stay until :func:`remove_trainings`, which is for after the manifest's commit.
    """
    check_training(context.config)
    details = train_at(TrainingPlace.of_cycle(cycle), context, cycle)
    folder = layout.cycle_student(cycle)
    files = [name for name in context.storage.list(folder, recursive=True) if name != layout.manifest(folder)]
    return StageResult(int(details["documents"]), files, details)


def train_at(place: TrainingPlace, context: Context, cycle: int, inputs: Sequence[str] = ()) -> dict[str, Any]:
    """Train at ``place`` on the examples of ``cycle``, and by student.past_verdicts of those before, as section student
    of the context's configuration says; what was found of it, as a manifest's details.

    ``inputs``: commits of what the training begins with, beside the examples.
    """
    config, storage = context.config, context.storage
    earlier = range(cycle) if config.student.past_verdicts else range(0)
    thresholds = [context.judged(one).yes_threshold for one in earlier]
    own = read_shard_counts(storage, cycle, OWN)
    known = read_shard_counts(storage, cycle, ALL) if thresholds else own
    if config.student.validate_every_steps and not known["held_out"].any():
        raise UserError(
            f"student.validate_every_steps is {config.student.validate_every_steps}, but cycle {cycle} has no held-out "
            "documents to evaluate on: raise prepare.held_out_share, or set student.validate_every_steps and "
            "student.patience to 0."
        )
    # Ray Train finds a killed run's checkpoints by this name, so it must change when the examples or the settings do.
    commit = context.manifest(layout.examples(cycle)).commit
    is_half = context.halves_held_out
    halves = ["halves"] if is_half else []
    made_of = [fingerprinted_settings(config, "student"), config.seed, commit, *inputs, *halves]
    name = layout.TRAINING + fingerprint(made_of)
    remove_trainings(storage, place.folder, kept=name)
    examples = int(known["rows"].sum())
    batch_size = begun_batch_size(storage, place.folder, name, config, examples)
    lanes = lanes_of(config.student, batch_size)
    plan = BatchPlan(known["rows"], batch_size, config.seed, lanes)
    steps, judged = plan.total_steps(config.student.epochs), context.judged(cycle)
    scale, threshold, command = judged.scale, judged.yes_threshold, uuid.uuid4().hex
    told = (steps, batch_size, scale, threshold, thresholds, command, is_half)
    began = time.monotonic()
    outcome = _train(TrainSettings(place, config, storage, cycle, *told), name)
    seconds, earlier_s = outcome["training_seconds"], outcome.pop("earlier_seconds", 0.0)
    return outcome | {
        "steps": steps,
        "batch_size": batch_size,
        "lanes": lanes,
        "learning_rate": scaled_learning_rate(config.student, batch_size),
        "documents_per_s": outcome["documents"] / max(1e-9, seconds),
        "start_seconds": time.monotonic() - began - (seconds - earlier_s),
        "loss": config.student.loss,
        "target": config.student.target,
        "examples": examples,
        "examples_of_earlier_cycles": examples - int(own["rows"].sum()),
        "skipped_documents": int(known["empty_shortlists"].sum()),
        "dropped_documents_per_epoch": plan.dropped_rows,
    }


def begun_batch_size(storage: Storage, folder: str, name: str, config: Config, examples: int) -> int:
    """Documents of a step of the training named ``name``: as it was begun, with however many workers it goes on."""
    file = layout.training_batch(folder, name)
    if not storage.exists(file):
        documents = global_batch_size(config.student, count_workers(config), examples)
        storage.write_json(file, {"documents": documents})
    return int(storage.read_json(file)["documents"])


def _train(settings: TrainSettings, name: str) -> dict[str, Any]:
    """Train by the name of ``name``; what the first worker found of it."""
    config, storage, place = settings.config, settings.storage, settings.place
    mend_snapshot(storage, f"{place.folder}/{name}")
    workers = useful_workers(config, settings.batch_size)
    phase = f"starting {workers} worker{'s' * (workers > 1)}"
    with watched(StageProgress(place.name, "steps", settings.steps, phase=phase)):
        _fit(name, settings, workers)
    outcome: dict[str, Any] = storage.read_json(layout.training_outcome(place.folder, name))
    for tracker, why in outcome["lost_trackers"].items():
        of = place.name.removesuffix(" train")
        say(f"{tracker} took no more of the curves of {of} ({why}); they are in the manifest and the report.")
    return outcome


def remove_trainings(storage: Storage, folder: str, kept: str = "") -> None:
    """Remove checkpoints and outcomes of the trainings in ``folder``, except those of the training named ``kept``."""
    for name in storage.folders(folder) + storage.list(folder, ".json"):
        training = name.removeprefix(f"{folder}/").removesuffix(".json")
        if training.startswith(layout.TRAINING) and training != kept:
            storage.remove(name)


def check_training(config: Config) -> None:
    """Refuse what the training's workers would tell late, or wait for without end. Errors: UserError."""
    check_workers(config)
    # What the encoder reads in the other stages is checked there.
    if config.student.max_document_tokens != config.encoder.max_document_tokens:
        ask_a_node("the encoder", _check_document_tokens, config)


def check_workers(config: Config) -> None:
    """Refuse trackers that cannot begin, and workers that there is no room for. Errors: UserError."""
    if is_local():
        check_trackers(config.student.trackers)
    elif config.student.trackers:
        ask_a_node("the trackers", check_trackers, config.student.trackers)
    count_workers(config)


def ask_a_node(what: str, check: Callable[..., None], *arguments: Any) -> None:
    """Have ``check`` look at ``what`` on a node. Errors: UserError as it."""
    with watched(StageProgress("Training", phase=f"looking at {what}")):
        look_with_encoder(check, *arguments)


def _check_document_tokens(config: Config) -> None:
    """Task: every student has the base encoder's tokenizer and positions."""
    from ezxmc_ray.encoder.encoder import Encoder
    from ezxmc_ray.student.loop import check_document_tokens

    check_document_tokens(Encoder.load(config.encoder.model, config.encoder, "cpu"), config.student)


def count_workers(config: Config) -> int:
    """As configured, else one a GPU, else as many as :data:`CPU_WORKERS` says.

    Errors: UserError for more than the cluster has room for (Ray would wait for room without end), and for a
    student.min_workers above that.
    """
    student, kind = config.student, "GPU" if cluster_gpus() else "CPU"
    room = cluster_limit(kind)
    workers = student.workers or cluster_gpus() or _cpu_workers()
    if student.min_workers > workers:
        raise UserError(
            f"student.min_workers is {student.min_workers}, more than the {workers} workers that the training is to "
            f"have (student.workers): set it to {workers} at most."
        )
    key, least = ("min_workers", student.min_workers) if student.min_workers else ("workers", workers)
    if least > room:
        raise UserError(
            f"The training is to have {least} workers (student.{key}), but the Ray cluster has {room} {kind}s, and "
            f"each worker takes one at least: set student.{key} to {room} at most, or add nodes."
        )
    return workers


def useful_workers(config: Config, batch_size: int) -> int:
    """Those of :func:`count_workers` that a step of ``batch_size`` documents has work for: MIN_WORKER_DOCUMENTS each
    (student.batch_size, where that is less), or, where the user says how many workers there are to be, one."""
    each = 1 if config.student.workers else min(MIN_WORKER_DOCUMENTS, config.student.batch_size)
    return min(count_workers(config), max(1, batch_size // each))


def _cpu_workers() -> int:
    """A second worker on a CPU machine costs a start of its own: it pays from twice an encoder's CPUs on."""
    return min(CPU_WORKERS, max(1, node_cpus() // ENCODER_CPUS))


class StopAtUserError(ray_train.UserCallback):
    """Ends the training at a worker's UserError, which every new start would meet again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train; what is raised here is no failure of a worker, so nothing starts again."""
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error


def _fit(name: str, settings: TrainSettings, workers: int) -> None:
    """Train with Ray Train. Errors: UserError of a worker, or where none has room for ``cluster.wait_s``."""
    student, storage = settings.config.student, settings.storage
    use_gpu = cluster_gpus() > 0
    least = student.min_workers
    free_gpus()
    wait_for_gpus()
    bound_tries(settings.config.cluster.wait_s)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"settings": settings},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=(least, workers) if 0 < least < workers else workers,
            use_gpu=use_gpu,
            resources_per_worker=None if use_gpu else {"CPU": _cpus(workers)},
        ),
        run_config=ray_train.RunConfig(
            name=name,
            storage_path=storage.path(settings.place.folder),
            storage_filesystem=storage.filesystem,
            failure_config=ray_train.FailureConfig(max_failures=student.max_failures),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=1),
            callbacks=[StopAtUserError(), TrainingWait(settings.config.cluster, least or workers)],
        ),
    )
    # Ray Train's cleaner of placement groups asks the dashboard how the training's controller is. A local Ray has none,
    # and each training would end with a wait of 12 s for its answer (Ray 2.60).
    data_parallel_trainer.PlacementGroupCleanerCallback = partial(
        PlacementGroupCleanerCallback, get_actor_timeout_s=CLEANER_ASK_S
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with user_errors():
        _in_a_thread(trainer.fit)


def _in_a_thread(function: Callable[[], Any]) -> None:
    """Call ``function``; its error is raised here. In the main thread Ray Train would take SIGINT for itself."""
    ended: Future[Any] = Future()

    def call() -> None:
        try:
            ended.set_result(function())
        except BaseException as error:
            ended.set_exception(error)

    Thread(target=call, daemon=True).start()  # one that is not waited for where this process is interrupted
    ended.result()


def _train_worker(told: dict[str, TrainSettings]) -> None:
    began = time.monotonic()
    from ezxmc_ray.stages.train_worker import train_worker  # whose libraries the driver need not import

    train_worker(told["settings"], began)


def _cpus(workers: int) -> int:
    """CPUs of a worker on a CPU machine: an equal share of the largest node's, so that all fit on it."""
    return max(1, node_cpus() // workers)

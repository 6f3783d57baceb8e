"""One worker of the stage ``train``: a process of the DDP group that Ray Train starts, and what it does there.

Comes in: the settings that the driver made (configuration, cycle, base encoder, scale of the targets). Goes out: the
student, written by the first worker, and what is known of its training; on the way checkpoints through Ray Train, the
points of the curves, and the event files of TensorBoard.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import train as ray_train

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_phase
from ezxmc_ray.config import to_dict
from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.pairs import pair_config
from ezxmc_ray.encoder.precision import common_dtype, dtype_name
from ezxmc_ray.hardware import memory_errors
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.stages.shortlist import load_encoder
from ezxmc_ray.stages.train_settings import TrainSettings
from ezxmc_ray.stages.train_snapshot import STATE
from ezxmc_ray.storage import copy_into
from ezxmc_ray.student.batches import BatchPlan, Part, lanes_of, scaled_learning_rate
from ezxmc_ray.student.checkpoints import CheckpointClock
from ezxmc_ray.student.data import ExampleReader, Gather, HeldOut, alone, held_out_documents
from ezxmc_ray.student.forward import gathered_on_cpus
from ezxmc_ray.student.loop import StepInput, StepResult, StudentTrainer
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.pair_loop import PairTrainer
from ezxmc_ray.student.trackers import Trackers, open_trackers
from ezxmc_ray.student.validation import EarlyStopping, evaluate_held_out

#: Steps between two points of the loss curve, at most this many points.
CURVE_POINTS = 500
#: Batches that are read and tokenized while one trains.
READ_AHEAD = 2


def train_worker(settings: TrainSettings, began: float) -> None:
    """What every training worker runs (one process of the DDP group); ``began``: at this time of time.monotonic()."""
    if not torch.cuda.is_available():
        torch.set_num_threads(cpu_threads(os.environ.get("OMP_NUM_THREADS", "")))
    with temporary_folder() as folder:
        remedy = "take a smaller encoder.model, or GPUs with more memory"
        with memory_errors("when the training was set up", remedy):
            worker = TrainWorker(settings, folder, began)
        worker.train()
        worker.finish()


def cpu_threads(omp_num_threads: str) -> int:
    """How many threads compute, by OMP_NUM_THREADS: OpenMP takes a list too (``4,2``), whose first number it is.

    Ray sets it to a worker's cores, unless the user has; 1 where it is nothing that OpenMP knows.
    """
    outer = omp_num_threads.split(",")[0].strip()
    return max(1, int(outer)) if outer.isdecimal() else 1


class TrainWorker:
    """One worker: its trainer, its part of the data, and what is known of the training so far.

    ``folder``: of this machine, for what goes from there into the run's directory. ``began``: the worker's start.
    """

    def __init__(self, settings: TrainSettings, folder: Path, began: float) -> None:
        self.settings, self.folder, self.began = settings, folder, began
        self.config, self.storage, self.cycle = settings.config, settings.storage, settings.cycle
        context = ray_train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        torch.manual_seed(self.config.seed)
        student = self.config.student
        self.gather: Gather = gathered_on_cpus() if self.world > 1 else alone
        self.trainer = self._make_trainer()
        if self.world > 1:
            self.trainer.module = ray_train.torch.prepare_model(self.trainer.module)
        self.stopping = EarlyStopping(student.patience)
        self.progress = self._restore()
        if self.rank == 0 and self.trainer.step_number == 0:
            # The curves of an older training would stand beside those of this one.
            self.storage.remove(layout.tensorboard(settings.place.folder))
        self.reader = ExampleReader(self.storage, self.cycle, earlier_thresholds=settings.earlier_thresholds)
        lanes = lanes_of(student, settings.batch_size)
        self.plan = BatchPlan(self.reader.rows_of_shards, settings.batch_size, self.config.seed, lanes)
        self.held_out: list[HeldOut] = []
        if student.validate_every_steps:
            share = (student.validation_documents, self.rank, self.world)
            self.held_out = held_out_documents(
                self.storage, self.cycle, *share, is_half=settings.is_half, gather=self.gather
            )
        self.trackers = self._open_trackers() if self.rank == 0 else Trackers({})
        self.progress["lost_trackers"] = self.trackers.lost  # the dict itself: what is lost from now on is in it

    def _make_trainer(self) -> StudentTrainer:
        """Of the base encoder, or of a cross-encoder that begins as the chosen student."""
        settings, student = self.settings, self.config.student
        device = torch.device(ray_train.torch.get_device())
        rate, dtype = scaled_learning_rate(student, settings.batch_size), self._dtype(device)
        objective = Objective(replace(student, learning_rate=rate, dtype=dtype), settings.scale, settings.yes_threshold)
        rest = (objective, settings.steps, device, self.config.seed, self.rank, self.world)
        if not settings.place.is_cross_encoder:
            return StudentTrainer(load_encoder(self.storage, self.config.encoder, None), *rest)
        encoder = load_encoder(self.storage, self.config.encoder, layout.STUDENT)
        return PairTrainer(
            CrossEncoder.begin(encoder, pair_config(self.config.encoder, self.config.cross_encoder)), *rest
        )

    def _dtype(self, device: torch.device) -> str:
        """The one format of all workers, whose GPUs may be of several kinds."""
        own = np.array(dtype_name(device, self.config.student.dtype))
        return common_dtype(str(told) for (told,) in self.gather((own,)))

    def train(self) -> None:
        """All steps that are still to be done, or fewer where the early stopping says so."""
        student, steps = self.config.student, self.settings.steps
        every = -(-steps // CURVE_POINTS)
        began, before = time.monotonic(), self.progress["training_seconds"]
        held = self.trainer.step_number
        clock = CheckpointClock(student.checkpoint_every_s)
        report_phase("first step")
        parts = self.plan.parts(self.trainer.step_number, steps, self.rank, self.world)
        for texts in prefetch(self._texts, parts, READ_AHEAD):
            result = self.trainer.step(texts)
            step = self.trainer.step_number
            if step == held + 1:
                self.progress["first_step_seconds"] = time.monotonic() - self.began
            # The first worker's clock decides for all.
            due = float(self.rank == 0 and clock.due())
            loss, truncated, due = self._sums(result.loss / self.world, texts.truncated, due)
            self.progress["documents"] += texts.batch.global_documents
            self.progress["truncated_readings"] += int(truncated)
            if step % every == 0 or step in (1, steps):
                self._note(step, loss, result)
            self.progress["training_seconds"] = before + time.monotonic() - began
            if self.rank == 0:
                report_done("steps", step, held)
            if student.validate_every_steps and (step % student.validate_every_steps == 0 or step == steps):
                self._validate(step)
                if self.stopping.should_stop():
                    self.progress["stopped_at"] = step
                    break
            if due and step < steps:
                clock.taken(self._checkpoint())
        self.stopping.take_best(self.trainer.encoder.module)

    def finish(self) -> None:
        """The first worker writes the student and what is known of its training; a barrier for all workers."""
        self.trackers.close()
        if self.rank == 0:
            place = self.settings.place
            self.trainer.encoder.save(self.folder / "student")
            copy_into(self.storage, self.folder / "student", place.target)
            name = ray_train.get_context().get_experiment_name()
            self.storage.write_json(layout.training_outcome(place.folder, name), self._outcome())
        self._upload_events()
        ray_train.report({"documents": self.progress["documents"]})

    def _open_trackers(self) -> Trackers:
        """The first worker's. What they call their runs stays beside the checkpoints, for a start after this one.

        Where a worker died, training goes on without one that does not begin again; a new command is told.
        """
        name = ray_train.get_context().get_experiment_name()
        place, command = self.settings.place, self.settings.command
        file = f"{place.folder}/{name}/trackers.json"
        earlier: dict[str, Any] = {"command": "", "runs": {}}
        if self.storage.exists(file):
            earlier = self.storage.read_json(file)
        lost = self.progress["lost_trackers"] if earlier["command"] == command else None
        called = place.name.removesuffix(" train")
        title = f"{layout.run_name(self.config.run)} {called}"
        student, folder = self.config.student, self.folder / "tensorboard"
        trackers = open_trackers(student.trackers, title, folder, to_dict(student), earlier["runs"], lost)
        self.storage.write_json(file, {"command": command, "runs": {**earlier["runs"], **trackers.runs}})
        return trackers

    def _texts(self, part: Part) -> StepInput:
        return self.trainer.tokenize(self.reader.read(part, self.gather))

    def _outcome(self) -> dict[str, Any]:
        validation = {"validation_curve": self.stopping.curve, "best_step": self.stopping.best_step}
        told = {name: value for name, value in self.progress.items() if name != "command"}
        counts = {"repeated_steps": self.trainer.repeated_steps, "workers": self.world}
        return {**told, **validation, **counts}

    def _note(self, step: int, loss: float, result: StepResult) -> None:
        """A point of the curves."""
        self.progress["loss_curve"].append({"step": step, "loss": loss, "learning_rate": result.learning_rate})
        figures = {"loss": loss, "learning_rate": result.learning_rate, "gradient_norm": result.gradient_norm}
        self.trackers.log(step, figures)

    def _validate(self, step: int) -> None:
        """Measure how the student orders held-out shortlists; every worker takes its share of them."""
        student = self.config.student
        seen = evaluate_held_out(self.trainer.encoder, self.held_out, student, self.trainer.objective.scale)
        total, documents = self._sums(*seen)
        score = 100 * total / documents
        remedy = "set student.patience=0, which keeps no copy of them, or take a smaller encoder.model"
        with memory_errors(f"when the weights after step {step} of the training were kept", remedy):
            self.stopping.add(step, score, self.trainer.encoder.module)
        self.trackers.log(step, {"held_out_ndcg": score})

    def _sums(self, *values: float) -> list[float]:
        """Of each value the sum over the workers.

        Each one's loss is weighted so that the mean is the mean over the global batch.
        """
        if self.world == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        if torch.distributed.get_backend() == "nccl":
            totals = totals.to(ray_train.torch.get_device())
        torch.distributed.all_reduce(totals)
        return [float(total) for total in totals]

    def _checkpoint(self) -> float:
        """Report a checkpoint of the model, the optimizer and the counts; a barrier for all workers. Its seconds."""
        began, checkpoint = time.monotonic(), None
        self.progress["checkpoints"] += 1
        with temporary_folder() as folder:
            if self.rank == 0:
                state = {"trainer": self.trainer.state(), "progress": self.progress, "stopping": self.stopping.state()}
                torch.save(state, os.path.join(folder, STATE))
                checkpoint = ray_train.Checkpoint.from_directory(folder)
            ray_train.report({"step": self.trainer.step_number}, checkpoint=checkpoint)
        self._upload_events()
        seconds = time.monotonic() - began
        self.progress["checkpoint_seconds"] += seconds
        return seconds

    def _upload_events(self) -> None:
        """Event files of TensorBoard go into the run; those of an earlier start of this training stay beside them."""
        for file in sorted((self.folder / "tensorboard").glob("events*")):
            self.storage.write_bytes(f"{layout.tensorboard(self.settings.place.folder)}/{file.name}", file.read_bytes())

    def _restore(self) -> dict[str, Any]:
        """Load the latest checkpoint, if there is one; returns the counts so far."""
        command = self.settings.command
        progress: dict[str, Any] = {"documents": 0, "truncated_readings": 0, "training_seconds": 0.0}
        progress |= {"checkpoints": 0, "checkpoint_seconds": 0.0, "command": command, "earlier_seconds": 0.0}
        progress |= {"stopped_at": None, "loss_curve": [], "resumed_at": [], "lost_trackers": {}}
        progress["first_step_seconds"] = None
        checkpoint = ray_train.get_checkpoint()
        if checkpoint is None:
            return progress
        with checkpoint.as_directory() as folder:
            state = torch.load(os.path.join(folder, STATE), map_location="cpu", weights_only=True)
        self.trainer.load_state(state["trainer"])
        self.stopping.load_state(state["stopping"])
        progress |= state["progress"]
        if state["progress"].get("command") != command:
            # Seconds of training that were done before this command, by one that was killed.
            progress |= {"command": command, "earlier_seconds": progress["training_seconds"]}
        progress["resumed_at"].append(self.trainer.step_number)
        return progress

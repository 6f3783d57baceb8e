"""Stage ``train``: train the student of one cycle on the examples, with Ray Train (DDP).

    ezxmc train conf.yaml

In: cycle-c/examples/, documents/, the encoder to start from. Out: cycle-c/student/, a SentenceTransformer directory.
Every worker walks through the same seeded plan of global batches and takes its share of each, so the order does not
depend on the number of workers and can be taken up again at any step, by as many workers as there are then (elastic
training: student.min_workers). Checkpoints go through Ray Train, which hands them back after a worker or the driver
has died.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train as ray_train
from ray.train.torch import TorchConfig, TorchTrainer

from ezxmc_ray.ahead import ahead
from ezxmc_ray.config import Config, fingerprint, from_dict, settled, to_dict
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.cluster import cluster_gpus, node_cpus, run_task, user_errors
from ezxmc_ray.stages.context import Context
from ezxmc_ray.stages.shortlist import load_encoder
from ezxmc_ray.stages.trackers import open_trackers
from ezxmc_ray.storage import Storage, copy_into
from ezxmc_ray.student.batches import BatchPlan, Row
from ezxmc_ray.student.data import ExampleReader, HeldOut, held_out_documents
from ezxmc_ray.student.loop import StepInput, StepResult, StudentTrainer
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.student.validation import Looks, look

POLL_S = 1.0
#: Steps between two points of the loss curve, at most this many points.
CURVE_POINTS = 500
#: Batches that are read and tokenised while one trains.
READ_AHEAD = 2
#: The folder of a cycle with TensorBoard's event files.
TENSORBOARD = "tensorboard"


def train(context: Context, cycle: int) -> tuple[int, list[str], dict[str, Any]]:
    """Train the student of ``cycle``; returns rows (documents seen), files and details of the manifest."""
    config, storage = context.config, context.storage
    examples = context.manifest(f"cycle-{cycle}/examples")
    start = context.encoder_folder(cycle if config.student.start == "previous" else 0)
    known = run_task(count_examples, storage, cycle)
    plan = BatchPlan(known["rows"], config.student.batch_size, config.seed)
    steps = plan.total_steps(config.student.epochs)
    workers = _workers(config)
    settings = {
        "config": to_dict(config),
        "storage": storage,
        "cycle": cycle,
        "start": start,
        "steps": steps,
        "scale": examples.details["scale"],
        "yes_threshold": examples.details["yes_threshold"],
    }
    # Ray Train finds a killed run's checkpoints by this name, so it must change when the examples or the settings do.
    name = "training-" + fingerprint([settled(config, "student"), config.seed, examples.commit, start])
    for old in storage.folders(f"cycle-{cycle}"):
        if "/training-" in old and not old.endswith(name):
            storage.remove(old)
    began = time.monotonic()
    with StageProgress(f"cycle {cycle} train", "steps", steps) as progress:
        _fit(storage, cycle, name, settings, workers, progress)
    outcome = storage.read_json(f"cycle-{cycle}/{name}.json")
    storage.remove(f"cycle-{cycle}/{name}")
    storage.remove(f"cycle-{cycle}/{name}.json")
    documents = int(outcome["documents"])
    details = {
        **outcome,
        "steps": steps,
        "documents_per_s": documents / max(1e-9, outcome["training_seconds"]),
        "start_seconds": time.monotonic() - began - outcome["training_seconds"],
        "loss": config.student.loss,
        "target": config.student.target,
        "examples": sum(known["rows"]),
        "skipped_documents": known["empty_shortlists"],
        "dropped_documents_an_epoch": plan.dropped_rows,
    }
    files = [
        name for name in storage.list(f"cycle-{cycle}/student", recursive=True) if not name.endswith("/manifest.json")
    ]
    return documents, files, details


def count_examples(storage: Storage, cycle: int) -> dict[str, Any]:
    """Task: rows a shard that are trained on, and train documents with an empty shortlist."""
    reader = ExampleReader(storage, cycle)
    return {"rows": reader.rows_of_shards, "empty_shortlists": reader.empty_shortlists}


def _workers(config: Config) -> int:
    """As configured, else one a GPU, else two on a CPU machine; never more than there are documents in a batch."""
    return min(config.student.workers or cluster_gpus() or 2, config.student.batch_size)


@ray.remote(num_cpus=0)
class Steps:
    """Actor: how many steps the first worker has done; what the driver's progress line shows."""

    def __init__(self) -> None:
        self.done = 0

    def at(self, step: int) -> None:
        """The first worker has done ``step`` steps."""
        self.done = step

    def get(self) -> int:
        """Steps done so far."""
        return self.done


def _fit(
    storage: Storage, cycle: int, name: str, settings: dict[str, Any], workers: int, progress: StageProgress
) -> None:
    counter = Steps.remote()  # type: ignore[attr-defined]
    config = settings["config"]["student"]
    use_gpu = cluster_gpus() > 0
    least = config["min_workers"]
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={**settings, "counter": counter},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=(least, workers) if 0 < least < workers else workers,
            use_gpu=use_gpu,
            resources_per_worker=None if use_gpu else {"CPU": _cpus(workers)},
        ),
        run_config=ray_train.RunConfig(
            name=name,
            storage_path=storage.path(f"cycle-{cycle}"),
            storage_filesystem=storage.filesystem,
            failure_config=ray_train.FailureConfig(max_failures=config["max_failures"]),
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=1),
        ),
    )
    fitted = ray.remote(num_cpus=0)(lambda: trainer.fit() and None).remote()
    with user_errors():
        while not ray.wait([fitted], timeout=POLL_S)[0]:
            progress.advance(ray.get(counter.get.remote()) - progress.done)
        ray.get(fitted)
    progress.advance(ray.get(counter.get.remote()) - progress.done)


def _cpus(workers: int) -> int:
    """CPUs of a worker on a CPU machine: an equal share of the largest node's, so that all fit on it."""
    return max(1, node_cpus() // workers)


def train_worker(settings: dict[str, Any]) -> None:
    """What every training worker runs (one process of the DDP group)."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    with tempfile.TemporaryDirectory(prefix="ezxmc-") as folder:
        worker = TrainWorker(settings, Path(folder))
        worker.train()
        worker.finish()


class TrainWorker:
    """One worker: its trainer, its part of the data, and what is known of the training so far.

    ``folder``: of this machine, for what goes from there into the run's directory.
    """

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.config: Config = from_dict(settings["config"])
        self.storage: Storage = settings["storage"]
        self.cycle: int = settings["cycle"]
        context = ray_train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        torch.manual_seed(self.config.seed)
        student = self.config.student
        scale = TargetScale(**settings["scale"])
        self.trainer = StudentTrainer(
            load_encoder(self.storage, self.config.encoder, settings["start"]),
            Objective(student, scale, settings["yes_threshold"]),
            settings["steps"],
            ray_train.torch.get_device(),
            self.config.seed,
            self.rank,
            self.world,
        )
        if self.world > 1:
            self.trainer.module = ray_train.torch.prepare_model(self.trainer.module)
        self.looks = Looks(student.patience)
        self.progress = self._restore()
        self.reader = ExampleReader(self.storage, self.cycle, past_verdicts=student.past_verdicts)
        self.plan = BatchPlan(self.reader.rows_of_shards, student.batch_size, self.config.seed)
        self.held_out: list[HeldOut] = []
        if student.validate_every_steps:
            wanted = held_out_documents(self.storage, self.cycle, student.validation_documents)
            self.held_out = wanted[self.rank :: self.world]
        names = student.trackers if self.rank == 0 else []
        title = f"{Path(self.config.run).name} cycle {self.cycle}"
        self.trackers = open_trackers(names, title, folder / TENSORBOARD, settings["config"]["student"])

    def train(self) -> None:
        """All steps that are still to be done, or fewer where the looks say so."""
        student, steps = self.config.student, self.settings["steps"]
        every = max(1, steps // CURVE_POINTS)
        began, before = time.monotonic(), self.progress["training_seconds"]
        for texts in ahead(self._texts, self.plan.batches(self.trainer.step_number, steps), READ_AHEAD):
            result = self.trainer.step(texts)
            step = self.trainer.step_number
            loss = self._sum(result.loss) / self.world
            self.progress["documents"] += texts.batch.global_documents
            if step % every == 0 or step in (1, steps):
                self._note(step, loss, result)
            self.progress["training_seconds"] = before + time.monotonic() - began
            if self.rank == 0:
                self.settings["counter"].at.remote(step)
            if student.validate_every_steps and (step % student.validate_every_steps == 0 or step == steps):
                self._look(step)
                if self.looks.should_stop():
                    self.progress["stopped_at"] = step
                    break
            if step % student.checkpoint_every_steps == 0 and step < steps:
                self._checkpoint()
        self.looks.take_best(self.trainer.encoder.module)

    def finish(self) -> None:
        """The first worker writes the student and what is known of its training; a barrier for all workers."""
        if self.rank == 0:
            self.trainer.encoder.save(self.folder / "student")
            copy_into(self.storage, self.folder / "student", f"cycle-{self.cycle}/student")
            name = ray_train.get_context().get_experiment_name()
            self.storage.write_json(f"cycle-{self.cycle}/{name}.json", self._outcome())
        for tracker in self.trackers:
            tracker.close()
        self._upload_events()
        ray_train.report({"documents": self.progress["documents"]})

    def _texts(self, rows: list[Row]) -> StepInput:
        return self.trainer.tokenize(self.reader.read(rows, self.rank, self.world))

    def _outcome(self) -> dict[str, Any]:
        looks = {"validation_curve": self.looks.curve, "best_step": self.looks.best_step}
        return {**self.progress, **looks, "workers": self.world}

    def _note(self, step: int, loss: float, result: StepResult) -> None:
        """A point of the curves."""
        self.progress["loss_curve"].append({"step": step, "loss": loss, "learning_rate": result.learning_rate})
        figures = {"loss": loss, "learning_rate": result.learning_rate, "gradient_norm": result.gradient_norm}
        for tracker in self.trackers:
            tracker.log(step, figures)

    def _look(self, step: int) -> None:
        """See how the student orders held-out shortlists; every worker takes its share of them."""
        student = self.config.student
        total, documents = look(self.trainer.encoder, self.held_out, student, self.trainer.objective.scale)
        everywhere = self._sum(documents)
        score = 100 * self._sum(total) / max(1, everywhere)
        if everywhere:
            self.looks.add(step, score, self.trainer.encoder.module)
            for tracker in self.trackers:
                tracker.log(step, {"held_out_ndcg": score})

    def _sum(self, value: float) -> float:
        """Over the workers. Each one's loss is weighted so that the mean is the mean over the global batch."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        if torch.distributed.get_backend() == "nccl":
            total = total.to(ray_train.torch.get_device())
        torch.distributed.all_reduce(total)
        return float(total)

    def _checkpoint(self) -> None:
        """Report a checkpoint of the model, the optimiser and the counts; a barrier for all workers."""
        checkpoint = None
        with tempfile.TemporaryDirectory(prefix="ezxmc-") as folder:
            if self.rank == 0:
                state = {"trainer": self.trainer.state(), "progress": self.progress, "looks": self.looks.state()}
                torch.save(state, os.path.join(folder, "state.pt"))
                checkpoint = ray_train.Checkpoint.from_directory(folder)
            ray_train.report({"step": self.trainer.step_number}, checkpoint=checkpoint)
        self._upload_events()

    def _upload_events(self) -> None:
        """Event files of TensorBoard go into the run; those of an earlier start of this training stay beside them."""
        for file in sorted((self.folder / TENSORBOARD).glob("events*")):
            self.storage.write_bytes(f"cycle-{self.cycle}/{TENSORBOARD}/{file.name}", file.read_bytes())

    def _restore(self) -> dict[str, Any]:
        """Load the latest checkpoint, if there is one; returns the counts so far."""
        checkpoint = ray_train.get_checkpoint()
        if checkpoint is None:
            curves: dict[str, Any] = {"loss_curve": [], "resumed_at": []}
            return {"documents": 0, "training_seconds": 0.0, "stopped_at": None, **curves}
        with checkpoint.as_directory() as folder:
            state = torch.load(os.path.join(folder, "state.pt"), map_location="cpu", weights_only=True)
        self.trainer.load_state(state["trainer"])
        self.looks.load_state(state["looks"])
        progress: dict[str, Any] = state["progress"]
        progress["resumed_at"].append(self.trainer.step_number)
        return progress

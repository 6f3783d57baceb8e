"""Stage ``train``: train the student of one cycle on the examples, with Ray Train (DDP).

    ezxmc train conf.yaml

In: cycle-c/examples/, documents/, the encoder to start from. Out: cycle-c/student/, a SentenceTransformer directory.
Every worker walks through the same seeded plan of global batches and takes its share of each, so the order does not
depend on the number of workers and can be taken up again at any step. Checkpoints go through Ray Train, which hands
them back after a worker or the driver has died.
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

from ezxmc_ray.config import Config, fingerprint, from_dict, settled, to_dict
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.cluster import cluster_gpus, node_cpus, run_task, user_errors
from ezxmc_ray.stages.context import Context
from ezxmc_ray.stages.shortlist import load_encoder
from ezxmc_ray.storage import Storage, copy_into
from ezxmc_ray.student.batches import BatchPlan
from ezxmc_ray.student.data import ExampleReader
from ezxmc_ray.student.loop import StudentTrainer
from ezxmc_ray.student.targets import TargetScale

POLL_S = 1.0
#: Steps between two points of the loss curve, at most this many points.
CURVE_POINTS = 500


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
        "workers": workers,
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
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={**settings, "counter": counter},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=None if use_gpu else {"CPU": _cpus(workers)}
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
    config, storage, cycle = from_dict(settings["config"]), settings["storage"], settings["cycle"]
    rank, world = ray_train.get_context().get_world_rank(), ray_train.get_context().get_world_size()
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    torch.manual_seed(config.seed)
    encoder = load_encoder(storage, config.encoder, settings["start"])
    trainer = StudentTrainer(
        encoder,
        config.student,
        config.encoder,
        settings["steps"],
        ray_train.torch.get_device(),
        config.seed,
        rank,
        world,
    )
    if world > 1:
        trainer.module = ray_train.torch.prepare_model(trainer.module)
    progress = _restore(trainer)
    reader = ExampleReader(storage, cycle)
    plan = BatchPlan(reader.rows_of_shards, config.student.batch_size, config.seed)
    scale = TargetScale(**settings["scale"])
    every = max(1, settings["steps"] // CURVE_POINTS)
    began, before = time.monotonic(), progress["training_seconds"]
    for step, rows in enumerate(plan.batches(trainer.step_number, settings["steps"]), trainer.step_number):
        batch = reader.read(rows, rank, world)
        result = trainer.step(batch, scale, settings["yes_threshold"])
        progress["documents"] += batch.global_documents
        loss = _mean_over_workers(result.loss, world)
        if step % every == 0 or step == settings["steps"] - 1:
            progress["loss_curve"].append({"step": step + 1, "loss": loss, "learning_rate": result.learning_rate})
        progress["training_seconds"] = before + time.monotonic() - began
        if rank == 0:
            settings["counter"].at.remote(step + 1)
        if (step + 1) % config.student.checkpoint_every_steps == 0 and step + 1 < settings["steps"]:
            _checkpoint(trainer, progress, rank)
    if rank == 0:
        with tempfile.TemporaryDirectory(prefix="ezxmc-") as folder:
            encoder.save(folder)
            copy_into(storage, Path(folder), f"cycle-{cycle}/student")
        storage.write_json(f"cycle-{cycle}/{ray_train.get_context().get_experiment_name()}.json", progress)
    ray_train.report({"documents": progress["documents"]})


def _mean_over_workers(loss: float, world: int) -> float:
    """Mean over the workers; each one's loss is weighted so that this is the mean over the global batch."""
    if world == 1:
        return loss
    total = torch.tensor(loss, dtype=torch.float64)
    if torch.distributed.get_backend() == "nccl":
        total = total.to(ray_train.torch.get_device())
    torch.distributed.all_reduce(total)
    return float(total) / world


def _checkpoint(trainer: StudentTrainer, progress: dict[str, Any], rank: int) -> None:
    """Report a checkpoint of the model, the optimiser and the counts; a barrier for all workers."""
    with tempfile.TemporaryDirectory(prefix="ezxmc-") as folder:
        checkpoint = None
        if rank == 0:
            torch.save({"trainer": trainer.state(), "progress": progress}, os.path.join(folder, "state.pt"))
            checkpoint = ray_train.Checkpoint.from_directory(folder)
        ray_train.report({"step": trainer.step_number}, checkpoint=checkpoint)


def _restore(trainer: StudentTrainer) -> dict[str, Any]:
    """Load the latest checkpoint, if there is one; returns the counts so far."""
    checkpoint = ray_train.get_checkpoint()
    if checkpoint is None:
        return {"documents": 0, "training_seconds": 0.0, "loss_curve": [], "resumed_at": []}
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, "state.pt"), map_location="cpu", weights_only=False)
    trainer.load_state(state["trainer"])
    progress: dict[str, Any] = state["progress"]
    progress["resumed_at"].append(trainer.step_number)
    return progress

"""One worker of the training that train.py measures, in a process of its own: the stage's own worker.

    python -m scale_bench.train_actor TOLD RANK OUTPUT

TOLD: a JSON file with what train.py wants. OUTPUT: seconds from this process's start to the first step, and the files
it had asked for until then; of the whole training what checkpoints took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

BEGAN = time.monotonic()  # the libraries are imported from here on
CHECKPOINTS = "simulated-checkpoints"
KNOBS = ["student.checkpoint_every_s=1"]
#: Labels and documents that each of the others tells of.
LABELS, DOCUMENTS = 480, 48


def main() -> None:
    """Train, and write the figures."""
    told, rank, output = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
    from ezxmc_ray.config import load_config
    from ezxmc_ray.stages.train_settings import TrainingPlace, TrainSettings
    from ezxmc_ray.stages.train_worker import TrainWorker
    from ezxmc_ray.student.targets import TargetScale
    from scale_bench.slow_storage import SimulatedObjectStore

    storage = SimulatedObjectStore(told["folder"], told["latency_ms"] / 1000)
    config = load_config(None, [f"run={told['folder']}", f"encoder.model={told['model']}", *KNOBS])
    size, scale = config.student.batch_size * told["workers"], TargetScale(0.5, 0.3, 0.5, 0.3)
    settings = TrainSettings(
        TrainingPlace.of_cycle(0), config, storage, 0, told["steps"], size, scale, 0.5, [], "simulated"
    )
    seen: list[dict[str, float]] = []
    with simulated_ray_train(told, rank, storage), tempfile.TemporaryDirectory() as scratch:
        worker = TrainWorker(settings, Path(scratch), BEGAN)
        step = worker.trainer.step

        def counted(texts: Any) -> Any:
            result = step(texts)
            asked = dict(storage.requests)
            files = {path for kind, path in asked if kind == "get" and "/shard-" in path}
            counts = {"files": len(files), "requests": sum(asked.values())}
            seen.append({"cpu_s": time.process_time(), **counts})
            return result

        with mock.patch.object(worker.trainer, "step", counted):
            worker.train()
    done = worker.progress
    result = {
        "first_step_s": done["first_step_seconds"],
        "first_step_cpu_s": seen[0]["cpu_s"],
        "files_before_first_step": seen[0]["files"],
        "requests_before_first_step": seen[0]["requests"],
        "steps": told["steps"],
        "files_in_all": seen[-1]["files"],
        "training_s": done["training_seconds"],
        "training_cpu_s": seen[-1]["cpu_s"] - seen[0]["cpu_s"],
        "checkpoints": done["checkpoints"],
        "checkpoint_s": done["checkpoint_seconds"] / max(1, done["checkpoints"]),
        "checkpoint_share": done["checkpoint_seconds"] / done["training_seconds"],
    }
    output.write_text(json.dumps(result))


@contextmanager
def simulated_ray_train(told: dict[str, Any], rank: int, storage: Any) -> Iterator[None]:
    """For the block ``ray.train`` is a simulation; and where this process is the only one, the other workers are."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from ezxmc_ray.stages import train_worker

    def report(metrics: dict[str, Any], checkpoint: str | None = None) -> None:
        for file in sorted(Path(checkpoint).iterdir()) if checkpoint else []:
            time.sleep(file.stat().st_size / 2**20 / told["upload_mib_s"])
            storage.write_bytes(f"{CHECKPOINTS}/{metrics['step']}/{file.name}", file.read_bytes())

    context = SimpleNamespace(
        get_world_rank=lambda: rank,
        get_world_size=lambda: told["workers"],
        get_experiment_name=lambda: "training-simulated",
    )
    wrap: Any = (lambda module: module) if told["simulated"] else DistributedDataParallel
    stand_in = SimpleNamespace(
        get_context=lambda: context,
        report=report,
        torch=SimpleNamespace(get_device=lambda: torch.device("cpu"), prepare_model=wrap),
        get_checkpoint=lambda: None,
        Checkpoint=SimpleNamespace(from_directory=lambda folder: folder),
    )
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(train_worker, "ray_train", stand_in))
        for board in ("report_phase", "report_done"):
            patches.enter_context(mock.patch.object(train_worker, board, lambda *_: None))
        if told["simulated"]:
            patches.enter_context(simulated_others(told, storage))
        else:
            store = f"file://{told['folder']}/simulated-store"
            distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=told["workers"])
        yield


@contextmanager
def simulated_others(told: dict[str, Any], storage: Any) -> Iterator[None]:
    """The workers after this one, the first: what they tell it is by chance, and there at once."""
    import numpy as np
    import torch
    from torch import Tensor, nn

    from ezxmc_ray.stages import train_worker
    from ezxmc_ray.student import loop
    from ezxmc_ray.student.summary import OWN, read_label_documents

    shortlisted = np.flatnonzero(read_label_documents(storage, 0, OWN, told["labels"])).astype(np.int32)
    draw, count = np.random.default_rng(0), told["workers"] - 1

    def gather(own: Any) -> list[Any]:
        if len(own) == 1:  # the name of the number format, which is the same for all
            return [own] * (count + 1)
        labels = [np.unique(draw.choice(shortlisted, LABELS)) for _ in range(count)]
        return [own, *((one, draw.random(DOCUMENTS).astype(np.float32)) for one in labels)]

    def gather_rows(own: Tensor, rows_per_worker: int) -> Tensor:
        others = nn.functional.normalize(torch.randn(count * rows_per_worker, own.shape[1]), dim=1)
        return torch.cat([nn.functional.pad(own, (0, 0, 0, rows_per_worker - len(own))), others])

    with (
        mock.patch.object(train_worker, "gathered_on_cpus", lambda: gather),
        mock.patch.object(loop, "gather_rows", gather_rows),
        mock.patch.object(train_worker.TrainWorker, "_sums", lambda self, *values: list(values)),
    ):
        yield


if __name__ == "__main__":
    main()

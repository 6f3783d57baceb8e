"""One training worker beside a simulated Ray Train that keeps its last checkpoint; no Ray."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import train_worker
from ezxmc_ray.stages.train_settings import CROSS_PLACE, TrainingPlace, TrainSettings
from ezxmc_ray.stages.train_worker import TrainWorker
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.cross_training import cross_encoder_training
from ezxmc_ray.student.loop import StudentTrainer
from ezxmc_ray.student.pair_loop import PairTrainer
from tests.stages.test_train import SETTINGS, write_examples
from tests.student.toy import SCALE, save_tiny_bert

pytestmark = pytest.mark.usefixtures("one_thread")

OF_CYCLE = TrainingPlace.of_cycle(0)


class SimulatedRayTrain:
    """What a worker asks of ``ray.train``: it is the only one, and ``kept`` is its last checkpoint."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.steps: list[int] = []
        self.torch = SimpleNamespace(get_device=lambda: "cpu")
        self.Checkpoint = self

    def get_context(self) -> Any:
        name = "training-simulated"
        return SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_experiment_name=lambda: name)

    def from_directory(self, folder: str) -> str:
        return folder

    def report(self, metrics: dict[str, Any], checkpoint: str | None = None) -> None:
        if checkpoint:
            shutil.copytree(checkpoint, self.kept, dirs_exist_ok=True)
            self.steps.append(metrics["step"])

    def get_checkpoint(self) -> Any:
        from ray.train import Checkpoint

        return Checkpoint.from_directory(str(self.kept)) if self.kept.exists() else None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("encoder"), 0.1)


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedRayTrain:
    found = SimulatedRayTrain(tmp_path / "kept")
    monkeypatch.setattr(train_worker, "ray_train", found)
    for name in ("report_phase", "report_done"):
        monkeypatch.setattr(train_worker, name, lambda *_: None)
    return found


def worker_of(
    folder: Path, encoder: Path, batch_size: int, steps: int, *knobs: str, place: TrainingPlace = OF_CYCLE
) -> TrainWorker:
    config = load_config(None, [f"run={folder}", f"encoder.model={encoder}", *SETTINGS, *knobs])
    storage = Storage(config.run)
    if not storage.exists("labels.parquet"):
        write_examples(storage, held_out=0)
    if place.is_cross_encoder:
        config = cross_encoder_training(config)
    settings = TrainSettings(place, config, storage, 0, steps, batch_size, SCALE, 0.5, [], "command")
    (folder / "worker").mkdir(exist_ok=True)
    return TrainWorker(settings, folder / "worker", time.monotonic() - 100)


def test_checkpoints_are_counted_and_training_goes_on_from_the_last(
    encoder: Path, tmp_path: Path, simulated: SimulatedRayTrain
) -> None:
    first = worker_of(tmp_path, encoder, 8, 10)
    first.train()
    assert simulated.steps == list(range(1, 10)) and first.progress["checkpoints"] == 9
    assert 0 < first.progress["checkpoint_seconds"] < first.progress["training_seconds"]
    again = worker_of(tmp_path, encoder, 8, 10)
    assert again.progress["resumed_at"] == [9] and again.progress["checkpoints"] == 9
    assert 100 < first.progress["first_step_seconds"] < 100 + 60
    again.progress["first_step_seconds"] = None
    again.train()
    assert 100 < again.progress["first_step_seconds"] < 100 + 60  # of the last start
    losses = [[point["loss"] for point in one.progress["loss_curve"]] for one in (again, first)]
    assert len(losses[0]) == 10 and losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize(
    ("other", "common"), [("float16", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")]
)
def test_workers_on_gpus_of_several_kinds_train_in_one_format(
    encoder: Path,
    tmp_path: Path,
    simulated: SimulatedRayTrain,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
    common: str,
) -> None:
    """One of two simulated workers computes in bfloat16: of scaled and other gradients the mean would be neither."""
    two = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 2, get_experiment_name=lambda: "simulated")
    monkeypatch.setattr(simulated, "get_context", lambda: two)
    simulated.torch.prepare_model = lambda module: module
    monkeypatch.setattr(train_worker, "gathered_on_cpus", lambda: lambda own: [own, (np.array(other),)])
    monkeypatch.setattr(train_worker, "dtype_name", lambda device, dtype: "bfloat16")
    trainer = worker_of(tmp_path, encoder, 8, 10, "student.dtype=auto", "student.validate_every_steps=0").trainer
    assert trainer.config.dtype == common


def test_no_checkpoint_before_its_time(encoder: Path, tmp_path: Path, simulated: SimulatedRayTrain) -> None:
    worker = worker_of(tmp_path, encoder, 8, 5, "student.checkpoint_every_s=1000")
    worker.train()
    assert simulated.steps == [] and worker.progress["checkpoints"] == 0


@pytest.mark.usefixtures("simulated")
def test_memory_that_runs_out_before_the_first_step_is_one_sentence(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_full_device(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    settings = worker_of(tmp_path, encoder, 8, 5).settings
    monkeypatch.setattr(StudentTrainer, "__init__", fake_full_device)
    with pytest.raises(UserError, match=r"^Memory ran out when the training was set up: take a smaller encoder\.model"):
        train_worker.train_worker(settings, 0.0)


@pytest.mark.usefixtures("simulated")
def test_a_step_of_many_workers_has_its_documents_and_its_learning_rate(encoder: Path, tmp_path: Path) -> None:
    """Of a training that was begun with four workers, and goes on with one."""
    worker = worker_of(tmp_path, encoder, 32, 2, "student.learning_rate=1e-3", "student.warmup_share=0")
    worker.train()
    assert worker.progress["documents"] == 40  # 32, and the 8 that are left
    assert worker.progress["loss_curve"][0]["learning_rate"] == pytest.approx(2e-3)


def test_a_cross_encoder_begins_as_the_student_and_is_written_to_its_own_place(
    encoder: Path, tmp_path: Path, simulated: SimulatedRayTrain
) -> None:
    student = Encoder.load(str(encoder), load_config(None, SETTINGS).encoder, "cpu")
    with torch.no_grad():
        for weights in student.module.parameters():
            weights.add_(0.01)  # what it learned
    student.save(tmp_path / layout.STUDENT)
    knobs = ["cross_encoder.max_document_tokens=16", "student.trackers=[tensorboard]"]
    first = worker_of(tmp_path, encoder, 4, 8, *knobs, place=CROSS_PLACE)
    assert isinstance(first.trainer, PairTrainer)
    begun = first.trainer.encoder.module[0].state_dict()
    assert all(torch.equal(begun[name], weights) for name, weights in student.module[0].state_dict().items())
    first.train()
    again = worker_of(tmp_path, encoder, 4, 8, *knobs, place=CROSS_PLACE)
    assert again.progress["resumed_at"] == [7] == simulated.steps[-1:]
    again.train()
    again.finish()
    losses = [[point["loss"] for point in one.progress["loss_curve"]] for one in (again, first)]
    assert len(losses[0]) == 8 and losses[0] == pytest.approx(losses[1])
    written = CrossEncoder.load(str(tmp_path / layout.CROSS_NETWORK), first.trainer.encoder.config, "cpu")
    texts = (["", ""], ["river tax", "law"], [["glass", "salt"], ["cloud"]])
    expected, found = (np.concatenate(one.pairs.scores(*texts)) for one in (first.trainer.encoder, written))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    storage = again.storage
    assert storage.read_json(layout.training_outcome(layout.CROSS_ENCODER, "training-simulated"))["documents"] == 32
    assert storage.list(layout.tensorboard(layout.CROSS_ENCODER)) and not storage.list(layout.tensorboard("cycle-0"))
    assert not storage.list(layout.cycle_student(0))

"""Several workers, each a process, find the gradients that one worker finds on the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ezxmc_ray.storage import Storage
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.loop import StudentTrainer
from tests.student.pair_toy import PAIR_CASES, PAIR_WORLD, pair_batch, pair_trainer
from tests.student.toy import gradients, learn, save_tiny_bert, trainer
from tests.student.worker import CASES, PARTS, READ, WORLDS, batch_of, batch_read, take_steps, write_run

ROOT = Path(__file__).parents[2]
Found = list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("model"), dropout=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the run that the workers read."""
    found = tmp_path_factory.mktemp("workers")
    write_run(Storage(str(found / "run")))
    return found


@pytest.fixture(scope="module")
def workers(model: Path, folder: Path) -> Found:
    """What each process found, of which this one is the first: loss and gradients by number of workers and case."""
    script = str(Path(__file__).with_name("worker.py"))
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    others = range(1, max(WORLDS))
    started = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(model), str(folder), f"{folder}/{rank}.npz"], env=environment
        )
        for rank in others
    ]
    own = take_steps(0, model, folder)
    assert [process.wait(240) for process in started] == [0] * len(others)
    return [own, *(dict(np.load(folder / f"{rank}.npz")) for rank in others)]


@pytest.mark.parametrize("case", CASES)
def test_workers_find_the_gradients_of_one_on_the_joint_batch(case: str, model: Path, workers: Found) -> None:
    batch = batch_of(CASES[case]["loss"], None)
    assert_gradients(model, batch, workers, f"{len(PARTS)}/{case}", **CASES[case])


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("world", WORLDS)
def test_workers_that_read_their_parts_find_the_gradients_of_one_that_reads_all(
    case: str, world: int, model: Path, folder: Path, workers: Found
) -> None:
    batch = batch_read(folder, READ[case])
    assert len(batch.document_texts) == 6
    assert_gradients(model, batch, workers[:world], f"{world}/{case}")


@pytest.mark.parametrize("case", PAIR_CASES)
def test_two_workers_find_the_gradients_of_one_on_pairs(case: str, model: Path, workers: Found) -> None:
    """Of a cross-encoder."""
    alone = pair_trainer(model, 3, max_gradient_norm=1e9)
    assert_averaged(alone, pair_batch(case, None), workers[:PAIR_WORLD], case)


def assert_gradients(model: Path, batch: Batch, workers: Found, case: str, **knobs: object) -> None:
    assert_averaged(trainer(model, 3, max_gradient_norm=1e9, **knobs), batch, workers, case)


def assert_averaged(alone: StudentTrainer, batch: Batch, workers: Found, case: str) -> None:
    """What the ``workers`` found of ``case`` is what ``alone`` finds of the whole ``batch``."""
    expected = learn(alone, batch)
    assert np.mean([found[f"{case}/loss"] for found in workers]) == pytest.approx(expected.loss, rel=1e-5)
    own = gradients(alone)
    assert max(float(np.abs(gradient).max()) for gradient in own.values()) > 1e-2
    for name, gradient in own.items():
        for found in workers:  # which DDP has averaged
            np.testing.assert_allclose(found[f"{case}/{name}"], gradient, atol=1e-5, rtol=1e-5, err_msg=name)

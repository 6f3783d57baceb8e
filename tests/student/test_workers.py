"""Several workers, each a process, find the gradients that one worker finds on the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.student.toy import gradients, learn, save_tiny_bert, trainer
from tests.student.worker import CASES, PARTS, batch_of, take_steps

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("model"), dropout=0.0)


@pytest.fixture(scope="module")
def workers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What each of three processes found, of which this one is the first: loss and gradients by case."""
    folder = tmp_path_factory.mktemp("workers")
    script = str(Path(__file__).with_name("worker.py"))
    world, store = len(PARTS), folder / "store"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    started = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), str(model), str(store), f"{folder}/{rank}.npz"],
            env=environment,
        )
        for rank in range(1, world)
    ]
    own = take_steps(0, world, model, store)
    assert [process.wait(240) for process in started] == [0] * (world - 1)
    return [own, *(dict(np.load(folder / f"{rank}.npz")) for rank in range(1, world))]


@pytest.mark.parametrize("case", CASES)
def test_workers_find_the_gradients_of_one_on_the_joint_batch(
    case: str, model: Path, workers: list[dict[str, np.ndarray]]
) -> None:
    alone = trainer(model, 3, max_gradient_norm=1e9, **CASES[case])
    expected = learn(alone, batch_of(CASES[case]["loss"], None))
    assert np.mean([found[f"{case}/loss"] for found in workers]) == pytest.approx(expected.loss, rel=1e-5)
    own = gradients(alone)
    assert max(float(np.abs(gradient).max()) for gradient in own.values()) > 1e-2
    for name, gradient in own.items():
        for found in workers:  # which DDP has averaged
            np.testing.assert_allclose(found[f"{case}/{name}"], gradient, atol=1e-5, rtol=1e-5)

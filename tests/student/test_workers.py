"""Several workers, each a process, find the gradients that one worker finds on the joint batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ezxmc_ray.student.data import Batch
from tests.student.toy import LOSSES, gradients, learn, save_tiny_bert, toy_batch, trainer

ROOT = Path(__file__).parents[2]
#: Two documents, one document, none: a worker may have nothing to do.
PARTS = [slice(0, 2), slice(2, 3), slice(3, 3)]
CASES: dict[str, dict[str, object]] = {
    **{loss: {"loss": loss} for loss in LOSSES},
    "gradient cache": {"loss": "listwise", "gradient_cache": True},
    "likely false negatives": {"loss": "infonce", "false_negative_ratio": 0.5},
}


def batch_of(loss: object, rank: int | None) -> Batch:
    """A worker's part of three documents (None: all); for losses of positives, one of them has no yes."""
    batch = toy_batch(1, documents=3, part=slice(None) if rank is None else PARTS[rank])
    if loss in ("lmtx", "infonce"):
        batch.best_verdict[0] = 0.0
        if rank in (None, 0):
            batch.verdict[0] = np.where(np.isfinite(batch.verdict[0]), 0.0, np.nan)
    return batch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("model"), dropout=0.0)


@pytest.fixture(scope="module")
def workers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What each of three processes found: loss and gradients by case."""
    folder = tmp_path_factory.mktemp("workers")
    script = str(Path(__file__).with_name("worker.py"))
    world = len(PARTS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    started = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), str(model), str(folder / "store"), f"{folder}/{rank}.npz"],
            env=environment,
        )
        for rank in range(world)
    ]
    assert [process.wait(240) for process in started] == [0] * world
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(world)]


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

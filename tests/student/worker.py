"""One of several real processes (gloo) that take the same steps: ``worker.py RANK WORLD MODEL STORE OUTPUT``.

OUTPUT, an .npz file: each case's loss and gradients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ezxmc_ray.student.data import Batch
from tests.student.toy import LOSSES, gradients, learn, toy_batch, trainer

#: Two documents, one document, none: a worker may have nothing to do.
PARTS = [slice(0, 2), slice(2, 3), slice(3, 3)]
CASES: dict[str, dict[str, object]] = {
    **{loss: {"loss": loss} for loss in LOSSES},
    "gradient cache": {"loss": "listwise", "gradient_cache": True},
}


def batch_of(loss: object, rank: int | None) -> Batch:
    """A worker's part of three documents (None: all); for losses of positives, one of them has no yes."""
    batch = toy_batch(1, documents=3, part=slice(None) if rank is None else PARTS[rank])
    if loss in ("lmtx", "infonce"):
        batch.best_verdict[0] = 0.0
        if rank in (None, 0):
            batch.verdict[0] = np.where(np.isfinite(batch.verdict[0]), 0.0, np.nan)
    return batch


def take_steps(rank: int, world: int, model: Path, store: Path) -> dict[str, np.ndarray]:
    """Take a step of every case, as one of the workers: loss and gradients by case."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found: dict[str, np.ndarray] = {}
    for name, knobs in CASES.items():
        one = trainer(model, 3, rank=rank, world=world, max_gradient_norm=1e9, **knobs)
        one.module = DistributedDataParallel(one.module)
        result = learn(one, batch_of(knobs["loss"], rank))
        found[f"{name}/loss"] = np.array(result.loss)
        found |= {f"{name}/{weights}": gradient for weights, gradient in gradients(one).items()}
    distributed.destroy_process_group()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez(sys.argv[5], **take_steps(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))

"""One of several real processes (gloo) that take the same steps: ``worker.py RANK WORLD MODEL STORE OUTPUT``.

OUTPUT, an .npz file: each case's loss and gradients. The cases are test_workers.CASES.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.student.test_workers import CASES, batch_of
from tests.student.toy import gradients, learn, trainer


def main() -> None:
    """Take a step of every case, as one of the workers."""
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    model, store, output = (Path(path) for path in sys.argv[3:])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found: dict[str, np.ndarray] = {}
    for name, knobs in CASES.items():
        one = trainer(model, 3, rank=rank, world=world, max_gradient_norm=1e9, **knobs)
        one.module = DistributedDataParallel(one.module)
        result = learn(one, batch_of(knobs["loss"], rank))
        found[f"{name}/loss"] = np.array(result.loss)
        found |= {f"{name}/{weights}": gradient for weights, gradient in gradients(one).items()}
    distributed.destroy_process_group()
    np.savez(output, **found)


if __name__ == "__main__":
    main()

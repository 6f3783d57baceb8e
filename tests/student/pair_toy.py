"""What the tests of the cross-encoder's training share: a trainer, and the steps that worker.py takes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ezxmc_ray.config import load_config
from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.student.cross_training import cross_encoder_training
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.student.pair_loop import PairTrainer
from tests.student.toy import ENCODER, SCALE, YES_THRESHOLD, averaged_step, process_group, toy_batch

SETTINGS = ["cross_encoder.learning_rate=1e-3", "cross_encoder.max_document_tokens=16", "student.batch_tokens=32"]
SETTINGS += ["student.dtype=float32"]
PAIR_WORLD = 2
#: By case what the two workers have of three documents, of which of these nothing was judged, and knobs.
PAIR_CASES: dict[str, tuple[tuple[slice, slice], list[int], dict[str, object]]] = {
    "two and one": ((slice(0, 2), slice(2, 3)), [], {}),
    "none and all": ((slice(0, 0), slice(0, 3)), [], {}),
    "one that is not judged": ((slice(0, 2), slice(2, 3)), [0], {}),
    "nothing judged, gradient cache": ((slice(0, 2), slice(2, 3)), [2], {"gradient_cache": True}),
}


def pair_trainer(directory: Path, total_steps: int, rank: int = 0, world: int = 1, **knobs: object) -> PairTrainer:
    """A trainer of a cross-encoder that begins as the encoder in ``directory``; ``knobs``: of StudentConfig."""
    student = replace(cross_encoder_training(load_config(None, SETTINGS)).student, **knobs)  # type: ignore[arg-type]
    encoder = Encoder.load(str(directory), ENCODER, "cpu")
    torch.manual_seed(0)
    cross = CrossEncoder.begin(encoder, ENCODER)
    return PairTrainer(cross, Objective(student, SCALE, YES_THRESHOLD), total_steps, "cpu", 7, rank, world)


def pair_batch(case: str, rank: int | None) -> Batch:
    """A worker's part of three documents (None: all)."""
    parts, unjudged, _ = PAIR_CASES[case]
    part = slice(None) if rank is None else parts[rank]
    batch = toy_batch(1, documents=3, part=part)
    batch.best_verdict[unjudged] = -np.inf
    for row, document in enumerate(range(3)[part]):
        if document in unjudged:
            batch.verdict[row] = np.nan
    return batch


def take_pair_steps(rank: int, model: Path, folder: Path) -> dict[str, np.ndarray]:
    """Take a step of every case, as one of the two workers: loss and gradients by case."""
    found: dict[str, np.ndarray] = {}
    with process_group(folder / "store-pairs", rank, PAIR_WORLD):
        for case, (_, _, knobs) in PAIR_CASES.items():
            one = pair_trainer(model, 3, rank=rank, world=PAIR_WORLD, max_gradient_norm=1e9, **knobs)
            found |= averaged_step(one, pair_batch(case, rank), case)
            del one
    return found

"""How many documents a step has on clusters that are simulated by their numbers of GPUs; no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.stages import train
from ezxmc_ray.stages.train import begun_batch_size, useful_workers
from ezxmc_ray.storage import Storage


def test_gpus_that_a_small_batch_has_no_work_for_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "cluster_gpus", lambda: 64)
    monkeypatch.setattr(train, "cluster_limit", lambda kind: 64)
    config = load_config(None, [])
    assert [useful_workers(config, size) for size in (5, 48, 511, 3072)] == [1, 6, 63, 64]
    assert useful_workers(load_config(None, ["student.workers=9"]), 5) == 5


def test_a_training_keeps_the_batch_that_it_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, config = Storage(str(tmp_path)), load_config(None, [])
    for gpus, name, documents in ((4, "training-a", 192), (2, "training-a", 192), (2, "training-b", 96)):
        monkeypatch.setattr(train, "cluster_gpus", lambda gpus=gpus: gpus)
        monkeypatch.setattr(train, "cluster_limit", lambda kind, gpus=gpus: gpus)
        assert begun_batch_size(storage, layout.cycle_folder(0), name, config, 1_000_000) == documents
    # The training of another place is another one.
    assert begun_batch_size(storage, layout.CROSS_ENCODER, "training-a", config, 1_000_000) == 96

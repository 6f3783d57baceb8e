"""Elastic training on a simulated cluster of two nodes (both on this machine): one is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.stages.test_train import training
from tests.student.toy import save_tiny_bert

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
#: 5 steps an epoch, each with a checkpoint, of which Ray Train makes one in 2 s.
KNOBS = ["student.epochs=8", "student.checkpoint_every_s=0", "student.dtype=float32"]


@pytest.fixture
def simulated_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The driver's node and another one, of one CPU each."""
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def lose_the_other_node(cluster: Cluster, run: Path, lost: list[float]) -> None:
    """Remove the second node when the training has a checkpoint that counts."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        notes = run.glob("cycle-0/training-*/checkpoint_manager_snapshot.json")
        if any("checkpoint_2" in note.read_text() for note in notes):
            cluster.remove_node(next(node for node in cluster.list_all_nodes() if not node.head), allow_graceful=False)
            lost.append(time.monotonic())
            return
        time.sleep(0.1)


def test_a_lost_node_leaves_one_worker_which_goes_on_to_the_same_losses(
    simulated_cluster: Cluster, tmp_path: Path
) -> None:
    encoder = save_tiny_bert(tmp_path / "encoder", 0.1)
    work, step = training(tmp_path / "alone", encoder, *KNOBS, "student.dropout=false")
    alone = work.execute(step).details
    knobs = [*KNOBS, "student.dropout=false", "student.workers=2", "student.min_workers=1"]
    work, step = training(tmp_path / "elastic", encoder, *knobs)
    lost: list[float] = []
    watcher = threading.Thread(target=lose_the_other_node, args=(simulated_cluster, tmp_path / "elastic", lost))
    watcher.start()
    details = work.execute(step).details
    watcher.join()
    assert lost, "the training ended before its node could be lost"
    assert alone["workers"] == 1 and alone["resumed_at"] == []
    assert details["workers"] == 1
    assert len(details["resumed_at"]) == 1 and 0 < details["resumed_at"][0] < details["steps"]
    assert [point["step"] for point in details["loss_curve"]] == [point["step"] for point in alone["loss_curve"]]
    found, expected = ([point["loss"] for point in one["loss_curve"]] for one in (details, alone))
    assert found == pytest.approx(expected, abs=1e-4)

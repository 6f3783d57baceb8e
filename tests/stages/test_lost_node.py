"""A simulated cluster of three nodes (all on this machine), of which one is lost while a pool works and none comes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from ezxmc_ray.cluster.kept import end_actors
from ezxmc_ray.cluster.pools import Pool, map_files, map_items, map_over_engines
from ezxmc_ray.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ITEMS, LOST_AFTER = 30, 6


class Writes:
    """Takes its time for an item, and commits the item's file, which says on which node it was made."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.4)
        node = ray.get_runtime_context().get_node_id()
        self.storage.write_table(item["file"], pa.table({"node": [node]}), {"documents": 1})
        return {"documents": 1, "shard": item["shard"]}


@pytest.fixture
def simulated_cluster() -> Iterator[Cluster]:
    """The driver's node and two others, of one CPU and one simulated GPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        end_actors()
        ray.shutdown()
        cluster.shutdown()


def lose_a_node(cluster: Cluster, storage: Storage, folder: str, lost: list[str]) -> None:
    """Kill a node that has committed files, when there are some files, as a machine goes that fails."""
    deadline = time.monotonic() + 120
    while len(there := storage.list(folder, ".parquet")) < LOST_AFTER and time.monotonic() < deadline:
        time.sleep(0.05)
    made_on = {storage.read_table(name)["node"][0].as_py() for name in there}
    node = next(one for one in cluster.list_all_nodes() if not one.head and one.node_id in made_on)
    cluster.remove_node(node, allow_graceful=False)
    lost.append(node.node_id)


def test_the_items_of_a_lost_node_are_done_by_the_others_each_once(simulated_cluster: Cluster, tmp_path: Path) -> None:
    storage, pool = Storage(str(tmp_path)), Pool(size=3, cpus=1, gpus=1)
    # Engines first, since what encoders hold is kept; then, on the two nodes that are left, encoders lose another one.
    for folder, count in (("engines", 3), ("encoders", 2)):
        items: list[Any] = [{"shard": n, "file": f"{folder}/{n:03d}.parquet"} for n in range(ITEMS)]
        lost: list[str] = []
        watcher = threading.Thread(target=lose_a_node, args=(simulated_cluster, storage, folder, lost))
        watcher.start()
        if folder == "engines":
            done = [one["shard"] for one in map_over_engines(items, Writes, (storage,), pool)]
        else:
            done = [one["shard"] for one in map_files(storage, items, Writes, (storage,), pool)]
        watcher.join()
        assert lost, "the items were done before a node could be lost"
        assert sorted(done) == list(range(ITEMS))
        made_on = Counter(storage.read_table(name)["node"][0].as_py() for name in storage.list(folder, ".parquet"))
        assert sum(made_on.values()) == ITEMS
        assert len(made_on) == count and made_on[lost[0]] < ITEMS / count
    # The actor that found no room does not go on asking for it, and the next mapping has the one that is left.
    assert len(list(map_items([{"shard": 0, "file": "again.parquet"}], Writes, (storage,), pool))) == 1

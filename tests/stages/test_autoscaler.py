"""A real autoscaler of Ray, whose nodes are processes of this machine with pretended GPUs: none is there at first."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import _raylet
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import ClusterConfig as ClusterTypes
from ray.experimental.internal_kv import _internal_kv_put

from ezxmc_ray.cluster import session
from ezxmc_ray.cluster.pools import Pool, encoder_pool, gpu_cpus
from ezxmc_ray.cluster.session import ray_cluster, wait_for_gpus
from ezxmc_ray.config import ClusterConfig

pytestmark = pytest.mark.timeout(180)


def autoscaler_config(gcs_address: str) -> dict[str, Any]:
    """As `ray up` leaves it on the head: up to two nodes, of three of the type, with two GPUs each."""
    provider = {"type": "fake_multinode", "gcs_address": gcs_address, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    gpu_node = {"resources": {"CPU": 4, "GPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3}
    head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    nothing = {name: {} for name in ("auth", "docker", "file_mounts")} | {"cluster_synced_files": []}
    commands = [f"{one}_commands" for one in ("setup", "head_setup", "worker_setup", "initialization")]
    return {
        "cluster_name": "pretended",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": provider,
        "available_node_types": {FAKE_HEAD_NODE_TYPE: head, "gpu": gpu_node},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        **nothing,
        **{name: [] for name in [*commands, "head_start_ray_commands", "worker_start_ray_commands"]},
    }


@pytest.fixture
def simulated_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head with an autoscaler."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(autoscaler_config(address)))
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    head = {"num_cpus": 1, "gcs_server_port": port, "autoscaling_config": str(file)}
    head["env_vars"] = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield address
    finally:
        cluster.shutdown()
        for process in psutil.process_iter(["cmdline"]):  # nodes that the autoscaler brought, by this port
            if f"--gcs-address={address}" in (process.info["cmdline"] or []):
                process.kill()


def test_pools_ask_for_what_the_autoscaler_may_bring_and_it_is_brought(simulated_cluster: str) -> None:
    with ray_cluster(ClusterConfig(address=simulated_cluster, wait_s=100)):
        assert session.gpus_there() == 0
        assert (session.cluster_limit("GPU"), session.cluster_limit("CPU"), session.node_gpus()) == (4, 9, 2)
        assert encoder_pool() == Pool(size=4, cpus=2, gpus=1)
        assert encoder_pool(2) == Pool(size=2, cpus=4, gpus=2)
        wait_for_gpus()
        assert session.gpus_there() == 2
        assert session.pool_gpus() == 4
        session.joined_as(ClusterConfig(max_gpus=16))
        assert session.pool_gpus() == 16


@pytest.mark.slow
def test_a_cluster_without_an_autoscaler_here_is_as_large_as_it_is_until_its_platform_tells(
    simulated_cluster: str,
) -> None:
    """The other cluster's autoscaler is on this machine. What a platform tells is put where it would put it."""
    ours = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    told = ClusterTypes(
        node_group_configs=[
            {"name": "there", "resources": {"CPU": 24, "GPU": 4}, "max_count": 3},
            {"name": "not any more", "resources": {"CPU": 2, "GPU": 8}, "max_count": 0},
        ]
    )
    try:
        with ray_cluster(ClusterConfig(address=ours.address)):
            assert (session.cluster_limit("GPU"), session.node_gpus()) == (0, 0)
            compiled: Any = _raylet
            key = compiled.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode()
            namespace = compiled.GCS_AUTOSCALER_STATE_NAMESPACE.encode()
            _internal_kv_put(key, told.SerializeToString(), overwrite=True, namespace=namespace)
            assert (session.cluster_limit("GPU"), session.node_gpus(), gpu_cpus()) == (12, 4, 6)
    finally:
        ours.shutdown()

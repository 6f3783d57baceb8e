"""cluster.yaml against the schema and the preparation that ``ray up`` puts it through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    return prepared


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    validate_config(cluster)


def test_the_driver_runs_on_the_head_and_the_work_on_gpu_nodes(cluster: dict[str, Any]) -> None:
    nodes = cluster["available_node_types"]
    assert nodes[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [node for name, node in nodes.items() if name != cluster["head_node_type"]]
    assert [node["resources"]["GPU"] for node in workers] == [1]
    assert all(0 <= node["min_workers"] <= node["max_workers"] <= cluster["max_workers"] for node in workers)


def test_the_rights_that_the_autoscaler_needs_are_the_heads_alone(cluster: dict[str, Any]) -> None:
    """Ray leaves a profile that is given as it is: one that knows the bucket only can start no worker."""
    nodes = cluster["available_node_types"]
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in nodes.items()}
    assert profiles == {"head": "profile-of-the-head", "gpu_worker": "profile-of-the-workers"}
    comment = (ROOT / "cluster.yaml").read_text().partition("cluster_name:")[0]
    head, _, workers = comment.partition("#   head")[2].partition("#   workers")
    for right in ("ec2:RunInstances", "CreateTags", "DescribeInstances", "TerminateInstances", "iam:PassRole"):
        assert right in head and right not in workers.partition("# Whoever")[0]


def test_every_node_installs_the_gpu_lock_over_the_same_ray(cluster: dict[str, Any]) -> None:
    install = "pip install --no-deps -r /home/ray/requirements/gpu.txt"
    assert install in cluster["head_setup_commands"]
    assert install in cluster["worker_setup_commands"]
    # What starts workers there is the image's own, beside other packages than it came with: a node that lacks it fails.
    commands = cluster["head_setup_commands"]
    assert any("pyopenssl>=25.3" in one and "import boto3" in one for one in commands[commands.index(install) + 1 :])
    assert (ROOT / cluster["file_mounts"]["/home/ray/requirements"] / "gpu.txt").is_file()
    pins = dict(
        line.split("==") for line in (ROOT / "requirements" / "gpu.txt").read_text().splitlines() if "==" in line
    )
    assert cluster["docker"]["image"] == f"rayproject/ray:{pins['ray']}-py311-gpu"

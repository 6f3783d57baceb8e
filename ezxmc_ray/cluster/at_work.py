"""Whether anything of this command is at work on the cluster, or all of it waits for room.

Ray tells how much is asked for by all its jobs, not by whom. So the table of actors is asked for those of this job, and
the nodes for its processes. Neither needs Ray's dashboard.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import ray
from ray._private.internal_api import node_stats
from ray._private.state import actors
from ray.core.generated.common_pb2 import WORKER


def actors_at_work(class_name: str) -> bool:
    """Whether an actor of this job, of a class whose name begins so, is there or is being made where it has room.

    Ray says of neither that it is: of one that it makes, or makes again, a process of that number is looked for.
    """
    job = ray.get_runtime_context().get_job_id()
    ours = [
        one
        for one in actors(job_id=ray.JobID(bytes.fromhex(job))).values()
        if one["State"] != "DEAD" and one["ActorClassName"].startswith(class_name)
    ]
    if any(one["State"] == "ALIVE" for one in ours):
        return True
    places = {(one["Address"]["NodeID"], one["Pid"]) for one in ours if one["Pid"]}
    try:
        return any((node, worker.pid) in places for node, worker in _workers(job, {node for node, _ in places}))
    except grpc.RpcError:  # a machine that is very busy has word of nothing: then it is not for want of room
        return True


def tasks_at_work() -> bool:
    """Whether a process of this job does a task now; asks every node."""
    nodes = {node["NodeID"] for node in ray.nodes()}
    try:
        return any(worker.num_running_tasks for _, worker in _workers(ray.get_runtime_context().get_job_id(), nodes))
    except grpc.RpcError:
        return True


def _workers(job: str, nodes: set[str]) -> Iterator[tuple[str, Any]]:
    """Ray's numbers of each worker process of ``job`` on those of ``nodes`` that are alive, with the node's id."""
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] in nodes:
            stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
            for worker in stats.core_workers_stats:
                if worker.worker_type == WORKER and worker.job_id.hex() == job:
                    yield node["NodeID"], worker

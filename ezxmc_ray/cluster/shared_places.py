"""Whether a place on this machine's disk is one that every node of the cluster sees: asked before work is given out.

In: a run directory or a folder of tags. Out: nothing, or a UserError. Each node would else write its part to a disk of
its own, and the command would say that all is done. Nodes that come later are not asked.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ezxmc_ray.errors import UserError
from ezxmc_ray.leftovers import temporary_name
from ezxmc_ray.storage import Storage

#: Seconds within which a file is seen on another machine, and within which a node says whether it sees it.
SEEN_S, ASK_S = 10.0, 60.0


def check_seen(what: str, storage: Storage) -> None:
    """Refuse the place that ``what`` names if a node of the cluster that has been joined does not see what is written
    there.

    A node that does not answer is not waited for. Errors: UserError, also where nothing can be written there.
    """
    if not storage.is_local or not ray.is_initialized():
        return
    nodes = [one for one in ray.nodes() if one["Alive"] and {"CPU", "GPU"}.intersection(one["Resources"])]
    if len(nodes) < 2:
        return
    probe = temporary_name(".probe")
    storage.write_bytes(probe, b"probe")
    try:
        if blind := _who_does_not_see(storage.path(probe), nodes):
            raise UserError(
                f"{what} is {storage.path()}, and the node {blind['NodeManagerHostname']} of the Ray cluster does not "
                f"see what this process writes there: set {what} to a URI, or to a path on a file system that all "
                "nodes share."
            )
    finally:
        storage.remove(probe)


def _who_does_not_see(file: str, nodes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of ``nodes`` (as Ray tells of them) that has no such ``file``."""
    task = ray.remote(_sees)
    there = [NodeAffinitySchedulingStrategy(one["NodeID"], soft=False) for one in nodes]
    asked = [task.options(num_cpus=0, max_retries=0, scheduling_strategy=one).remote(file) for one in there]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ASK_S)
    for node, answer in zip(nodes, asked, strict=True):
        try:
            if answer in answered and not ray.get(answer):
                return node
        except exceptions.RayError:  # a node that was lost meanwhile
            continue
    return None


def _sees(file: str) -> bool:
    """Task: whether the file is there; a file system of a network may show it late."""
    until = time.monotonic() + SEEN_S
    while not os.path.exists(file):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True

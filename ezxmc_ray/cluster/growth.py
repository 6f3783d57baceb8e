"""How much a cluster may grow to: what Ray's autoscaler may bring beside what is there.

In: the cluster that this process has joined, and ``cluster.max_gpus``. Out: :class:`Growth`. Ray has a key for it,
which Ray Train reads too, but nothing of Ray 2.60 itself writes it. So where that is not there, the file is read that
the autoscaler works by, if it runs on this machine: as on the head that `ray up` started (~/ray_bootstrap_config.yaml,
with the resources that `ray up` found for instances of AWS). Elsewhere (KubeRay, a driver on another node) the knob
tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray._private.state import state as ray_state

from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError, one_line

#: The option of Ray's monitor that names the autoscaler's file.
_OPTION = "--autoscaling-config="


@dataclass(frozen=True)
class Growth:
    """``limits``: of each resource what the cluster has when it is largest; ``nodes``: resources of each type of node
    that may come."""

    limits: dict[str, int] = field(default_factory=dict)
    nodes: list[dict[str, float]] = field(default_factory=list)


def growth(config: ClusterConfig) -> Growth:
    """What the cluster may grow to; nothing where nobody tells.

    Errors: UserError where the autoscaler's file cannot be read, and no knob tells.
    """
    if (told := ray_state.get_cluster_config()) is not None:
        limits = ray_state.get_max_resources_from_cluster_config() or {}
        known = Growth(limits, [dict(one.resources) for one in told.node_group_configs if one.max_count])
    else:
        try:
            known = _growth_on_this_machine(ray.get_runtime_context().gcs_address)
        except UserError:
            if config.max_gpus is None:
                raise
            known = Growth()
    if config.max_gpus is None:
        return known
    return replace(known, limits={**known.limits, "GPU": config.max_gpus})


@lru_cache(maxsize=1)
def _growth_on_this_machine(gcs_address: str) -> Growth:
    """By the file of the autoscaler that works for the Ray at ``gcs_address``, if it is a process of this machine."""
    for process in psutil.process_iter(["cmdline"]):
        options = process.info["cmdline"] or []
        files = [one.removeprefix(_OPTION) for one in options if one.startswith(_OPTION)]
        if files and f"--gcs-address={gcs_address}" in options:
            return _growth_in(Path(files[0]).expanduser())
    return Growth()


def _growth_in(file: Path) -> Growth:
    try:
        return growth_of(yaml.safe_load(file.read_text()))
    except (OSError, UnicodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"How much the cluster may grow to stands in {file}, by which its autoscaler works, and that cannot be "
            f"read ({type(error).__name__}: {one_line(error)}): set cluster.max_gpus."
        ) from error


def growth_of(config: dict[str, Any]) -> Growth:
    """By the autoscaler's configuration, as `ray up` completes it: the head, and of the worker nodes that it allows
    (``max_workers`` of each type, and of all together) those that have most.

    A type whose resources stand nowhere counts as nothing.
    """
    types = config["available_node_types"]
    counts = {name: int(one.get("max_workers", 0)) for name, one in types.items()}
    room = int(config.get("max_workers", sum(counts.values())))
    resources = {name: one.get("resources") or {} for name, one in types.items()}
    head, limits = resources[config["head_node_type"]], {}
    for kind in {kind for has in resources.values() for kind in has}:
        total, left = head.get(kind, 0), room
        for name in sorted(counts, key=lambda name: resources[name].get(kind, 0), reverse=True):
            total += resources[name].get(kind, 0) * min(counts[name], left)
            left -= min(counts[name], left)
        limits[kind] = int(total)
    return Growth(limits, [resources[name] for name in types if min(counts[name], room)])

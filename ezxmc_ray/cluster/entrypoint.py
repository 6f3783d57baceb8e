"""What the entrypoint of a Ray job holds of the cluster for as long as the job runs, and no stage can ever have.

In: the environment that Ray starts a job's driver in (`ray job submit --entrypoint-num-gpus 1`, …). Out: resources, of
the cluster or a node, without these. Ray has no call for it that works without its dashboard: its job manager notes
them in its key-value store before it starts the driver.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import ray
from ray.experimental.internal_kv import _internal_kv_get

from ezxmc_ray.errors import UserError

#: Ray's: the variable with a job's configuration, which its driver alone has, and the key of what it notes of a job.
_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_KEY, _NAMESPACE = "_ray_internal_job_info_{job}", b"job"


@dataclass(frozen=True)
class Entrypoint:
    """``node``: id of the node that it is on; ``holds``: resources by their names ("CPU", "GPU")."""

    node: str = ""
    holds: dict[str, float] = field(default_factory=dict)


def entrypoint() -> Entrypoint:
    """Of the job whose driver this process is; it holds nothing where it is none."""
    told = os.environ.get(_VARIABLE)
    return _entrypoint_of(told, ray.get_runtime_context().gcs_address) if told else Entrypoint()


@lru_cache(maxsize=1)
def _entrypoint_of(told: str, gcs_address: str) -> Entrypoint:
    """By the job's configuration, on the cluster at ``gcs_address``; a Ray that started no such job knows nothing."""
    job = (json.loads(told).get("metadata") or {}).get("job_submission_id", "")
    found = _internal_kv_get(_KEY.format(job=job).encode(), namespace=_NAMESPACE)
    about = json.loads(found) if found else {}
    counts = {"CPU": about.get("entrypoint_num_cpus"), "GPU": about.get("entrypoint_num_gpus")}
    holds = {name: float(count) for name, count in counts.items() if count}
    return Entrypoint(about.get("driver_node_id") or "", holds)


def left_of(resources: Mapping[str, float], node: str | None = None) -> dict[str, float]:
    """``resources`` of ``node``, by its id (None: of the whole cluster), without what the entrypoint holds of them."""
    job = entrypoint()
    holds = job.holds if node in (None, job.node) else {}
    return {name: max(0.0, count - holds.get(name, 0)) for name, count in resources.items()}


def left_at_most(resource: str, most: int) -> int:
    """Of ``most`` that a cluster may have of ``resource`` what is left. Errors: UserError where it is nothing."""
    holds = entrypoint().holds.get(resource, 0)
    if most and most - holds < 1:
        raise UserError(
            f"The job's entrypoint holds {holds:g} of the {most} {resource}s that the cluster has or may get, so the "
            f"stages have none: submit the job with less than --entrypoint-num-{resource.lower()}s {holds:g}."
        )
    return int(most - holds)

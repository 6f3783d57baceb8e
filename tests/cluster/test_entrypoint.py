"""What a job's own entrypoint holds is nothing that a pool may count on. No Ray is started."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.ray_constants import KV_NAMESPACE_JOB
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.modules.job.common import JobInfo, JobInfoStorageClient, JobStatus

from ezxmc_ray.cluster import entrypoint as module
from ezxmc_ray.cluster import session
from ezxmc_ray.cluster.growth import Growth
from ezxmc_ray.cluster.pools import Pool, encoder_pool
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.judge import engine_pool

NODES: list[dict[str, Any]] = [
    {"NodeID": "head", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
    {"NodeID": "other", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``job(cpus, gpus, *without)``: this process is the driver of a job on the head, in a simulated Ray of NODES."""
    notes: dict[tuple[bytes, bytes], bytes] = {}
    monkeypatch.setattr(module, "_internal_kv_get", lambda key, namespace: notes.get((namespace, key)))
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="here"))
    monkeypatch.setattr(session, "growth", lambda config: Growth())

    def start(cpus: float | None, gpus: float | None, *without: str) -> None:
        there = [{**one, "Resources": {k: v for k, v in one["Resources"].items() if k not in without}} for one in NODES]
        totals = {kind: sum(one["Resources"].get(kind, 0) for one in there) for kind in ("CPU", "GPU")}
        monkeypatch.setattr("ray.nodes", lambda: there)
        monkeypatch.setattr("ray.cluster_resources", lambda: totals)
        name = f"raysubmit_{len(notes)}"
        info = JobInfo(JobStatus.RUNNING, "ezxmc run", entrypoint_num_cpus=cpus, entrypoint_num_gpus=gpus)
        info.driver_node_id = "head"
        key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=name).encode()
        notes[KV_NAMESPACE_JOB, key] = json.dumps(info.to_json()).encode()
        told = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": name}})
        monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, told)

    return start


def test_pools_are_of_what_the_entrypoint_leaves(job: Any) -> None:
    job(None, None)
    assert (session.gpus_there(), session.cluster_limit("GPU"), session.node_gpus()) == (3, 3, 2)
    assert (session.cluster_cpus(), session.node_cpus()) == (12, 8)
    job(3, 1)
    assert (session.gpus_there(), session.cluster_limit("GPU"), session.node_gpus()) == (2, 2, 1)
    assert (session.cluster_cpus(), session.cluster_limit("CPU"), session.node_cpus()) == (9, 9, 5)
    assert encoder_pool().size == engine_pool(TeacherConfig()).size == 2
    job(3, None, "GPU")  # an engine takes all CPUs of a node
    assert engine_pool(TeacherConfig()) == Pool(1, 5)


def test_gpus_that_come_count_and_an_entrypoint_that_holds_all_is_refused(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else everything would be computed on CPUs, and nobody told."""
    job(0, 3)
    for size in (session.pool_gpus, session.cluster_gpus, encoder_pool):
        with pytest.raises(UserError, match=r"^The job's entrypoint holds 3 of the 3 GPUs .*-num-gpus 3\.$"):
            size()
    monkeypatch.setattr(session, "growth", lambda config: Growth({"GPU": 8}))
    assert (session.gpus_there(), session.pool_gpus()) == (0, 5)
    monkeypatch.setattr(session, "growth", lambda config: Growth({"GPU": session.NO_LIMIT}))
    assert session.cluster_limit("GPU") == session.NO_LIMIT


def test_a_ray_that_started_no_such_job_holds_nothing(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local Ray inside a job, and a driver whose configuration came from elsewhere."""
    job(1, 1)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="there"))
    monkeypatch.setattr(module, "_internal_kv_get", lambda key, namespace: None)
    assert session.gpus_there() == 3
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert session.gpus_there() == 3

"""A replica of Ray Serve's, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.serving.contract import Options, TagRequest
from ezxmc_ray.serving.settings import ServeSettings
from ezxmc_ray.tagging.export import export_bundle
from tests.student.toy import TOPICS
from tests.tagging.made_run import make_run

pytest.importorskip("grpc_reflection", reason="Ray Serve needs ezxmc-ray[serve]")
ASKED = TagRequest(["", ""], TOPICS[:2], Options(k=1))


def test_one_that_is_started_while_there_is_no_export_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Serve starts a replica anew that died; the run that it tags with may be made anew just then."""
    from ezxmc_ray.serving import deployment
    from ezxmc_ray.serving.deployment import Replica

    monkeypatch.setattr(deployment, "WITHOUT_EXPORT_S", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    place = tmp_path / "bundle"
    replica = Replica(str(place), [], 0.05, 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # no GPU was asked for
    mistake = asyncio.run(replica.mistake())
    assert str(place) in mistake and asyncio.run(replica.tag(ASKED)) is None
    assert asyncio.run(replica.failed()) == f"A replica waits for an export: {mistake}"
    make_run(tmp_path / "run")
    export_bundle(str(tmp_path / "run"), str(place))
    deadline = time.monotonic() + 60
    while (answer := asyncio.run(replica.tag(ASKED))) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [len(row) for row in answer.results] == [1, 1]
    assert asyncio.run(replica.mistake()) == asyncio.run(replica.failed()) == ""
    assert replica._live is not None
    replica._live.close()


def test_why_a_replica_does_not_tag_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are of another replica each time: of one that tags, and of one that waits."""
    from ezxmc_ray.serving import deployment

    said: list[str] = []
    answers, looks = ["", "A replica waits for an export: gone."], list[str]()
    running = SimpleNamespace(deployments={"one": SimpleNamespace(replica_states={"RUNNING": 2})})
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications={"app": running}))
    monkeypatch.setattr(deployment, "LOOK_S", 0.01)
    monkeypatch.setattr(deployment, "say", said.append)
    result = SimpleNamespace(result=lambda timeout_s: looks.append("") or answers[len(looks) % 2])
    handle = SimpleNamespace(failed=SimpleNamespace(remote=lambda: result))
    backend = deployment.OnRayServe(handle, "app", 2)  # type: ignore[arg-type]
    deadline = time.monotonic() + 30
    while len(looks) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    backend.close()
    assert said == [answers[1]]


class FakeServe:
    """In place of ray.serve: knows by name the applications that were run and not deleted; each has a replica."""

    def __init__(self) -> None:
        self.applications: dict[str, Any] = {}
        self.said = SimpleNamespace(result=lambda timeout_s: "")

    def start(self, **options: Any) -> None:
        pass

    def run(self, application: str, name: str, route_prefix: None) -> Any:
        deployment = SimpleNamespace(replica_states={"RUNNING": 1})
        self.applications[name] = SimpleNamespace(status="RUNNING", of=application, deployments={"r": deployment})
        method = SimpleNamespace(remote=lambda: self.said)
        return SimpleNamespace(mistake=method, failed=method)

    def delete(self, name: str) -> None:
        del self.applications[name]

    def status(self) -> FakeServe:
        return self

    def shutdown(self) -> None:
        pass


@pytest.fixture
def fake_serve(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    """A cluster that this process has joined, with such a Serve; an application is the run that it is of."""
    from ezxmc_ray.serving import deployment

    fake = FakeServe()
    monkeypatch.setattr(deployment, "serve", fake)
    monkeypatch.setattr(deployment, "LOOK_S", 0.01)
    monkeypatch.setattr(deployment, "ray_cluster", lambda cluster: contextlib.nullcontext())
    monkeypatch.setattr(deployment, "_application", lambda where, overrides, settings: where)
    return fake


@pytest.mark.parametrize(("port", "machines"), [(8000, ["a", "b"]), (0, ["a", "a"])])
def test_two_servers_on_a_cluster_leave_each_other_alone(
    fake_serve: FakeServe, monkeypatch: pytest.MonkeyPatch, port: int, machines: list[str]
) -> None:
    from ezxmc_ray.serving.deployment import ray_replicas

    settings, cluster = ServeSettings(port=port), ClusterConfig(address="head:6379")
    monkeypatch.setattr("socket.gethostname", lambda: machines[0])
    with ray_replicas("one", [], settings, cluster):
        monkeypatch.setattr("socket.gethostname", lambda: machines[1])
        with ray_replicas("two", [], settings, cluster):
            assert sorted(one.of for one in fake_serve.applications.values()) == ["one", "two"]
        assert [one.of for one in fake_serve.applications.values()] == ["one"]


def test_a_server_that_is_started_again_takes_over_its_own_application() -> None:
    from ezxmc_ray.serving.deployment import application_name

    assert application_name(ServeSettings()) == application_name(ServeSettings())
    assert application_name(ServeSettings(port=8001)) != application_name(ServeSettings())


def test_where_the_application_is_gone_nothing_is_ready(fake_serve: FakeServe) -> None:
    from ezxmc_ray.serving.deployment import PER_REPLICA, ray_replicas

    with ray_replicas("one", [], ServeSettings(), ClusterConfig(address="head:6379")) as backend:
        assert backend.slots == PER_REPLICA
        fake_serve.applications, left = {}, fake_serve.applications
        deadline = time.monotonic() + 30
        while backend.slots:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        fake_serve.applications = left

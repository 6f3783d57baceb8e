"""A replica of Ray Serve's, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ezxmc_ray.cluster import session
from ezxmc_ray.cluster.growth import Growth
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
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
    assert asyncio.run(replica.pairs_of_text(None)) is None
    assert asyncio.run(replica.failed()) == f"A replica waits for an export: {mistake}"
    make_run(tmp_path / "run")
    export_bundle(str(tmp_path / "run"), str(place))
    deadline = time.monotonic() + 60
    while (answer := asyncio.run(replica.tag(ASKED))) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [len(row) for row in answer.results] == [1, 1]
    assert asyncio.run(replica.pairs_of_text(None)) == 0  # it has no cross-encoder
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


def test_what_a_text_costs_is_asked_once_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by each request of several texts, also of those that come together; and anew after a look, since another
    export may be there."""
    from ezxmc_ray.serving import deployment

    asked: list[int | None] = []

    async def costs(among: int | None) -> int:
        asked.append(among)
        await asyncio.sleep(0)
        if among == 13:
            raise RuntimeError("a fault")
        return 30 * len(asked)

    monkeypatch.setattr(deployment.OnRayServe, "_look", lambda backend: None)  # the one below is its first
    handle = SimpleNamespace(pairs_of_text=SimpleNamespace(remote=costs))
    backend = deployment.OnRayServe(handle, "app", 2)  # type: ignore[arg-type]
    monkeypatch.undo()

    async def talk(*among: int | None) -> list[Any]:
        gone = asyncio.ensure_future(backend.pairs_of_text(None))
        await asyncio.sleep(0)
        gone.cancel()  # a client that leaves takes nothing from those that wait beside it
        return await asyncio.gather(*map(backend.pairs_of_text, among), return_exceptions=True)

    assert asyncio.run(talk(None, None, 5, 5, None)) == [30, 30, 60, 60, 30] and asked == [None, 5]
    assert asyncio.run(talk(None, 5)) == [30, 60] and asked == [None, 5]
    monkeypatch.setattr(deployment, "LOOK_S", 0.01)
    monkeypatch.setattr("ray.serve.status", lambda: backend.close())  # the only look
    backend._look()
    assert asyncio.run(talk(None)) == [90]
    for count in (4, 5):  # a failure is not remembered
        assert [str(one) for one in asyncio.run(talk(13, 13))] == ["a fault"] * 2 and len(asked) == count


class FakeServe:
    """In place of ray.serve: knows by name the applications that were run and not deleted; each has a replica."""

    def __init__(self) -> None:
        self.applications: dict[str, Any] = {}
        self.said = SimpleNamespace(result=lambda timeout_s: "")
        self.status_is = "RUNNING"

    def start(self, **options: Any) -> None:
        pass

    def RunTarget(self, application: str, name: str, route_prefix: None) -> tuple[str, str]:
        return application, name

    def run_many(self, targets: list[tuple[str, str]], wait_for_applications_running: bool) -> list[Any]:
        [(application, name)] = targets
        deployment = SimpleNamespace(replica_states={"RUNNING": 1})
        self.applications[name] = SimpleNamespace(status=self.status_is, of=application, deployments={"r": deployment})
        method = SimpleNamespace(remote=lambda: self.said)
        return [SimpleNamespace(mistake=method, failed=method)]

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


@pytest.mark.parametrize(("ports", "machines"), [((8000, 8000), "ab"), ((8000, 8001), "aa")])
def test_two_servers_on_a_cluster_leave_each_other_alone(
    fake_serve: FakeServe, monkeypatch: pytest.MonkeyPatch, ports: tuple[int, int], machines: str
) -> None:
    from ezxmc_ray.serving.deployment import ray_replicas

    one, two = (ServeSettings(port=port) for port in ports)
    cluster = ClusterConfig(address="head:6379")
    monkeypatch.setattr("socket.gethostname", lambda: machines[0])
    with ray_replicas("one", [], one, cluster):
        monkeypatch.setattr("socket.gethostname", lambda: machines[1])
        with ray_replicas("two", [], two, cluster):
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


def test_replicas_that_find_no_room_are_given_up(fake_serve: FakeServe, monkeypatch: pytest.MonkeyPatch) -> None:
    from ezxmc_ray.serving import deployment

    cluster = ClusterConfig(address="head:6379", wait_s=1)
    monkeypatch.setattr(session, "_joined", [cluster])
    monkeypatch.setattr(deployment, "waits_for", lambda: "waiting for 8 CPUs (0 of 8 free)")
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(session, "waits_for", lambda: "waiting for 8 CPUs (0 of 8 free)")
    monkeypatch.setattr(session, "growth", lambda config: Growth())
    fake_serve.status_is = "DEPLOYING"
    with (
        pytest.raises(UserError, match=r"^Within 1 s \(cluster.wait_s\) .* \(waiting for 8 CPUs \(0 of 8 free\)\)"),
        deployment.ray_replicas("one", [], ServeSettings(), cluster),
    ):
        pass
    assert fake_serve.applications == {}


SMALL, LARGE, GPU = {"CPU": 4.0}, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}
HEAD = {"memory": 1.0}


@pytest.fixture
def asked_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """``asked_of(settings, nodes, types, max_gpus)``: CPUs and GPUs that a replica asks for on a cluster of ``nodes``
    that may grow to one of each of ``types``, and to GPUs as the knob says."""
    from ezxmc_ray.serving import deployment

    def ask(
        settings: ServeSettings,
        nodes: list[dict[str, float]],
        types: Sequence[dict[str, float]] = (),
        max_gpus: int = 0,
    ) -> dict[str, float]:
        total = {kind: sum(has.get(kind, 0.0) for has in nodes) for kind in ("CPU", "GPU")}
        limits = {kind: int(total[kind] + sum(has.get(kind, 0.0) for has in types)) for kind in total}
        limits["GPU"] = max_gpus or limits["GPU"]
        monkeypatch.setattr("ray.nodes", lambda: [{"NodeID": "", "Alive": True, "Resources": has} for has in nodes])
        monkeypatch.setattr("ray.cluster_resources", lambda: total)
        monkeypatch.setattr(session, "growth", lambda config: Growth(limits, list(types)))
        asked: dict[str, float] = {}

        def made(*replica: Any, ray_actor_options: dict[str, float], **options: Any) -> Any:
            asked.update(ray_actor_options)
            return SimpleNamespace(bind=lambda *arguments: None)

        monkeypatch.setattr("ray.serve.deployment", made)
        deployment._application("run", [], settings)
        return asked

    return ask


@pytest.mark.parametrize(
    ("replicas", "gpus", "nodes", "cpus"),
    [
        (1, 0, [LARGE], 8),
        (3, 0, [LARGE], 2),
        (16, 0, [LARGE], 0.5),
        (1, 0, [SMALL, LARGE, SMALL], 8),  # and not 16
        (2, 0, [SMALL, LARGE], 4),  # 6 would leave the smaller node empty
        (3, 0, [SMALL, LARGE, HEAD], 4),
        (5, 0, [SMALL, LARGE], 2),
        (1, 1, [GPU, {"CPU": 64.0}], 8),
        (2, 1, [GPU, {"CPU": 64.0}], 4),
        (2, 1, [GPU, {"CPU": 2.0, "GPU": 1.0}], 4),
    ],
)
def test_replicas_share_the_cpus_so_that_each_is_on_one_node(
    asked_of: Callable[..., dict[str, float]], replicas: int, gpus: float, nodes: list[dict[str, float]], cpus: float
) -> None:
    assert asked_of(ServeSettings(replicas=replicas, replica_gpus=gpus), nodes) == {"num_cpus": cpus, "num_gpus": gpus}


def test_replicas_for_nodes_that_may_come_are_asked_for(asked_of: Callable[..., dict[str, float]]) -> None:
    one_gpu = ServeSettings(replicas=2, replica_gpus=1)
    assert asked_of(one_gpu, [SMALL], [GPU]) == {"num_cpus": 4, "num_gpus": 1}
    assert asked_of(one_gpu, [SMALL], max_gpus=2) == {"num_cpus": 1, "num_gpus": 1}  # of a kind that nobody knows
    assert asked_of(ServeSettings(replica_cpus=8), [SMALL], [LARGE]) == {"num_cpus": 8, "num_gpus": 0}


@pytest.mark.parametrize(
    ("settings", "nodes", "sentence"),
    [
        ({"replica_cpus": 6}, [SMALL, SMALL], "has room for 0, since each is on one node, and none has more than 4 "),
        ({"replicas": 2, "replica_cpus": 5}, [LARGE, SMALL], "^Of 2 replicas of 5 CPUs and 0 GPUs .* has room for 1, "),
        ({"replica_gpus": 2}, [{"CPU": 4.0, "GPU": 1.0}] * 2, "none has more than 4 CPUs and 1 GPUs: give fewer"),
        ({"replica_gpus": 1, "replica_cpus": 16}, [GPU, {"CPU": 64.0}], "has room for 0, "),
        ({"replica_cpus": 9}, [LARGE], "^1 replicas of 9 CPUs need 9, and the cluster has 8: "),
    ],
)
def test_replicas_that_never_have_room_are_refused(
    asked_of: Callable[..., dict[str, float]], settings: dict[str, Any], nodes: list[dict[str, float]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        asked_of(ServeSettings(**settings), nodes)

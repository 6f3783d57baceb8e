"""A replica of Ray Serve's, in this process."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ezxmc_ray.serving.contract import Options, TagRequest
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

"""Replicas on Ray Serve, with a tagger that is a fake: one that is killed loses nothing, a mistake is a sentence."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.serving.contract import Answer, Options, TagRequest
from ezxmc_ray.serving.settings import ServeSettings

pytestmark = pytest.mark.slow
pytest.importorskip("grpc_reflection", reason="Ray Serve needs ezxmc-ray[serve]")

ASKED = TagRequest(["", ""], ["one", "three"], Options(k=1))


class SimulatedReplica:
    """In place of deployment.Replica: gives every text its length and the process that tagged it."""

    def __init__(self, where: str, overrides: list[str], reload_s: float, gpus: float) -> None:
        self._where = where

    async def mistake(self) -> str:
        return "It is damaged." if self._where == "damaged" else ""

    async def failed(self) -> str:
        return ""

    async def tag(self, asked: TagRequest) -> Answer:
        await asyncio.sleep(0.05)
        return Answer("e", [[{"text": text, "score": len(text), "process": os.getpid()}] for text in asked.texts])

    async def find_labels(self, query: str, limit: int) -> dict[str, Any]:
        return {"labels": [], "matches": 0, "total": 0}


def test_replicas_tag_and_one_that_is_killed_loses_nothing(joins_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ezxmc_ray.serving import deployment

    monkeypatch.setattr(deployment, "Replica", SimulatedReplica)
    settings = ServeSettings(replicas=1, replica_cpus=1, port=0)

    async def talk(backend: deployment.OnRayServe) -> list[Answer]:
        first = await backend.tag(ASKED)
        asked = [asyncio.ensure_future(backend.tag(ASKED)) for _ in range(8)]
        await asyncio.sleep(0.02)
        os.kill(first.results[0][0]["process"], signal.SIGKILL)
        return [first, *await asyncio.gather(*asked)]

    with deployment.ray_replicas("fine", [], settings, ClusterConfig()) as backend:
        answers = asyncio.run(talk(backend))
        assert backend.slots in (0, 2)
    assert [[row[0]["score"] for row in one.results] for one in answers] == [[3, 5]] * 9
    assert len({one.results[0][0]["process"] for one in answers}) == 2
    with (
        pytest.raises(UserError, match=r"^It is damaged\.$"),
        deployment.ray_replicas("damaged", [], settings, ClusterConfig()),
    ):
        pass

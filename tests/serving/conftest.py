"""A tagger that needs no model, and a client of an app over it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pyarrow as pa
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.serving.app import create_app
from ezxmc_ray.serving.in_process import InProcess
from ezxmc_ray.serving.live import LiveTagger
from ezxmc_ray.serving.settings import ServeSettings
from ezxmc_ray.tagging.tagger import Tagged
from ezxmc_ray.tagging.why import Why

HOSTILE = "<img src=x onerror=alert(1)>\"'\u202e\x1b[31m"
LABELS = {"short": "Short texts", "long": "Long texts", HOSTILE: HOSTILE}


class FakeTagger:
    """Every label, with the text's length, the label's place and ``bonus`` in its score; takes ``seconds`` a call.
    A text costs so many ``pairs`` of a cross-encoder, with ``among`` one more for each label that is named.

    The first label's probability is a half, others have none.
    """

    top_k, min_score = 2, float("-inf")

    def __init__(self, bonus: float = 0, seconds: float = 0, pairs: int = 0) -> None:
        self.bonus, self.seconds, self.pairs = bonus, seconds, pairs
        self.calls: list[list[str]] = []
        self.threads: set[str] = set()

    @property
    def labels(self) -> pa.Table:
        return pa.table({"id": list(LABELS), "text": list(LABELS.values())})

    def tag(
        self,
        texts: Sequence[str],
        k: int | None = None,
        min_score: float | None = None,
        titles: Sequence[str] | None = None,
        among: Sequence[str] | None = None,
    ) -> list[list[Tagged]]:
        self.calls.append(list(texts))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if unknown := [one for one in among or [] if one not in LABELS]:
            raise UserError(f"No label has the id {unknown[0]!r}.")
        if "fault" in texts:
            raise RuntimeError("a fault that no client may read")
        chosen = [one for one in LABELS if among is None or one in among][:k]
        whole = [title + text for title, text in zip(titles or [""] * len(texts), texts, strict=True)]
        chances = [0.5, None, None]
        rows = [
            [Tagged(one, LABELS[one], self.bonus + len(t) - n, chances[n]) for n, one in enumerate(chosen)]
            for t in whole
        ]
        return [[one for one in row if min_score is None or one.score >= min_score] for row in rows]

    def pairs_of_text(self, among: int | None) -> int:
        return self.pairs and self.pairs + (among or 0)

    def explain(
        self, texts: Sequence[str], tagged: Sequence[Sequence[Tagged]], titles: Sequence[str]
    ) -> list[list[Why]]:
        return [
            [Why(label.score, 0.0, 0.0, text.split()) for label in row] for text, row in zip(texts, tagged, strict=True)
        ]


def live(tagger: FakeTagger) -> LiveTagger:
    return LiveTagger("here", (), lambda where, knobs: tagger, lambda where: "export-1")  # type: ignore[arg-type, return-value]


Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]
Talks = Callable[..., Any]


@pytest.fixture
def talks() -> Talks:
    """``talks(talk, tagger, **settings)``: what ``await talk(client)`` says, of a client of an app over ``tagger``."""

    def run(talk: Talk, tagger: FakeTagger | None = None, **settings: Any) -> Any:
        return asyncio.run(_talk(talk, tagger or FakeTagger(), ServeSettings(**settings)))

    return run


async def _talk(talk: Talk, tagger: FakeTagger, settings: ServeSettings) -> Any:
    app = create_app(InProcess(live(tagger)), settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await talk(client)

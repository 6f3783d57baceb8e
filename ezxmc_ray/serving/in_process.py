"""Replicas: this process, with one thread that tags. For a machine without Ray, and for tests."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from ezxmc_ray.serving.contract import Answer, TagRequest
from ezxmc_ray.serving.live import LiveTagger


class Backend(Protocol):
    """What tags for the front."""

    @property
    def slots(self) -> int:
        """Batches that may be given to it at once; 0: it is not ready."""

    async def tag(self, asked: TagRequest) -> Answer:
        """The labels of a batch. Errors: Refused (503) where nobody can tag now."""

    async def pairs_of_text(self, among: int | None) -> int:
        """As LiveTagger.pairs_of_text."""

    async def find_labels(self, query: str, limit: int) -> dict[str, Any]:
        """As LiveTagger.find_labels."""

    def close(self) -> None:
        """Nothing more is asked."""


class InProcess:
    """A :class:`Backend` in this process."""

    def __init__(self, live: LiveTagger) -> None:
        self._live = live
        self._tags = ThreadPoolExecutor(1, "tag")
        self._finds = ThreadPoolExecutor(1, "labels")

    @property
    def slots(self) -> int:
        """One batch is tagged, one waits, so that the thread never does."""
        return 2

    async def tag(self, asked: TagRequest) -> Answer:
        """See :class:`Backend`."""
        return await asyncio.get_running_loop().run_in_executor(self._tags, self._live.tag, asked)

    async def pairs_of_text(self, among: int | None) -> int:
        """See :class:`Backend`."""
        return self._live.pairs_of_text(among)

    async def find_labels(self, query: str, limit: int) -> dict[str, Any]:
        """See :class:`Backend`."""
        return await asyncio.get_running_loop().run_in_executor(self._finds, self._live.find_labels, query, limit)

    def close(self) -> None:
        """See :class:`Backend`."""
        self._live.close()
        self._tags.shutdown(wait=False, cancel_futures=True)
        self._finds.shutdown(wait=False, cancel_futures=True)

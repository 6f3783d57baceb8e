"""Texts of several requests are encoded together: while replicas are busy, what comes in gathers.

Comes in: requests, one by one. Goes out: batches of texts with the same options, at most so many texts, so many
batches at once. A request of more texts than a batch is cut, so that a small one does not wait for all of a large one.
Requests take turns by their options: many of one kind do not hold back one of another. All parts of an answer are of
one export: replicas may have two, for a while or for good (one cannot load the new one).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ezxmc_ray.serving.contract import Answer, Options, Refused, TagRequest

Send = Callable[[TagRequest], Awaitable[Answer]]
#: How often the parts of a long request are asked again that another export tagged than others.
SAME_EXPORT_TRIES = 12
#: Seconds that are waited before, more with every try: a replica may be taking the other export over.
SAME_EXPORT_S = 0.2
#: Tries without an answer of an export after which no replica has it any more.
GONE_AFTER = 4


@dataclass(eq=False)
class _Part:
    """Some texts of a request, and who waits for their labels."""

    titles: list[str]
    texts: list[str]
    answer: asyncio.Future[Answer]
    since: float


class Batcher:
    """Gathers texts and sends them."""

    def __init__(
        self,
        send: Send,
        slots: Callable[[], int],
        max_batch_size: int,
        wait_s: float = 0,
        max_waiting: int = 8192,
        on_batch: Callable[[int], object] = lambda texts: None,
    ) -> None:
        """``slots``: how many batches may be sent at once; ``wait_s``: for how long the first text of a batch waits for
        others though one may be sent; ``max_waiting``: texts; ``on_batch``: is told how many texts each has."""
        self._send, self._slots, self._on_batch = send, slots, on_batch
        self._size, self._wait_s, self._max_waiting = max_batch_size, wait_s, max_waiting
        self._queues: OrderedDict[Options, deque[_Part]] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._wakes: asyncio.Handle | None = None
        self.waiting = 0

    async def tag(self, request: TagRequest) -> Answer:
        """The labels of a request. Errors: Refused (429) where too much waits; what ``send`` raises."""
        if self.waiting and self.waiting + len(request.texts) > self._max_waiting:
            raise Refused(429, f"{self.waiting:,} texts are waiting, no more are taken: try again in a few seconds.")
        starts = range(0, len(request.texts) or 1, self._size)
        asked, missing, export = request, list(starts), ""
        had: dict[str, dict[int, Answer]] = {}  # the parts' answers, by export and by where the part begins
        met: dict[str, int] = {}  # the last try that a replica had an export at
        for number in range(SAME_EXPORT_TRIES + 1):
            if number > 1:
                await asyncio.sleep(SAME_EXPORT_S * (number - 1))
            answers = await self._ask(asked, missing)
            for start, answer in answers.items():
                met[answer.export] = number
                parts = had.setdefault(answer.export, {})
                if export in ("", answer.export):  # else it is no more than a name
                    parts[start] = answer
            there = [one for one in met if number - met[one] < GONE_AFTER]
            export = max(there, key=lambda one: (len(had[one]), met[one]))
            parts = had[export]
            missing = [start for start in starts if start not in parts]
            if not missing:
                mistake = next((one.mistake for one in parts.values() if one.mistake is not None), None)
                return Answer(export, [row for start in starts for row in parts[start].results], mistake)
            asked = replace(request, options=replace(request.options, export=export))
        raise Refused(503, "Another export is being taken over: try again in a few seconds.")

    async def _ask(self, request: TagRequest, starts: Sequence[int]) -> dict[int, Answer]:
        """The answers to the parts of ``request`` that begin at ``starts``, by where they do."""
        loop = asyncio.get_running_loop()
        parts = []
        for start in starts:
            stop = start + self._size
            part = _Part(request.titles[start:stop], request.texts[start:stop], loop.create_future(), loop.time())
            parts.append(part)
            self._queues.setdefault(request.options, deque()).append(part)
            self.waiting += len(part.texts)
        self._wake(0)
        try:
            return dict(zip(starts, await asyncio.gather(*(part.answer for part in parts)), strict=True))
        finally:
            for part in parts:
                part.answer.cancel()

    def _wake(self, seconds: float) -> None:
        """Look in so many seconds what can be sent: not at once, so that requests that came together go together."""
        if self._wakes is not None:
            self._wakes.cancel()
        loop = asyncio.get_running_loop()
        self._wakes = loop.call_later(seconds, self._pump) if seconds else loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send what can be sent, a batch of each kind; what ends wakes this again."""
        self._wakes = None
        rests: list[float] = []
        for options in list(self._queues):
            if len(self._running) >= max(1, self._slots()):
                return
            queue = self._queues[options]
            rest = self._wait_s - (asyncio.get_running_loop().time() - queue[0].since)
            if rest > 0 and sum(len(part.texts) for part in queue) < self._size:
                rests.append(rest)
                continue
            if parts := self._take(options):
                task = asyncio.create_task(self._run(options, parts))
                self._running.add(task)
                task.add_done_callback(self._ended)
            if options in self._queues:
                rests.append(0)
        if rests:
            self._wake(min(rests))

    def _take(self, options: Options) -> list[_Part]:
        """The parts of the next batch; those that nobody waits for any more are left out."""
        queue, texts = self._queues[options], 0
        parts: list[_Part] = []
        while queue and (not parts or texts + len(queue[0].texts) <= self._size):
            part = queue.popleft()
            self.waiting -= len(part.texts)
            if not part.answer.done():
                parts.append(part)
                texts += len(part.texts)
        if queue:
            self._queues.move_to_end(options)
        else:
            del self._queues[options]
        return parts

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._queues:
            self._wake(0)

    async def _run(self, options: Options, parts: list[_Part]) -> None:
        titles = [title for part in parts for title in part.titles]
        texts = [text for part in parts for text in part.texts]
        self._on_batch(len(texts))
        try:
            answer = await self._send(TagRequest(titles, texts, options))
        except Exception as error:
            for part in parts:
                if not part.answer.done():
                    part.answer.set_exception(error)
            return
        done = 0
        for part in parts:
            if not part.answer.done():
                rows = answer.results[done : done + len(part.texts)]
                part.answer.set_result(Answer(answer.export, rows, answer.mistake))
            done += len(part.texts)

    async def close(self) -> None:
        """End what is being sent."""
        tasks: list[Any] = [task for task in self._running if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

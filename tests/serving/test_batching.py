"""Which texts go together, who waits for whom, and what a failure does to whom."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from ezxmc_ray.serving import batching
from ezxmc_ray.serving.batching import Batcher, Send
from ezxmc_ray.serving.contract import Answer, Options, Refused, TagRequest


class Sender:
    """Notes what it is sent; answers each text with its letters when it is let go."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.sent: list[list[str]] = []
        self.at_once = self.most = 0
        self.seconds = seconds
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def __call__(self, asked: TagRequest) -> Answer:
        self.sent.append(asked.texts)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.may_go.wait()
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        if "bad" in asked.texts:
            raise ValueError("bad")
        return Answer("e", [[{"text": title + text}] for title, text in zip(asked.titles, asked.texts, strict=True)])


def request(*texts: str, k: int | None = None) -> TagRequest:
    return TagRequest(["t-"] * len(texts), list(texts), Options(k))


def given(answer: Answer) -> list[str]:
    return [row[0]["text"].removeprefix("t-") for row in answer.results]


def run(talk: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(talk(), 10))  # type: ignore[arg-type]


def test_what_comes_while_one_is_busy_gathers_up_to_a_batch() -> None:
    async def talk() -> None:
        sender = Sender(0.01)
        batcher = Batcher(sender, lambda: 1, 4)
        answers = await asyncio.gather(*(batcher.tag(request(str(n))) for n in range(10)))
        assert [given(one) for one in answers] == [[str(n)] for n in range(10)]
        assert sender.sent == [list("0123"), list("4567"), list("89")] and sender.most == 1
        assert batcher.waiting == 0

    run(talk)


def test_a_long_request_is_cut_and_put_together_again() -> None:
    async def talk() -> None:
        sender = Sender(0.005)
        batcher = Batcher(sender, lambda: 2, 4)
        answer, none = await asyncio.gather(batcher.tag(request(*map(str, range(11)))), batcher.tag(request()))
        assert given(answer) == list(map(str, range(11))) and given(none) == []
        assert max(map(len, sender.sent)) == 4 and sender.most == 2

    run(talk)


def of_exports(sender: Sender, exports: Iterator[str]) -> Send:
    """Replicas that tag by the next of ``exports`` each time, and answer with its name where another is asked for."""

    async def send(asked: TagRequest) -> Answer:
        export = next(exports)
        if asked.options.export not in (None, export):
            return Answer(export, [])
        return replace(await sender(asked), export=export)

    return send


@pytest.mark.parametrize(
    ("exports", "sent"),
    [
        ("aaa", ["01", "23", "45"]),
        ("aabbbbbbb", ["01", "23", "45", "01", "23"]),  # all replicas have the new one soon
        ("baabbba", ["01", "23", "45", "01"]),
        ("abbb", ["01", "23", "45", "01"]),
        ("abbaaab", ["01", "23", "45", "01"]),  # one replica keeps the old one for good
    ],
)
def test_an_answer_is_of_one_export_whatever_is_taken_over_meanwhile(
    monkeypatch: pytest.MonkeyPatch, exports: str, sent: list[str]
) -> None:
    monkeypatch.setattr(batching, "SAME_EXPORT_S", 0.001)

    async def talk() -> None:
        sender = Sender()
        answer = await Batcher(of_exports(sender, iter(exports)), lambda: 1, 2).tag(request(*"012345"))
        assert given(answer) == list("012345") and sender.sent == list(map(list, sent))

    run(talk)


def test_replicas_of_two_exports_answer_long_requests_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that cannot load the new export keeps the old one, while another has the new one."""
    monkeypatch.setattr(batching, "SAME_EXPORT_S", 0)
    draw = random.Random(0)

    async def talk() -> None:
        for _ in range(20):
            exports = (draw.choice("ab") for _ in itertools.count())
            answer = await Batcher(of_exports(Sender(), exports), lambda: 2, 1).tag(request(*"0123456789"))
            assert given(answer) == list("0123456789")

    run(talk)


def test_replicas_that_never_agree_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SAME_EXPORT_S", 0.001)

    async def talk() -> None:
        sender = Sender()
        with pytest.raises(Refused, match="Another export is being taken over") as refused:
            await Batcher(of_exports(sender, map(str, itertools.count())), lambda: 1, 2).tag(request(*"0123"))
        assert refused.value.status == 503 and len(sender.sent) < 30

    run(talk)


def test_other_options_are_other_batches_and_take_turns() -> None:
    async def talk() -> None:
        sender = Sender(0.001)
        batcher = Batcher(sender, lambda: 1, 2)
        many = [batcher.tag(request(f"many {n}", k=1)) for n in range(8)]
        await asyncio.gather(*many, batcher.tag(request("one", k=2)))
        assert sender.sent.index(["one"]) == 1
        assert all(len({text.split()[0] for text in texts}) == 1 for texts in sender.sent)

    run(talk)


def test_the_first_text_waits_for_others_as_long_as_it_is_told() -> None:
    async def talk() -> None:
        sender = Sender()
        batcher = Batcher(sender, lambda: 1, 4, wait_s=0.05)
        first = asyncio.ensure_future(batcher.tag(request("a")))
        await asyncio.sleep(0.01)
        assert sender.sent == []
        await asyncio.gather(first, batcher.tag(request("b")))
        assert sender.sent == [["a", "b"]]
        began = asyncio.get_running_loop().time()
        await batcher.tag(request("a", "b", "c", "d"))  # full
        assert asyncio.get_running_loop().time() - began < 0.04

    run(talk)


def test_a_failure_is_that_of_its_batch_only() -> None:
    async def talk() -> None:
        batcher = Batcher(Sender(), lambda: 1, 1)
        bad, good = await asyncio.gather(
            batcher.tag(request("fine", "bad", "fine")), batcher.tag(request("good")), return_exceptions=True
        )
        assert isinstance(bad, ValueError) and isinstance(good, Answer) and given(good) == ["good"]

    run(talk)


def test_what_nobody_waits_for_is_not_sent() -> None:
    async def talk() -> None:
        sender = Sender()
        sender.may_go.clear()
        batcher = Batcher(sender, lambda: 1, 1)
        busy = asyncio.ensure_future(batcher.tag(request("busy")))
        while not sender.sent:
            await asyncio.sleep(0)
        left = asyncio.ensure_future(batcher.tag(request("left")))
        while not batcher.waiting:
            await asyncio.sleep(0)
        left.cancel()
        last = asyncio.ensure_future(batcher.tag(request("last")))
        sender.may_go.set()
        await asyncio.gather(busy, last)
        assert sender.sent == [["busy"], ["last"]] and batcher.waiting == 0

    run(talk)


def test_without_a_slot_one_batch_waits_where_it_is_sent() -> None:
    async def talk() -> None:
        answer = await Batcher(Sender(), lambda: 0, 4).tag(request("a"))
        assert given(answer) == ["a"]

    run(talk)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_every_text_is_sent_once_and_answered_to_its_own_request(size: int, slots: int) -> None:
    async def talk() -> None:
        sender = Sender(0.0005)
        batcher = Batcher(sender, lambda: slots, size)
        asked = [request(*(f"{n}-{m}" for m in range(n % 7)), k=n % 3) for n in range(60)]
        answers = await asyncio.gather(*map(batcher.tag, asked))
        assert [given(one) for one in answers] == [one.texts for one in asked]
        assert sorted(text for texts in sender.sent for text in texts) == sorted(t for one in asked for t in one.texts)
        assert sender.most <= slots and max(map(len, sender.sent)) <= size

    run(talk)

"""Clients that ask a server over kept connections, one request after the other, and what they saw.

HTTP is written by hand: a client library would take more of the machine's cores than the server that is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Seconds after which a request counts as lost.
LOST_S = 300


@dataclass
class Load:
    """``texts``: what is tagged, in turn, ``k`` labels each. ``answered``: seconds that each good answer took."""

    port: int
    texts: list[str]
    k: int
    answered: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    exports: set[str] = field(default_factory=set)

    async def is_ready(self) -> bool:
        """Whether the server says so."""
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                line = await reader.readline()
                writer.close()
                return b" 200 " in line
        except (OSError, TimeoutError):
            return False

    def body(self, number: int, size: int) -> bytes:
        """The body of request ``number``."""
        taken = [self.texts[(number * size + place) % len(self.texts)] for place in range(size)]
        return json.dumps({"texts": taken, "k": self.k}).encode()


def measured(load: Load, clients: int, size: int, requests: int) -> dict[str, Any]:
    """The figures of ``requests`` requests of ``size`` texts by so many clients."""
    load.answered, load.lost, load.exports = [], [], set()
    began = time.perf_counter()
    asyncio.run(_all(load, clients, size, requests))
    seconds = time.perf_counter() - began
    percentiles = np.percentile(load.answered or [np.nan], [50, 95, 99]) * 1000
    return {
        "clients": clients,
        "texts": size,
        "requests": requests,
        "lost": len(load.lost),
        "requests_per_s": round(len(load.answered) / seconds, 1),
        "documents_per_s": round(len(load.answered) * size / seconds, 1),
        **{f"p{name}_ms": round(float(value), 1) for name, value in zip((50, 95, 99), percentiles, strict=True)},
        "exports": len(load.exports),
        **({"why_lost": load.lost[0]} if load.lost else {}),
    }


async def _all(load: Load, clients: int, size: int, requests: int) -> None:
    numbers = itertools.count()
    await asyncio.gather(*(_client(load, numbers, size, requests) for _ in range(clients)))


async def _client(load: Load, numbers: itertools.count[int], size: int, requests: int) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while (number := next(numbers)) < requests:
        body = load.body(number, size)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(LOST_S):
                connection = connection or await asyncio.open_connection("127.0.0.1", load.port)
                answer = await _asked(*connection, body)
            if len(answer["results"]) != size:
                raise ValueError(f"{size} texts, but {len(answer['results'])} results")
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            load.lost.append(f"{type(error).__name__}: {error}"[:200])
            connection = None
            continue
        load.answered.append(time.perf_counter() - began)
        load.exports.add(answer["export"])
    if connection is not None:
        connection[1].close()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> Any:
    """The answer to one request. Errors: ValueError where it is not 200."""
    head = "POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    content = await reader.readexactly(length)
    if " 200 " not in lines[0]:
        raise ValueError(f"{lines[0]}: {content[:150]!r}")
    return json.loads(content)

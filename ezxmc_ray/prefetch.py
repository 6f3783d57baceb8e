"""Work that is done ahead: what comes next is prepared in threads while the caller uses what came before.

For work that releases Python's lock (tokenizing, reading files) beside work that waits for a device, and for many
requests to an object store. Goes in: a function and its arguments, one after the other; goes out: its results in the
same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Requests to an object store that one process has under way at once where it has many to make.
REQUESTS_AT_ONCE = 16


def at_once(ask: Callable[[Item], Result], items: Iterable[Item], number: int = REQUESTS_AT_ONCE) -> Iterator[Result]:
    """``ask(item)`` of every item, in order, ``number`` of them asked at once; so many answers are held at most."""
    return prefetch(ask, items, number - 1, number)


def prefetch(
    prepare: Callable[[Item], Result], items: Iterable[Item], depth: int = 1, threads: int = 1
) -> Iterator[Result]:
    """``prepare(item)`` of every item, in order, up to ``depth`` of them made in ``threads`` while one is used.

    An error of ``prepare`` is raised here, in the place of its result. ``items`` is read in the caller's thread.
    """
    with ThreadPoolExecutor(threads) as thread:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(thread.submit(prepare, item))
            if len(coming) > depth:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

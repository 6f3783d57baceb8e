"""The watch over an engine process, with a simulated vLLM client; benchmarks/kills.py kills a real one."""

from __future__ import annotations

import gc
import queue
import threading
import time

import pytest

from ezxmc_ray.teacher.engine_watch import wake_when_dead


class SimulatedClient:
    """What the watch uses of vLLM's SyncMPClient."""

    def __init__(self) -> None:
        self.outputs_queue: queue.Queue[object] = queue.Queue()
        self.dead = False

    def ensure_alive(self) -> None:
        if self.dead:
            raise RuntimeError("the engine is dead")


def watches() -> int:
    return sum(thread.name == "engine-watch" for thread in threading.enumerate())


def test_one_who_waits_for_answers_gets_the_error() -> None:
    client = SimulatedClient()
    wake_when_dead(client, every_s=0.01)
    with pytest.raises(queue.Empty):
        client.outputs_queue.get(timeout=0.1)
    client.dead = True
    assert "dead" in str(client.outputs_queue.get(timeout=5))


def test_the_watch_does_not_keep_the_client_alive() -> None:
    before = watches()
    client = SimulatedClient()
    wake_when_dead(client, every_s=0.01)
    assert watches() == before + 1
    del client
    gc.collect()
    deadline = time.monotonic() + 5
    while watches() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watches() == before


def test_an_engine_in_this_process_is_not_watched() -> None:
    before = watches()
    wake_when_dead(object())
    assert watches() == before

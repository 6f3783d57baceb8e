"""Noticing that vLLM's engine process is dead, where the engine is a process of its own (tensor parallelism).

Comes in: vLLM's client of the engine. Goes out: an error in its queue of answers, which ends the wait of whoever reads.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any


def wake_when_dead(client: Any, every_s: float = 1.0) -> None:
    """See to it that whoever waits for answers of an engine process gets vLLM's EngineDeadError when that is killed.

    vLLM 0.32's own monitor closes the client's socket then, which ends the thread that fills the queue of answers, and
    does not tell the one who waits for it (``SyncMPClient.get_output``): he would wait for ever. A thread that looks
    every ``every_s`` seconds tells him. ``client``: vLLM's engine core client; nothing is done for an engine in this
    process, which has no such queue.
    """
    if not hasattr(client, "outputs_queue"):
        return
    reference = weakref.ref(client)  # a thread that held the client would keep the engine process alive

    def watch() -> None:
        while (watched := reference()) is not None:
            try:
                watched.ensure_alive()
            except Exception as error:
                watched.outputs_queue.put(error)
                return
            del watched
            time.sleep(every_s)

    threading.Thread(target=watch, name="engine-watch", daemon=True).start()

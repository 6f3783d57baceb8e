"""One owner a run directory: a second command that writes to a run in use is refused in one sentence.

On a file system the lock is the kernel's (flock), so it is gone the moment its owner is, by whatever signal. On an
object store, which has no locks, it is a small object that the owner renews; one that has not been renewed for a
minute is void. Two commands that start on an object store in the same second can both pass; flock has no such gap.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage, check_writable

RENEW_S = 15.0
VOID_AFTER_S = 60.0
LOCK = ".lock"


@contextmanager
def run_lock(storage: Storage) -> Iterator[None]:
    """Hold the run directory for the length of the block; UserError if another process holds it."""
    with _file_lock(storage) if storage.is_local else _object_lock(storage):
        yield


@contextmanager
def _file_lock(storage: Storage) -> Iterator[None]:
    check_writable(storage)
    with open(storage.path(LOCK), "a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _refusal(storage, _read_owner(storage, ".owner.json")) from error
        storage.write_bytes(".owner.json", _owner())
        yield


@contextmanager
def _object_lock(storage: Storage) -> Iterator[None]:
    other = _read_owner(storage, LOCK)
    if other and time.time() - float(other["renewed"]) < VOID_AFTER_S:
        raise _refusal(storage, other)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            # A store that does not answer once must not cost the lock: three renewals fit into its life.
            with suppress(OSError):
                storage.write_bytes(LOCK, _owner())

    storage.write_bytes(LOCK, _owner())
    keeper = threading.Thread(target=renew, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        if _is_mine(_read_owner(storage, LOCK)):
            storage.remove(LOCK)


def _owner() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "renewed": time.time()}).encode()


def _is_mine(owner: dict[str, Any]) -> bool:
    return (owner.get("host"), owner.get("pid")) == (socket.gethostname(), os.getpid())


def _read_owner(storage: Storage, name: str) -> dict[str, Any]:
    """Who wrote the file; empty if it is not there or holds nothing of the kind."""
    try:
        owner = storage.read_json(name)
    except (FileNotFoundError, ValueError):
        return {}
    return owner if isinstance(owner, dict) and "renewed" in owner else {}


def _refusal(storage: Storage, owner: dict[str, Any]) -> UserError:
    who = f" (process {owner.get('pid')} on {owner.get('host')})" if owner else ""
    return UserError(
        f"The run {storage.root} is in use by another ezxmc command{who}; wait for it to end or choose another run."
    )

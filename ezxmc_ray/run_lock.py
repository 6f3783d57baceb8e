"""One owner a run directory: a second command that writes to a run in use is refused in one sentence.

On a file system the lock is the kernel's (flock), so it is gone the moment its owner is, by whatever signal. On an
object store, which has no locks, it is a small object that the owner writes anew every 15 s; so it is on a file system
without flock. No clock of another machine is trusted: who finds such an object watches it, and only one that stays as
it is for a minute is void. An owner that stood still for so long may have lost its lock. So it looks before each write,
removal and rename, as its tasks and actors do, unless it looked less than five seconds ago; who takes a void lock waits
for as long. Where a renewal finds the lock lost the command ends. Ray Train writes its checkpoints without a look. Of
two commands that start at once the one whose object is there a moment later goes on.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.leftovers import remove_leftovers, remove_temporary_folders, temporary_name
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage, check_writable

RENEW_S, VOID_AFTER_S = 15.0, 60.0
#: How long a command that took a lock looks whether another one did so too.
SETTLE_S = 1.0
#: How long a process takes the lock for its own after a look: twenty removals are not twenty requests more.
LOOK_S = 5.0
LOCK = ".lock"
#: What the lock on a file system leaves in the directory.
LOCK_FILES = (LOCK, layout.OWNER)
#: What flock says on a file system that does not have it: Lustre without the mount option flock, some of FUSE.
_NO_FLOCK = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})


class LockLost(UserError):
    """The run is another command's by now."""


@contextmanager
def run_lock(storage: Storage) -> Iterator[None]:
    """Hold the run directory for the length of the block; UserError if another process holds it.

    What killed processes left goes: half-written files, the folders in which a ``prepare`` made its tables.
    """
    if storage.is_local:
        check_writable(storage)
    with _file_lock(storage) if storage.is_local and _has_flock(storage) else _object_lock(storage):
        if storage.is_local:
            remove_leftovers(Path(storage.path()))
        remove_temporary_folders()
        for folder in filter(layout.is_prepare_folder, storage.folders()):
            storage.remove(folder)
        yield


def _has_flock(storage: Storage) -> bool:
    """Whether a local directory's file system knows flock. Errors: UserError where it does, and cannot lock."""
    probe = temporary_name(storage.path(LOCK))
    try:
        with open(probe, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return False
        raise _cannot_lock(storage, error) from error
    finally:
        with suppress(FileNotFoundError):
            os.remove(probe)
    return True


@contextmanager
def _file_lock(storage: Storage) -> Iterator[None]:
    with _held(storage):
        storage.write_bytes(layout.OWNER, _owner())
        yield


@contextmanager
def _held(storage: Storage) -> Iterator[None]:
    """Hold the lock's file. One that its owner removed meanwhile, as an export does, counts for nobody else."""
    path, is_held = storage.path(LOCK), False
    while not is_held:
        with open(path, "a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise _refusal(storage, _noted_owner(storage)) from error
            except OSError as error:
                raise _cannot_lock(storage, error) from error
            with suppress(FileNotFoundError):
                is_held = os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
            if is_held:
                yield


def _noted_owner(storage: Storage) -> dict[str, Any]:
    """Who holds the kernel's lock; empty if that is not noted."""
    try:
        return _parsed(storage.read_bytes(layout.OWNER))
    except FileNotFoundError:
        return {}


@contextmanager
def _object_lock(storage: Storage) -> Iterator[None]:
    lock = ObjectLock(storage)
    lock.take()
    ended, lost = threading.Event(), list[LockLost]()
    end = _end_main_thread if threading.current_thread() is threading.main_thread() else lambda: None

    def renew() -> None:
        while not ended.wait(RENEW_S):
            try:
                lock.check()
                lock.write()
            except LockLost as error:  # it is not written over
                lost.append(error)
                end()
                return
            except (OSError, UserError):  # a store that does not answer once: three renewals fit into a lock's life
                continue

    keeper = threading.Thread(target=renew, daemon=True)
    keeper.start()
    storage.guard = lock.guard
    try:
        try:
            yield
        finally:
            storage.guard = None
            ended.set()
            keeper.join()
            lock.release()
    except KeyboardInterrupt:
        if lost:
            raise lost[0] from None
        raise


def _end_main_thread() -> None:
    """Have the main thread end in order, as Ctrl-C does; as SIGTERM does where Ctrl-C is ignored, as behind ``&``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return


class ObjectLock:
    """The object that says whose a run on an object store is, and how one command sees it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = copy.copy(storage)  # one without a guard
        self._storage.guard = None
        self._token, self._renewals = uuid.uuid4().hex, 0
        self._looked = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_looked": -math.inf}  # another process looks for itself, by its own clock

    def take(self) -> None:
        """Make the run this command's. Errors: UserError where another one renews the lock, or came at once."""
        was_taken = self._wait_until_void()
        self.write()
        time.sleep(LOOK_S if was_taken else SETTLE_S)
        if self._owner().get("token") != self._token:
            raise _refusal(self._storage, self._owner())

    def _wait_until_void(self) -> bool:
        """Whether a lock is there, which nobody has renewed for a minute. Errors: UserError once somebody renews it."""
        found, since = self._read(), time.monotonic()
        if found is not None:
            who = _in_words(_parsed(found)) or " of an unknown owner"
            say(f"{self._storage.root} has a lock{who}: looking up to {VOID_AFTER_S:.0f} s whether somebody holds it")
        while found is not None and time.monotonic() - since < VOID_AFTER_S:
            time.sleep(min(1.0, VOID_AFTER_S / 10))
            now = self._read()
            if now is None:
                return False
            if now != found:
                raise _refusal(self._storage, _parsed(now))
        return found is not None

    def guard(self) -> None:
        """:meth:`check`, unless this process has done so in the last seconds."""
        if (now := _now()) - self._looked >= LOOK_S:
            self.check()
            self._looked = now

    def check(self) -> None:
        """LockLost unless the lock is this command's."""
        owner = self._owner()
        if owner.get("token") != self._token:
            raise LockLost(
                f"The lock of {self._storage.root} was lost{_in_words(owner)}: this command stood still for "
                "longer than a minute, or the lock was removed; give it again when no other one works on it."
            )

    def write(self) -> None:
        """Take or renew the lock."""
        self._renewals += 1
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token, "renewals": self._renewals}
        self._storage.write_bytes(LOCK, json.dumps(owner).encode())

    def release(self) -> None:
        """Remove the lock, if it is this command's."""
        with suppress(OSError):  # nobody renews it any more, so it is void soon
            if self._owner().get("token") == self._token:
                self._storage.remove(LOCK)

    def _owner(self) -> dict[str, Any]:
        return _parsed(self._read() or b"")

    def _read(self) -> bytes | None:
        try:
            return self._storage.read_bytes(LOCK)
        except FileNotFoundError:
            return None


def _now() -> float:
    """Seconds, those in which the machine slept too, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _owner() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()


def _parsed(content: bytes) -> dict[str, Any]:
    """What a lock says of its owner; nothing if it is damaged."""
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _in_words(owner: dict[str, Any]) -> str:
    return f" (process {owner['pid']} on {owner['host']})" if {"pid", "host"} <= owner.keys() else ""


def _cannot_lock(storage: Storage, error: OSError) -> UserError:
    return UserError(
        f"Files in {storage.root} cannot be locked ({one_line(error)}): have the locks of its file system mended (NFS "
        "needs its lock daemon), or choose another directory."
    )


def _refusal(storage: Storage, owner: dict[str, Any]) -> UserError:
    return UserError(
        f"{storage.root} is in use by another ezxmc command{_in_words(owner)}; wait for it to end, or choose another "
        "directory."
    )

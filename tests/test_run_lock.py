"""A run directory has one owner; a dead owner's lock is void."""

from __future__ import annotations

import errno
import fcntl
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ezxmc_ray import run_lock as module
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import LOCK, LockLost, run_lock
from ezxmc_ray.sigterm import end_in_order_at_sigterm
from ezxmc_ray.storage import Storage

HOLDER = """
import sys, time
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage
with run_lock(Storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_owner_is_refused_and_a_killed_one_forgotten(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    storage = Storage(str(tmp_path))
    with (
        pytest.raises(UserError, match=rf"in use by another ezxmc command \(process {holder.pid} on "),
        run_lock(storage),
    ):
        pass
    holder.kill()
    holder.wait()
    with run_lock(storage):
        pass


def test_a_lock_whose_file_was_removed_meanwhile_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an export's end does it: between opening the file and locking it."""
    storage, flock, removed = Storage(str(tmp_path)), fcntl.flock, []

    def after_a_removal(lock: Any, operation: int) -> None:
        if not removed and lock.name.endswith(LOCK):
            (tmp_path / LOCK).unlink()
            removed.append(LOCK)
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", after_a_removal)
    with run_lock(storage):
        assert removed
        with pytest.raises(UserError, match="in use by another"), run_lock(storage):
            pass


class SimulatedObjectStore(Storage):
    """A local directory that is treated as an object store: no flock, no rename."""

    @property
    def is_local(self) -> bool:
        return False


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedObjectStore:
    """Where a lock is renewed every 50 ms, and void after 0.4 s."""
    for name, seconds in (("RENEW_S", 0.05), ("VOID_AFTER_S", 0.4), ("SETTLE_S", 0.02), ("LOOK_S", 0.1)):
        monkeypatch.setattr(module, name, seconds)
    storage = SimulatedObjectStore(str(tmp_path))
    assert isinstance(storage.filesystem, fs.LocalFileSystem)
    return storage


def second(store: SimulatedObjectStore) -> SimulatedObjectStore:
    """The same place as another command sees it."""
    return SimulatedObjectStore(store.root)


@pytest.mark.parametrize("clock", [-3600.0, 0.0, 61.0, 3600.0])
def test_a_lock_that_is_renewed_holds_whatever_the_other_clock_says(
    store: SimulatedObjectStore, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    monkeypatch.setattr(module, "VOID_AFTER_S", 10)  # the sign of life is waited for, on a machine that is busy too
    with run_lock(store):
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + clock)
        with pytest.raises(UserError, match=r"in use by another ezxmc command \(process"), run_lock(second(store)):
            pass
        store.write_bytes("still", b"the first one's")
    assert not store.exists(LOCK)


@pytest.mark.parametrize(
    "left", [b'{"host": "a", "pid": 1, "renewed": 9e9}', b'{"renewed": null}', b"[]", b"", b"\xff"]
)
def test_a_lock_that_nobody_renews_is_void_whatever_it_holds(
    store: SimulatedObjectStore, capsys: pytest.CaptureFixture[str], left: bytes
) -> None:
    store.write_bytes(LOCK, left)
    with run_lock(store):
        assert store.read_json(LOCK)["token"]
    assert f"{store.root} has a lock" in capsys.readouterr().out
    assert not store.exists(LOCK)


def test_an_owner_that_stood_still_notices_before_it_writes_and_takes_nothing_back(
    store: SimulatedObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.6)  # longer than a lock lives
    monkeypatch.setattr(module, "_end_main_thread", lambda: None)
    with run_lock(store):
        Storage(store.root).write_bytes("folder/kept", b"")
        in_a_task = pickle.loads(pickle.dumps(store))
        with run_lock(second(store)) as _:
            taken = store.read_bytes(LOCK)
            time.sleep(0.7)  # the first owner would renew now
            assert store.read_json(LOCK)["token"] == json.loads(taken)["token"]
            for change in (
                lambda: store.write_bytes("file", b"by the first one"),
                lambda: store.below("folder").write_bytes("file", b""),
                lambda: in_a_task.write_bytes("file", b""),
                lambda: in_a_task.below("folder").remove("kept"),
                lambda: store.remove("folder"),
                lambda: store.rename("folder", "other"),
            ):
                with pytest.raises(UserError, match="was lost"):
                    change()
        assert store.list(recursive=True) == ["folder/kept"]
    store.write_bytes("file", b"outside of a lock")


def test_an_owner_looks_once_in_a_while_and_every_process_for_itself(
    store: SimulatedObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [100.0], []
    for name, value in (("RENEW_S", 60), ("LOOK_S", 5.0), ("_now", lambda: now[0])):
        monkeypatch.setattr(module, name, value)
    read = module.ObjectLock.check
    monkeypatch.setattr(module.ObjectLock, "check", lambda lock: looks.append(now[0]) or read(lock))
    with run_lock(store):
        for number in range(20):
            store.below("folder").write_bytes(f"{number}", b"")
            store.remove(f"folder/{number}")
        assert looks == [100.0]
        pickle.loads(pickle.dumps(store)).write_bytes("file", b"in a task")
        assert looks == [100.0] * 2
        now[0] += 5
        second(store).write_bytes(LOCK, b'{"token": "another"}')
        for _ in range(2):  # a lock that is lost is not forgotten
            with pytest.raises(LockLost):
                store.remove("file")
    assert looks == [100.0] * 2 + [105.0] * 2 and store.exists("file")


def test_who_takes_a_void_lock_waits_until_its_last_owner_would_have_looked(
    store: SimulatedObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 1.0)
    store.write_bytes(LOCK, b"of a killed one")
    began = time.monotonic()
    with run_lock(store):
        assert time.monotonic() - began >= module.VOID_AFTER_S + module.LOOK_S


@pytest.mark.parametrize("ignored", [False, True])
def test_a_command_whose_lock_was_lost_ends_before_it_changes_anything(
    store: SimulatedObjectStore, ignored: bool
) -> None:
    """As in the background of a script, where Ctrl-C is ignored, too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else signal.getsignal(signal.SIGINT)
    term = signal.getsignal(signal.SIGTERM)
    end_in_order_at_sigterm()
    try:
        began = time.monotonic()
        with pytest.raises(LockLost, match=r"was lost \(process 7 on b\)"), run_lock(store):
            second(store).write_bytes(LOCK, b'{"token": "another", "host": "b", "pid": 7}')
            time.sleep(60)
        assert time.monotonic() - began < 30 and store.read_json(LOCK)["pid"] == 7
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, term)


def test_without_flock_the_lock_is_that_of_object_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    storage = Storage(str(tmp_path))
    with run_lock(storage):
        with (
            pytest.raises(UserError, match=r"in use by another ezxmc command \(process"),
            run_lock(Storage(storage.root)),
        ):
            pass
        storage.write_bytes("file", b"by the owner")
    assert storage.list() == ["file"]


def test_a_file_system_whose_locks_fail_is_named_and_no_other_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (
        pytest.raises(UserError, match=r"cannot be locked \(.*No locks available\): have"),
        run_lock(Storage(str(tmp_path))),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_start_at_once_one_goes_on(store: SimulatedObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.2)
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            with run_lock(second(store)):
                outcomes.append("went on")
                time.sleep(0.5)
        except UserError:
            outcomes.append("refused")

    both = [threading.Thread(target=attempt) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(outcomes) == ["refused", "went on"]

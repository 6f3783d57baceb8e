"""A run directory has one owner; a dead owner's lock is void."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import fs

from ezxmc_ray import run_lock as module
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import LOCK, run_lock
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


class SimulatedObjectStore(Storage):
    """A local directory that is treated as an object store: no flock, no rename."""

    @property
    def is_local(self) -> bool:
        return False


def test_on_an_object_store_a_renewed_lock_holds_and_an_old_one_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SimulatedObjectStore(str(tmp_path))
    assert isinstance(storage.filesystem, fs.LocalFileSystem)
    with run_lock(storage):
        with pytest.raises(UserError, match="in use"), run_lock(storage):
            pass
        left_by_a_dead_owner = storage.read_bytes(LOCK)
    assert not storage.exists(LOCK)
    storage.write_bytes(LOCK, left_by_a_dead_owner)
    monkeypatch.setattr(module, "VOID_AFTER_S", 0.05)
    time.sleep(0.1)
    with run_lock(storage):
        pass

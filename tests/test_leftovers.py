"""What a kill left of files that were being written goes with the next owner; a living process keeps its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ezxmc_ray import layout
from ezxmc_ray.leftovers import remove_leftovers, remove_temporary_folders, temporary_folder, temporary_name
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage

KILLED = """
import os, signal, sys
from ezxmc_ray.storage import Storage
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # the moment before the rename
Storage(sys.argv[1]).write_bytes("verdicts/key/shard-00000/batch.parquet", b"content")
"""


def test_the_next_owner_removes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60)
    assert killed.returncode == -9
    folder = tmp_path / "verdicts" / "key" / "shard-00000"
    assert len(list(folder.iterdir())) == 1
    with run_lock(Storage(str(tmp_path))):
        assert list(folder.iterdir()) == []


FOLDER = """
import os, signal
from ezxmc_ray.leftovers import temporary_folder
with temporary_folder() as folder:
    (folder / "state.pt").write_text("large")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_owner_removes_the_temporary_folders_of_ended_processes_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "t").mkdir()
    assert subprocess.run([sys.executable, "-c", FOLDER], timeout=60).returncode == -9
    (left,) = (tmp_path / "t").iterdir()
    log = tmp_path / "t" / left.name.replace("ezxmc-", "ezxmc-ray-")
    others = [tmp_path / "t" / name for name in ("ezxmc-home-0", "ezxmc-00000000-1-x", "mine")]
    for folder in others:
        folder.mkdir()
    log.write_text("what Ray said")
    with temporary_folder() as own, run_lock(Storage(str(tmp_path / "run"))):
        assert sorted((tmp_path / "t").iterdir()) == sorted([*others, own, log])
    os.utime(log, (1e9, 1e9))
    assert remove_temporary_folders() == 1 and sorted((tmp_path / "t").iterdir()) == sorted(others)


def test_the_next_owner_removes_what_a_killed_prepare_was_making(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for folder in (layout.new_prepare_folder(), ".prepare", ".prepare-own"):  # the last is the user's
        storage.write_bytes(f"{folder}/documents/shard-00000.parquet", b"half of it")
    with run_lock(storage):
        assert storage.folders() == [".prepare-own"]


def test_what_a_living_process_or_another_machine_writes_stays(tmp_path: Path) -> None:
    own = Path(temporary_name(str(tmp_path / "a")))
    host, pid, _ = own.name.partition(".tmp-")[2].split("-")
    assert pid == str(os.getpid())
    kept = [own, tmp_path / "b.tmp-00000000-1-01234567"]
    gone = [
        tmp_path / f"d.tmp-{host}-4194304-01234567",  # above the highest number of a process
        tmp_path / f"e.tmp-{host}-{os.getpid()}-01234567",
        tmp_path / "f.tmp-00000000-1-01234567",
    ]
    others = [tmp_path / "table.parquet", tmp_path / "notes.tmp-old", tmp_path / "g.tmp-01234567"]
    for file in kept + gone + others:
        file.write_text("")
    (tmp_path / f"h.tmp-{host}-4194304-01234567" / "deep").mkdir(parents=True)
    for file in gone[1:] + others:
        os.utime(file, (1e9, 1e9))
    assert remove_leftovers(tmp_path) == 4
    assert sorted(tmp_path.iterdir()) == sorted(kept + others)


def test_what_a_user_called_so_stays(tmp_path: Path) -> None:
    folder = tmp_path / "backup.tmp-20250101"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for path in (folder / "notes.txt", folder):
        os.utime(path, (1e9, 1e9))
    with run_lock(Storage(str(tmp_path))):
        assert (folder / "notes.txt").read_text() == "mine"

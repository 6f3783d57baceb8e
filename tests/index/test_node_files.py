"""Files of a run that a machine's processes map, on a file system and in a simulated object store."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from ezxmc_ray.errors import UserError
from ezxmc_ray.index import node_files
from ezxmc_ray.index.node_files import array_file, map_array, node_file, write_array
from ezxmc_ray.storage import Storage


class SimulatedStore(Storage):
    """A file system that says it is none of this machine, and notes what is copied from it."""

    is_local = False

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return SimulatedStore, (self.root,)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedStore:
    monkeypatch.setenv("EZXMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(node_files, "_used", {})
    (tmp_path / "run" / "a").mkdir(parents=True)
    return SimulatedStore(str(tmp_path / "run"))


def copies(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "node").iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("array", [np.arange(12, dtype=np.float16).reshape(4, 3), np.zeros(0, np.uint8)])
def test_an_array_is_mapped_from_the_runs_own_file(tmp_path: Path, array: np.ndarray) -> None:
    storage = Storage(str(tmp_path))
    note = write_array(storage, "a/b.npy", array)
    mapped = map_array(storage, note)
    np.testing.assert_array_equal(mapped, array)
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "b.npy"), array)
    assert mapped.dtype == array.dtype and isinstance(mapped, np.memmap)
    assert node_file(storage, note) == tmp_path / "a" / "b.npy"
    (tmp_path / "a" / "b.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"^a/b\.npy of the run .* not what was written: remove a there"):
        map_array(storage, note)


def test_an_array_that_is_written_in_parts_is_the_whole(tmp_path: Path) -> None:
    storage, whole = Storage(str(tmp_path)), np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    with array_file(storage, "x.npy", (7, 3), np.float32) as sink:
        sink.write(whole[:2])
        sink.write(whole[2:])
    assert sink.note("x.npy") == write_array(storage, "y.npy", whole).__class__(
        "x.npy", (tmp_path / "x.npy").stat().st_size, node_files.checksum(tmp_path / "x.npy")
    )
    np.testing.assert_array_equal(map_array(storage, sink.note("x.npy")), whole)


def test_a_machine_copies_a_stores_file_once(
    store: SimulatedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = write_array(store, "a/b.npy", np.arange(5))
    path = node_file(store, note)
    assert path.parent == tmp_path / "cache" / "node"
    monkeypatch.setattr(fs, "copy_files", None)  # would raise
    assert node_file(store, note) == path
    np.testing.assert_array_equal(map_array(store, note), np.arange(5))


def test_a_cache_without_locks_is_told(store: SimulatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    note = write_array(store, "a/b.npy", np.arange(5))
    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(UserError, match=r"cache/node cannot be locked \(.*No locks available\): set EZXMC_CACHE"):
        node_file(store, note)


def test_a_copy_that_is_not_what_was_written_is_refused(store: SimulatedStore, tmp_path: Path) -> None:
    note = write_array(store, "a/b.npy", np.arange(5))
    for wrong in (dataclasses.replace(note, sha256="0" * 64), dataclasses.replace(note, bytes=7)):
        with pytest.raises(UserError, match=r"^a/b\.npy of the run .* not what was written: remove a there"):
            node_file(store, wrong)
    store.remove("a/b.npy")
    with pytest.raises(UserError, match=r"^a/b\.npy of the run .* not what was written: remove a there"):
        node_file(store, note)
    assert copies(tmp_path) == []


def test_copies_that_no_process_uses_go_when_another_is_made(
    store: SimulatedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = [write_array(store, f"a/{n}.npy", np.arange(n)) for n in range(1, 6)]
    mine = node_file(store, notes[0])
    with monkeypatch.context() as simulated_process:  # has locks of its own, until it ends
        simulated_process.setattr(node_files, "_used", uses := {})
        theirs = [node_file(store, note).name for note in notes[:3]]
    assert copies(tmp_path) == sorted(theirs) and mine.name in theirs
    for lock in uses.values():
        lock.close()
    (mine.parent / "left.npy.lock").touch()
    (mine.parent / "left.npy.part").touch()  # by a process that was killed
    last = node_file(store, notes[3])
    assert copies(tmp_path) == sorted([mine.name, last.name])


def test_a_copy_that_somebody_removed_is_made_again(store: SimulatedStore) -> None:
    note = write_array(store, "a/b.npy", np.arange(5))
    node_file(store, note).unlink()
    np.testing.assert_array_equal(map_array(store, note), np.arange(5))

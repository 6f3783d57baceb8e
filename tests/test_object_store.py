"""A run on an object store: one put a file, nothing past the store's file system, a rename that loses nothing.

The stores are simulated by local folders; what pyarrow makes of an S3 address is looked at without a request.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from ezxmc_ray import storage
from ezxmc_ray.errors import UserError
from ezxmc_ray.places import folder_and_name, name_of
from ezxmc_ray.storage import Storage, _with_one_put, check_writable
from ezxmc_ray.tables import GOLD_SCHEMA
from ezxmc_ray.tagging.files import check_output


class CountingFolder:
    """A local folder as an object store, simulated: it knows no move, a copy makes folders, requests are counted."""

    def __init__(self) -> None:
        self.folder, self.asked = fs.LocalFileSystem(), Counter[str]()

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any) -> Any:
            assert name != "move"
            self.asked[name] += 1
            if name == "copy_file":
                self.folder.create_dir(arguments[1].rpartition("/")[0])
            return getattr(self.folder, name)(*arguments)

        return ask


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """A run on an object store, simulated: its paths are none of this machine's, so a look past it finds nothing."""
    (tmp_path / "store/bucket/run/a/sub").mkdir(parents=True)  # which no object store asks for
    storage = Storage(str(tmp_path / "near"))
    storage.filesystem = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())
    storage._base = "bucket/run"
    return storage


def test_a_small_file_is_one_request_on_s3_unless_the_address_says_otherwise() -> None:
    assert _with_one_put("s3://bucket/run") == "s3://bucket/run?allow_delayed_open=true"
    assert _with_one_put("gs://bucket/run") == "gs://bucket/run"
    for address, one_put in (
        ("s3://bucket/run?region=us-east-1", True),
        ("s3://bucket/run?region=us-east-1&allow_delayed_open=false", False),
    ):
        storage = Storage(address)
        assert storage.path("a") == "bucket/run/a"
        assert storage.filesystem.__reduce__()[1][0]["allow_delayed_open"] is one_put
        assert pickle.loads(pickle.dumps(storage)).root == address


def test_a_storage_below_another_keeps_what_its_uri_asks_for() -> None:
    run = Storage("s3://bucket/run?region=eu-central-1&endpoint_override=localhost:9")
    below = run.below(".prepare")
    assert below.path("documents") == "bucket/run/.prepare/documents"
    assert below.filesystem.equals(run.filesystem) and below.filesystem.region == "eu-central-1"


def test_a_files_uri_is_asked_for_where_it_says_and_its_name_ends_before_that() -> None:
    asks = "?region=eu-central-1&endpoint_override=http://localhost:9"
    folder, name = folder_and_name(f"s3://bucket/some/v.parquet{asks}")
    assert (name, folder.path(name)) == ("v.parquet", "bucket/some/v.parquet")
    assert folder.filesystem.equals(Storage(f"s3://bucket/some{asks}").filesystem)
    assert (name_of(f"s3://b/tags.csv{asks}"), name_of("a?b/t.csv"), name_of("tags/")) == ("tags.csv", "t.csv", "")
    assert folder_and_name("why?.csv")[1] == "why?.csv"
    check_output(f"s3://b/tags.csv{asks}")


def test_on_an_object_store_nothing_goes_past_its_file_system(store: Storage, tmp_path: Path) -> None:
    table = pa.table({"labels": [[1], [2, 3]]}, schema=GOLD_SCHEMA)
    store.write_table("a/t.parquet", table, {"documents": 2})
    assert not store.is_local and store.path("a") == "bucket/run/a"
    assert store.read_table("a/t.parquet", GOLD_SCHEMA) == table
    assert store.read_counts("a/t.parquet") == {"documents": 2}
    assert store.rows("a/t.parquet") == 2 and store.rows_of(["a/t.parquet"]) == (2,)
    (tmp_path / "one").write_bytes(b"content")
    store.upload(tmp_path / "one", "a/sub/x")
    assert store.sizes("a/sub") == {"a/sub/x": 7} and store.folders("a") == ["a/sub"]
    assert store.list("", recursive=True) == ["a/sub/x", "a/t.parquet"]
    assert store.exists("a/sub/x") and not store.exists("a/sub/y")
    assert store.is_folder("a/sub") and not store.is_folder("a/sub/x")
    with store.local("a") as copy:
        assert sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*")) == ["sub", "sub/x", "t.parquet"]
        assert (copy / "sub/x").read_bytes() == b"content" and tmp_path not in copy.parents
    with store.local("a/sub") as copy:
        assert os.listdir(copy) == ["x"] and os.listdir(copy.parent) == ["sub"]
    assert not copy.exists()
    store.remove("a/sub")
    store.remove("a/sub")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(found) == [tmp_path / "one", tmp_path / "store/bucket/run/a/t.parquet"]


def test_on_an_object_store_a_file_is_renamed_and_what_cannot_be_copied_stays(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes("a/x", b"1")
    store.rename("a/x", "a/sub/y")
    assert store.list("", recursive=True) == ["a/sub/y"]

    def fail(source: str, target: str) -> None:
        raise OSError("the store is full")

    with monkeypatch.context() as full:
        full.setattr(store, "filesystem", SimpleNamespace(copy_file=fail, get_file_info=store.filesystem.get_file_info))
        with pytest.raises(OSError, match="full"):
            store.rename("a/sub", "a/other")
    assert store.read_bytes("a/sub/y") == b"1"


def test_on_an_object_store_a_rename_is_one_copy_a_file_and_six_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``move`` would be a copy, a removal and three looks a file; here the files go together (simulated)."""
    storage, asked = Storage(str(tmp_path)), {}
    for files in (5, 50):
        for number in range(files):
            storage.write_bytes(f"new/sub/{number}", str(number).encode())
        storage.write_bytes("old/b", b"2")
        store = CountingFolder()
        with monkeypatch.context() as simulated:
            simulated.setattr(Storage, "is_local", property(lambda self: False))
            simulated.setattr(storage, "filesystem", store)
            storage.rename("new", "old")
        asked[files] = store.asked
        assert storage.list(recursive=True) == sorted(f"old/sub/{number}" for number in range(files))
        assert all(storage.read_bytes(f"old/sub/{number}") == str(number).encode() for number in range(files))
    assert asked[50] - asked[5] == Counter(copy_file=45)
    assert sum(asked[5].values()) <= 5 + 6


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_what_fails_before_it_is_put_changes_nothing(
    before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store (simulated) a stream that an error ends puts the part it has, over what was there."""
    storage = Storage(str(tmp_path / "store"))
    storage.write_bytes("other", b"")
    if before is not None:
        storage.write_bytes("t.parquet", before)
    monkeypatch.setattr(Storage, "is_local", property(lambda self: False))
    with pytest.raises(KeyError), storage.open_table("t.parquet", GOLD_SCHEMA) as sink:
        sink.write_table(pa.table({"labels": [[1]]}, schema=GOLD_SCHEMA))
        raise KeyError("in the midst")
    with pytest.raises(KeyError), storage.open_file("t.parquet") as file:
        file.write(b"a part")
        raise KeyError("in the midst")
    with pytest.raises(KeyboardInterrupt), storage._commit("t.parquet"):
        raise KeyboardInterrupt
    assert storage.sizes() == {"other": 0} | ({} if before is None else {"t.parquet": len(before)})
    storage.write_bytes("t.parquet", b"whole")
    assert storage.read_bytes("t.parquet") == b"whole"


class RefusingStore(fs.FSSpecHandler):  # type: ignore[misc]
    """A local folder as an object store, simulated, that refuses what is put, when it is closed or at a later part."""

    def __init__(self, when: str) -> None:
        super().__init__(LocalFileSystem(auto_mkdir=True))
        self.when = when

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """A stream that keeps nothing."""
        sink = io.BytesIO()

        def refuse(*_: Any) -> None:
            raise OSError("ACCESS_DENIED")

        return pa.PythonFile(
            SimpleNamespace(
                write=refuse if self.when == "written" else sink.write,
                close=refuse if self.when == "closed" else sink.close,
                flush=lambda: None,
                closed=False,
            ),
            mode="w",
        )


@pytest.mark.parametrize("when", ["written", "closed"])
def test_what_a_store_refuses_is_an_error_and_changes_nothing(tmp_path: Path, when: str) -> None:
    store = Storage(str(tmp_path / "store"))
    store.write_bytes("a", b"before")
    store.filesystem = fs.PyFileSystem(RefusingStore(when))
    (tmp_path / "local").write_bytes(b"content")
    table = pa.table({"labels": [[1]]}, schema=GOLD_SCHEMA)
    for write in (
        lambda: store.write_bytes("a", b"after"),
        lambda: store.write_note("a", {}),
        lambda: store.write_table("a", table),
        lambda: store.upload(tmp_path / "local", "a"),
    ):
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            write()
    assert store.read_bytes("a") == b"before"
    with pytest.raises(UserError, match="ACCESS_DENIED"):
        check_writable(store)


def test_an_error_that_names_another_file_is_not_one_of_the_target(store: Storage) -> None:
    with pytest.raises(PermissionError), store.open_file("a/x"):
        raise PermissionError(errno.EACCES, "Permission denied", "in.txt")


def test_a_full_disk_for_temporary_files_is_named_where_a_store_is_written_to(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "copy_file", full)
    with pytest.raises(UserError, match=f"^Cannot write bucket/run/a/x by way of {tempfile.gettempdir()}: the disk is"):
        store.write_bytes("a/x", b"1")

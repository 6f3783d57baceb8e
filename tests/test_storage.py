"""Commits are whole or absent; a stage is done only if its manifest says so and its files are there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.leftovers import temporary_name
from ezxmc_ray.storage import (
    CHECKSUM,
    COUNTS,
    Manifest,
    Storage,
    check_writable,
    copy_into,
    read_manifest,
    write_manifest,
)
from ezxmc_ray.tables import GOLD_SCHEMA, LABELS_SCHEMA


@pytest.fixture(params=["local", "uri"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run") if request.param == "local" else f"file://{tmp_path}/run")


def test_tables_json_and_bytes_come_back(storage: Storage) -> None:
    table = pa.table({"labels": [[1, 2], [], None]}, schema=GOLD_SCHEMA)
    storage.write_table("gold/shard-00000.parquet", table, {"documents": 3})
    storage.write_json("a/b.json", {"é": [1]})
    assert storage.read_table("gold/shard-00000.parquet", GOLD_SCHEMA) == table
    assert storage.read_counts("gold/shard-00000.parquet") == {"documents": 3}
    assert storage.rows("gold/shard-00000.parquet") == 3
    assert storage.read_json("a/b.json") == {"é": [1]}
    assert storage.read_bytes("a/b.json").decode() == '{\n  "é": [\n    1\n  ]\n}\n'  # people read it too
    assert storage.list("gold", ".parquet") == ["gold/shard-00000.parquet"]
    assert storage.list("nowhere") == []
    assert storage.list(recursive=True) == ["a/b.json", "gold/shard-00000.parquet"]
    assert pq.read_table(storage.path("gold/shard-00000.parquet")).column_names == ["labels"]


def test_a_shards_table_lies_under_its_number(storage: Storage) -> None:
    table = pa.table({"labels": [[1], []]}, schema=GOLD_SCHEMA)
    storage.write_shard("gold", 12, table, {"documents": 2})
    assert storage.list(recursive=True) == ["gold/shard-00012.parquet"]
    assert storage.read_shard("gold", 12, GOLD_SCHEMA) == table
    assert storage.read_shard("gold", 12, GOLD_SCHEMA, ["labels"]) == table
    assert storage.read_counts("gold/shard-00012.parquet") == {"documents": 2}


def test_a_storage_can_be_sent_to_another_process(storage: Storage) -> None:
    storage.write_json("x.json", 1)
    assert pickle.loads(pickle.dumps(storage)).read_json("x.json") == 1


def test_a_relative_place_is_the_same_for_a_process_that_works_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Storage("run"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent).path("x") == f"{tmp_path}/run/x"


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("file", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="larger than this process may write"):
            storage.write_bytes("file", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert storage.read_bytes("file") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda one: (done.append(os.readlink(f"/proc/self/fd/{one}")), sync(one)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    Storage(str(tmp_path)).write_bytes("folder/file", b"content")
    assert done[0].startswith(str(tmp_path / "folder" / "file.tmp-"))
    assert done[1:] == ["replace", str(tmp_path / "folder")]
    done.clear()
    Storage(str(tmp_path)).rename("folder/file", "other/file")
    assert done == ["replace", str(tmp_path / "other")]


def test_writing_leaves_no_file_open(tmp_path: Path) -> None:
    storage, before = Storage(str(tmp_path)), len(os.listdir("/proc/self/fd"))
    for number in range(20):
        storage.write_bytes(f"folder/{number}", b"x")
        storage.write_table(f"{number}.parquet", pa.table({"labels": [[1]]}, schema=GOLD_SCHEMA))
        storage.rename(f"folder/{number}", f"other/{number}")
    assert len(os.listdir("/proc/self/fd")) < before + 10


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(ConnectionResetError), storage.open_file("a"):
        raise ConnectionResetError(errno.ECONNRESET, "of whoever writes")
    assert storage.list() == [] and os.listdir(tmp_path) == []


def test_a_run_below_a_regular_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a part of the path is a regular file"):
        Storage(str(tmp_path / "file" / "run")).write_bytes("a", b"x")


def test_a_name_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    os.mkdir(os.fsencode(tmp_path) + b"/tags\xff")
    with pytest.raises(UserError, match=f"Below {tmp_path} is a name that is not UTF-8"):
        storage.folders()
    with open(os.fsencode(tmp_path) + b"/file\xff", "wb"), pytest.raises(UserError, match="rename that file"):
        storage.list(recursive=True)


def test_an_unknown_scheme_is_one_sentence() -> None:
    with pytest.raises(UserError, match="cannot be used"):
        Storage("nosuch://bucket/run")


def test_upload_and_local_copy_a_directory(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "a").write_text("1")
    (tmp_path / "model" / "sub" / "b").write_text("2")
    storage.upload(tmp_path / "model", "student")
    with storage.local("student") as path:
        assert (path / "a").read_text() == "1"
        assert (path / "sub" / "b").read_text() == "2"


def test_a_copy_of_a_directory_takes_the_place_of_what_was_there(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("1")
    storage.write_bytes("student/old", b"0")
    storage.write_bytes("other", b"0")
    copy_into(storage, tmp_path / "model", "student")
    assert storage.list(recursive=True) == ["other", "student/a"]


def test_a_place_is_tried_before_it_is_used(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("a", b"")
    check_writable(storage)
    assert os.listdir(storage.path()) == ["a"]

    def fail(name: str, content: bytes) -> None:
        raise ConnectionResetError("the store is gone")

    monkeypatch.setattr(storage, "write_bytes", fail)
    with pytest.raises(UserError, match=r"Cannot write to .*: the store is gone; name another place"):
        check_writable(storage)


def test_upload_and_local_copy_a_file(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"content")
    storage.upload(tmp_path / "one", "folder/other")
    assert storage.list("folder") == ["folder/other"]
    with storage.local("folder/other") as path:
        assert path.read_bytes() == b"content"


def test_folders_and_files_are_told_by_their_names_without_what_is_being_written(storage: Storage) -> None:
    for name in ("a/one", "a/b/two", "c/three"):
        storage.write_bytes(name, name.encode())
    storage.write_bytes(temporary_name("a/one"), b"part")
    assert storage.folders() == ["a", "c"] and storage.folders("a") == ["a/b"]
    assert storage.sizes("a") == {"a/one": 5}
    assert storage.sizes(recursive=True) == {"a/one": 5, "a/b/two": 7, "c/three": 7}
    assert storage.list("", recursive=True) == ["a/b/two", "a/one", "c/three"]


def test_rename_replaces_a_directory_and_a_file(storage: Storage) -> None:
    storage.write_bytes("new/sub/a", b"1")
    storage.write_bytes("old/b", b"2")
    storage.rename("new", "old")
    assert storage.list(recursive=True) == ["old/sub/a"]
    storage.rename("old/sub/a", "c")
    assert storage.read_bytes("c") == b"1"
    assert storage.list(recursive=True) == ["c"]
    storage.rename("c", "new/folder/d")
    assert storage.list(recursive=True) == ["new/folder/d"]


def test_a_write_is_refused_by_the_guard_before_anything_is_written(storage: Storage, tmp_path: Path) -> None:
    def refuse() -> None:
        raise UserError("another command's")

    storage.guard = refuse
    with pytest.raises(UserError, match="another command's"):
        storage.write_bytes("folder/file", b"x")
    assert not (tmp_path / "run").exists()


def test_a_lock_that_is_lost_during_a_write_leaves_the_file_as_it_was(storage: Storage) -> None:
    storage.write_bytes("file", b"by the new owner")

    def refuse() -> None:
        raise UserError("another command's")

    with pytest.raises(UserError, match="another command's"), storage.open_file("file") as sink:
        sink.write(b"late")
        storage.guard = refuse
    assert storage.read_bytes("file") == b"by the new owner" and storage.list() == ["file"]


def test_only_the_columns_that_are_asked_for_are_read_and_checked(storage: Storage) -> None:
    storage.write_table("t.parquet", pa.table({"id": [1], "text": ["a"], "description": ["b"]}))
    assert storage.read_table("t.parquet", columns=["text"]).column_names == ["text"]
    checked = storage.read_table("t.parquet", LABELS_SCHEMA, ["description", "text"])
    assert checked.column_names == ["description", "text"]
    with pytest.raises(UserError, match="column 'id' has type int64"):
        storage.read_table("t.parquet", LABELS_SCHEMA, ["text", "id"])


def test_files_are_listed_by_their_ending_and_not_those_below_unless_asked(storage: Storage) -> None:
    for name in ("a/2.json", "a/1.parquet", "a/b/3.parquet", "a/json"):
        storage.write_bytes(name, b"")
    assert storage.list("a", ".parquet") == ["a/1.parquet"] and storage.list("a", "json") == ["a/2.json", "a/json"]
    assert storage.list("a", ".parquet", recursive=True) == ["a/1.parquet", "a/b/3.parquet"]
    assert Storage("/").path("a/b") == "/a/b" and Storage("/").path() == "/"
    assert storage.below("a").list() == ["1.parquet", "2.json", "json"]


def test_a_local_storage_below_another_takes_names_as_they_are(tmp_path: Path) -> None:
    below = Storage(f"{tmp_path}/what?/run").below("new")
    below.write_bytes("a", b"1")
    assert (tmp_path / "what?" / "run" / "new" / "a").read_bytes() == b"1"


def test_rows_of_many_files_are_in_their_order(storage: Storage) -> None:
    for number in range(40):
        storage.write_table(f"t/{number}.parquet", pa.table({"labels": [[1]] * number}, schema=GOLD_SCHEMA))
    assert storage.rows_of([f"t/{number}.parquet" for number in (7, 39, 0, 3)]) == (7, 39, 0, 3)


def test_a_manifest_comes_back(storage: Storage) -> None:
    manifest = Manifest("stage", "abc", rows=1, seconds=0.5, files=["stage/one"], details={"cut": 2, "by": {1: 2.5}})
    assert read_manifest(storage, "stage") is None
    write_manifest(storage, "another stage", manifest)
    assert read_manifest(storage, "stage") is None
    write_manifest(storage, "stage", manifest)
    assert read_manifest(storage, "stage") == replace(manifest, details={"cut": 2, "by": {"1": 2.5}})


def test_a_manifest_of_an_older_version_is_one_without_checksums(storage: Storage) -> None:
    storage.write_json("stage/manifest.json", {"stage": "s", "fingerprint": "f", "rows": 1, "seconds": 1.0})
    assert read_manifest(storage, "stage") is not None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"stage": "x"', b"\xff\xfe"])
def test_a_broken_manifest_is_no_manifest(storage: Storage, content: bytes) -> None:
    storage.write_bytes("stage/manifest.json", content)
    assert read_manifest(storage, "stage") is None


def test_a_manifest_in_which_one_character_is_another_is_no_manifest(storage: Storage) -> None:
    write_manifest(storage, "stage", Manifest("stage", "abc", rows=17, seconds=0.5))
    storage.write_bytes("stage/manifest.json", storage.read_bytes("stage/manifest.json").replace(b"17", b"16"))
    assert read_manifest(storage, "stage") is None


def test_a_bit_that_flipped_in_a_table_is_found_when_it_is_read(storage: Storage) -> None:
    """Without page checksums about half of such bits give other values without a word."""
    draw = np.random.default_rng(0)
    table = pa.table({"labels": [draw.integers(0, 1 << 30, 50).tolist() for _ in range(100)]}, schema=GOLD_SCHEMA)
    storage.write_table("t.parquet", table)
    whole = storage.read_bytes("t.parquet")
    pages = pq.ParquetFile(storage.path("t.parquet")).metadata.row_group(0).column(0).total_compressed_size
    for place in draw.integers(4, 4 + pages, 60):
        content = bytearray(whole)
        content[place] ^= 1 << int(draw.integers(0, 8))
        storage.write_bytes("t.parquet", bytes(content))
        try:
            found = storage.read_table("t.parquet", GOLD_SCHEMA)
        except UserError as error:
            assert "t.parquet is damaged (" in str(error) and "ezxmc verify" in str(error)
        else:
            assert found == table


def test_no_turned_bit_in_a_footer_gives_other_counts_or_another_table(storage: Storage) -> None:
    table = pa.table({"labels": [[1]]}, schema=GOLD_SCHEMA)
    storage.write_table("t.parquet", table, {"documents": 18})
    whole, draw = storage.read_bytes("t.parquet"), np.random.default_rng(0)
    found = 0
    for place in draw.choice(8 * len(whole), 500, replace=False):
        content = bytearray(whole)
        content[place // 8] ^= 1 << int(place % 8)
        storage.write_bytes("t.parquet", bytes(content))
        try:
            # Where a bit hides all that is noted in the footer, there are none (map_files asks for them).
            assert storage.read_counts("t.parquet") in ({"documents": 18}, {})
            assert storage.read_table("t.parquet", GOLD_SCHEMA).equals(table)
        except UserError:
            found += 1
    assert found > 100
    told = {COUNTS: json.dumps({"documents": 19, CHECKSUM: "0d56bfc73dd3ad7a9aa00e5049b05df0"})}
    storage.write_table("t.parquet", table.replace_schema_metadata(told))
    with pytest.raises(UserError, match=r"t\.parquet is damaged \(the counts in its footer are not what"):
        storage.read_counts("t.parquet")


def test_a_table_that_is_not_there_or_cut_off_is_one_sentence(storage: Storage) -> None:
    storage.write_table("t.parquet", pa.table({"labels": [[1]]}, schema=GOLD_SCHEMA), {"documents": 1})
    whole = storage.read_bytes("t.parquet")
    for content in (b"", whole[: len(whole) // 2], None):
        storage.remove("t.parquet") if content is None else storage.write_bytes("t.parquet", content)
        for read in (storage.read_table, storage.read_counts, storage.rows):
            with pytest.raises(UserError, match=r"t\.parquet is damaged"):
                read("t.parquet")


def test_a_table_of_another_kind_is_refused(storage: Storage) -> None:
    storage.write_table("labels.parquet", pa.table({"id": [1], "text": ["a"]}))
    with pytest.raises(UserError, match=r"labels.parquet: column 'id' has type int64, expected string"):
        storage.read_table("labels.parquet", LABELS_SCHEMA)

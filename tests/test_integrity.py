"""What is not what was written is found: by its size when folders are listed, by its checksum when it is read."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from ezxmc_ray import run_lock as run_lock_module
from ezxmc_ray import verification
from ezxmc_ray.config import ClusterConfig, Config, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import (
    Verified,
    begun_with,
    checked,
    checksums_of,
    clear_damage,
    damaged_files,
    in_words,
    is_as_written,
    noted_damage,
    signed,
    verify,
    written_sizes,
)
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import GOLD_SCHEMA, VERDICTS_SCHEMA

RUN = {
    "config.yaml": signed("run: here\nseed: 1\n"),
    "student/model.safetensors": bytes(range(256)) * 40,
    "student/modules.json": b"[1, 2]",
    "report.html": b"<html></html>",
    "verdicts/key/teacher.json": b'{"model": "m"}',
}
BATCH = "verdicts/key/shard-00000/batch.parquet"
LISTED = ["student/model.safetensors", "student/modules.json", "gold/shard-00000.parquet"]


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    """A directory with a file of every kind: listed in a manifest, not listed; with a checksum, with those of pages."""
    storage = Storage(str(tmp_path / "run"))
    for name, content in RUN.items():
        storage.write_bytes(name, content)
    draw = np.random.default_rng(0)
    labels = [draw.integers(0, 9999, 40).tolist() for _ in range(50)]
    storage.write_table("gold/shard-00000.parquet", pa.table({"labels": labels}, schema=GOLD_SCHEMA))
    hashes = [draw.bytes(16) for _ in range(200)]
    columns = [hashes, hashes[::-1], draw.random(200, np.float32), [1] * 200, [False] * 200]
    verdicts = pa.table([pa.array(c, f.type) for c, f in zip(columns, VERDICTS_SCHEMA, strict=True)], VERDICTS_SCHEMA)
    storage.write_table(BATCH, verdicts)
    write_step(storage, "student", LISTED)
    return storage


def write_step(storage: Storage, folder: str, files: list[str]) -> Manifest:
    sizes = written_sizes(storage, files)
    checksums = checksums_of(storage, sizes, itertools.starmap)
    manifest = Manifest("select", "f", 1, 1.0, files, {"n": 1}, sizes=sizes, checksums=checksums)
    write_manifest(storage, folder, manifest)
    return manifest


def damage(storage: Storage, name: str, how: str, place: int = 0) -> None:
    content = bytearray(storage.read_bytes(name))
    if how == "flipped":
        content[place] ^= 1
    storage.write_bytes(name, {"emptied": b"", "cut": content[: len(content) // 2]}.get(how, bytes(content)))


def verified(storage: Storage) -> Verified:
    return verify(storage, itertools.starmap)


def test_verdicts_whose_footer_says_other_columns_or_counts_are_damaged(run: Storage) -> None:
    table = run.read_table(BATCH)
    run.write_table(BATCH, table, {"key.engine_ms": 12})
    assert verified(run).damaged == {}
    other_counts = {b"ezxmc.counts": b'{"key.engine_ms": 13, "checksum": "0d56bfc73dd3ad7a9aa00e5049b05df0"}'}
    for damaged in (
        table.rename_columns({"raw": "rav"}),
        table.replace_schema_metadata(other_counts),
        table.set_column(2, "raw", table["raw"].cast(pa.float64())),
    ):
        run.write_table(BATCH, damaged)
        assert set(verified(run).damaged) == {BATCH}


def test_what_is_whole_is_whole_and_only_the_page_has_no_checksum(run: Storage) -> None:
    found = verified(run)
    assert found.damaged == {}
    assert (found.files, found.unchecked) == (8, 1)
    assert found.bytes == sum(run.sizes(recursive=True).values())


@pytest.mark.parametrize("how", ["emptied", "cut", "flipped"])
@pytest.mark.parametrize(
    "name", [*LISTED, "config.yaml", "student/manifest.json", "verdicts/key/shard-00000/batch.parquet"]
)
def test_a_verification_names_what_is_damaged_and_nothing_else(run: Storage, name: str, how: str) -> None:
    size = run.sizes(recursive=True)[name]
    for place in np.random.default_rng(1).integers(0, size, 5 if how == "flipped" else 1).tolist():
        whole = run.read_bytes(name)
        # A bit of a Parquet file that nothing lists may lie where no checksum is: in its footer.
        of_page = name.endswith("batch.parquet") and how == "flipped"
        damage(run, name, how, 4 + place % (size // 2) if of_page else place)
        assert set(verified(run).damaged) == {name}
        run.write_bytes(name, whole)


def test_files_of_others_in_the_directory_are_neither_damaged_nor_removed(run: Storage) -> None:
    others = {
        "labels.json": b'{"id": 1}\n{"id": 2}\n',
        "web/manifest.json": b'{"name": "a page"}',
        "tags/t.parquet": b"",
        "notes/empty.json": b"",
    }
    for name, content in others.items():
        run.write_bytes(name, content)
    found = verified(run)
    assert (found.damaged, found.unchecked) == ({}, 1 + len(others))
    run.write_json(".damaged.json", dict.fromkeys([*others, "gold/shard-00000.parquet"], "as an older version found"))
    clear_damage(run)
    there = run.list(recursive=True)
    assert set(others) < set(there) and "gold/shard-00000.parquet" not in there


def test_notes_carry_a_checksum_and_what_was_begun_is_that_which_was_done(run: Storage) -> None:
    run.write_note("verdicts/key/placement.json", {"folders": 3})
    run.write_json("student/.begun.json", "f")
    assert verified(run).damaged == {}
    content = run.read_bytes("verdicts/key/placement.json")
    run.write_bytes("verdicts/key/placement.json", content.replace(b"3", b"7"))
    run.write_json("student/.begun.json", "e")
    assert set(verified(run).damaged) == {"verdicts/key/placement.json", "student/.begun.json"}
    assert begun_with(run, "student") == "e"  # as an older version wrote it
    run.write_note("student/.begun.json", {"fingerprint": "f"})
    assert begun_with(run, "student") == "f" and begun_with(run, "index") is None
    run.write_bytes("student/.begun.json", run.read_bytes("student/.begun.json").replace(b'"f"', b'"g"'))
    assert "student/.begun.json" in verified(run).damaged and begun_with(run, "student") is None


def test_a_note_that_is_no_json_is_damaged(run: Storage) -> None:
    damage(run, "verdicts/key/teacher.json", "cut")
    assert set(verified(run).damaged) == {"verdicts/key/teacher.json"}


def test_sizes_tell_what_is_missing_or_cut_and_no_file_is_opened(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_step(run, "student", LISTED)
    assert damaged_files(run, manifest) == {}
    run.remove(LISTED[0])
    damage(run, LISTED[1], "emptied")
    monkeypatch.setattr(Storage, "read_bytes", lambda *_: pytest.fail("a file was opened"))
    found = damaged_files(run, manifest, {LISTED[2]: "as noted", "another": "of another step"})
    assert found == {LISTED[0]: "missing", LISTED[1]: "0 bytes, 6 were written", LISTED[2]: "as noted"}
    assert in_words(found, most=1) == f"{LISTED[0]} (missing); and 2 more"


def test_files_of_an_older_version_have_no_sizes_and_are_taken_as_they_are(run: Storage) -> None:
    assert damaged_files(run, Manifest("select", "f", 1, 1.0, LISTED)) == {}


def test_a_later_prepare_may_replace_the_rejected_rows(run: Storage) -> None:
    run.write_bytes("rejected.parquet", b"1")
    manifest = write_step(run, "documents", ["rejected.parquet", "gold/shard-00000.parquet"])
    run.write_bytes("rejected.parquet", b"other")
    assert damaged_files(run, manifest) == {}


@pytest.mark.parametrize("how", ["emptied", "flipped"])
def test_weights_are_held_against_their_checksum_before_they_are_loaded(run: Storage, how: str) -> None:
    with checked(run, "student") as path:
        assert (path / "modules.json").is_file()
    damage(run, "student/model.safetensors", how, 5000)
    with (
        pytest.raises(UserError, match=r"student/model.safetensors is damaged \(its content"),
        checked(run, "student"),
    ):
        pass
    run.remove("student/model.safetensors")
    with pytest.raises(UserError, match="it is missing"), checked(run, "student"):
        pass


def test_a_file_that_a_node_wrote_to_its_own_disk_is_told(run: Storage) -> None:
    with pytest.raises(UserError, match=r"student/gone was written and is not there \(1 of 2 files\): "):
        written_sizes(run, [LISTED[0], "student/gone", "rejected.parquet"])


def test_what_was_found_is_noted_and_cleared_and_verdicts_are_set_aside(run: Storage) -> None:
    damage(run, BATCH, "emptied")
    damage(run, LISTED[0], "flipped", 77)
    assert set(verification.verify(run.root).damaged) == set(noted_damage(run)) == {BATCH, LISTED[0]}
    assert set(clear_damage(run)) == {BATCH}
    assert not run.exists(LISTED[0]) and not run.exists(BATCH) and run.exists(f"{BATCH}.damaged")
    assert noted_damage(run) == {}
    run.write_bytes(LISTED[0], RUN[LISTED[0]])
    assert verification.verify(run.root).damaged == {}


def test_what_another_node_does_not_see_is_read_here(run: Storage, tmp_path: Path) -> None:
    damage(run, LISTED[1], "flipped", 3)

    def elsewhere(task: Any, arguments: Any) -> Any:
        return [task(Storage(str(tmp_path / "of-another-node")), *more) for _, *more in arguments]

    assert set(verify(run, elsewhere).damaged) == {LISTED[1]}


@pytest.mark.parametrize(("place", "address"), [("", "local"), ("fsspec+memory:///bucket/verified", "10.0.0.1:6379")])
def test_a_large_run_is_read_where_it_can_be_seen(
    run: Storage, monkeypatch: pytest.MonkeyPatch, place: str, address: str
) -> None:
    """The run's own cluster sees a URI; a path is seen by this machine, whatever RAY_ADDRESS says."""
    storage, joined = Storage(place or run.root), list[ClusterConfig]()
    values = to_dict(Config(cluster=ClusterConfig(address="10.0.0.1:6379", cpus=3)))
    storage.write_bytes("config.yaml", signed(yaml.safe_dump(values)))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    monkeypatch.setattr(run_lock_module, "SETTLE_S", 0.0)
    monkeypatch.setattr(verification, "VERIFY_HERE_BYTES", 0)
    monkeypatch.setattr("ezxmc_ray.cluster.session.run_tasks", itertools.starmap)

    def join(config: ClusterConfig) -> Any:
        joined.append(config)
        return contextlib.nullcontext()

    monkeypatch.setattr("ezxmc_ray.cluster.session.ray_cluster", join)
    assert verification.verify(storage.root).damaged == {}
    storage.write_bytes("config.yaml", b"# Written by ezxmc, with this checksum: 0\n")
    assert set(verification.verify(storage.root).damaged) == {"config.yaml"}
    assert joined == [ClusterConfig(address=address, cpus=3), ClusterConfig(address=None if place else "local")]


@pytest.mark.parametrize("note", [b"", b"[1]", b'{"../other": "x", "/etc/passwd": "x", "student": "x"}'])
def test_a_note_is_not_trusted(run: Storage, tmp_path: Path, note: bytes) -> None:
    (tmp_path / "other").write_text("stays")
    run.write_bytes(".damaged.json", note)
    assert clear_damage(run) == {}
    assert (tmp_path / "other").read_text() == "stays" and run.exists("student/modules.json")


def test_a_run_in_use_is_not_verified_and_a_directory_that_is_none_is_refused(run: Storage, tmp_path: Path) -> None:
    with run_lock(run), pytest.raises(UserError, match="in use"):
        verification.verify(run.root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a run"):
        verification.verify(str(tmp_path / "empty"))


def test_the_command_names_the_files_and_says_so_by_its_exit_status(run: Storage, ezxmc: Any) -> None:
    whole = ezxmc("verify", run.root)
    assert whole.returncode == 0 and "all are as they were written; 1 have no checksum" in whole.stdout
    damage(run, LISTED[0], "flipped", 3)
    done = ezxmc("verify", run.root)
    assert done.returncode == 1
    assert f"damaged: {LISTED[0]} (its content" in done.stdout and "1 are damaged" in done.stdout


def test_a_signed_text_tells_whether_it_was_changed() -> None:
    content = signed("a: 1\n")
    assert is_as_written(content) and is_as_written(b"a: 1\n")
    assert is_as_written(b"# My run, whose checksum nobody knows\na: 1\n")
    assert not any(is_as_written(b"x" * cut + content[cut:]) for cut in (1, 10, 20))
    assert not is_as_written(content.replace(b"1", b"2")) and not is_as_written(b"")

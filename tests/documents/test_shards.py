"""The stage over whole inputs, against a slow plain reference: exact rows, exact files, exact counts, equal bytes."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.documents import parts
from ezxmc_ray.documents.documents import DocumentSource, check_document, draw
from ezxmc_ray.documents.inputs import inputs_fingerprint
from ezxmc_ray.documents.parts import Part
from ezxmc_ray.documents.shards import ShardCounts, plan_shards, write_shard
from ezxmc_ray.documents.sources import Source
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import prepare as stage
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, GOLD_SCHEMA, LABELS_SCHEMA, REJECTED_SCHEMA, check, content_hash

Row = dict[str, Any]
LABEL_ROWS = [{"id": f"L{i}", "text": f"label {i}"} for i in range(20)]


def _rows(count: int, seed: int, ids: int) -> list[Row | bytes]:
    """Documents with ids drawn from ``ids`` (so that some repeat), some of them bad."""
    random_ = random.Random(seed)
    rows: list[Row | bytes] = []
    for _ in range(count):
        row: Row = {"id": f"d{random_.randrange(ids)}", "title": f"title {random_.random()}", "text": "words " * 3}
        kind = random_.randrange(12)
        if kind == 0:
            rows.append(b"{broken")
            continue
        if kind == 1:
            row |= {"title": "", "text": " "}
        if kind > 3:
            row["labels"] = [f"L{number}" for number in random_.sample(range(20), random_.randrange(4))]
        if kind > 8:
            row["split"] = random_.choice(["train", "test"])
        rows.append(row)
    return rows


def _reference(
    files: list[list[Row | bytes]], seed: int, prepare: PrepareConfig
) -> tuple[list[Row], list[tuple[int, int]]]:
    """Good documents in order, and (file, line) of the rejected rows: the specification, row after row."""
    good: dict[str, Row] = {}
    rejected: list[tuple[int, int]] = []
    for number, rows in enumerate(files):
        for line, row in enumerate(rows, start=1):
            if prepare.limit_documents and len(good) == prepare.limit_documents:
                return list(good.values()), rejected
            if isinstance(row, bytes) or not (row["title"] + row["text"]).strip() or row["id"] in good:
                rejected.append((number, line))
                continue
            one = row["id"]
            split = row.get("split") or ("test" if draw(seed, "split", one) < prepare.test_share else "train")
            labels = row.get("labels")
            good[one] = {
                "id": one,
                "title": row["title"],
                "text": row["text"],
                "split": split,
                "held_out": split == "train" and draw(seed, "held_out", one) < prepare.held_out_share,
                "content_hash": content_hash(row["title"], row["text"]),
                "excluded": [],
                "gold": None if labels is None else sorted({int(label[1:]) for label in labels}),
            }
    return list(good.values()), rejected


def _read(storage: Storage) -> list[Row]:
    rows: list[Row] = []
    for name in storage.list("documents", ".parquet"):
        documents = check(storage.read_table(name), DOCUMENTS_SCHEMA, name).to_pylist()
        gold = storage.read_table(name.replace("documents", "gold"), GOLD_SCHEMA)["labels"].to_pylist()
        rows += [{**row, "gold": one} for row, one in zip(documents, gold, strict=True)]
    return rows


def _digests(storage: Storage) -> dict[str, str]:
    return {name: hashlib.sha256(storage.read_bytes(name)).hexdigest() for name in storage.list(recursive=True)}


@pytest.fixture
def files() -> list[list[Row | bytes]]:
    return [_rows(count, seed, ids=900) for seed, count in enumerate([400, 0, 150, 500])]


@pytest.fixture
def config(files: list[list[Row | bytes]], write_jsonl: Callable[..., str]) -> Config:
    documents = [write_jsonl(f"in/{n}.jsonl{'.gz' if n % 2 else ''}", rows) for n, rows in enumerate(files)]
    labels = write_jsonl("labels.jsonl", LABEL_ROWS)
    return Config(seed=5, prepare=PrepareConfig(documents=documents, labels=[labels], on_bad_rows="skip"))


@pytest.mark.parametrize(
    ("limit", "part_rows", "shard_rows"),
    [(0, 8192, 4096), (0, 37, 50), (1, 37, 50), (130, 37, 50), (390, 50, 4096), (10**6, 37, 64)],
)
def test_rows_are_those_of_the_reference(
    config: Config,
    files: list[list[Row | bytes]],
    sequential_prepare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    part_rows: int,
    shard_rows: int,
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", part_rows)
    config.prepare.limit_documents, config.prepare.shard_rows = limit, shard_rows
    config.prepare.test_share = 0.3 if limit != 1 else 0.0
    expected, bad = _reference(files, 5, config.prepare)
    (documents, written, details), storage = sequential_prepare(config)
    assert _read(storage) == expected
    assert documents == len(expected)
    rejected = check(storage.read_table("rejected.parquet"), REJECTED_SCHEMA, "rejected.parquet").to_pylist()
    names = sorted(config.prepare.documents)
    assert [(names.index(row["source"]), row["line"]) for row in rejected] == bad
    assert details["rejected"] == len(bad) == sum(details["rejected_by_reason"].values())

    size = min(shard_rows, max(64, -(-documents // 8)))
    assert details["shard_rows"] == [min(size, documents - start) for start in range(0, documents, size)]
    assert details["shards"] == len(details["shard_rows"])
    assert details["train"] == sum(row["split"] == "train" for row in expected)
    assert details["test"] == documents - details["train"]
    assert details["held_out"] == sum(row["held_out"] for row in expected)
    assert details["gold_documents"] == sum(row["gold"] is not None for row in expected)
    assert (details["labels"], details["sources"], details["filtered_pairs"]) == (20, 5, 0)
    assert sorted(written) == storage.list(recursive=True)


def test_the_same_bytes_in_whatever_order_tasks_end_on_however_many_cpus(
    config: Config, sequential_prepare: Callable[..., Any]
) -> None:
    for limit in (0, 200):
        config.prepare.limit_documents = limit
        first, here = sequential_prepare(config, f"first-{limit}", cpus=1)
        for name, how in {"backwards": {"backwards": True}, "a task a file": {"backwards": True, "cpus": 50}}.items():
            second, there = sequential_prepare(config, f"{name}-{limit}", **how)
            assert first == second
            assert _digests(here) == _digests(there)


@pytest.mark.parametrize(("files_read", "tasks"), [(3, 3), (40, 4), (160, 4)])
def test_labels_are_read_by_so_many_tasks_however_many_files_there_are(
    files_read: int,
    tasks: int,
    write_jsonl: Callable[..., str],
    sequential_prepare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"in/{number:03d}.jsonl" for number in range(files_read)]
    documents = [write_jsonl(name, [{"id": name, "text": "words", "labels": ["L1"]}]) for name in names]
    prepare = PrepareConfig(documents=documents, labels=[write_jsonl("labels.jsonl", LABEL_ROWS)], test_share=0.1)
    read, asked = Storage.read_table, list[str]()
    monkeypatch.setattr(Storage, "read_table", lambda self, name, *a: asked.append(name) or read(self, name, *a))
    (count, _, details), _ = sequential_prepare(Config(prepare=prepare), cpus=1)
    assert (count, details["gold_labels"]) == (files_read, files_read)
    assert asked.count("labels.parquet") == tasks


def test_what_a_process_held_before_is_not_looked_through_while_it_reads(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The objects that Python's collector would go through at each document: a few of its own, none from before."""
    held, seen = [[number] for number in range(50_000)], list[int]()

    def checked(*words: Any) -> Any:
        seen.append(len(gc.get_objects()))
        return check_document(*words)

    monkeypatch.setattr(parts, "check_document", checked)
    rows = [{"id": f"{number}", "text": "words", "labels": ["L1", "L2"]} for number in range(100)]
    documents, labels = [write_jsonl("in.jsonl", [*rows, b"{"])], [write_jsonl("labels.jsonl", LABEL_ROWS)]
    prepare = PrepareConfig(documents=documents, labels=labels, on_bad_rows="skip")
    sequential_prepare(Config(prepare=prepare))
    assert len(seen) == 101 and max(seen) < 5_000 < len(held)
    assert gc.get_freeze_count() == 0


def test_batches_hold_all_files_in_order_and_large_ones_alone() -> None:
    def source(size: int) -> DocumentSource:
        file = Source("x.jsonl", "x.jsonl", local, "jsonl", None, size, 0)
        return DocumentSource(file, "id", "title", "text", "labels", "split", ())

    local, mib = fs.LocalFileSystem(), 1 << 20
    sizes = [mib, mib, 200 * mib, mib, 70 * mib, 30 * mib, 30 * mib, 30 * mib, 0]
    numbers = [[number for number, _ in batch] for batch in parts.batches([source(size) for size in sizes], 5, 1)]
    assert numbers == [[5, 6], [7], [8], [9], [10, 11], [12, 13]]
    small = [source(10) for _ in range(1000)]
    assert len(list(parts.batches(small, 0, 16))) == 67 and len(list(parts.batches(small, 0, 10**6))) == 1000
    assert list(parts.batches([], 0, 4)) == []
    assert [len(batch) for batch in parts.batches([source(0)] * 9, 0, 4)] == [9]


def test_duplicates_name_the_first(
    config: Config,
    files: list[list[Row | bytes]],
    sequential_prepare: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 37)
    _, storage = sequential_prepare(config)
    first: dict[str, str] = {}
    expected = []
    for path, rows in zip(config.prepare.documents, files, strict=True):
        for line, row in enumerate(rows, start=1):
            if isinstance(row, bytes) or not (row["title"] + row["text"]).strip():
                continue
            if row["id"] in first:
                lost = "; the gold labels of this row are lost with it" if row.get("labels") else ""
                expected.append((path, line, f"duplicate id: {row['id']!r}, first in {first[row['id']]}{lost}"))
            first.setdefault(row["id"], f"{path}:{line}")
    rejected = storage.read_table("rejected.parquet").to_pylist()
    found = [(row["source"], row["line"], row["reason"]) for row in rejected if "duplicate" in row["reason"]]
    assert found == expected
    assert len(found) > 100


def test_a_rerun_leaves_nothing_of_the_run_before(config: Config, sequential_prepare: Callable[..., Any]) -> None:
    sequential_prepare(config, "again")
    config.prepare.limit_documents = 70
    (_, written, _), storage = sequential_prepare(config, "again")
    assert storage.list(recursive=True) == sorted(written)
    assert storage.list("documents") == ["documents/shard-00000.parquet", "documents/shard-00001.parquet"]


def test_formats_give_the_same_documents(
    tmp_path: Path, write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    rows = [
        {"id": f"{i}", "title": f"é {i}", "text": 'a "b",\nc', "labels": ["L1", "L2"], "split": "train"}
        for i in range(5)
    ]
    labels = write_jsonl("labels.jsonl", LABEL_ROWS)
    as_csv = [dict(row, labels="L1;L2") for row in rows]
    table = pa.Table.from_pylist(as_csv)
    (tmp_path / "a.csv").write_text(
        "\n".join(
            [",".join(rows[0]), *(",".join('"' + str(v).replace('"', '""') + '"' for v in r.values()) for r in as_csv)]
        )
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pq.write_table(table.cast(pa.schema([(name, pa.binary()) for name in table.column_names])), tmp_path / "b.parquet")
    found = []
    for path in (write_jsonl("a.jsonl", rows), *(str(tmp_path / name) for name in ("a.csv", "a.parquet", "b.parquet"))):
        config = Config(prepare=PrepareConfig(documents=[path], labels=[labels]))
        (_, _, details), storage = sequential_prepare(config, f"run-{Path(path).name}")
        found.append((_digests(storage), details["document_fingerprint"], details["gold_fingerprint"]))
    assert found[0] == found[1] == found[2] == found[3]


def test_bad_rows_stop_the_run_and_are_all_written_down(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    rows: list[Row | bytes] = [{"id": 1, "text": "t"}, *[b"{"] * 10, {"id": 1, "text": "u"}]
    documents, labels = write_jsonl("d.jsonl", rows), write_jsonl("l.jsonl", [*LABEL_ROWS, {"id": "e", "text": ""}])
    with pytest.raises(UserError) as raised:
        sequential_prepare(Config(prepare=PrepareConfig(documents=[documents], labels=[labels])))
    lines = str(raised.value).splitlines()
    run = Path(documents).parent / "run"
    assert lines[0] == (
        f"12 bad rows in 2 of 2 source files (all are in {run}/rejected.parquet); mend them, or leave them out with "
        "prepare.on_bad_rows=skip:"
    )
    assert lines[1] == f"  {labels}:21: empty label: text of 'e' is empty"
    assert lines[2] == f"  {documents}:2: broken JSON: Expecting property name enclosed in double quotes at column 2"
    assert lines[11] == "  … and 2 more"
    assert len(lines) == 12
    table = pq.read_table(run / "rejected.parquet")
    assert table.num_rows == 12
    assert table.to_pylist()[-1] == {
        "source": documents,
        "line": 12,
        "reason": f"duplicate id: '1', first in {documents}:1",
        "content": '{"id": "1", "title": "", "text": "u"}',
    }
    assert Storage(str(run)).list("documents", recursive=True) == []


def test_a_broken_input_leaves_a_finished_run_as_it_was(
    config: Config, write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    _, storage = sequential_prepare(config)
    before = {name: storage.read_bytes(name) for name in storage.list(recursive=True) if name != "rejected.parquet"}
    broken = dataclasses.replace(config.prepare, documents=[write_jsonl("broken.jsonl", [b"{"])], on_bad_rows="fail")
    with pytest.raises(UserError, match="rows"):
        sequential_prepare(dataclasses.replace(config, prepare=broken))
    after = {name: storage.read_bytes(name) for name in storage.list(recursive=True) if name != "rejected.parquet"}
    assert after == before
    assert storage.read_table("rejected.parquet").num_rows == 1


def test_tables_on_disks_of_other_nodes_leave_a_finished_run_as_it_was(
    config: Config, sequential_prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tasks on other nodes leave them where the run is a path that these do not share."""
    _, storage = sequential_prepare(config)
    before = {name: storage.read_bytes(name) for name in storage.list(recursive=True) if name != "rejected.parquet"}

    def elsewhere(run: Storage, number: int, *pieces: Any) -> ShardCounts:
        counts = write_shard(run, number, *pieces)
        run.remove(f"documents/shard-{number:05}.parquet")
        return counts

    monkeypatch.setattr(stage, "write_shard", elsewhere)
    with pytest.raises(UserError, match=r"documents/shard-00000\.parquet was written and is not there"):
        sequential_prepare(config)
    after = {name: storage.read_bytes(name) for name in storage.list(recursive=True) if name != "rejected.parquet"}
    assert after == before


def test_nothing_usable(write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]) -> None:
    labels = write_jsonl("l.jsonl", LABEL_ROWS)
    cases: dict[str, tuple[list[Row | bytes], str]] = {
        "empty": ([], "There is no document in {}/empty.jsonl: there is no row (a header is none)."),
        "bad": ([b"{", b"["], "There is no document in {}/bad.jsonl: all 2 rows are bad, see "),
        "test": ([{"id": 1, "text": "t", "split": "test"}], "None of the 1 documents is for training; lower prepare."),
    }
    for name, (rows, message) in cases.items():
        file = write_jsonl(f"{name}.jsonl", rows)
        config = Config(prepare=PrepareConfig(documents=[file], labels=[labels], on_bad_rows="skip"))
        with pytest.raises(UserError) as raised:
            sequential_prepare(config)
        assert str(raised.value).startswith(message.format(Path(file).parent))


def test_a_run_in_an_object_store(config: Config, sequential_prepare: Callable[..., Any]) -> None:
    here, _ = sequential_prepare(config)
    there, storage = sequential_prepare(config, "fsspec+memory:///bucket/run")
    assert here == there
    assert not fsspec.filesystem("memory").exists("/bucket/run/documents/.parts")
    assert storage.read_table("labels.parquet", LABELS_SCHEMA)["id"].to_pylist() == [row["id"] for row in LABEL_ROWS]


def test_gold_changes_the_gold_fingerprint_only(
    write_jsonl: Callable[..., str], sequential_prepare: Callable[..., Any]
) -> None:
    labels = write_jsonl("l.jsonl", LABEL_ROWS)
    details = []
    for gold in (["L1"], ["L2"], None):
        rows = [{"id": i, "text": f"text {i}", "labels": gold} for i in range(10)]
        config = Config(prepare=PrepareConfig(documents=[write_jsonl("d.jsonl", rows)], labels=[labels]))
        details.append(sequential_prepare(config)[0][2])
    assert len({one["gold_fingerprint"] for one in details}) == 3
    assert details[2]["gold_fingerprint"] is None
    assert len({one["document_fingerprint"] for one in details}) == 1
    assert len({one["label_fingerprint"] for one in details}) == 1


def test_the_input_fingerprint_tells_changes(config: Config) -> None:
    before = inputs_fingerprint(config.prepare, 0)
    assert inputs_fingerprint(config.prepare, 0) == before
    assert inputs_fingerprint(config.prepare, 1) != before
    with open(config.prepare.documents[0], "ab") as file:
        file.write(json.dumps({"id": "new", "text": "t"}).encode())
    after = inputs_fingerprint(config.prepare, 0)
    assert after != before
    config.prepare.test_share = 0.5
    assert inputs_fingerprint(config.prepare, 0) not in (before, after)


def test_plans_cover_every_row_once() -> None:
    random_ = np.random.default_rng(0)
    for _ in range(200):
        sizes = random_.integers(1, 200, random_.integers(1, 8))
        dropped = [int(random_.integers(0, size + 1)) for size in sizes]
        files = [Part(f"p{i}", 0, "s", int(size), 0) for i, size in enumerate(sizes)]
        left = [
            (i, row) for i, (size, lost) in enumerate(zip(sizes, dropped, strict=True)) for row in range(size - lost)
        ]
        limit, shard_rows = int(random_.integers(0, 300)), int(random_.integers(1, 120))
        expected = left[:limit] if limit else left
        plan = plan_shards(files, dropped, shard_rows, limit)
        rows = [[(piece.part, row) for piece in shard for row in range(piece.start, piece.stop)] for shard in plan]
        assert [row for shard in rows for row in shard] == expected
        size = min(shard_rows, max(64, -(-len(expected) // 8)))
        assert [len(shard) for shard in rows] == [min(size, len(expected) - i) for i in range(0, len(expected), size)]

"""Where verdicts belong, against plain dicts."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, HASH, NO_DOCUMENT, VERDICTS_SCHEMA, content_hash
from ezxmc_ray.verdicts.placement import ShardLookup, compact_store, each_pair_once, relocate_verdicts
from ezxmc_ray.verdicts.store import ABSENT, PRIORS, VerdictStore

Pair = tuple[bytes, bytes]


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(Storage(str(tmp_path)), "key")


def document(number: int) -> bytes:
    return content_hash("", f"document {number}")


def label(number: int) -> bytes:
    return content_hash("", f"label {number}")


def lookup_of(shards: list[list[int]]) -> ShardLookup:
    """Shards with documents of these numbers."""
    hashes = b"".join(document(number) for shard in shards for number in shard)
    numbers = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard) for shard in shards])
    return ShardLookup(np.frombuffer(hashes, np.uint8).reshape(-1, 16), numbers)


def verdicts(pairs: dict[Pair, float]) -> pa.Table:
    documents, labels = zip(*pairs, strict=True)
    columns = [documents, labels, list(pairs.values()), [7] * len(pairs), [False] * len(pairs)]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, VERDICTS_SCHEMA, strict=True)], schema=VERDICTS_SCHEMA
    )


def judged(documents: list[int], labels: int = 2) -> dict[Pair, float]:
    """Labels 0 to ``labels`` of each document, with a score of their own."""
    return {(document(d), label(n)): (d * 8 + n) / 1024 for d in documents for n in range(labels)}


def in_folder(store: VerdictStore, folder: str) -> dict[Pair, float]:
    table = store.read(folder)
    pairs = zip(table["document_hash"].to_pylist(), table["label_hash"].to_pylist(), strict=True)
    return dict(zip(pairs, table["raw"].to_pylist(), strict=True))


def test_shards_are_found_as_in_a_plain_dict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shards = [rng.integers(0, 60, 30).tolist() for _ in range(6)]
    plain = defaultdict(set)
    for shard, documents in enumerate(shards):
        for number in documents:
            plain[document(number)].add(shard)
    lookup = lookup_of(shards)
    lookup.save(Storage(str(tmp_path)), "lookup.parquet")
    asked = [document(number) for number in rng.integers(0, 80, 100).tolist()]
    for one in (lookup, ShardLookup.load(Storage(str(tmp_path)), "lookup.parquet")):
        assert one.first(asked).tolist() == [min(plain.get(key, {-1})) for key in asked]
        rows = {shard: [row for row, key in enumerate(asked) if shard in plain.get(key, ())] for shard in range(6)}
        found = one.rows_by_shard(pa.chunked_array([pa.array(asked[:7], HASH), pa.array(asked[7:], HASH)]))
        assert {shard: sorted(places.tolist()) for shard, places in found.items()} == rows


def test_lookup_of_no_documents(tmp_path: Path) -> None:
    lookup = ShardLookup.of_shards(Storage(str(tmp_path)), 0)
    assert lookup.first([document(1)]).tolist() == [-1]
    assert lookup.rows_by_shard([document(1)]) == lookup_of([[1]]).rows_by_shard([]) == {}


def test_the_lookup_of_a_run_is_those_of_its_files(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for shard, numbers in enumerate([[4, 5], [6, 4]]):
        rows = [{"content_hash": document(number)} for number in numbers]
        storage.write_table(
            f"documents/{layout.shard_name(shard)}.parquet", pa.Table.from_pylist(rows, DOCUMENTS_SCHEMA)
        )
    lookup = ShardLookup.of_shards(storage, 2)
    assert lookup.first([document(n) for n in (6, 5, 4, 3)]).tolist() == [1, 0, 0, -1]


def test_verdicts_are_brought_to_every_shard_with_their_document_and_none_is_lost(store: VerdictStore) -> None:
    store.append("shard-00000", verdicts(judged([0, 1, 2, 3])))
    lookup = lookup_of([[9, 0], [1, 2], [2, 8]])  # 3 is in no shard, 2 in two
    assert relocate_verdicts(store, lookup, "shard-00000") == 2 * 3
    assert in_folder(store, "shard-00000") == judged([0, 1, 2, 3])
    assert in_folder(store, "shard-00001") == judged([1, 2])
    assert in_folder(store, "shard-00002") == judged([2])
    assert [len(store.files(layout.shard_name(shard))) for shard in range(3)] == [1, 1, 1]
    assert relocate_verdicts(store, lookup, "shard-00000") == 0
    back = lookup_of([[], [], [], [], [], [3, 1]])
    assert relocate_verdicts(store, back, "shard-00000") == 4
    assert relocate_verdicts(store, back, "shard-00001") == 0  # came from shard-00000 already
    assert in_folder(store, "shard-00005") == judged([1, 3])


def test_a_verdict_that_is_there_is_not_replaced(store: VerdictStore) -> None:
    store.append("shard-00000", verdicts(judged([0, 1])))
    store.append("shard-00001", verdicts({(document(1), label(0)): 0.75}))
    assert relocate_verdicts(store, lookup_of([[0], [1]]), "shard-00000") == 1
    assert in_folder(store, "shard-00001") == {**judged([1]), (document(1), label(0)): 0.75}


def test_compaction_brings_home_first_and_keeps_what_has_no_home(store: VerdictStore) -> None:
    store.append("shard-00000", verdicts(judged([0, 1])), {"computed_tokens": 10})
    store.append("shard-00000", verdicts(judged([2, 3])), {"computed_tokens": 20})
    store.append("shard-00007", verdicts(judged([1, 4])), {"computed_tokens": 30})
    prior = {(NO_DOCUMENT, label(n)): -1.5 for n in range(3)}
    store.append(PRIORS, verdicts(prior))
    store.append(ABSENT, verdicts(judged([5, 6])))
    compact_store(store, lookup_of([[0], [1, 2, 6]]))  # 3, 4 and 5 are in no shard
    assert in_folder(store, "shard-00000") == judged([0, 3])
    assert in_folder(store, "shard-00001") == judged([1, 2, 6])
    assert in_folder(store, "shard-00007") == judged([4])
    assert in_folder(store, PRIORS) == prior
    assert in_folder(store, ABSENT) == judged([5])
    assert [len(store.files(folder)) for folder in store.folders()] == [1] * 5
    assert [store.counts(folder).get("computed_tokens") for folder in ("shard-00000", "shard-00007")] == [30, 30]


def test_each_pair_is_given_once_wherever_its_copies_lie(store: VerdictStore) -> None:
    rng = np.random.default_rng(1)
    held: dict[str, dict[Pair, float]] = {PRIORS: {(NO_DOCUMENT, label(n)): -1.0 for n in range(4)}}
    for folder in (ABSENT, *map(layout.shard_name, range(4))):
        held[folder] = judged(sorted(set(rng.integers(0, 30, 12).tolist())), labels=int(rng.integers(1, 5)))
    held["shard-00002"] = {pair: raw + 8 for pair, raw in held["shard-00002"].items()}  # tells it from the others
    for folder, pairs in held.items():
        store.append(folder, verdicts(pairs))
    shards = [rng.integers(0, 20, 8).tolist() for _ in range(3)]
    expected: dict[Pair, float] = {}
    for folder in sorted(held):
        for pair, raw in held[folder].items():
            expected.setdefault(pair, raw)
    for shard, numbers in reversed(list(enumerate(shards))):
        at_home = {document(number) for number in numbers}
        expected |= {pair: raw for pair, raw in held[layout.shard_name(shard)].items() if pair[0] in at_home}
    given: list[tuple[Pair, float]] = []
    for folder, table in each_pair_once(store, lookup_of(shards)):
        keys = list(zip(table["document_hash"].to_pylist(), table["label_hash"].to_pylist(), strict=True))
        assert set(keys) <= set(held[folder])
        given += zip(keys, table["raw"].to_pylist(), strict=True)
    assert len(given) == len(dict(given)) == len(expected)
    first = lookup_of(shards).first([pair[0] for pair in expected])
    for (pair, raw), shard in zip(expected.items(), first, strict=True):
        if shard < 0 or pair in held[layout.shard_name(shard)]:
            assert dict(given)[pair] == raw


def test_folders_whose_pairs_all_lie_at_home_cost_no_join_of_what_was_seen(
    store: VerdictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join sorts every stray pair so far: in an export of 2,442 folders that took hours."""
    store.append(ABSENT, verdicts(judged([9])))
    for folder in range(4):
        store.append(layout.shard_name(folder), verdicts(judged([folder])))
    joined, union1d = [], np.union1d
    monkeypatch.setattr(np, "union1d", lambda *arrays: joined.append(len(arrays[1])) or union1d(*arrays))
    given = [len(table) for _, table in each_pair_once(store, lookup_of([[0], [1], [2], [3]]))]
    assert (given, joined) == ([2] * 5, [2])

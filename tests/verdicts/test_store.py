from __future__ import annotations

from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import note_begun
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import NO_DOCUMENT, VERDICTS_SCHEMA, content_hash
from ezxmc_ray.verdicts.costs import step_of, with_all_starts
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore, teacher_keys

Pair = tuple[bytes, bytes]
SHARD = "shard-00000"


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(Storage(str(tmp_path)), "0123456789abcdef")


def pairs_of(documents: range, labels: range) -> list[Pair]:
    return [(content_hash("", f"document {d}"), content_hash("", f"label {n}")) for d in documents for n in labels]


def table_of(pairs: list[Pair], raw: list[float]) -> pa.Table:
    documents, labels = zip(*pairs, strict=True)
    columns = [documents, labels, raw, [7] * len(pairs), [False] * len(pairs)]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, VERDICTS_SCHEMA, strict=True)], schema=VERDICTS_SCHEMA
    )


def test_a_batch_judged_again_is_the_same_file(store: VerdictStore) -> None:
    pairs = pairs_of(range(3), range(4))
    name = store.append("shard-00000", table_of(pairs, [0.5] * 12))
    again = store.append("shard-00000", table_of(pairs[::-1], [0.75] * 12))
    assert again == name
    assert store.read("shard-00000")["raw"].to_pylist() == [0.75] * 12
    assert name.startswith("verdicts/0123456789abcdef/shard-00000/")
    assert store.files("shard-00000") == [name]


def test_lookup_finds_what_a_plain_dict_finds(store: VerdictStore) -> None:
    rng = np.random.default_rng(0)
    everything = pairs_of(range(40), range(25))
    plain: dict[Pair, float] = {}
    for batch in np.array_split(rng.permutation(len(everything))[:700], 9):
        raw = rng.random(len(batch)).astype(np.float32)
        store.append("shard-00003", table_of([everything[i] for i in batch], raw.tolist()))
        plain.update({everything[i]: value for i, value in zip(batch, raw, strict=True)})
    wanted = [everything[i] for i in rng.integers(0, len(everything), 2000)]
    found = store.lookup(
        "shard-00003",
        [d for d, _ in wanted],
        pa.chunked_array([pa.array([n for _, n in wanted])]).cast(VERDICTS_SCHEMA.field("label_hash").type),
    )
    expected = np.array([plain.get(pair, np.nan) for pair in wanted], dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    assert {bytes(key) for key in store.held("shard-00003")} == {d + n for d, n in plain}
    table = store.read("shard-00003")
    assert table.schema == VERDICTS_SCHEMA
    assert list(zip(table["document_hash"].to_pylist(), table["label_hash"].to_pylist(), strict=True)) == sorted(plain)


def test_a_pair_that_is_there_twice_is_one_row_whatever_the_order_of_writing(tmp_path: Path) -> None:
    pairs = pairs_of(range(2), range(3))
    answers = []
    for order in (0, 1):
        store = VerdictStore(Storage(str(tmp_path / str(order))), "key")
        batches = [table_of(pairs[:4], [0.25] * 4), table_of(pairs[2:], [0.75] * 4)]
        for batch in batches[:: 1 - 2 * order]:
            store.append("shard-00000", batch)
        answers.append(store.read("shard-00000"))
    assert len(answers[0]) == 6
    assert answers[0].equals(answers[1])


def test_an_empty_store_holds_nothing(store: VerdictStore) -> None:
    pairs = pairs_of(range(2), range(1))
    assert len(store.held(PRIORS)) == 0
    assert len(store.read(PRIORS)) == 0
    assert np.isnan(store.lookup(PRIORS, [d for d, _ in pairs], [n for _, n in pairs])).all()
    assert store.lookup(PRIORS, [], []).shape == (0,)
    assert store.folders() == store.files(PRIORS) == []
    assert store.counts(PRIORS) == {}
    assert store.description() is store.placement() is None
    with pytest.raises(ValueError, match="without verdicts"):
        store.append(PRIORS, VERDICTS_SCHEMA.empty_table())


def test_priors_lie_beside_the_shards(store: VerdictStore) -> None:
    label = content_hash("", "a label")
    store.append(PRIORS, table_of([(NO_DOCUMENT, label)], [-2.5]))
    assert store.label_priors([label]).tolist() == [-2.5]
    assert np.isnan(store.lookup("shard-00000", [NO_DOCUMENT], [label])).all()


def test_a_broken_file_is_named(store: VerdictStore, tmp_path: Path) -> None:
    name = store.append("shard-00000", table_of(pairs_of(range(2), range(2)), [0.5] * 4))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:200])
    for ask in (store.held, store.read, store.counts):
        with pytest.raises(UserError) as caught:
            ask("shard-00000")
        assert str(path) in str(caught.value)
        assert "remove the file" in str(caught.value)


def test_a_file_of_another_kind_is_no_verdicts(store: VerdictStore, tmp_path: Path) -> None:
    table = table_of(pairs_of(range(1), range(1)), [0.5])
    other = table.set_column(2, "raw", pa.array([0.5], pa.float64()))
    Storage(str(tmp_path)).write_table(f"verdicts/{store.key}/{SHARD}/a.parquet", other)
    with pytest.raises(UserError, match="column 'raw' has type double, expected float"):
        store.read(SHARD)


def test_the_description_is_beside_the_verdicts(store: VerdictStore, tmp_path: Path) -> None:
    store.write_description({"model": "org/name"})
    assert store.description() == {"model": "org/name"}
    assert Storage(str(tmp_path)).read_note("verdicts/0123456789abcdef/teacher.json") == {"model": "org/name"}


def test_the_teachers_of_a_run_are_listed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert teacher_keys(storage) == []
    for key in ("b", "a"):
        VerdictStore(storage, key).append(SHARD, table_of(pairs_of(range(1), range(1)), [0.5]))
    storage.write_bytes("verdicts/homes.parquet", b"no teacher")
    assert teacher_keys(storage) == ["a", "b"]


def test_only_pairs_that_a_folder_lacks_are_appended(store: VerdictStore) -> None:
    pairs = pairs_of(range(3), range(2))
    store.append(SHARD, table_of(pairs[:2], [0.25, 0.25]))
    missing = store.append_missing(SHARD, table_of(pairs[1:5], [0.75] * 4), {"engine_ms": 2.4})
    assert missing.tolist() == [False, True, True, True]
    assert store.counts(SHARD) == {"engine_ms": 7}
    assert store.lookup(SHARD, [d for d, _ in pairs], [n for _, n in pairs]).tolist()[:5] == [0.25] * 2 + [0.75] * 3
    assert not store.append_missing(SHARD, table_of(pairs[:5], [0.5] * 5)).any()
    assert len(store.files(SHARD)) == 2


def test_counts_of_the_batches_add_up_and_a_batch_judged_again_counts_once(store: VerdictStore) -> None:
    pairs = pairs_of(range(4), range(2))
    store.append(SHARD, table_of(pairs[:4], [0.5] * 4), {"computed_tokens": 100, "engine_ms": 20})
    store.append(SHARD, table_of(pairs[:4], [0.5] * 4), {"computed_tokens": 100, "engine_ms": 20})
    store.append(SHARD, table_of(pairs[4:], [0.5] * 4), {"computed_tokens": 11, "engine_ms": 3})
    store.append(SHARD, table_of(pairs[2:6], [0.5] * 4))
    assert store.counts(SHARD) == {"computed_tokens": 111, "engine_ms": 23}


def test_what_a_step_asked_adds_up_over_its_starts_and_stays_when_files_are_made_one(
    store: VerdictStore, tmp_path: Path
) -> None:
    """Three starts: the first is killed, another step asks in between, the last one asks for the rest."""
    storage, pairs = Storage(str(tmp_path)), pairs_of(range(6), range(2))
    storage.write_json(layout.begun(layout.examples(0)), "00ff")
    step = step_of(storage, 0)
    assert step == 255 and step_of(storage, 1) is None  # as an older version noted it
    for other in ("one", "other"):
        note_begun(Storage(f"{tmp_path}/{other}"), layout.examples(0), "00ff")
    assert len({step_of(Storage(f"{tmp_path}/{other}"), 0) for other in ("one", "other", ".")}) == 3
    store.append(SHARD, table_of(pairs[:2], [0.5] * 2), {"computed_tokens": 7, "engine_ms": 3000})
    for number, rows in ((step, pairs[2:5]), (1, pairs[5:7]), (step, pairs[7:11])):
        cost = {"computed_tokens": 10 * len(rows), "engine_ms": 500}
        VerdictStore(storage, store.key, number).append(SHARD, table_of(rows, [0.5] * len(rows)), cost)
    prior = table_of([(NO_DOCUMENT, content_hash("", "a"))], [-1.0])
    VerdictStore(storage, store.key, step).append(PRIORS, prior, {"computed_tokens": 1, "engine_ms": 250})
    last = {"pairs_asked": 4, "prior_pairs_asked": 0, "pairs_held": 8, "engine_seconds": 0.5, "engines": 1}
    for _ in range(2):
        found = with_all_starts(last, storage, store.key, step, starmap)
        assert (found["pairs_asked"], found["prior_pairs_asked"], found["pairs_held"]) == (7, 1, 5)
        assert (found["engine_seconds"], found["engine_pairs_per_s"]) == (1.25, 6.4)
        assert found["computed_tokens"] == 71 and found["engines"] == 1
        assert found["prompt_tokens"] == 7 * (3 + 4 + 1)
        assert store.counts(SHARD) == {"computed_tokens": 97, "engine_ms": 4500}
        store.compact(SHARD, store.read(SHARD))
    undisturbed = last | {"pairs_asked": 7, "prior_pairs_asked": 1}
    assert with_all_starts(undisturbed, storage, store.key, step, starmap) == undisturbed
    assert with_all_starts(last, storage, store.key, None, starmap) == last


class Killed(BaseException):
    """Stands for the end of the process."""


class MortalStorage(Storage):
    """Fake of a process that is killed: the storage works for ``steps`` writes and removals, then all fail."""

    steps = 0

    def _step(self) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    def write_table(self, *arguments: Any, **options: Any) -> None:
        self._step()
        super().write_table(*arguments, **options)

    def remove(self, relative: str) -> None:
        self._step()
        super().remove(relative)


def overlapping_batches(store: VerdictStore, seed: int) -> None:
    """Five batches of 30 pairs, of which some lie in several with different raw scores."""
    pairs, rng = pairs_of(range(10), range(6)), np.random.default_rng(seed)
    for number in range(5):
        chosen = rng.permutation(len(pairs))[:30]
        batch = table_of([pairs[i] for i in chosen], rng.random(30).astype(np.float32).tolist())
        store.append(SHARD, batch, {"computed_tokens": 10**number})


@pytest.mark.parametrize("seed", range(4))
def test_compaction_killed_at_any_step_changes_no_answer(tmp_path: Path, seed: int) -> None:
    for steps in range(7):
        root = str(tmp_path / str(steps))
        store = VerdictStore(Storage(root), "key")
        overlapping_batches(store, seed)
        before = store.read(SHARD)
        mortal = MortalStorage(root)
        mortal.steps = steps
        killed = VerdictStore(mortal, "key")
        if steps < 6:
            with pytest.raises(Killed):
                killed.compact(SHARD, before)
        else:  # one file written, five removed
            killed.compact(SHARD, before)
        assert len(store.files(SHARD)) == (5 if steps == 0 else 7 - steps)
        assert store.read(SHARD).equals(before)
        assert store.counts(SHARD) == {"computed_tokens": 11111}
        store.compact(SHARD, store.read(SHARD))
        (name,) = store.files(SHARD)
        assert Storage(root).read_table(name, VERDICTS_SCHEMA).equals(before)
        assert store.counts(SHARD) == {"computed_tokens": 11111}


def test_a_batch_that_has_all_pairs_of_the_others_is_replaced_in_its_place(tmp_path: Path) -> None:
    store = VerdictStore(Storage(str(tmp_path)), "key")
    pairs = pairs_of(range(4), range(3))
    store.append(SHARD, table_of(pairs, [0.25] * 12), {"computed_tokens": 5})
    for number in range(6):
        store.append(SHARD, table_of(pairs[number : number + 2], [0.5 + number / 16] * 2), {"computed_tokens": 7})
    before = store.read(SHARD)
    assert len(set(before["raw"].to_pylist())) > 2
    store.compact(SHARD, before)
    assert len(store.files(SHARD)) == 1
    assert store.read(SHARD).equals(before)
    assert store.counts(SHARD) == {"computed_tokens": 5 + 6 * 7}


def test_a_folder_that_keeps_no_pair_keeps_its_counts(store: VerdictStore) -> None:
    table = table_of(pairs_of(range(2), range(2)), [0.5] * 4)
    store.append(SHARD, table, {"computed_tokens": 9})
    store.append("shard-00001", table)
    for folder in (SHARD, "shard-00001"):
        store.compact(folder, table.slice(0, 0))
    assert len(store.read(SHARD)) == 0
    assert store.counts(SHARD) == {"computed_tokens": 9}
    assert store.files("shard-00001") == []

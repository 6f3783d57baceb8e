from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.run_files import summarize_examples
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import Part, Row
from ezxmc_ray.student.data import ExampleReader, HeldOut, Told, held_out_documents
from ezxmc_ray.student.negatives import in_batch_weights
from ezxmc_ray.student.summary import draws_of, half_of, held_out_files, read_held_out
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    EXAMPLES_SCHEMA,
    LABELS_SCHEMA,
    LABELS_WITH_ALTERNATIVES,
    content_hash,
)

LABEL_TEXTS = [f"label {number}" for number in range(9)]


def document(number: int, excluded: list[int] | None = None) -> dict[str, object]:
    return {
        "id": str(number),
        "title": f"title {number}",
        "text": f"text {number}",
        "split": "train",
        "held_out": False,
        "content_hash": content_hash(f"title {number}", f"text {number}"),
        "excluded": excluded,
    }


def example(row: int, labels: list[int], verdict: list[float | None], held_out: bool = False) -> dict[str, object]:
    return {
        "row": row,
        "held_out": held_out,
        "labels": labels,
        "similarity": [0.5] * len(labels),
        "base_similarity": [0.9 - 0.1 * place for place in range(len(labels))],
        "raw": [0.0] * len(labels),
        "verdict": verdict,
    }


def write_labels(storage: Storage, texts: list[str], alternatives: dict[int, list[str]] | None = None) -> None:
    """labels.parquet; ``alternatives``: by label number."""
    rows = [
        {"id": f"id {number}", "text": text, "description": "", "content_hash": content_hash("", text)}
        for number, text in enumerate(texts)
    ]
    schema = LABELS_SCHEMA
    if alternatives is not None:
        rows = [row | {"alternatives": alternatives.get(number, [])} for number, row in enumerate(rows)]
        schema = LABELS_WITH_ALTERNATIVES
    storage.write_table("labels.parquet", pa.Table.from_pylist(rows, schema))


def whole(*rows: Row) -> Part:
    """The part of a single worker."""
    return Part(list(rows), len(rows), list(dict.fromkeys(shard for shard, _ in rows)))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    first = [document(0), document(1, [3, 5]), document(2), document(3), document(4)]
    second = [document(10, []), document(11)]
    storage.write_table("documents/shard-00000.parquet", pa.Table.from_pylist(first, DOCUMENTS_SCHEMA))
    storage.write_table("documents/shard-00001.parquet", pa.Table.from_pylist(second, DOCUMENTS_SCHEMA))
    examples = [
        example(1, [7, 2], [1.0, 0.25]),
        example(2, [2, 3], [0.5, 0.5], held_out=True),
        example(3, [], []),
        example(4, [3, 2, 8], [0.0, None, 0.75]),
    ]
    storage.write_table("cycle-1/examples/shard-00000.parquet", pa.Table.from_pylist(examples, EXAMPLES_SCHEMA))
    examples = [example(0, [5], [0.125]), example(1, [1], [None])]
    storage.write_table("cycle-1/examples/shard-00001.parquet", pa.Table.from_pylist(examples, EXAMPLES_SCHEMA))
    write_labels(storage, LABEL_TEXTS)
    for shard in (0, 1):
        storage.write_shard("cycle-0/examples", shard, pa.Table.from_pylist([], EXAMPLES_SCHEMA))
    summarize_examples(storage, 1, [range(1), range(1, 2)])
    return storage


def test_a_reader_reads_no_example_before_the_first_batch_and_its_own_shards_only(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    read_table = Storage.read_table
    monkeypatch.setattr(Storage, "read_table", lambda *a, **k: read.append(a[1]) or read_table(*a, **k))
    reader = ExampleReader(storage, 1)
    assert reader.rows_of_shards.tolist() == [2, 2]
    assert sorted(read) == [f"cycle-1/examples/summary/own-{name}.parquet" for name in ("labels", "shards")] + [
        "labels.parquet"
    ]
    read.clear()
    others = np.array([2, 8], np.int32), np.array([0.25, 0.75], np.float32)  # what another worker tells
    batch = reader.read(Part([(1, 0)], 3, [1]), lambda told: [others, told])
    assert sorted(read) == ["cycle-1/examples/shard-00001.parquet", "documents/shard-00001.parquet"]
    assert batch.document_texts == ["title 10\ntext 10"] and batch.label_numbers.tolist() == [2, 5, 8]
    assert batch.best_verdict.tolist() == [0.25, 0.75, 0.125] and batch.verdict.shape == (1, 3)
    np.testing.assert_array_equal(batch.label_weights, in_batch_weights(np.array([2, 1, 1]), 4, 3))


def test_a_batch_joins_documents_examples_and_labels(storage: Storage) -> None:
    nan = np.nan
    batch = ExampleReader(storage, 1).read(whole((0, 1), (1, 0), (0, 0)))
    # The longest text first.
    assert batch.document_texts == ["title 10\ntext 10", "title 4\ntext 4", "title 1\ntext 1"]
    assert batch.label_numbers.tolist() == [2, 3, 5, 7, 8] and batch.label_numbers.dtype == np.int32
    assert batch.label_texts == ["label 2", "label 3", "label 5", "label 7", "label 8"]
    np.testing.assert_array_equal(
        batch.verdict, [[nan, nan, 0.125, nan, nan], [nan, 0, nan, nan, 0.75], [0.25, nan, nan, 1, nan]]
    )
    np.testing.assert_allclose(
        batch.similarity, [[nan, nan, 0.9, nan, nan], [0.8, 0.9, nan, nan, 0.7], [0.8, nan, nan, 0.9, nan]], atol=1e-6
    )
    assert batch.verdict.dtype == batch.similarity.dtype == np.float32
    np.testing.assert_array_equal(batch.excluded, [[False] * 5, [False] * 5, [False, True, True, False, False]])
    assert batch.best_verdict.tolist() == [0.125, 0.75, 1.0] and batch.global_documents == 3
    # Of four documents that are trained on; the held-out one has labels 2 and 3 as well.
    np.testing.assert_array_equal(batch.label_weights, in_batch_weights(np.array([2, 1, 1, 1, 1]), 4, 3))


def test_an_unjudged_label_of_a_judged_ones_text_is_no_negative(storage: Storage) -> None:
    texts = [f"label {number}" for number in range(9)]
    texts[8] = texts[7]  # document 1 was judged with label 7, document 4 with label 8
    texts[5] = texts[2].upper()  # document 1 with 2, document 10 with 5, document 4 with 2
    write_labels(storage, texts)
    batch = ExampleReader(storage, 1).read(whole((0, 1), (1, 0), (0, 0)))
    assert batch.label_numbers.tolist() == [2, 3, 5, 7, 8]
    # Document 1's own excluded labels are 3 and 5.
    expected = {"10": [True, False, False, False, False], "4": [False, False, True, True, False]}
    expected |= {"1": [False, True, True, False, True]}
    for text, row in zip(batch.document_texts, batch.excluded.tolist(), strict=True):
        assert row == expected[text.split()[-1]], text


def test_an_unjudged_label_that_is_called_what_a_judged_one_is_called_too_is_no_negative(storage: Storage) -> None:
    """By alternatives: 7 is called "label 8" too, 2 and 3 have one in common, and that of 8 is no label's own text."""
    write_labels(storage, LABEL_TEXTS, {7: ["other", "LABEL 8"], 2: ["common"], 3: ["common"], 8: ["no label"]})
    batch = ExampleReader(storage, 1).read(whole((0, 1), (1, 0), (0, 0)))
    assert batch.label_texts == [LABEL_TEXTS[number] for number in (2, 3, 5, 7, 8)]
    found = {text.split()[-1]: row for text, row in zip(batch.document_texts, batch.excluded.tolist(), strict=True)}
    # Document 1 was judged with 7 and 2, document 4 with 3, 2 and 8, document 10 with 5; 1 has 3 and 5 excluded.
    assert found["1"] == [False, True, True, False, True]
    assert found["4"] == [False, False, False, True, False]
    assert found["10"] == [False] * 5


def parts_of(storage: Storage, parts: list[Part]) -> list[Any]:
    """What each of several workers reads, who tell each other what theirs are judged with."""
    told: list[Told] = []
    other = np.array([2], np.int32), np.zeros(1, np.float32)
    for part in parts:
        ExampleReader(storage, 1).read(part, lambda own: [told.append(own) or own, other])
    return [ExampleReader(storage, 1).read(part, lambda own: told) for part in parts]


def assert_parts(parts: list[Any], joint: Any) -> None:
    """Together the documents of the batch ``joint``, each with the labels of all."""
    assert sorted(text for part in parts for text in part.document_texts) == sorted(joint.document_texts)
    assert {tuple(part.label_numbers) for part in parts} == {tuple(joint.label_numbers)}
    assert {tuple(sorted(part.best_verdict)) for part in parts} == {tuple(sorted(joint.best_verdict))}
    for part in parts:
        rows = [joint.document_texts.index(text) for text in part.document_texts]
        for name in ("verdict", "similarity", "excluded"):
            np.testing.assert_array_equal(getattr(part, name), getattr(joint, name)[rows])
        np.testing.assert_array_equal(part.label_weights, joint.label_weights)
        assert part.label_texts == joint.label_texts


def test_workers_of_one_lane_deal_its_documents_by_length(storage: Storage) -> None:
    rows = [(0, 1), (1, 0), (0, 0)]
    parts = parts_of(storage, [Part(rows, 3, [0, 1], place, 4) for place in range(4)])
    texts = [["title 10\ntext 10"], ["title 4\ntext 4"], ["title 1\ntext 1"], []]
    assert [part.document_texts for part in parts] == texts and parts[3].verdict.shape == (0, 5)
    assert_parts(parts, ExampleReader(storage, 1).read(whole(*rows)))


def test_workers_of_several_lanes_read_their_rows_and_know_the_labels_of_all(storage: Storage) -> None:
    parts = parts_of(storage, [Part([(0, 1), (0, 0)], 3, [0]), Part([(1, 0)], 3, [1]), Part([], 3, [])])
    assert [len(part.document_texts) for part in parts] == [2, 1, 0]
    assert_parts(parts, ExampleReader(storage, 1).read(whole((0, 1), (0, 0), (1, 0))))


def told_of(storage: Storage, limit: int, world: int) -> list[Told]:
    """What each of ``world`` workers tells the others that it has drawn of the held-out documents."""
    told: list[Told] = []
    for rank in range(world):
        held_out_documents(storage, 1, limit, rank, world, gather=lambda own: [told.append(own) or own] * world)
    return told


def shares_of(storage: Storage, limit: int, world: int) -> list[list[HeldOut]]:
    """What each of ``world`` workers has of the held-out documents."""
    told = told_of(storage, limit, world)
    return [held_out_documents(storage, 1, limit, rank, world, gather=lambda own: told) for rank in range(world)]


def test_held_out_documents_come_with_their_shortlists(storage: Storage) -> None:
    found = held_out_documents(storage, 1, limit=10)
    assert [one.document_text for one in found] == ["title 2\ntext 2"]
    assert found[0].label_texts == ["label 2", "label 3"]
    assert found[0].verdict.tolist() == [0.5, 0.5] and found[0].similarity.tolist() == pytest.approx([0.9, 0.8])
    assert held_out_documents(storage, 1, limit=0) == []
    all_of_them = pa.concat_tables(read_held_out(storage, held_out_files(storage, 1)))
    assert len(held_out_documents(storage, 1, limit=10, is_half=True)) == len(half_of(all_of_them, of_training=True))
    shares = shares_of(storage, 10, 3)
    assert [[one.document_text for one in share] for share in shares] == [[], [], ["title 2\ntext 2"]]


def hold_out(storage: Storage, groups: list[range]) -> None:
    """Ten documents in each of twenty shards, all held out and judged but for the fifth ones."""
    for shard in range(20):
        documents = [document(10 * shard + row) for row in range(10)]
        storage.write_shard("documents", shard, pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
        verdicts = [[shard / 20, None if row == 5 else row / 10] for row in range(10)]
        examples = [example(row, [2, 3], verdicts[row], held_out=True) for row in range(10)]
        storage.write_shard("cycle-1/examples", shard, pa.Table.from_pylist(examples, EXAMPLES_SCHEMA))
        storage.write_shard("cycle-0/examples", shard, pa.Table.from_pylist([], EXAMPLES_SCHEMA))
    storage.remove("cycle-1/examples/summary")
    summarize_examples(storage, 1, groups)


def test_held_out_documents_that_are_fewer_than_all_are_of_all_shards(storage: Storage) -> None:
    hold_out(storage, [range(7), range(7, 20)])
    numbers = [int(one.document_text.rpartition(" ")[2]) for one in held_out_documents(storage, 1, limit=40)]
    assert len(set(numbers)) == 40 and numbers == sorted(numbers)
    assert len({number // 10 for number in numbers}) > 14
    shares = shares_of(storage, 40, 3)
    assert [one.document_text for share in shares for one in share] == [f"title {n}\ntext {n}" for n in numbers]
    # The plain reference: of all that are judged those with the lowest draws, in the order of their places.
    table = pa.concat_tables(read_held_out(storage, held_out_files(storage, 1)))
    drawn = sorted(
        (draw, row["shard"], row["row"]) for draw, row in zip(draws_of(table), table.to_pylist(), strict=True)
    )
    lowest = sorted(one[1:] for one in [one for one in drawn if one[2] != 5][:40])
    assert numbers == [10 * shard + row for shard, row in lowest]
    verdicts = [one.verdict.tolist() for share in shares for one in share]
    assert verdicts == [pytest.approx([shard / 20, row / 10]) for shard, row in lowest]


@pytest.mark.parametrize("world", [1, 5])
def test_a_worker_reads_its_share_of_the_held_out_documents(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    """Of its files what a draw needs, and whole the files that hold its share; a single worker each file once."""
    hold_out(storage, [range(one, one + 1) for one in range(20)])
    read: list[tuple[str, bool]] = []
    read_table = Storage.read_table

    def noted(self: Storage, relative: str, schema: Any = None, columns: Any = None) -> pa.Table:
        if "held-out" in relative:
            read.append((relative, columns is None))
        return read_table(self, relative, schema, columns)

    monkeypatch.setattr(Storage, "read_table", noted)
    told = told_of(storage, 200, world)
    for rank in range(world):
        read.clear()
        held_out_documents(storage, 1, 200, rank, world, gather=lambda own: told)
        assert sum(not is_whole for _, is_whole in read) == (0 if world == 1 else 20 // world)
        assert sum(is_whole for _, is_whole in read) in (20 // world, 20 // world + 1)


def test_a_document_without_any_verdict_is_known_as_such(storage: Storage) -> None:
    batch = ExampleReader(storage, 1).read(whole((1, 1)))
    assert np.isnan(batch.verdict).all() and batch.best_verdict.tolist() == [-np.inf]


def test_shards_are_read_ahead_once_and_held_while_they_are_wanted(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ExampleReader(storage, 1)
    loaded: list[int] = []
    load = reader._load
    monkeypatch.setattr(reader, "_load", lambda number: loaded.append(number) or load(number))
    for row, shards in (((0, 0), [0, 1]), ((0, 1), [0, 1]), ((1, 0), [1]), ((1, 1), [1]), ((0, 0), [0])):
        reader.read(Part([row], 1, shards))
    assert loaded == [0, 1, 0]


def test_documents_that_only_earlier_cycles_judged_come_along(storage: Storage) -> None:
    past = [example(1, [7, 4, 6], [0.0, 0.25, None]), example(0, [8, 1], [0.0, 1.0])]
    held_out = example(2, [1], [1.0], held_out=True)
    storage.write_table(
        "cycle-0/examples/shard-00000.parquet", pa.Table.from_pylist([*past, held_out], EXAMPLES_SCHEMA)
    )
    summarize_examples(storage, 1, [range(2)])
    assert ExampleReader(storage, 1).rows_of_shards.tolist() == [2, 2]
    reader = ExampleReader(storage, 1, earlier_thresholds=[0.9])
    assert reader.rows_of_shards.tolist() == [3, 2]
    batch = reader.read(whole(*((0, row) for row in range(3))))
    assert batch.label_numbers.tolist() == [1, 2, 3, 7, 8]
    known = {text: row for text, row in zip(batch.document_texts, batch.verdict.tolist(), strict=True)}
    nan = np.nan
    # Document 1 has this cycle's shortlist, and not the one before it.
    np.testing.assert_array_equal(known["title 1\ntext 1"], [nan, 0.25, nan, 1.0, nan])
    np.testing.assert_array_equal(known["title 4\ntext 4"], [nan, nan, 0.0, nan, 0.75])
    np.testing.assert_array_equal(known["title 0\ntext 0"], [1.0, nan, nan, nan, 0.0])
    assert sorted(batch.best_verdict.tolist()) == [0.75, 1.0, 1.0]
    # Of five documents by the shortlists that they are trained with.
    np.testing.assert_array_equal(batch.label_weights, in_batch_weights(np.array([2, 2, 1, 1, 2]), 5, 3))


def test_the_latest_of_the_shortlists_before_counts(storage: Storage) -> None:
    for cycle, label in ((0, 4), (2, 6)):
        rows = [example(row, [label], [1.0]) for row in ((0, 2) if cycle else (0, 1, 2, 4))]
        storage.write_table(f"cycle-{cycle}/examples/shard-00000.parquet", pa.Table.from_pylist(rows, EXAMPLES_SCHEMA))
    summarize_examples(storage, 2, [range(1)])
    reader = ExampleReader(storage, 2, earlier_thresholds=[0.9, 0.9])
    batch = reader.read(whole(*((0, row) for row in range(reader.rows_of_shards[0]))))
    known = {text: row for text, row in zip(batch.document_texts, np.isfinite(batch.verdict), strict=True)}
    judged = {text[6:7]: batch.label_numbers[row].tolist() for text, row in known.items()}
    assert judged == {"0": [6], "2": [6], "1": [2, 7], "4": [3, 8]}


def test_what_an_earlier_cycle_calls_right_is_no_negative(storage: Storage) -> None:
    """Documents 1 and 4 are judged by all cycles, each of which has a threshold of its own."""
    shard = "examples/shard-00000.parquet"
    past = [example(1, [8, 7], [0.5, 0.4]), example(4, [7, 2], [0.5, 1.0])]
    storage.write_table(f"cycle-0/{shard}", pa.Table.from_pylist(past, EXAMPLES_SCHEMA))
    past = [example(1, [8], [0.4]), example(4, [7, 3], [0.4, 1.0])]
    storage.write_table(f"cycle-1/{shard}", pa.Table.from_pylist(past, EXAMPLES_SCHEMA))
    newest = [example(1, [7, 2], [1.0, 0.25]), example(4, [3, 8], [0.0, 0.75])]
    storage.write_table(f"cycle-2/{shard}", pa.Table.from_pylist(newest, EXAMPLES_SCHEMA))
    summarize_examples(storage, 2, [range(1)])

    def excluded(
        thresholds: list[float], texts: list[str], alternatives: dict[int, list[str]] | None = None
    ) -> dict[str, list[int]]:
        write_labels(storage, texts, alternatives)
        reader = ExampleReader(storage, 2, earlier_thresholds=thresholds)
        batch = reader.read(whole((0, 0), (0, 1)))
        found = zip(batch.document_texts, batch.excluded, strict=True)
        return {text[6:7]: batch.label_numbers[row].tolist() for text, row in found}

    # Document 1's own excluded labels are 3 and 5; its label 8 got 0.5 in cycle 0 and 0.4 in cycle 1.
    assert excluded([], LABEL_TEXTS) == {"1": [3], "4": []}
    assert excluded([0.9, 0.9], LABEL_TEXTS) == {"1": [3], "4": [2]}
    assert excluded([0.5, 0.9], LABEL_TEXTS) == {"1": [3, 8], "4": [2, 7]}
    assert excluded([2.0, 0.4], LABEL_TEXTS) == {"1": [3, 8], "4": [7]}
    # Nor is another label of the same text.
    same = [*LABEL_TEXTS[:2], LABEL_TEXTS[7], *LABEL_TEXTS[3:]]
    assert excluded([0.5, 2.0], same) == {"1": [3, 8], "4": [2, 7]}
    assert excluded([2.0, 0.4], same) == {"1": [3, 8], "4": [2, 7]}
    # Not even where only that other one is in the batch: label 6, which no document here was judged with.
    past = [example(1, [6], [1.0]), example(4, [6], [0.0])]
    storage.write_table(f"cycle-1/{shard}", pa.Table.from_pylist(past, EXAMPLES_SCHEMA))
    same = [*LABEL_TEXTS[:6], LABEL_TEXTS[8], *LABEL_TEXTS[7:]]
    assert excluded([2.0, 0.9], same) == {"1": [3, 8], "4": []}
    # Nor the other way round: the other one is called what label 8 is called, or label 8 what the other one is.
    assert excluded([2.0, 0.9], LABEL_TEXTS, {6: ["label 8"]}) == {"1": [3, 8], "4": []}
    assert excluded([2.0, 0.9], LABEL_TEXTS, {8: ["label 6"]}) == {"1": [3, 8], "4": []}
    assert excluded([2.0, 0.9], LABEL_TEXTS, {8: ["one"], 6: ["one"]}) == {"1": [3], "4": []}

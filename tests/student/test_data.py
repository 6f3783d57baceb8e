from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.storage import Storage
from ezxmc_ray.student.data import ExampleReader
from ezxmc_ray.tables import DOCUMENTS, EXAMPLES, LABELS, content_hash

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
        "similarity": [0.9 - 0.1 * place for place in range(len(labels))],
        "raw": [0.0] * len(labels),
        "verdict": verdict,
    }


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    first = [document(0), document(1, [3, 5]), document(2), document(3), document(4)]
    second = [document(10, []), document(11)]
    storage.write_table("documents/shard-00000.parquet", pa.Table.from_pylist(first, DOCUMENTS))
    storage.write_table("documents/shard-00001.parquet", pa.Table.from_pylist(second, DOCUMENTS))
    examples = [
        example(1, [7, 2], [1.0, 0.25]),
        example(2, [2, 3], [0.5, 0.5], held_out=True),
        example(3, [], []),
        example(4, [3, 2, 8], [0.0, None, 0.75]),
    ]
    storage.write_table("cycle-1/examples/shard-00000.parquet", pa.Table.from_pylist(examples, EXAMPLES))
    examples = [example(0, [5], [0.125]), example(1, [1], [None])]
    storage.write_table("cycle-1/examples/shard-00001.parquet", pa.Table.from_pylist(examples, EXAMPLES))
    rows = [
        {"id": text, "text": text, "description": "", "content_hash": content_hash("", text)} for text in LABEL_TEXTS
    ]
    storage.write_table("labels.parquet", pa.Table.from_pylist(rows, LABELS))
    return storage


def test_held_out_documents_and_empty_shortlists_are_left_out_and_counted(storage: Storage) -> None:
    reader = ExampleReader(storage, 1)
    assert reader.rows_of_shards == [2, 2]
    assert reader.empty_shortlists == 1


def test_a_batch_joins_documents_examples_and_labels(storage: Storage) -> None:
    nan = np.nan
    batch = ExampleReader(storage, 1).read([(0, 1), (1, 0), (0, 0)])
    assert batch.document_texts == ["title 4\ntext 4", "title 10\ntext 10", "title 1\ntext 1"]
    assert batch.label_numbers.tolist() == [2, 3, 5, 7, 8] and batch.label_numbers.dtype == np.int32
    assert batch.label_texts == ["label 2", "label 3", "label 5", "label 7", "label 8"]
    np.testing.assert_array_equal(
        batch.verdict, [[nan, 0, nan, nan, 0.75], [nan, nan, 0.125, nan, nan], [0.25, nan, nan, 1, nan]]
    )
    np.testing.assert_allclose(
        batch.similarity, [[0.8, 0.9, nan, nan, 0.7], [nan, nan, 0.9, nan, nan], [0.8, nan, nan, 0.9, nan]], atol=1e-6
    )
    assert batch.verdict.dtype == batch.similarity.dtype == np.float32
    np.testing.assert_array_equal(batch.excluded, [[False] * 5, [False] * 5, [False, True, True, False, False]])
    assert batch.best_verdict.tolist() == [0.75, 0.125, 1.0] and batch.global_documents == 3


def test_workers_read_their_slices_and_know_the_whole(storage: Storage) -> None:
    reader = ExampleReader(storage, 1, label_texts=LABEL_TEXTS)
    rows = [(0, 1), (1, 0), (0, 0)]
    parts = [reader.read(rows, rank, 4) for rank in range(4)]
    assert [part.document_texts for part in parts] == [
        ["title 4\ntext 4"],
        ["title 10\ntext 10"],
        ["title 1\ntext 1"],
        [],
    ]
    assert [part.label_numbers.tolist() for part in parts] == [[2, 3, 8], [5], [2, 7], []]
    assert {tuple(part.best_verdict) for part in parts} == {(0.75, 0.125, 1.0)}
    assert parts[3].verdict.shape == (0, 0) and parts[3].label_texts == []


def test_a_document_without_any_verdict_is_known_as_such(storage: Storage) -> None:
    batch = ExampleReader(storage, 1).read([(1, 1)])
    assert np.isnan(batch.verdict).all() and batch.best_verdict.tolist() == [-np.inf]


def test_shards_are_read_once_while_they_are_in_the_window(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ExampleReader(storage, 1, cached_shards=1)
    loaded: list[int] = []
    load = reader._load
    monkeypatch.setattr(reader, "_load", lambda number: loaded.append(number) or load(number))
    for rows in ([(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)], [(0, 0)]):
        reader.read(rows)
    assert loaded == [0, 1, 0]

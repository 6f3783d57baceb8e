from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.objective import Objective
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, content_hash
from quality_bench.text_pairs import PAIRS, PairReader, segment_pair, sentence_pair, title_pair
from tests.student.toy import SCALE

TEXT = "One two three four. Five six seven eight! Nine ten eleven twelve?"


def document(
    number: int, title: str | None, text: str, split: str = "train", held_out: bool = False
) -> dict[str, object]:
    hashed = content_hash(title or "", text)
    columns = {"id": str(number), "title": title, "text": text, "split": split}
    return {**columns, "held_out": held_out, "content_hash": hashed, "excluded": None}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    first = [
        document(0, "Numbers", TEXT),
        document(1, "Too short", "only four words here"),
        document(2, "For testing", TEXT, split="test"),
        document(3, "Kept out", TEXT, held_out=True),
    ]
    second = [document(4, None, TEXT), document(5, "Letters", "a b c d e f g h i j"), document(6, "Numbers", TEXT)]
    storage.write_table("documents/shard-00000.parquet", pa.Table.from_pylist(first, DOCUMENTS_SCHEMA))
    storage.write_table("documents/shard-00001.parquet", pa.Table.from_pylist(second, DOCUMENTS_SCHEMA))
    return storage


def test_white_space_at_the_end_is_no_sentence() -> None:
    for seed in range(9):
        document, label = sentence_pair("", TEXT + " \n", np.random.default_rng(seed))
        assert document.strip() and label.strip()
        assert sorted(document.split() + label.split()) == sorted(TEXT.split())


def test_only_train_documents_with_text_take_part_and_the_others_are_counted(storage: Storage) -> None:
    titles, segments = PairReader(storage, "title", 0), PairReader(storage, "segment", 0)
    assert (titles.rows_of_shards, titles.skipped) == ([1, 2], 2)
    assert (segments.rows_of_shards, segments.skipped) == ([1, 3], 1)


def test_a_document_has_one_right_label_and_documents_of_equal_titles_share_it(storage: Storage) -> None:
    batch = PairReader(storage, "title", 0).read([(0, 0), (1, 0), (1, 1)], step=0)
    assert batch.document_texts == [TEXT, "a b c d e f g h i j", TEXT]
    assert batch.label_texts == ["Numbers", "Letters"]
    np.testing.assert_array_equal(batch.verdict, [[1, np.nan], [np.nan, 1], [1, np.nan]])
    assert Objective(StudentConfig(loss="infonce"), SCALE, 0.5).teaching(batch) == (3, 3)


def test_workers_share_the_labels(storage: Storage) -> None:
    reader = PairReader(storage, "title", 0)
    rows = [(0, 0), (1, 0), (1, 1)]
    parts = [reader.read(rows, 0, rank, 2) for rank in range(2)]
    assert [len(part.document_texts) for part in parts] == [2, 1]
    assert parts[0].label_texts == parts[1].label_texts and parts[1].global_documents == 3


@pytest.mark.parametrize("kind", ["sentence", "segment"])
def test_what_is_drawn_depends_on_seed_and_step(storage: Storage, kind: str) -> None:
    def drawn(seed: int, step: int) -> list[str]:
        batch = PairReader(storage, kind, seed).read([(0, 0), (1, 0), (1, 1)], step)
        return batch.document_texts + batch.label_texts

    assert drawn(0, 0) == drawn(0, 0)
    assert len({tuple(drawn(seed, step)) for seed in range(3) for step in range(3)}) > 5


def test_pairs_are_parts_of_the_document() -> None:
    assert set(PAIRS) == {"title", "sentence", "segment"}
    for seed in range(40):
        random = np.random.default_rng(seed)
        assert title_pair("T", TEXT, random) == (TEXT, "T")
        rest, sentence = sentence_pair("T", TEXT, random)
        assert sentence in TEXT and sentence not in rest
        assert sorted(f"{rest} {sentence}".split()) == sorted(TEXT.split())
        parts = segment_pair("T", TEXT, random)
        assert f"T {TEXT}" in (" ".join(parts), " ".join(reversed(parts)))
        assert min(len(part.split()) for part in parts) >= 4
        assert sentence_pair("T", "one sentence of exactly eight words in all", random)[1]

"""The rivals of benchmarks/quality.py that learn from documents alone: what a small encoder learns from its titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray.config import load_config, to_dict
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, content_hash
from quality_bench.bench import PAIRS
from quality_bench.pairs import TRAININGS, learn_pairs
from student_bench.task import Job
from tests.student.toy import ENCODER, LABELS, TOPICS, save_tiny_bert

COUNT = 400
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents about one topic each, whose titles are the topics' labels; a test document, and one without a title."""
    folder = tmp_path_factory.mktemp("quality")
    save_tiny_bert(folder / "encoder", 0.1)
    texts = [(LABELS[number % 10], f"{TOPICS[number % 10]} " * (8 + number % 7)) for number in range(COUNT)]
    rows = [(title, text, "train") for title, text in texts] + [("", texts[0][1], "train"), (*texts[1], "test")]
    documents = [
        {"id": str(number), "title": title, "text": text, "split": split, "held_out": False}
        | {"content_hash": content_hash(title, text)}
        for number, (title, text, split) in enumerate(rows)
    ]
    table = pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA)
    Storage(str(folder)).write_table("documents/shard-00000.parquet", table)
    return folder


def learned(base: Path, method: str, folder: Path) -> tuple[dict[str, object], float]:
    """What the method cost, and the share of topics whose label its encoder ranks first."""
    settings = [*PAIRS, f"encoder.model={base / 'encoder'}", "encoder.max_document_tokens=16", "student.batch_size=10"]
    settings += ["student.max_document_tokens=16", "student.learning_rate=3e-3"]
    costs = learn_pairs(Job(method, str(base), to_dict(load_config(None, settings))), str(folder))
    encoder = Encoder.load(str(folder), ENCODER, "cpu")
    scores = (
        encoder.encode_documents([""] * 10, [f"{topic} " * 10 for topic in TOPICS]).vectors
        @ encoder.encode_labels(LABELS).vectors.T
    )
    return costs, float((scores.argmax(axis=1) == np.arange(10)).mean())


def test_titles_teach_which_label_belongs_to_a_text(base: Path, tmp_path: Path) -> None:
    costs, right = learned(base, "title", tmp_path)
    assert right >= 0.8
    assert costs["documents_seen"] == (COUNT + 1) - 1 + COUNT  # a last batch of one document is dropped
    assert costs["skipped_documents"] == {"sentence": 0, "title": 1}


def test_segments_go_twice_over_the_documents_and_know_no_titles_alone(base: Path, tmp_path: Path) -> None:
    costs, right = learned(base, "segments", tmp_path)
    assert right <= 0.5
    assert costs["documents_seen"] == 2 * COUNT
    assert costs["skipped_documents"] == {"segment": 0}


def test_each_training_is_two_passes() -> None:
    assert {method: sum(epochs for _, epochs in parts) for method, parts in TRAININGS.items()} == {
        "title": 2,
        "segments": 2,
    }

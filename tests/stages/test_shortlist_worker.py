"""Shortlists of a later cycle, by the actor that makes them, without a cluster: the student orders, the base encoder
says how similar it finds the same labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertModel

from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.label_vectors import join_label_vectors
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.stages.shortlist import LabelWorker, ShortlistSettings, ShortlistWorker, tell_unreadable
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, LABELS_SCHEMA, SHORTLIST_SCHEMA, content_hash
from tests.student.toy import LABELS as LABEL_TEXTS
from tests.student.toy import TOPICS, save_tiny_bert

SIZE, WEIGHT = 4, 0.25
STUDENT = "cycle-0/student"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A run with labels, documents, the label vectors of both encoders, and a student unlike the base encoder."""
    storage = Storage(str(tmp_path / "run"))
    student = save_tiny_bert(tmp_path / "run" / STUDENT, 0.0)
    bert = BertModel.from_pretrained(student)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in bert.parameters():
            weights += 0.2 * torch.randn_like(weights)
    bert.save_pretrained(student)
    rows = [
        {"id": text, "text": text, "description": "", "content_hash": content_hash("", text)} for text in LABEL_TEXTS
    ]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    documents = [
        {"id": text, "title": "", "text": f"{text} {LABEL_TEXTS[number]}", "split": "train", "held_out": False}
        | {"content_hash": content_hash("", text), "excluded": [number]}
        for number, text in enumerate(TOPICS)
    ]
    storage.write_table("documents/shard-00000.parquet", pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
    return storage


def test_a_later_cycle_also_has_the_base_encoders_similarity(storage: Storage, tmp_path: Path) -> None:
    settings = load_config(
        None,
        [
            f"encoder.model={save_tiny_bert(tmp_path / 'base', 0.0)}",
            "encoder.max_document_tokens=16",
            "encoder.max_label_tokens=16",
            "encoder.dtype=float32",
            f"lexical.weight={WEIGHT}",
            f"shortlist.size={SIZE}",
        ],
    )
    config, file = settings.encoder, "shortlist.parquet"
    folders = [None, STUDENT]
    for cycle, folder in enumerate(folders):
        vectors = f"cycle-{cycle}/label_vectors/shard-00000.parquet"
        LabelWorker(storage, config, folder)({"first": 0, "stop": len(LABEL_TEXTS), "file": vectors})
        join_label_vectors(storage, f"cycle-{cycle}/label_vectors")
    found = []
    for cycle, folder in enumerate(folders):
        worker = ShortlistWorker(storage, ShortlistSettings(settings, folder, cycle, 1.0, 1.0))
        assert worker({"shard": 0, "file": file})["documents"] == len(TOPICS)
        found.append(storage.read_table(file, SHORTLIST_SCHEMA).to_pylist())

    texts = [f"{text} {label}" for text, label in zip(TOPICS, LABEL_TEXTS, strict=False)]
    everything = np.tile(np.arange(len(LABEL_TEXTS), dtype=np.int32), (len(texts), 1))
    named = WEIGHT * LexicalTable.from_texts(LABEL_TEXTS).shares([""] * len(texts), texts, everything)
    similarity = []
    for model in (config.model, storage.path(STUDENT)):
        encoder = Encoder.load(model, config)
        documents = encoder.encode_documents([""] * len(texts), texts).vectors
        similarity.append(documents @ encoder.encode_labels(LABEL_TEXTS).vectors.T + named)
    assert not np.allclose(*similarity, atol=0.05)
    for row, (first, later) in enumerate(zip(*found, strict=True)):
        assert first["base_similarity"] == first["similarity"]
        for one, own in ((first, similarity[0]), (later, similarity[1])):
            assert one["row"] == row and row not in one["labels"] and len(one["labels"]) == SIZE
            np.testing.assert_allclose(one["similarity"], own[row, one["labels"]], atol=1e-5)
            assert one["similarity"] == sorted(one["similarity"], reverse=True)
        np.testing.assert_allclose(later["base_similarity"], similarity[0][row, later["labels"]], atol=1e-5)


def test_texts_that_the_encoder_knows_nothing_of_are_counted(storage: Storage, tmp_path: Path) -> None:
    labels = [
        {"id": text, "text": text, "description": "", "content_hash": b"0" * 16}
        for text in ("😀", "🎲", LABEL_TEXTS[0])
    ]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(labels, LABELS_SCHEMA))
    config = load_config(None, [f"encoder.model={save_tiny_bert(tmp_path / 'base', 0.0)}", "encoder.dtype=float32"])
    config.encoder.max_document_tokens = config.encoder.max_label_tokens = 16
    folder = layout.label_vectors(0)
    done = LabelWorker(storage, config.encoder, None)({"first": 0, "stop": 3, "file": f"{folder}/shard-00000.parquet"})
    assert done["unreadable"] == 2
    assert join_label_vectors(storage, folder).counts["unreadable"] == 2


def test_unknown_texts_are_told_and_where_they_are_most_refused(capsys: pytest.CaptureFixture[str]) -> None:
    tell_unreadable("org/english", "labels", 0, 12)
    assert capsys.readouterr().out == ""
    tell_unreadable("org/english", "labels", 6, 12)
    assert "6 of 12 labels hold nothing but signs that the encoder org/english does not know" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"7 of 12 labels .* one and the same vector: take an encoder\.model"):
        tell_unreadable("org/english", "labels", 7, 12)

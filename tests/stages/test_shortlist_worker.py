"""Shortlists of a later cycle, by the actor that makes them, without a cluster: the student orders, the base encoder
says how similar it finds the same labels."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertModel

from ezxmc_ray import layout
from ezxmc_ray.config import Config, PredictConfig, load_config
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import EXACT_FACTORY
from ezxmc_ray.index.label_texts import read_labels
from ezxmc_ray.index.label_vectors import join_label_vectors
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.lexical_files import LexicalSource, open_lexical_table, write_lexical_files
from ezxmc_ray.metrics.thresholds import LeastScores
from ezxmc_ray.stages import shortlist as stage
from ezxmc_ray.stages.index import Plan, Slice, build_one
from ezxmc_ray.stages.shortlist import LabelWorker, ShortlistSettings, ShortlistWorker, check_encoder, tell_unreadable
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    LABELS_SCHEMA,
    LABELS_WITH_ALTERNATIVES,
    SHORTLIST_SCHEMA,
    content_hash,
)
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.tagger import Tagger
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
    table, titles = LexicalTable.from_texts(LABEL_TEXTS), [""] * len(texts)
    names = settings.lexical.name_bonus * table.names.find(titles, texts).of(everything)
    named = table.shares(titles, texts, everything) + names
    similarity = []
    for model, weight in ((config.model, WEIGHT), (storage.path(STUDENT), WEIGHT / 2)):
        encoder = Encoder.load(model, config)
        documents = encoder.encode_documents([""] * len(texts), texts).vectors
        similarity.append(documents @ encoder.encode_labels(LABEL_TEXTS).vectors.T + weight * named)
    assert not np.allclose(*similarity, atol=0.05)
    for row, (first, later) in enumerate(zip(*found, strict=True)):
        assert first["base_similarity"] == first["similarity"]
        for one, own in ((first, similarity[0]), (later, similarity[1])):
            assert one["row"] == row and row not in one["labels"] and len(one["labels"]) == SIZE
            np.testing.assert_allclose(one["similarity"], own[row, one["labels"]], atol=1e-5)
            assert one["similarity"] == sorted(one["similarity"], reverse=True)
        np.testing.assert_allclose(later["base_similarity"], similarity[0][row, later["labels"]], atol=1e-5)


ALTERNATIVES = [["salt lamp", "iron"], [], ["wheel of bread", "cloud", "paint cloud"], *[[]] * 6, ["music"]]
ALL_TEXTS = [*LABEL_TEXTS, *(text for texts in ALTERNATIVES for text in texts)]
OWNERS = [*range(len(LABEL_TEXTS)), *(label for label, texts in enumerate(ALTERNATIVES) for _ in texts)]
DOCUMENTS = [f"{text} {label}" for text, label in zip(TOPICS, LABEL_TEXTS, strict=False)]


@pytest.fixture
def settings(storage: Storage, tmp_path: Path) -> Config:
    """Of the run, whose labels have alternatives now; the vectors of all texts are there, and their words."""
    labels = storage.read_table(layout.LABELS, LABELS_SCHEMA).to_pylist()
    rows = [{**row, "alternatives": texts} for row, texts in zip(labels, ALTERNATIVES, strict=True)]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_WITH_ALTERNATIVES))
    model = f"encoder.model={save_tiny_bert(tmp_path / 'base', 0.0)}"
    limits = ["encoder.max_document_tokens=16", "encoder.max_label_tokens=16", "encoder.dtype=float32"]
    settings = load_config(None, [model, *limits, f"lexical.weight={WEIGHT}", f"shortlist.size={SIZE}"])
    for cycle, folder in enumerate([None, STUDENT]):
        vectors, worker = layout.label_vectors(cycle), LabelWorker(storage, settings.encoder, folder)
        for first, stop in ((0, 7), (7, len(ALL_TEXTS))):
            worker({"first": first, "stop": stop, "file": f"{vectors}/shard-{first:05d}.parquet"})
        assert join_label_vectors(storage, vectors).labels == len(ALL_TEXTS)
    write_lexical_files(storage, LexicalSource("labels"))
    return settings


def best_similarity(storage: Storage, settings: Config, model: str, weight: float) -> np.ndarray:
    """Of every document and label, over all texts one by one: float64 [documents, labels]; ``weight``: of the words."""
    encoder = Encoder.load(model, settings.encoder)
    documents = encoder.encode_documents([""] * len(DOCUMENTS), DOCUMENTS).vectors
    cosine = documents @ encoder.encode_labels(ALL_TEXTS).vectors.T
    everything = np.tile(np.arange(len(LABEL_TEXTS), dtype=np.int32), (len(DOCUMENTS), 1))
    best = np.full(everything.shape, -np.inf)
    for row, label in enumerate(OWNERS):
        best[:, label] = np.maximum(best[:, label], cosine[:, row])
    assert (best > cosine[:, : len(LABEL_TEXTS)]).any()
    table, titles = open_lexical_table(storage, "labels"), [""] * len(DOCUMENTS)
    named = table.names.find(titles, DOCUMENTS).of(everything)
    assert named.any() and settings.lexical.name_bonus
    return np.asarray(
        best + weight * (table.shares(titles, DOCUMENTS, everything) + settings.lexical.name_bonus * named)
    )


def test_a_label_is_shortlisted_by_its_best_text(storage: Storage, settings: Config) -> None:
    by_base = best_similarity(storage, settings, settings.encoder.model, WEIGHT)
    by_student = best_similarity(storage, settings, storage.path(STUDENT), WEIGHT / 2)
    for cycle, own in enumerate((by_base, by_student)):
        worker = ShortlistWorker(storage, ShortlistSettings(settings, [None, STUDENT][cycle], cycle, 1.0, 1.0))
        worker({"shard": 0, "file": "shortlist.parquet"})
        for row, one in enumerate(storage.read_table("shortlist.parquet", SHORTLIST_SCHEMA).to_pylist()):
            labels = one["labels"]
            assert len(set(labels)) == SIZE and row not in labels
            np.testing.assert_allclose(one["similarity"], own[row, labels], atol=1e-5)
            np.testing.assert_allclose(one["base_similarity"], by_base[row, labels], atol=1e-5)
            others = np.setdiff1d(np.arange(len(LABEL_TEXTS)), [*labels, row])
            assert own[row, others].max() <= one["similarity"][-1] + 1e-5


def test_a_document_is_tagged_by_the_best_text_and_gets_the_preferred_one(storage: Storage, settings: Config) -> None:
    shutil.copytree(storage.path(STUDENT), storage.path(layout.STUDENT))
    slices, plan = [Slice(0, 0, 6), Slice(1, 6, len(ALL_TEXTS))], Plan(EXACT_FACTORY, 1, 1.0)
    infos = [build_one(storage, layout.label_vectors(1), one, plan).info for one in slices]
    how = (PredictConfig(3, -9.0), LeastScores(-1.0, None), label_fingerprint(read_labels(storage)))
    tagger = Tagger(storage, TagSettings(settings.encoder, settings.lexical, infos, *how))
    similarity = best_similarity(storage, settings, storage.path(STUDENT), WEIGHT)
    tags = tagger.tag_columns([""] * len(DOCUMENTS), [""] * len(DOCUMENTS), DOCUMENTS)[0].to_pylist()
    for row, one in enumerate(tags):
        numbers = [LABEL_TEXTS.index(label) for label in one["label_ids"]]
        assert one["label_texts"] == one["label_ids"] and len(set(numbers)) == 3
        np.testing.assert_allclose(one["scores"], np.sort(similarity[row])[::-1][:3], atol=1e-5)
        np.testing.assert_allclose(similarity[row, numbers], one["scores"], atol=1e-5)


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


def test_an_encoder_is_loaded_as_it_is_configured_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "watched", nullcontext)
    monkeypatch.setattr(stage, "look_with_encoder", lambda function, *arguments: function(*arguments))
    model = save_tiny_bert(tmp_path / "encoder", 0.0)
    (tmp_path / "none").mkdir()
    shutil.copy(model / "config.json", tmp_path / "none")
    fits = ["encoder.max_document_tokens=16", "encoder.max_label_tokens=16"]
    refused = {
        "encoder.dimensions=33": r"^encoder\.dimensions=33 is more than the 32 that the encoder .* has: set it to 32",
        "encoder.max_label_tokens=33": r"^encoder\.max_label_tokens=33 is more than .* can read: set it to 32 at most",
        f"encoder.model={tmp_path}/none": "^The encoder .*/none cannot be loaded",
    }
    for knob, dimension in (("encoder.dimensions=null", 32), ("encoder.dimensions=8", 8)):
        config = load_config(None, [f"encoder.model={model}", *fits, knob])
        assert check_encoder(config.encoder) == dimension
    for knob, sentence in refused.items():
        with pytest.raises(UserError, match=sentence):
            check_encoder(load_config(None, [f"encoder.model={model}", *fits, knob]).encoder)

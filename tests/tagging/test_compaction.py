"""Parts of a bundle become one: the same labels and vectors, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from ezxmc_ray import layout
from ezxmc_ray.encoder.onnx_encoder import OnnxEncoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import build_shard, save_shard
from ezxmc_ray.index.label_texts import all_texts
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.bundle import BUNDLE, describe_files, state_of
from ezxmc_ray.tagging.changes import add_labels, listed_labels, remove_labels, rename_labels
from ezxmc_ray.tagging.compaction import Compacted, compact_labels
from ezxmc_ray.tagging.tagger import Tagger
from tests.conftest import Ezxmc
from tests.tagging.test_changes import (
    DOCUMENTS,
    NEW,
    ROWS,
    PlainLabels,
    check,
    drawn_row,
    killed_at_each_write,
    write,
)


def folders(bundle: Path) -> list[str]:
    return sorted(one.name for one in bundle.glob("files-*"))


def changed(where: str, file: Path) -> None:
    """Labels came twice, and of each of the three parts one went."""
    add_labels(where, [write(file, NEW)])
    rename_labels(where, [write(file, [{"id": "id wheel", "text": "garden", "alternatives": ["wheel", "salt river"]}])])
    add_labels(where, [write(file, [{"id": "new 3", "text": "wave law"}])])
    remove_labels(where, [write(file, [{"id": "id iron"}, {"id": "new 1"}, {"id": "new 3"}])])


def with_another_index(bundle: Path, factory: str) -> None:
    """The bundle's own index in one that keeps no vectors as they are."""
    storage, note = Storage(str(bundle)), Storage(str(bundle)).read_note(BUNDLE)
    files = storage.below(note["folder"])
    vectors = (
        OnnxEncoder.load(Path(files.path("encoder")), Tagger.load(str(bundle)).settings.encoder)
        .encode_labels(all_texts(files).to_pylist())
        .vectors
    )
    path = Path(files.path(layout.INDEX)) / note["shards"][0]["file"]
    info = save_shard(build_shard(vectors, 0, factory), path, 0)
    storage.write_note(BUNDLE, note | {"shards": [dataclasses.asdict(info)], "files": describe_files(files)})


@pytest.mark.parametrize("seed", range(3))
def test_what_is_compacted_answers_as_a_plain_list_of_the_labels(copy: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    where, file = str(copy), tmp_path / "labels.jsonl"
    plain = PlainLabels(Tagger.load(where))
    for round_ in range(2):
        for step in range(3):
            rows = [drawn_row(draw, f"new {round_} {step} {n}") for n in range(draw.randint(1, 3))]
            add_labels(where, [write(file, rows)])
            plain.change(rows, set())
            gone = set(draw.sample(plain.now, 2))
            remove_labels(where, [write(file, [{"id": plain.rows[number]["id"]} for number in gone])])
            plain.change([], gone)
        left = [plain.rows[number] for number in plain.now]
        done = compact_labels(where)
        assert done == Compacted(4, 1, 6, 0, len(left))
        plain.rows, plain.removed, plain.words = left, set(), {}
        plain.weigh(range(len(left)))
        tagger = Tagger.load(where)
        check(tagger, plain, draw)
        assert list(listed_labels(where)) == left and len(folders(copy)) == 1
        # One that was exported with these labels has the same vectors.
        index: Any = tagger.searcher.parts[0].index.shards[0]
        texts = [row["text"] for row in left] + [text for row in left for text in row.get("alternatives", [])]
        vectors = faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal)
        np.testing.assert_allclose(vectors, tagger.encoder.encode_labels(texts).vectors, atol=1e-6)


def test_an_index_that_keeps_no_vectors_stays_and_what_came_since_becomes_one(copy: Path, tmp_path: Path) -> None:
    where = str(copy)
    with_another_index(copy, "HNSW8")
    changed(where, tmp_path / "labels.jsonl")
    one = Tagger.load(where)
    before = one.tag(DOCUMENTS, 50, -9.0)
    own, listed = json.loads((copy / BUNDLE).read_text())["folder"], list(listed_labels(where))
    assert compact_labels(where) == Compacted(4, 2, 2, 2, len(listed))
    assert own in folders(copy) and len(folders(copy)) == 2
    other = Tagger.load(where)
    assert list(listed_labels(where)) == listed and other.labels.equals(one.labels)
    own_ids = {row["id"] for row in ROWS}
    for labels, found in zip(before, other.tag(DOCUMENTS, 50, -9.0), strict=True):
        assert {label.label_id for label in labels} == {label.label_id for label in found}
        scores = {label.label_id: label.score for label in found}
        for label in labels:  # the words of those that came weigh anew
            if label.label_id in own_ids - {"id wheel"}:
                assert scores[label.label_id] == pytest.approx(label.score, abs=1e-6)
    # Once more there is nothing to do; and what came since may go altogether.
    state = state_of(Storage(where))
    assert compact_labels(where) == Compacted(2, 2, 0, 2, len(listed)) and state_of(Storage(where)) == state
    remove_labels(where, [write(tmp_path / "x.jsonl", [{"id": "id wheel"}, {"id": "new 2"}])])
    assert compact_labels(where) == Compacted(2, 1, 2, 2, len(listed) - 2)
    assert folders(copy) == [own] and list(listed_labels(where)) == listed[:-2]


@pytest.mark.parametrize("factory", ["IDMap,Flat", "HNSW8"])
def test_killed_at_any_write_it_leaves_the_old_parts(
    copy: Path, tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(copy)
    with_another_index(copy, factory)
    changed(where, tmp_path / "labels.jsonl")
    state, tags = state_of(Storage(where)), Tagger.load(where).tag(DOCUMENTS, 50, -9.0)
    listed, kills = list(listed_labels(where)), 0
    for _ in killed_at_each_write(monkeypatch, lambda: compact_labels(where)):
        assert state_of(Storage(where)) == state and Tagger.load(where).tag(DOCUMENTS, 50, -9.0) == tags
        kills += 1
    assert kills > 10 and state_of(Storage(where)) != state
    assert list(listed_labels(where)) == listed
    left = len(folders(copy))
    add_labels(where, [write(tmp_path / "more.jsonl", [{"id": "more", "text": "poem law"}])])
    assert len(folders(copy)) == (2 if factory.startswith("IDMap") else 3) < left


def test_the_command_says_what_it_did(copy: Path, tmp_path: Path, ezxmc: Ezxmc) -> None:
    where = str(copy)
    done = ezxmc("labels", "compact", where)
    assert (done.returncode, done.stdout) == (0, f"Nothing to do: {where} has 1 part, with 10 labels\n")
    changed(where, tmp_path / "labels.jsonl")
    done = ezxmc("labels", "compact", where)
    assert done.stdout == f"{where} had 4 parts and has 1 part, with 10 labels, 4 removed ones of which are gone\n"
    with_another_index(copy, "HNSW8")
    remove_labels(where, [write(tmp_path / "x.jsonl", [{"id": "id salt"}])])
    said = ezxmc("labels", "compact", where).stdout.splitlines()
    assert said[0] == f"Nothing to do: {where} has 1 part, with 9 labels"
    assert said[1].startswith("1 of the export's own labels that were removed stay") and "--labels" in said[1]
    done = ezxmc("labels", "compact", str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is not a bundle" in done.stderr


def test_knobs_say_how_files_of_labels_are_read(copy: Path, tmp_path: Path, ezxmc: Ezxmc) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("code;name\nnew 1;river law\n")
    refused = ezxmc("labels", "add", str(copy), str(file))
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    knobs = ["prepare.label_id_column=code", "prepare.label_text_column=name", "prepare.csv_separator=semicolon"]
    assert ezxmc("labels", "add", str(copy), *knobs, str(file)).returncode == 0
    assert list(listed_labels(str(copy)))[-1] == {"id": "new 1", "text": "river law"}
    refused = ezxmc("labels", "add", str(copy), str(file), "predict.top_k=3")
    assert refused.returncode == 2 and "predict.top_k does not say how a file of labels is read" in refused.stderr
    refused = ezxmc("labels", "remove", str(copy), *knobs)
    assert (
        refused.returncode == 2
        and refused.stderr == "ezxmc: No file is named; name one with labels, or with their ids.\n"
    )
    with pytest.raises(UserError, match="label_text_column"):
        add_labels(str(copy), [str(file)], ["prepare.labels=[x]"])

"""A bundle of another label set: only new texts are embedded, and scores are those of the texts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezxmc_ray.cli import main
from ezxmc_ray.context import open_context
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.stages import new_labels
from ezxmc_ray.stages.new_labels import write_new_labels
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.tagger import Tagger
from tests.student.toy import LABELS, TOPICS
from tests.tagging.made_run import ALTERNATIVES, make_run

#: The run's labels: one is gone, one is called otherwise, two are new.
ROWS: list[dict[str, Any]] = [
    {"id": f"id {text}", "text": text, "alternatives": ALTERNATIVES[number] if number < len(ALTERNATIVES) else []}
    for number, text in enumerate(LABELS)
]
GONE, RENAMED = 4, 6
CHANGED = [row for number, row in enumerate(ROWS) if number != GONE]
CHANGED[RENAMED - 1] = {"id": f"id {LABELS[RENAMED]}", "text": "wave of iron", "alternatives": []}
CHANGED += [{"id": "new 1", "text": "garden law"}, {"id": "new 2", "text": "steel horse", "alternatives": ["poem"]}]


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of labels that an encoder has embedded."""
    texts: list[str] = []
    real = Encoder.encode_labels

    def encode(self: Encoder, some: list[str]) -> Any:
        texts.extend(some)
        return real(self, some)

    monkeypatch.setattr(Encoder, "encode_labels", encode)
    return texts


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def export(run: str, folder: Path, labels: str) -> Tagger:
    with pytest.raises(SystemExit) as ended:
        main(["export", run, str(folder), "--encoder", "torch", "--labels", labels])
    assert ended.value.code == 0
    return Tagger.load(str(folder))


def test_only_new_texts_are_embedded_and_scores_are_those_of_the_texts(
    run: str, tmp_path: Path, embedded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tagger = export(run, tmp_path / "bundle", write(tmp_path / "labels.jsonl", CHANGED))
    assert embedded == ["wave of iron", "garden law", "steel horse", "poem"]
    assert "2 labels were added, 1 are gone; 4 texts were new" in capsys.readouterr().out
    texts = [f"{topic} {label}" for topic, label in zip(TOPICS, LABELS, strict=True)]
    rows = [[row["text"], *row.get("alternatives", [])] for row in CHANGED]
    documents = tagger.encoder.encode_documents([""] * len(texts), texts).vectors
    vectors = [tagger.encoder.encode_labels(row).vectors for row in rows]  # type: ignore[attr-defined]
    numbers = np.tile(np.arange(len(CHANGED), dtype=np.int32), (len(texts), 1))
    table = tagger.searcher.parts[0].lexical
    assert isinstance(table, LexicalTable)
    expected = np.stack([(documents @ one.T).max(axis=1) for one in vectors], axis=1)
    titles, lexical = [""] * len(texts), tagger.settings.lexical
    named = table.names.find(titles, texts).of(numbers)
    expected += lexical.weight * (table.shares(titles, texts, numbers) + lexical.name_bonus * named)
    for row, labels in enumerate(tagger.tag(texts, k=20, min_score=-9.0)):
        assert sorted(one.label_id for one in labels) == sorted(one["id"] for one in CHANGED)
        scores = {one.label_id: one.score for one in labels}
        found = [scores[one["id"]] for one in CHANGED]
        np.testing.assert_allclose(found, expected[row], atol=1e-5)


def test_the_runs_own_labels_give_its_own_tags(run: str, tagger: Tagger, tmp_path: Path, embedded: list[str]) -> None:
    again = export(run, tmp_path / "bundle", write(tmp_path / "labels.jsonl", ROWS))
    assert embedded == []
    for one, other in zip(again.tag(TOPICS + LABELS), tagger.tag(TOPICS + LABELS), strict=True):
        np.testing.assert_allclose([label.score for label in one], [label.score for label in other], atol=1e-6)


def test_labels_that_cannot_be_used_are_refused_and_nothing_is_left(run: str, tmp_path: Path) -> None:
    bad = write(tmp_path / "labels.jsonl", [*ROWS, {"id": "x", "text": ""}, ROWS[0]])
    for labels, sentence in (
        (bad, r"2 bad rows in .*labels\.jsonl, the first .*:11: empty label"),
        ("gone", "no file"),
    ):
        with pytest.raises(UserError, match=sentence):
            write_new_labels(open_context(run), Storage(str(tmp_path / "files")), [labels])
    with pytest.raises(SystemExit) as ended:
        main(["export", run, str(tmp_path / "bundle"), "--labels", bad])
    assert ended.value.code == 2
    assert not list((tmp_path / "bundle").rglob("*.*"))


def test_beyond_what_is_searched_exactly_the_cells_are_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", settings=["index.exact_below=100", "lexical.candidates=100"])
    texts = [" ".join(words) for words in itertools.permutations([*TOPICS[:5], *LABELS[:5]], 3)]
    labels = write(tmp_path / "labels.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts)])
    monkeypatch.setattr(
        new_labels, "embed_documents", lambda storage, encoder, shards: encoder.encode_labels(texts[::9]).vectors
    )
    context = open_context(str(tmp_path / "run"))
    written = write_new_labels(context, Storage(str(tmp_path / "files")), [labels])
    assert (written.labels, written.added, written.gone) == (len(texts), len(texts), len(LABELS))
    tagger = export(str(tmp_path / "run"), tmp_path / "bundle", labels)
    assert [len(one) for one in tagger.tag(texts[:20], k=3)] == [3] * 20
    found = [texts[row] in {one.text for one in labels} for row, labels in enumerate(tagger.tag(texts[:200], k=5))]
    assert np.mean(found) > 0.9

"""Tags brought up to date after labels changed: as tagging everything anew gives them, whatever changed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from ezxmc_ray.context import open_context
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.new_labels import write_new_labels
from ezxmc_ray.tagging.changes import add_labels, listed_labels, remove_labels, rename_labels
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.files import TagRow
from ezxmc_ray.tagging.tagger import Tagger
from ezxmc_ray.tagging.updating import Asked, LabelsThen, TagUpdater
from tests.tagging.made_run import make_run
from tests.tagging.test_changes import DOCUMENTS, WORDS, drawn_row, write

#: Names of labels stand in some, some have no text, and one is long.
TEXTS = [*DOCUMENTS, *WORDS, "", " ", "nothing of that", "poem " * 30]
TITLES = ["", "river law", ""]
LABELS = 240


def columns() -> tuple[list[str], list[str], list[str]]:
    """Ids, titles and texts."""
    titles = [TITLES[number % 3] if text.strip() else "" for number, text in enumerate(TEXTS)]
    return [f"d{number}" for number in range(len(TEXTS))], titles, TEXTS


def rows_of(tagger: Tagger) -> list[TagRow]:
    """The documents tagged by all labels."""
    return [(row["id"], row["label_ids"], row["scores"]) for row in tagger.tag_columns(*columns())[0].to_pylist()]


def assert_same(ours: list[TagRow], tagger: Tagger) -> None:
    """What the tagger gives: scores within 1e-5, and the labels that have them; those that score alike may stand for
    each other, as they do from batch to batch."""
    _, titles, texts = columns()
    everything = tagger.tag(texts, 12, -1.0, titles)
    for (_, labels, scores), (document, expected, values), all_labels in zip(
        ours, rows_of(tagger), everything, strict=True
    ):
        assert len(labels) == len(expected), document
        np.testing.assert_allclose(scores, values, atol=1e-5)
        by_label = {one.label_id: one.score for one in all_labels}
        np.testing.assert_allclose(scores, [by_label[label] for label in labels], atol=1e-5)
        close = {label for label in expected if abs(by_label[label] - values[-1]) <= 1e-5}
        assert set(expected) - close <= set(labels)


def brought_up_to_date(updater: TagUpdater, tags: list[TagRow], batch: int = 7) -> list[TagRow]:
    """The tags of the same documents, a few at a time."""
    given, done = iter(tags), list[TagRow]()
    update = updater.following(given)
    for at in range(0, len(TEXTS), batch):
        table = update(*(column[at : at + batch] for column in columns()))[0]
        done += [(row["id"], row["label_ids"], row["scores"]) for row in table.to_pylist()]
    assert next(given, None) is None
    asked = updater.asked
    assert asked.all + asked.new + asked.none == len(TEXTS)
    return done


def load(where: str, *words: str) -> Tagger:
    """The tagger of a bundle whose encoder proposes few labels: fewer than a configuration may say."""
    tagger = Tagger.load(where, words)
    tagger.settings.lexical.candidates = 12
    return tagger


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with more labels than the encoder proposes, many of which share words."""
    folder = tmp_path_factory.mktemp("updating")
    make_run(folder / "run")
    draw = random.Random(0)
    labels = write(folder / "labels.jsonl", [drawn_row(draw, f"label {number}") for number in range(LABELS)])
    context = open_context(str(folder / "run"))
    export_bundle(
        str(folder / "run"), str(folder / "bundle"), "onnx", lambda files: write_new_labels(context, files, [labels])
    )
    return folder / "bundle"


def change(where: str, draw: random.Random, name: str, file: Path) -> None:
    """Add, remove or rename some labels."""
    there = sorted({next(iter(row.values())) for row in listed_labels(where)})
    command = draw.choice([add_labels, remove_labels, rename_labels])
    if command is add_labels:
        rows = [drawn_row(draw, f"{name} {number}") for number in range(draw.randint(1, 4))]
    else:
        rows = [drawn_row(draw, one) for one in draw.sample(there, draw.randint(1, 3))]
    command(where, [write(file, rows)])


@pytest.mark.parametrize("knobs", [(1, -1.0), (4, -1.0), (10, 0.9), (4, 1.05)])
@pytest.mark.parametrize("size", ["bundle", "large"])
@pytest.mark.parametrize("seed", range(1))
def test_any_changes_give_what_tagging_anew_gives(
    request: pytest.FixtureRequest, tmp_path: Path, size: str, seed: int, knobs: tuple[int, float]
) -> None:
    """Changes upon changes, each time from the tags that were brought up to date before."""
    shutil.copytree(request.getfixturevalue(size), tmp_path / "copy")
    where, draw = str(tmp_path / "copy"), random.Random(f"{seed} {size} {knobs}")
    words = [f"predict.top_k={knobs[0]}", f"predict.min_score={knobs[1]}"]
    tagger = load(where, *words)
    tags, asked = rows_of(tagger), Asked()
    for step in range(3):
        then = LabelsThen(len(tagger.searcher.parts), tagger.settings.removed)
        for number in range(draw.randint(1, 3)):
            change(where, draw, f"new {step} {number}", tmp_path / "labels.jsonl")
        tagger = load(where, *words)
        updater = TagUpdater(tagger, then)
        tags = brought_up_to_date(updater, tags)
        asked.add(updater.asked)
        assert_same(tags, tagger)
    assert asked.new


def test_who_is_asked_about_what(copy: Path, tmp_path: Path) -> None:
    """Of few labels, all of which the encoder proposes."""
    where, file = str(copy), tmp_path / "labels.jsonl"
    tagger = Tagger.load(where)
    tags, then = rows_of(tagger), LabelsThen(1, [])
    with_text = sum(bool(text.strip()) for text in TEXTS)

    def asked() -> Asked:
        tagger = Tagger.load(where)
        updater = TagUpdater(tagger, then)
        assert_same(brought_up_to_date(updater, tags), tagger)
        return updater.asked

    assert asked() == Asked(none=len(TEXTS))
    gone = tags[0][1][0]
    remove_labels(where, [write(file, [{"id": gone}])])
    have_it = sum(gone in row[1] for row in tags)
    assert 0 < have_it < with_text and asked() == Asked(all=have_it, none=len(TEXTS) - have_it)
    add_labels(where, [write(file, [{"id": "new", "text": "river law"}])])
    one = asked()
    assert 0 < one.all <= have_it and one == Asked(one.all, with_text - one.all, len(TEXTS) - with_text)


def test_a_label_that_takes_the_place_of_one_that_went_is_found(large: Path, tmp_path: Path) -> None:
    """The document did not have the one that went; it has the one that is proposed since."""
    shutil.copytree(large, tmp_path / "copy")
    where = str(tmp_path / "copy")
    tags = rows_of(load(where))
    place, (_, had, _) = next((place, row) for place, row in enumerate(tags) if row[0] == "d9")
    assert "label 1" not in had and "label 145" not in had
    remove_labels(where, [write(tmp_path / "labels.jsonl", [{"id": "label 1"}])])
    updater = TagUpdater(load(where), LabelsThen(1, []))
    ours = brought_up_to_date(updater, tags)
    assert "label 145" in ours[place][1] and 0 < updater.asked.all < len(TEXTS)
    assert_same(ours, load(where))


def test_tags_of_other_documents_or_labels_are_refused(copy: Path) -> None:
    tagger = Tagger.load(str(copy))
    tags = rows_of(tagger)
    updater = TagUpdater(tagger, LabelsThen(1, []))
    ids, titles, texts = (column[:2] for column in columns())
    for given, sentence in (
        (tags[1:3], "where the document 'd0' comes, the tags have 'd1': tag them anew, without --new-labels"),
        (tags[:1], "where the document 'd1' comes, the tags have no more"),
        ([tags[0], ("d1", ["id gone"], [0.5])], "The tags of 'd1' have the label 'id gone', which there was not when"),
    ):
        with pytest.raises(UserError, match=sentence):
            updater.following(iter(given))(ids, titles, texts)

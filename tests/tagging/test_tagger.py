"""The tagger from Python, held against scores that are worked out from the vectors themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import ezxmc_ray
from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tables import PREDICTIONS_SCHEMA
from ezxmc_ray.tagging.tagger import Tagged, Tagger
from tests.student.toy import LABELS, TOPICS
from tests.tagging.made_run import ALTERNATIVES, make_run

TEXTS = [f"{topic} and {label}" for topic, label in zip(TOPICS, LABELS, strict=False)]


def similarity(tagger: Tagger, texts: list[str]) -> np.ndarray:
    """[texts, labels], of each label by its best text: cosine of the encoder's vectors, and words."""
    owners = [*range(len(LABELS)), *(number for number, more in enumerate(ALTERNATIVES) for _ in more)]
    every = [*LABELS, *(text for more in ALTERNATIVES for text in more)]
    vectors = tagger.encoder.encode_documents([""] * len(texts), texts).vectors
    labels = tagger.encoder.encode_labels(every).vectors  # type: ignore[attr-defined]
    numbers = np.tile(np.arange(len(LABELS), dtype=np.int32), (len(texts), 1))
    table = tagger.searcher.parts[0].lexical
    assert isinstance(table, LexicalTable)
    cosine = np.full((len(texts), len(LABELS)), -np.inf, np.float32)
    for row, owner in enumerate(owners):
        cosine[:, owner] = np.maximum(cosine[:, owner], vectors @ labels[row])
    titles, lexical = [""] * len(texts), tagger.settings.lexical
    named = table.names.find(titles, texts).of(numbers)
    return cosine + lexical.weight * (table.shares(titles, texts, numbers) + lexical.name_bonus * named)


def test_texts_get_the_labels_of_highest_similarity(tagger: Tagger) -> None:
    expected = similarity(tagger, TEXTS)
    found = tagger.tag(TEXTS)
    for row, labels in enumerate(found):
        assert isinstance(labels[0], Tagged) and len(labels) == 4
        numbers = [LABELS.index(one.text) for one in labels]
        assert [one.label_id for one in labels] == [f"id {LABELS[number]}" for number in numbers]
        np.testing.assert_allclose([one.score for one in labels], np.sort(expected[row])[::-1][:4], atol=1e-5)
        np.testing.assert_allclose(expected[row, numbers], [one.score for one in labels], atol=1e-5)


def test_k_and_min_score_are_asked_for_by_call(tagger: Tagger) -> None:
    expected = similarity(tagger, TEXTS)
    for k in (1, 7, len(LABELS), 10_000):
        assert [len(one) for one in tagger.tag(TEXTS, k=k)] == [min(k, len(LABELS))] * len(TEXTS)
    threshold = float(np.median(expected))
    counts = [len(one) for one in tagger.tag(TEXTS, k=100, min_score=threshold)]
    assert counts == (expected >= threshold).sum(axis=1).tolist()
    assert 0 < sum(counts) < expected.size
    assert tagger.tag(TEXTS, min_score=99.0) == [[]] * len(TEXTS)
    assert tagger.tag([]) == []


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IVF2,SQ8", "HNSW8"])
def test_only_the_labels_that_are_named_are_given(tmp_path: Path, factory: str) -> None:
    make_run(tmp_path / "run", factory, shard_labels=8)
    tagger = Tagger.load(str(tmp_path / "run"))
    exact = 1e-5 if "SQ8" not in factory else 0.02
    expected = similarity(tagger, TEXTS)
    some = [7, 0, 2, 5]
    found = tagger.tag(TEXTS, k=3, among=[f"id {LABELS[number]}" for number in some])
    for row, labels in enumerate(found):
        best = sorted(some, key=lambda number: -expected[row, number])[:3]
        np.testing.assert_allclose([one.score for one in labels], expected[row, best], atol=exact)
        if factory != "IVF2,SQ8":
            assert [LABELS.index(one.text) for one in labels] == best
    assert tagger.tag(TEXTS, among=[]) == [[]] * len(TEXTS)
    assert [len(one) for one in tagger.tag(TEXTS, k=9, among=[f"id {LABELS[1]}"] * 2)] == [1] * len(TEXTS)
    everything = [f"id {label}" for label in LABELS]
    for one, other in zip(tagger.tag(TEXTS, among=everything), tagger.tag(TEXTS), strict=True):
        np.testing.assert_allclose([label.score for label in one], [label.score for label in other], atol=exact)


def test_codes_that_are_refined_score_named_labels_as_they_score_all(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "IVF1,SQ4,Refine(SQ8)", shard_labels=100)
    tagger = Tagger.load(str(tmp_path / "run"))
    everything = [f"id {label}" for label in LABELS]
    for one, other in zip(tagger.tag(TEXTS, among=everything), tagger.tag(TEXTS), strict=True):
        assert [label.text for label in one] == [label.text for label in other]
        np.testing.assert_allclose([label.score for label in one], [label.score for label in other], atol=1e-5)


def test_titles_count_and_tables_are_tagged_alike(tagger: Tagger) -> None:
    titles = LABELS[: len(TEXTS)]
    ours = tagger.tag(TEXTS, titles=titles)
    assert ours != tagger.tag(TEXTS)
    table = tagger.tag_table(pa.table({"text": TEXTS, "title": titles}))
    assert table.schema == PREDICTIONS_SCHEMA
    assert table["id"].to_pylist() == [str(number) for number in range(len(TEXTS))]
    assert table["label_texts"].to_pylist() == [[one.text for one in labels] for labels in ours]
    assert table["scores"].to_pylist() == [[one.score for one in labels] for labels in ours]
    named = tagger.tag_table(
        pa.table({"id": [7, 8, 9], "text": [TEXTS[0], None, " "], "title": [None, "salt", None]}), k=1
    )
    assert named["id"].to_pylist() == ["7", "8", "9"]
    assert list(map(len, named["label_ids"].to_pylist())) == [1, 1, 0]
    assert named["label_texts"].to_pylist()[0] == [tagger.tag(TEXTS[:1], k=1)[0][0].text]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k=0 labels a text make no sense: give 1 or more."),
        ({"k": -1}, "k=-1 labels a text make no sense"),
        ({"titles": ["one"]}, "There are 1 titles for 2 texts: give as many, or none."),
        ({"k": 2.5}, "k is 2.5, which is no whole number."),
        ({"min_score": float("nan")}, "min_score is nan, which is no number."),
        ({"min_score": "0.2"}, "min_score is '0.2', which is no number."),
        ({"among": "id music"}, "among is one text: give a list of them"),
        ({"among": ["nosuch", "x", "y", "z", "id music"]}, "No label has the id 'nosuch', 'x', 'y' and 1 more."),
    ],
)
def test_what_makes_no_sense_is_a_sentence(tagger: Tagger, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        tagger.tag(["a", "b"], **options)  # type: ignore[arg-type]
    assert str(raised.value).startswith(sentence)
    tables: list[dict[str, list[object]]] = [{"words": ["a"]}, {"text": [1.5]}]
    for table, words in zip(
        tables, ("has no column text, only words", "column text of the table is double"), strict=True
    ):
        with pytest.raises(UserError, match=words):
            tagger.tag_table(pa.table(table))


def test_texts_are_lists_of_texts_of_any_library(tagger: Tagger) -> None:
    expected = tagger.tag(TEXTS, k=2)
    for texts in (pa.array(TEXTS), pa.chunked_array([TEXTS[:2], TEXTS[2:]]), iter(TEXTS), np.array(TEXTS, object)):
        assert tagger.tag(texts, k=np.int64(2)) == expected  # type: ignore[arg-type]
    among = ["id music", "id iron"]
    assert tagger.tag(TEXTS, among=iter(among)) == tagger.tag(TEXTS, among=pa.array(among))  # type: ignore[arg-type]
    assert tagger.tag(["", " \n", TEXTS[0]], k=2) == [[], [], expected[0]]
    bad: list[tuple[object, str]] = [
        ("a text", "texts is one text: give a list of them, such as ['a text']."),
        ([None], "texts[0] is None, which"),
        (["a", 3], "texts[1] is 3, which is no text (str)."),
        (["a", "\ud800"], "texts[1] is no valid Unicode"),
    ]
    for wrong, sentence in bad:
        with pytest.raises(UserError) as raised:
            tagger.tag(wrong)  # type: ignore[arg-type]
        assert str(raised.value).startswith(sentence)


def test_threads_share_a_tagger(tagger: Tagger) -> None:
    texts = [f"{text} {number}" for number in range(6) for text in TEXTS]
    alone = [tagger.tag([text], k=5) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: tagger.tag([text], k=5), texts)) == alone


def test_the_package_shows_its_face_without_importing_what_is_behind_it(tagger: Tagger) -> None:
    assert ezxmc_ray.Tagger is Tagger and ezxmc_ray.load_config is load_config
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        _ = ezxmc_ray.nosuch
    assert tagger.labels.column_names == ["id", "text"] and tagger.labels["text"].to_pylist() == LABELS


def test_what_is_no_run_or_not_finished_is_a_sentence(run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
        Tagger.load(str(tmp_path))
    make_run(tmp_path / "run")
    (tmp_path / "run" / layout.manifest(layout.INDEX)).unlink()
    with pytest.raises(UserError, match=r"The index of .*run is missing, or older than its labels"):
        Tagger.load(str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"older than its labels, its student or its encoder and lexical settings"):
        Tagger.load(run, ["lexical.weight=0.5"])


@pytest.mark.parametrize(("encoder", "share"), [(0, 1.0), (1, 0.5)])
def test_words_count_as_they_do_beside_the_encoder_that_ships(tmp_path: Path, encoder: int, share: float) -> None:
    config = make_run(tmp_path)
    shipped = read_manifest(Storage(str(tmp_path)), layout.STUDENT)
    assert shipped is not None
    told = replace(shipped, details=shipped.details | {"encoder": encoder})
    write_manifest(Storage(str(tmp_path)), layout.STUDENT, told)
    if encoder:
        with pytest.raises(UserError, match="older than its labels"):
            Tagger.load(str(tmp_path), ["lexical.student_weight=0.03"])
    else:  # what counts for students only does not make it older
        Tagger.load(str(tmp_path), ["lexical.student_weight=0.03"])
    tagger = Tagger.load(str(tmp_path))
    assert tagger.settings.lexical.weight == share * config.lexical.weight > 0
    scores = [[one.score for one in found] for found in tagger.tag(TEXTS)]
    np.testing.assert_allclose(scores, np.sort(similarity(tagger, TEXTS))[:, ::-1][:, :4], atol=1e-5)

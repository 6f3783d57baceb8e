"""What a replica says of a real bundle: the labels and scores of the tagger, why, and the newest export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ezxmc_ray.serving.contract import Options, TagRequest
from ezxmc_ray.serving.live import LiveTagger, export_of
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.tagger import Tagger


def texts_of(tagger: Tagger) -> list[str]:
    return [f"{text}, and more of {text.lower()}" for text in tagger.label_texts.to_pylist()[:6]]


def test_a_replica_tags_as_the_tagger_does_and_says_why(bundle: Path) -> None:
    tagger, replica = Tagger.load(str(bundle)), LiveTagger(str(bundle))
    texts = texts_of(tagger)
    titles = [text.split()[0] for text in texts]
    answer = replica.tag(TagRequest(titles, texts, Options(k=3, min_score=-1.0, explain=True)))
    assert answer.export == export_of(str(bundle)) and answer.mistake is None
    vectors = tagger.encoder.encode_documents(titles, texts).vectors
    words, named = tagger.settings.lexical, 0
    for vector, row, labels in zip(vectors, answer.results, tagger.tag(texts, 3, -1.0, titles), strict=True):
        assert [(one["label_id"], one["score"]) for one in row] == [(one.label_id, one.score) for one in labels]
        numbers = [tagger.label_ids.to_pylist().index(one["label_id"]) for one in row]
        cosine, found = tagger.searcher.parts[0].index.search(vector[None], len(tagger.label_ids))
        by_number = dict(zip(found[0].tolist(), cosine[0].tolist(), strict=True))
        for one, number in zip(row, numbers, strict=True):
            why = one["why"]
            assert why["cosine"] == pytest.approx(by_number[number], abs=1e-6)
            added = words.weight * (why["share"] + words.name_bonus * why["name"])
            assert why["cosine"] + added == pytest.approx(one["score"], abs=1e-6)
            assert bool(why["words"]) == (why["share"] > 0)
            named += len(why["words"])
    assert named


def test_a_new_export_is_taken_over_and_a_damaged_one_is_not(
    run: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    shutil.copytree(bundle, served)
    replica = LiveTagger(str(served))
    before = replica.tag(TagRequest([""], ["a text"], Options(k=2, min_score=-1.0)))
    assert not replica.reload()
    export_bundle(run, str(served), "torch")
    assert replica.reload()
    after = replica.tag(TagRequest([""], ["a text"], Options(k=2, min_score=-1.0)))
    assert after.export == export_of(str(served)) != before.export
    assert [one["label_id"] for one in after.results[0]] == [one["label_id"] for one in before.results[0]]
    export_bundle(run, str(served), "torch")
    folder = served / export_of(str(served))
    labels = folder / "labels.parquet"
    labels.write_bytes(labels.read_bytes()[:-1] + b"x")
    assert not replica.reload() and "is not taken over: The bundle is damaged" in capsys.readouterr().out
    assert replica.tag(TagRequest([""], ["a text"], Options(k=2, min_score=-1.0))) == after

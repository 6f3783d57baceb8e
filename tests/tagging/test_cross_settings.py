"""How a cross-encoder's settings go into a bundle and out of it, and by whose scores a tagger then cuts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ezxmc_ray.config import CrossEncoderConfig, EncoderConfig, PredictConfig, load_config
from ezxmc_ray.encoder.reranker import RerankScale
from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics.thresholds import LeastScores, ProbabilityCurve
from ezxmc_ray.tagging.cross_encoder import CrossSettings
from ezxmc_ray.tagging.settings import TagSettings

PRECISIONS = [None if percent > 80 else 3 + percent / 100 for percent in range(1, 100)]
CONFIG = CrossEncoderConfig(weight=0.7, max_document_tokens=99, dropout=False)
DETAILS: dict[str, Any] = {
    "settings": dataclasses.asdict(CONFIG),
    "per_score": 0.125,
    "anchor": 7,
    "min_score": 3.25,
    "precision_thresholds": PRECISIONS,
    "probability": {"scores": [1.0, 4.0], "probabilities": [0.25, 0.75]},
    "probability_error": 0.1,
    "held_out": {},
}
#: Of a manifest without a yes, and of one with too few pairs for chances.
WITHOUT = [{"precision_thresholds": None, "probability": None, "min_score": -1.0}, {"probability": None}]


@pytest.mark.parametrize("told", [{}, *WITHOUT])
def test_a_note_is_read_as_it_was_written(told: dict[str, Any]) -> None:
    settings = CrossSettings.of(DETAILS | told)
    again = CrossSettings.of_note(json.loads(json.dumps(settings.note)))
    assert again == settings and again.note == settings.note
    assert (again.config, again.scale) == (CONFIG, RerankScale(0.125, 7))
    expected = DETAILS | told
    assert again.least_scores.best == expected["min_score"]
    assert (again.least_scores.by_precision is None) == (expected["precision_thresholds"] is None)
    assert again.probability == ProbabilityCurve.of(expected["probability"])


def test_a_note_holds_all_that_a_tagger_asks_of_it() -> None:
    note = CrossSettings.of(DETAILS).note
    assert note.keys() == {"config", "scale", "least_scores", "probability"}
    assert note["config"] == dataclasses.asdict(CONFIG)


OF_SIMILARITY = ProbabilityCurve((0.0, 1.0), (0.1, 0.9))


def settings_of(predict: PredictConfig, cross_encoder: CrossSettings | None) -> TagSettings:
    config = load_config(None)
    return TagSettings(
        encoder=config.encoder,
        lexical=config.lexical,
        predict=predict,
        least_scores=LeastScores(0.5, tuple(percent / 1000 for percent in range(1, 100))),
        probability=OF_SIMILARITY,
        shards=[],
        gpu_dtype=None,
        label_fingerprint="",
        prepare=config.prepare,
        cluster=config.cluster,
        cross_encoder=cross_encoder,
    )


def test_without_reranking_a_tagger_cuts_by_the_similarity() -> None:
    for cross in (None, CrossSettings.of(DETAILS)):  # a run that has one, and is tagged without
        settings = settings_of(PredictConfig(), cross)
        assert settings.reranking is None and settings.min_score == 0.5 and settings.chances == OF_SIMILARITY
        assert settings_of(PredictConfig(precision=0.3), cross).min_score == 0.03


def test_with_reranking_a_tagger_cuts_by_the_new_scores() -> None:
    cross = CrossSettings.of(DETAILS)
    settings = settings_of(PredictConfig(rerank=30), cross)
    assert settings.reranking == cross and settings.min_score == 3.25
    assert settings.chances == cross.probability != OF_SIMILARITY
    assert settings_of(PredictConfig(rerank=30, precision=0.3), cross).min_score == 3.3
    assert settings_of(PredictConfig(rerank=30, min_score=-7.0), cross).min_score == -7
    with pytest.raises(UserError, match=r"say yes to 90% of the labels: set predict\.precision lower, or null"):
        settings_of(PredictConfig(rerank=30, precision=0.9), cross)


def test_where_no_chances_were_fitted_none_of_the_similarity_are_told() -> None:
    cross = CrossSettings.of(DETAILS | {"probability": None})
    assert settings_of(PredictConfig(rerank=30), cross).chances is None


@pytest.mark.parametrize(("more", "reads_less"), [(-1, "cross_encoder"), (0, "encoder"), (1, "encoder")])
def test_the_knob_that_documents_are_cut_at_is_of_the_network_that_reads_less(more: int, reads_less: str) -> None:
    tokens = EncoderConfig.max_document_tokens + more
    cross = CrossSettings.of(DETAILS | {"settings": dataclasses.asdict(CONFIG) | {"max_document_tokens": tokens}})
    assert settings_of(PredictConfig(rerank=30), cross).cut_at == f"{reads_less}.max_document_tokens"
    assert settings_of(PredictConfig(), cross).cut_at == "encoder.max_document_tokens"

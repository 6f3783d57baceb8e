"""``predict.rerank`` in the configuration: what it makes stale, and what is refused with it."""

from __future__ import annotations

import pytest

from ezxmc_ray.config import DEEPEST_RANK, fingerprint, fingerprinted_settings, from_dict, load_config, to_dict
from ezxmc_ray.cycles import check_counts
from ezxmc_ray.errors import UserError

OFF = "set predict.rerank to 0."


def test_runs_of_older_versions_are_not_stale_without_it() -> None:
    of_before = {"top_k": 10, "min_score": None, "precision": None}
    assert fingerprinted_settings(load_config(None), "predict") == of_before
    # As it was when the knob came.
    assert fingerprint(fingerprinted_settings(load_config(None), "predict")) == "6f5ad3cdf447556c"
    for knob in ("cross_encoder.weight=0.9", "cross_encoder.epochs=1", "predict.rerank_candidates=7"):
        assert fingerprinted_settings(load_config(None, [knob]), "predict") == of_before


def test_how_many_are_ranked_anew_is_part_of_what_predictions_are() -> None:
    found = [fingerprinted_settings(load_config(None, [f"predict.rerank={first}"]), "predict") for first in (20, 30)]
    assert [one["rerank"] for one in found] == [20, 30] and fingerprint(found[0]) != fingerprint(found[1])
    knobs = {"weight", "epochs", "batch_size", "learning_rate", "max_document_tokens", "dropout"}
    assert fingerprinted_settings(load_config(None), "cross_encoder").keys() == knobs


def test_a_configuration_that_an_older_version_stored_is_read() -> None:
    stored = to_dict(load_config(None, ["predict.top_k=3"]))
    del stored["cross_encoder"], stored["predict"]["rerank"]
    assert from_dict(stored) == load_config(None, ["predict.top_k=3"])


def test_more_than_the_similarity_ranks_is_refused() -> None:
    enough = [f"lexical.candidates={DEEPEST_RANK}", f"evaluate.depth={DEEPEST_RANK}"]
    load_config(None, [*enough, f"predict.rerank={DEEPEST_RANK}"])
    load_config(None, [*enough, f"predict.rerank={DEEPEST_RANK + 1}", "lexical.weight=0"])
    with pytest.raises(UserError) as told:
        load_config(None, [*enough, f"predict.rerank={DEEPEST_RANK + 1}"])
    assert str(told.value) == (
        f"predict.rerank is {DEEPEST_RANK + 1}, but the similarity decides among lexical.candidates={DEEPEST_RANK} "
        "labels only: set that to as many at least."
    )


@pytest.mark.parametrize(
    "override",
    ["predict.rerank=-1", "predict.rerank=1.5", "predict.rerank=null", "cross_encoder.weight=0"]
    + [f"cross_encoder.{knob}=0" for knob in ("epochs", "batch_size", "learning_rate", "max_document_tokens")],
)
def test_values_that_mean_nothing_are_refused(override: str) -> None:
    with pytest.raises(UserError, match=rf"^{override.partition('=')[0]} on the command line is .*; it must "):
        load_config(None, [override])


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize(
    ("knobs", "held_out", "what"),
    [(["curriculum.cycles=0"], 50, "no cycle was trained"), ([], 0, "no document is held out")],
)
def test_without_cycles_or_held_out_documents_it_is_refused(
    knobs: list[str], held_out: int, what: str, trains: bool
) -> None:
    check_counts(load_config(None, knobs), 500, held_out, 50, trains)
    with pytest.raises(UserError) as told:
        check_counts(load_config(None, [*knobs, "predict.rerank=30"]), 500, held_out, 50, trains)
    said = str(told.value)
    assert said.startswith("predict.rerank is 30, and ") and what in said and said.endswith(OFF)
    check_counts(load_config(None, ["predict.rerank=30"]), 500, 50, 50, trains)

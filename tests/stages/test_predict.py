"""What ``predict`` says of who searches the labels, with a fake in place of Ray's actors."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from ezxmc_ray.cluster.pools import HELD
from ezxmc_ray.config import Config
from ezxmc_ray.index.build import AUTO, EXACT_FACTORY
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages import predict as stage
from ezxmc_ray.stages.predict import predict, why_cpus_search

CELLS = "IVF10,PQ8x4fs,Refine(SQ8)"


def done(gpu: int, held: bool = False) -> dict[str, int]:
    counts = {"documents": 5, "labels": 9, "empty": 0, "truncated": 0, "searched_by_gpu": 5 * gpu}
    return counts | ({HELD: 1} if held else {})


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([done(0, held=True), done(1)], False),  # a run that began on CPUs and goes on with GPUs
        ([done(1, held=True), done(0)], True),
        ([done(0, held=True)], False),
        ([done(1), done(1)], False),
    ],
)
def test_only_what_is_searched_now_says_that_the_index_has_no_form_for_gpus(
    files: list[dict[str, int]], says: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    config = Config()
    context: Any = SimpleNamespace(
        config=config,
        storage=None,
        shards=len(files),
        prepared=SimpleNamespace(documents=5 * len(files)),
        manifest=lambda name: SimpleNamespace(details={"factory": CELLS}),
    )
    quiet = contextlib.nullcontext(StageProgress("predict", "documents"))
    fakes: dict[str, Any] = {
        "make_search_files": lambda *_: None,
        "settings_of": lambda _: SimpleNamespace(min_score=0.0, reranking=None),
        "watched": lambda _: quiet,
        "encoder_pool": lambda _: None,
        "map_files": lambda *_: iter(files),
        "cluster_gpus": lambda: 1,
        "say": said.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(stage, name, fake)
    result = predict(context)
    assert result.details["searched_by_gpu"] == sum(one["searched_by_gpu"] for one in files)
    assert len(said) == says
    config.index.gpu = False
    predict(context)
    assert len(said) == says


def test_what_is_advised_is_not_what_is_set_already() -> None:
    assert "index.factory=auto makes an exact one where there are GPUs" in why_cpus_search(CELLS, CELLS)
    by_auto = why_cpus_search(CELLS, AUTO)
    assert f"auto made it without GPUs; index.factory={EXACT_FACTORY} makes an exact one" in by_auto
    for exact in (EXACT_FACTORY, "IDMap2,Flat", "Flat"):  # PyTorch has a form of these for GPUs
        assert why_cpus_search(exact, AUTO).startswith("CPUs search the labels: PyTorch sees no GPU")

"""The read-out classify: a head of two rows of the output layer, in vLLM's pooling runner, in a process of its own.

One process holds one vLLM, and the other tests' one runs a language model's head.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ezxmc_ray.teacher.engine import PairPrompt, load_teacher
from ezxmc_ray.teacher.transformers_engine import TransformersEngine, chances_of_relevant
from ezxmc_ray.teacher.vllm_engine import VllmEngine, _Classify

from .conftest import config_of
from .test_engines import BATCH, LABELS

#: The reference takes a third of a second a pair; the last of BATCH is the empty document.
FEW = [*BATCH[:1], BATCH[-1]]
PAIR = PairPrompt(b"", b"", [1], 0, 1, False)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def classified(model: str) -> tuple[list[float], int, int, list[float]]:
    """Scores, prompt tokens and computed tokens of FEW, and scores under another prompt; in a fresh process."""
    config = config_of(model, "classify")
    other = replace(config, prompt="library")
    engine = VllmEngine(load_teacher(config), [load_teacher(other)])
    judged = engine.judge(FEW)
    second = VllmEngine(load_teacher(other), llm=engine.llm).judge(FEW)
    engine.close()
    scores = [one.table["raw"].to_pylist() for one in (judged, second)]
    return scores[0], judged.prompt_tokens, judged.computed_tokens, scores[1]


@pytest.fixture(scope="module")
def in_a_process(small_teacher: str, one_engine: Any) -> tuple[Any, list[Any]]:
    """What ``classified`` and ``read_from_heads`` found, in one process: vLLM takes it 15 s to import."""
    with one_engine(), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        heads = process.map(read_from_heads, HEADS)
        return process.submit(classified, small_teacher).result(), list(heads)


def test_a_head_of_two_words_gives_their_softmax(small_teacher: str, in_a_process: tuple[Any, list[Any]]) -> None:
    scores, prompt_tokens, computed_tokens, second = in_a_process[0]
    config = config_of(small_teacher, "classify")
    reference = TransformersEngine(load_teacher(config))
    np.testing.assert_allclose(scores, np.asarray(reference.judge(FEW).table["raw"]), atol=1e-3)
    other = TransformersEngine(load_teacher(replace(config, prompt="library")))
    np.testing.assert_allclose(second, np.asarray(other.judge(FEW).table["raw"]), atol=1e-3)
    assert len(scores) == len(FEW) * len(LABELS)
    assert np.std(scores) > 0.005
    assert computed_tokens < 0.6 * prompt_tokens


#: What a checkpoint may have vLLM do to a head's logits.
HEADS = ("PoolerIdentity", "PoolerClassify", "PoolerMultiLabelClassify")
#: Logits of heads with one class, and with two of which the last one means relevant.
LOGITS = [[[4.1], [-1.9], [0.0]], [[0.5, 3.0], [2.0, -1.0], [0.0, 0.0]]]


def read_from_heads(activation: str) -> list[list[float]]:
    """Scores of ``LOGITS`` behind vLLM's head with that activation; in a fresh process, which starts no engine."""
    from vllm.model_executor.layers.pooler import activations
    from vllm.model_executor.layers.pooler.seqwise.heads import ClassifierPoolerHead

    head, requests = ClassifierPoolerHead(activation=getattr(activations, activation)()), _Classify()
    scores = []
    for logits in LOGITS:
        asked: Any = SimpleNamespace(pooling_params=[requests.parameters(PAIR, again=False) for _ in logits])
        answers = [SimpleNamespace(outputs=SimpleNamespace(data=row)) for row in head(torch.tensor(logits), asked)]
        scores.append([requests.score(PAIR, answer) or 0.0 for answer in answers])
    return scores


def test_a_heads_logits_are_read_as_the_other_engines_read_them(in_a_process: tuple[Any, list[Any]]) -> None:
    """Whatever a checkpoint would have vLLM do to them (activation_fn, problem_type)."""
    found = in_a_process[1]
    for scores in found:
        for logits, read in zip(LOGITS, scores, strict=True):
            np.testing.assert_allclose(read, chances_of_relevant(torch.tensor(logits).double()), atol=1e-6)
    assert found[0][1][0] == pytest.approx(1 / (1 + np.exp(-2.5)))


def test_the_head_is_made_of_one_spelling_each(small_teacher: str) -> None:
    config = config_of(small_teacher, "classify")
    every, one = load_teacher(replace(config, readout="yes_no")).answers, load_teacher(config).answers
    assert every is not None
    assert one is not None
    assert len(one.yes) == len(one.no) == 1
    assert set(one.all) < set(every.all)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.student.data import HeldOut
from ezxmc_ray.student.validation import EarlyStopping, evaluate_held_out, gains_of, graded_ndcg
from tests.student.toy import LABELS, SCALE, TOPICS, save_tiny_bert, trainer


def test_ndcg_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    for count in (2, 4, 5, 9):
        gains, scores = random.random(count), random.random(count)
        found = graded_ndcg(gains[np.argsort(-scores)].tolist(), gains.tolist())
        assert found == pytest.approx(ndcg_score([gains], [scores], k=5))


def test_gains_are_a_softmax_of_the_target() -> None:
    gains = gains_of(np.array([1.0, 0.0]), 0.5)
    assert gains.sum() == pytest.approx(1) and gains[0] / gains[1] == pytest.approx(np.exp(2))


@pytest.mark.parametrize("target", ["verdict", "fusion", "similarity"])
def test_a_look_is_the_mean_over_documents_of_the_order_of_their_shortlists(tmp_path: Path, target: str) -> None:
    """Also where the student learns the similarity alone it is the verdicts that say how good it has become."""
    encoder = trainer(save_tiny_bert(tmp_path, 0.1), 3).encoder
    random = np.random.default_rng(1)
    documents = [
        HeldOut(topic, LABELS[n : n + 5], random.random(5).astype(np.float32), random.random(5).astype(np.float32))
        for n, topic in enumerate(TOPICS[:4])
    ]
    config = StudentConfig(target=target)
    total, count = evaluate_held_out(encoder, documents, config, SCALE)
    expected = 0.0
    for one in documents:
        scores = (
            encoder.encode_labels(one.label_texts).vectors
            @ encoder.encode_documents([""], [one.document_text]).vectors[0]
        )
        wanted = (one.verdict.astype(float) - SCALE.verdict_mean) / SCALE.verdict_std
        if target != "verdict":
            similar = (one.similarity.astype(float) - SCALE.similarity_mean) / SCALE.similarity_std
            wanted = (wanted + similar) / np.sqrt(2)
        gains = np.exp(wanted / config.target_temperature)
        expected += ndcg_score([gains / gains.sum()], [scores], k=5)
    assert count == 4 and total == pytest.approx(expected, rel=1e-4)
    assert evaluate_held_out(encoder, [], config, SCALE) == (0.0, 0)


def test_training_stops_after_patience_looks_and_takes_the_best_weights() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    stopping = EarlyStopping(patience=2)
    for step, score in ((10, 50.0), (20, 60.0), (30, 60.0), (40, 55.0)):
        assert not stopping.should_stop()
        torch.nn.init.constant_(network.weight, step)
        stopping.add(step, score, network)
    assert stopping.should_stop() and stopping.best_step == 20
    again = EarlyStopping(patience=2)
    again.load_state(stopping.state())
    again.take_best(network)
    assert again.should_stop() and network.weight.item() == 20


def test_without_patience_nothing_stops_and_the_last_weights_stay() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    stopping = EarlyStopping(patience=0)
    for step in range(1, 9):
        stopping.add(step, 100.0 - step, network)
    before = network.weight.item()
    stopping.take_best(network)
    assert not stopping.should_stop() and stopping.best_step == 1 and network.weight.item() == before

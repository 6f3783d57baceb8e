"""How well the student orders the shortlists of held-out documents, by the teacher's judgment; never by gold.

Comes in: held-out documents with their verdicts, an encoder. Goes out: nDCG@5 under the gains that the target gives
the labels, and from one evaluation after another when to stop and which weights were best. The target is the verdict
alone or its fusion with the similarity, as where encoders are selected (targets.compared_by).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.metrics.ranking import discounts
from ezxmc_ray.student.data import HeldOut
from ezxmc_ray.student.targets import TargetScale, compared_by, target_scores

if TYPE_CHECKING:  # the selection, which measures by the same gains, needs no network
    from torch import Tensor, nn

    from ezxmc_ray.encoder.encoder import Encoder

SCORED_AT = 5


def gains_of(target: np.ndarray, temperature: float) -> np.ndarray:
    """What each label of a document is worth: softmax of the standardized target (float [k]) over ``temperature``."""
    gains: np.ndarray = np.exp((target - target.max()) / temperature)
    return gains / gains.sum()


def graded_ndcg(gains: Sequence[float], all_gains: Sequence[float]) -> float:
    """nDCG@5, 0 to 1, of labels with ``gains`` in their order, against the best order of ``all_gains``."""
    discount = discounts(SCORED_AT)
    best = sorted(all_gains, reverse=True)[:SCORED_AT]
    ideal = float(np.dot(best, discount[: len(best)]))
    mine = gains[:SCORED_AT]
    return float(np.dot(mine, discount[: len(mine)])) / ideal if ideal else 0.0


def evaluate_held_out(
    encoder: Encoder, documents: Sequence[HeldOut], config: StudentConfig, scale: TargetScale
) -> tuple[float, int]:
    """Sum of nDCG@5 over ``documents``, each one's shortlist in the encoder's order, and their number."""
    if not documents:
        return 0.0, 0
    texts = sorted({text for document in documents for text in document.label_texts})
    place = {text: number for number, text in enumerate(texts)}
    labels = encoder.encode_labels(texts).vectors
    vectors = encoder.encode_documents([""] * len(documents), [one.document_text for one in documents]).vectors
    total = 0.0
    for vector, document in zip(vectors, documents, strict=True):
        target = target_scores(document.verdict, document.similarity, compared_by(config.target), scale)
        gains = gains_of(target, config.target_temperature)
        scores = labels[[place[text] for text in document.label_texts]].astype(np.float32) @ vector.astype(np.float32)
        total += graded_ndcg(gains[np.argsort(-scores, kind="stable")].tolist(), gains.tolist())
    return total, len(documents)


@dataclass
class EarlyStopping:
    """The evaluations of a training so far: ``curve`` (step, score 0 to 100), and the weights of the best one.

    ``patience``: evaluations without a better one after which training stops, and the best weights are taken; 0: never.
    """

    patience: int
    curve: list[dict[str, float]] = field(default_factory=list)
    best_weights: dict[str, Tensor] | None = None

    def add(self, step: int, score: float, network: nn.Module) -> None:
        """Note an evaluation after ``step`` steps; the best one's weights are copied."""
        if self.patience and score > max((one["score"] for one in self.curve), default=-1.0):
            self.best_weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.curve.append({"step": step, "score": score})

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation (the first of equal ones); None without one."""
        best = max(self.curve, key=lambda one: one["score"], default=None)
        return int(best["step"]) if best else None

    def should_stop(self) -> bool:
        """Whether ``patience`` evaluations have gone by since the best one."""
        since = [one for one in self.curve if one["step"] > (self.best_step or 0)]
        return 0 < self.patience <= len(since)

    def take_best(self, network: nn.Module) -> None:
        """Put the best evaluation's weights into ``network``, if there is patience and there was one."""
        if self.best_weights is not None:
            network.load_state_dict(self.best_weights)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"curve": self.curve, "best_weights": self.best_weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        self.curve, self.best_weights = state["curve"], state["best_weights"]

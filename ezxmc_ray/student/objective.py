"""The objective of the student: from the scores of a batch's pairs and what the teacher said of them to a loss.

Comes in: the configuration, the scale of the targets, the threshold of a yes; then, a batch at a time, the cosine
similarities of its pairs. Goes out: the loss named ``student.loss``, mean over the documents that teach something,
and how many documents these are, so that workers can weight their parts of a global batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.losses import bce_loss, infonce_loss, listwise_loss, lmtx_loss
from ezxmc_ray.student.negatives import doubtful, positives
from ezxmc_ray.student.targets import TargetScale, target_scores

#: Losses that know a yes and a no only; to them a document without a yes teaches nothing.
OF_POSITIVES = ("lmtx", "infonce")
#: Losses whose denominator sums over all negatives, where a common label can count less.
WEIGHTED = ("listwise", "infonce")


@dataclass(frozen=True)
class Objective:
    """``yes_threshold``: the least verdict that is a yes; ``scale``: of verdicts and similarities."""

    config: StudentConfig
    scale: TargetScale
    yes_threshold: float

    @property
    def min_verdict(self) -> float:
        """A document teaches something if its highest verdict is at least this."""
        return self.yes_threshold if self.config.loss in OF_POSITIVES else float(np.finfo(np.float32).min)

    def teaching(self, batch: Batch) -> tuple[int, int]:
        """How many documents teach something: of this worker's part, and of the global batch."""
        judged = np.isfinite(batch.verdict)
        here = (judged & (batch.verdict >= self.min_verdict) & ~batch.excluded).any(axis=1)
        return int(here.sum()), int((batch.best_verdict >= self.min_verdict).sum())

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """A scalar with gradients; ``scores``: float [b, m], cosine similarities of the batch's pairs."""
        config, device = self.config, scores.device
        target = target_scores(batch.verdict, batch.similarity, config.target, self.scale)
        masked = torch.from_numpy(batch.excluded).to(device)
        goal = torch.from_numpy(target).to(device)
        if config.sampling_correction and config.loss in WEIGHTED:
            # The weight of a term of the softmax is a summand of its logit.
            summands = torch.from_numpy(config.temperature * np.log(batch.label_weights)).to(scores)
            shortlisted = torch.from_numpy(np.isfinite(batch.similarity)).to(device)
            scores = scores + summands.expand_as(scores).masked_fill(shortlisted, 0.0)
        if config.loss == "listwise":
            return listwise_loss(scores, goal, config.temperature, config.target_temperature, masked)
        if config.loss == "bce":
            # A label of average similarity starts at even odds, as its target (z = 0) does on average (below them
            # where words count: they are in the similarity and not in the scores).
            bias = -self.scale.similarity_mean / config.temperature
            return bce_loss(scores, torch.sigmoid(goal), torch.isfinite(goal), config.temperature, bias, masked)
        unclear = doubtful(batch.verdict, target, self.yes_threshold, self.scale)
        masked = masked | torch.from_numpy(unclear).to(device)
        positive = torch.from_numpy(positives(batch.verdict, self.yes_threshold)).to(device)
        if config.loss == "lmtx":
            return lmtx_loss(scores, positive, masked)
        return infonce_loss(scores, positive, config.temperature, masked)

"""The training step of the student, and all of its state; the loop around it belongs to the train stage.

Comes in: an encoder, the configuration, and one :class:`~ezxmc_ray.student.data.Batch` a step. Goes out: the encoder
with better weights, the step's figures, and a state from which training goes on to the same losses. Distributed
training replaces ``trainer.module`` by a wrapper (DDP); each step is one call of its ``forward``, so that its hooks
average the gradients, and the loss is weighted so that their average is the gradient over the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ezxmc_ray.config import EncoderConfig, StudentConfig
from ezxmc_ray.encoder.encoder import Encoder, autocast, unit_vectors
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.losses import bce_loss, listwise_loss, lmtx_loss
from ezxmc_ray.student.targets import TargetScale, target_scores


@dataclass(frozen=True)
class StepResult:
    """One step of one worker.

    ``loss``: weighted, so that its mean over the workers is the mean over the global batch's documents (with one
    worker: that mean itself). ``documents``: this worker's. ``learning_rate``: used in this step. ``gradient_norm``:
    of the averaged gradients, before clipping.
    """

    loss: float
    documents: int
    learning_rate: float
    gradient_norm: float


class BiEncoderStep(nn.Module):
    """Documents and labels through one network in one ``forward``, as DDP needs it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, document_features: Mapping[str, Tensor], label_features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Unit vectors of the documents, float32 [b, d], and of the labels, float32 [m, d]."""
        return unit_vectors(self.network, document_features), unit_vectors(self.network, label_features)


class StudentTrainer:
    """AdamW with linear warm-up and decay over ``total_steps``, around ``encoder``, whose weights it changes.

    ``rank`` of ``world`` workers, each of which calls :meth:`step` with its part of the same global batches.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: StudentConfig,
        encoder_config: EncoderConfig,
        total_steps: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.encoder, self.config, self.encoder_config = encoder, config, encoder_config
        self.total_steps, self.seed, self.rank, self.world = total_steps, seed, rank, world
        self.device = torch.device(device)
        self.step_number = 0
        self._own = BiEncoderStep(encoder.module).to(self.device)
        _freeze_unused(self._own.network, encoder.tokenize(["a text"], 8))
        self.module: nn.Module = self._own
        self.optimizer = torch.optim.AdamW(_parameter_groups(self._own, config.weight_decay), lr=config.learning_rate)

    def step(self, batch: Batch, scale: TargetScale, yes_threshold: float) -> StepResult:
        """Learn from this worker's part of a global batch; ``yes_threshold``: least verdict that lmtx takes for a yes.

        A part without documents takes part in the averaging with a loss of 0. Errors: RuntimeError when gradients are
        not finite.
        """
        self._seed_step()
        learning_rate = self.learning_rate_at(self.step_number)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.module.train()
        with autocast(self.device, self.config.dtype):
            documents, labels = self.module(self._document_features(batch), self._label_features(batch))
        loss = self._loss(documents, labels, batch, scale, yes_threshold)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.config.max_gradient_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self.step_number += 1
        return StepResult(float(loss.detach()), len(batch.document_texts), learning_rate, float(norm))

    def learning_rate_at(self, step: int) -> float:
        """Rises over ``warmup_share`` of the steps, then falls linearly; the first and last steps still learn."""
        warmup = round(self.config.warmup_share * self.total_steps)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        return self.config.learning_rate * max(0, self.total_steps - step) / (self.total_steps - warmup)

    def state(self) -> dict[str, Any]:
        """All that a later trainer needs to go on from here; for ``torch.save`` (weights and plain values only).

        The schedule and the random numbers (dropout) follow from seed and step.
        """
        return {
            "step": self.step_number,
            "total_steps": self.total_steps,
            "seed": self.seed,
            "network": self._own.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken. ValueError if that was a run of another length or seed."""
        for key, mine in (("total_steps", self.total_steps), ("seed", self.seed)):
            if state[key] != mine:
                raise ValueError(f"The checkpoint has {key}={state[key]}, this run {mine}.")
        self._own.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_number = int(state["step"])

    def _seed_step(self) -> None:
        """Dropout that depends on seed, step and rank only, so that a resumed run draws the same."""
        seed = np.random.SeedSequence([self.seed, self.step_number, self.rank]).generate_state(2, np.uint32)
        torch.manual_seed(int(seed[0]) << 31 | int(seed[1]) >> 1)

    def _document_features(self, batch: Batch) -> dict[str, Tensor]:
        # An empty part still runs the network (on one empty text), because the other workers wait for its gradients.
        texts, prompt = batch.document_texts or [""], self.encoder_config.document_prompt
        return self._on_device(self.encoder.tokenize(texts, self.config.max_document_tokens, prompt))

    def _label_features(self, batch: Batch) -> dict[str, Tensor]:
        texts, prompt = batch.label_texts or [""], self.encoder_config.label_prompt
        return self._on_device(self.encoder.tokenize(texts, self.encoder_config.max_label_tokens, prompt))

    def _on_device(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in features.items()}

    def _loss(
        self, documents: Tensor, labels: Tensor, batch: Batch, scale: TargetScale, yes_threshold: float
    ) -> Tensor:
        """This worker's share of the loss: its mean times (its documents that teach * workers / all that teach)."""
        threshold = yes_threshold if self.config.loss == "lmtx" else np.finfo(np.float32).min
        everywhere = int((batch.best_verdict >= threshold).sum())
        judged = np.isfinite(batch.verdict)
        here = int((judged & (batch.verdict >= threshold) & ~batch.excluded).any(axis=1).sum())
        if here == 0:
            return (documents.sum() + labels.sum()) * 0.0
        mean = self._mean_loss(documents @ labels.T, batch, scale, yes_threshold)
        return mean * (here * self.world / everywhere)

    def _mean_loss(self, scores: Tensor, batch: Batch, scale: TargetScale, yes_threshold: float) -> Tensor:
        masked = torch.from_numpy(batch.excluded).to(self.device)
        if self.config.loss == "lmtx":
            positive = torch.from_numpy(np.nan_to_num(batch.verdict, nan=-np.inf) >= yes_threshold)
            return lmtx_loss(scores, positive.to(self.device), masked)
        target = torch.from_numpy(target_scores(batch.verdict, batch.similarity, self.config.target, scale))
        target = target.to(self.device)
        if self.config.loss == "listwise":
            return listwise_loss(scores, target, self.config.temperature, self.config.target_temperature, masked)
        # A label of average similarity starts at even odds, as its target (z = 0) does on average.
        bias = -scale.similarity_mean / self.config.temperature
        return bce_loss(scores, torch.sigmoid(target), torch.isfinite(target), self.config.temperature, bias, masked)


def _freeze_unused(network: nn.Module, features: Mapping[str, Tensor]) -> None:
    """Freeze the weights that the vectors do not depend on (BERT's pooler): DDP would wait for their gradients."""
    device = next(network.parameters()).device
    vectors = unit_vectors(network, {name: tensor.to(device) for name, tensor in features.items()})
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(vectors[:, 0].sum(), wanted, allow_unused=True)
    for parameter, gradient in zip(wanted, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights that decay (matrices), and those that do not (biases and norms, which have one dimension)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]

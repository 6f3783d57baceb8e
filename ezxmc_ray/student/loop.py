"""The training step of the student, and all of its state; the loop around it belongs to the train stage.

Comes in: an encoder, the objective, and one :class:`~ezxmc_ray.student.data.Batch` a step. Goes out: the encoder with
better weights, the step's figures, and a state from which training goes on to the same losses. Distributed training
replaces ``trainer.module`` by a wrapper (DDP) that averages the gradients; the loss is weighted so that their average
is the gradient over the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ezxmc_ray.config import StudentConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.groups import length_groups
from ezxmc_ray.encoder.label_tokens import LabelTokens
from ezxmc_ray.encoder.loading import check_length
from ezxmc_ray.encoder.precision import autocast, chosen_dtype
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import memory_errors
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.forward import (
    Features,
    GroupedForward,
    Outputs,
    backward_cached,
    backward_whole,
    gather_rows,
)
from ezxmc_ray.student.objective import Objective

#: In float16 the loss is scaled up, so that small gradients are not zero, and half as much when large ones are
#: infinite. At this scale the range of float16 is not why.
MIN_SCALE = 1.0


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


@dataclass(frozen=True)
class StepInput:
    """A batch with its texts as padded groups of like length, on the CPU.

    ``groups``: token features of documents, then of this worker's slice of the labels; ``places`` int64 [n]: where the
    vector of each text (documents in order, then labels in order) is among those of all groups; ``documents``: how
    many of the texts are documents (one, of no text, if the worker has none), and ``truncated``: how many of these were
    cut to ``student.max_document_tokens``.
    """

    batch: Batch
    groups: list[Features]
    places: Tensor
    documents: int
    truncated: int


class StudentTrainer:
    """AdamW with linear warm-up and decay over ``total_steps``, around ``encoder``, whose weights it changes.

    ``rank`` of ``world`` workers, each of which calls :meth:`step` with its part of the same global batches; more than
    one need a process group. Errors: UserError if ``student.max_document_tokens`` is more than the encoder reads.
    """

    #: What a user may do where memory runs out, and where the training breaks down.
    batch_key = "student.batch_size"
    remedy = "lower student.learning_rate, set student.dtype=float32, or raise student.temperature"

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        total_steps: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.encoder, self.objective, self.config = encoder, objective, objective.config
        self._check_tokens()
        self.total_steps, self.seed, self.rank, self.world = total_steps, seed, rank, world
        self.device = torch.device(device)
        self.step_number = self.repeated_steps = 0
        self._label_tokens = LabelTokens(encoder)
        self._own = GroupedForward(encoder.module, encoder.outputs).to(self.device)
        _freeze_unused(self._own.network, encoder.outputs, encoder.features(encoder.label_tokens(["a text"]).token_ids))
        self.module: nn.Module = self._own
        config = self.config
        groups = _parameter_groups(self._own, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        scaled = chosen_dtype(self.device, config.dtype) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

    def _check_tokens(self) -> None:
        check_document_tokens(self.encoder, self.config)

    def tokenize(self, batch: Batch) -> StepInput:
        """What :meth:`step` takes; touches no weights, so that a thread may do it ahead of the step."""
        # A part without documents still runs the network (on one empty text): the others wait for its gradients.
        texts = batch.document_texts or [""]
        read = self.encoder.document_tokens(texts, self.config.max_document_tokens)
        documents = read.token_ids
        labels = self._tokens_of_labels(batch)
        prompts = self.encoder.config.document_prompt, self.encoder.config.label_prompt
        return self._grouped(batch, [(documents, prompts[0]), (labels, prompts[1])], len(documents), read.truncated)

    def _grouped(
        self, batch: Batch, kinds: Sequence[tuple[list[list[int]], str]], documents: int, truncated: int
    ) -> StepInput:
        """The step's texts in groups of like length; ``kinds``: token ids, with the prompt that they begin with."""
        groups: list[Features] = []
        order: list[int] = []
        first = 0
        for tokens, prompt in kinds:
            for places in length_groups([len(one) for one in tokens], self.config.batch_tokens):
                groups.append(self.encoder.features([tokens[place] for place in places], prompt))
                order += [first + int(place) for place in places]
            first += len(tokens)
        return StepInput(batch, groups, torch.from_numpy(np.argsort(order)), documents, truncated)

    def step(self, texts: StepInput) -> StepResult:
        """Learn from this worker's part of a global batch.

        A part without documents takes part in the averaging with a loss of 0. In float16 a step whose gradients are
        beyond its range is done again with a smaller scale (``repeated_steps``). Errors: UserError when memory runs
        out, and before the weights change when the loss or the gradients are not finite.
        """
        rest = "lower student.batch_tokens" if self.config.gradient_cache else "set student.gradient_cache=true"
        with memory_errors(f"at step {self.step_number + 1} of the training", f"{rest}, or lower {self.batch_key}"):
            return self._step(texts)

    def _step(self, texts: StepInput) -> StepResult:
        learning_rate = self.learning_rate_at(self.step_number)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # A transformer in evaluation mode differs by its dropout only.
        self.module.train(self.config.dropout)
        groups = [self._on_device(features) for features in texts.groups]
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        loss, norm = self._gradients(groups, texts, trained)
        while math.isfinite(loss) and not math.isfinite(norm) and self.scaler.get_scale() > MIN_SCALE:
            # Every worker has the same averaged gradients, so all of them repeat the step.
            self.scaler.update(self.scaler.get_scale() / 2)
            self.repeated_steps += 1
            loss, norm = self._gradients(groups, texts, trained)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"Training broke down at step {self.step_number + 1}: the loss is {loss}, the norm of the gradients "
                f"{norm}; {self.remedy}."
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # The fused optimizer does not say that it wrote; the encoder's copy of the weights would stay as it is.
        torch.autograd.graph.increment_version(trained)
        self.step_number += 1
        return StepResult(loss, len(texts.batch.document_texts), learning_rate, norm)

    def _gradients(self, groups: list[Features], texts: StepInput, trained: list[nn.Parameter]) -> tuple[float, float]:
        """Forward and backward: the loss, and the norm of the gradients, which ``trained`` have now, clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        backward = backward_cached if self.config.gradient_cache else backward_whole
        with autocast(self.device, self.config.dtype):
            scaled_loss = backward(
                self.module,
                groups,
                self._seeds(len(groups)),
                lambda vectors: self.scaler.scale(self._loss(vectors, texts)),
            )
        loss = scaled_loss / self.scaler.get_scale()
        self.scaler.unscale_(self.optimizer)
        return loss, float(nn.utils.clip_grad_norm_(trained, self.config.max_gradient_norm))

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
            "scaler": self.scaler.state_dict(),
            "repeated_steps": self.repeated_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken, on a machine with another dtype too.

        ValueError if that was a run of another length or seed.
        """
        for key, mine in (("total_steps", self.total_steps), ("seed", self.seed)):
            if state[key] != mine:
                raise ValueError(f"The checkpoint has {key}={state[key]}, this run {mine}.")
        self._own.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled() and state.get("scaler"):  # older checkpoints have none
            self.scaler.load_state_dict(state["scaler"])
        self.step_number, self.repeated_steps = int(state["step"]), int(state.get("repeated_steps", 0))

    def _seeds(self, groups: int) -> list[int]:
        """Dropout that depends on seed, step, rank and group only, so that a resumed run draws the same."""
        drawn = np.random.SeedSequence([self.seed, self.step_number, self.rank]).generate_state(groups, np.uint64)
        return [int(seed >> np.uint64(1)) for seed in drawn]

    def _slice(self, labels: int) -> tuple[int, int]:
        """Which of the batch's labels this worker embeds: the first, and how many a worker takes at most."""
        share = -(-labels // self.world)
        return min(labels, self.rank * share), share

    def _tokens_of_labels(self, batch: Batch) -> list[list[int]]:
        """Of this worker's slice."""
        first, share = self._slice(len(batch.label_texts))
        return self._label_tokens.of(batch.label_texts[first : first + share])

    def _on_device(self, features: Features) -> Features:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in features.items()}

    def _loss(self, vectors: Tensor, texts: StepInput) -> Tensor:
        """This worker's share of the loss: its mean times (its documents that teach * workers / all that teach)."""
        vectors = vectors[texts.places.to(vectors.device)]
        documents, labels = vectors[: texts.documents], vectors[texts.documents :]
        if self.world > 1:
            count = len(texts.batch.label_texts)
            labels = gather_rows(labels, self._slice(count)[1])[:count]
        here, everywhere = self.objective.teaching(texts.batch)
        if here == 0:
            return (documents.sum() + labels.sum()) * 0.0
        # Not under autocast: in bfloat16 the similarities would have two digits.
        with torch.autocast(self.device.type, enabled=False):
            return self.objective.loss(documents @ labels.T, texts.batch) * (here * self.world / everywhere)


def check_document_tokens(encoder: Encoder, config: StudentConfig) -> None:
    """Refuse a ``student.max_document_tokens`` beyond what ``encoder`` reads, or without room for text: UserError."""
    key, tokens = "student.max_document_tokens", config.max_document_tokens
    check_length(encoder.module[0], encoder.name, key, tokens, encoder.config.document_prompt)


def _freeze_unused(network: nn.Module, outputs: Outputs, features: Mapping[str, Tensor]) -> None:
    """Freeze the weights that the outputs do not depend on (BERT's pooler): DDP would wait for their gradients."""
    device = next(network.parameters()).device
    vectors = outputs(network, {name: tensor.to(device) for name, tensor in features.items()})
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

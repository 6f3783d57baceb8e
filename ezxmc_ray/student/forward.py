"""How a batch goes through the network: in groups of like length, on one worker or many, whole or with a cache.

Comes in: groups of token features, and what makes a loss of the vectors. Goes out: the loss, and gradients in the
network's parameters. Texts of a batch are grouped by length and each group is one forward, so that little of it is
padding. Label vectors are *gathered*: each worker embeds its slice of the batch's labels, and has those of all; their
gradients come back to the worker that embedded them. With the *gradient cache* (GradCache, arXiv 2101.06983) only the
vectors of the whole batch are in memory, and the activations of one group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from ezxmc_ray.encoder.encoder import unit_vectors

Features = Mapping[str, Tensor]
#: What a network makes of the features of some texts: float32 [n, d].
Outputs = Callable[[nn.Module, Features], Tensor]
#: Up to here the plain attention is the faster one, see :func:`_attention`.
PLAIN_ATTENTION_TOKENS = 128


class GroupedForward(nn.Module):
    """All texts of a step through one network in one ``forward``, as DDP needs it."""

    def __init__(self, network: nn.Module, outputs: Outputs = unit_vectors) -> None:
        super().__init__()
        self.network, self._outputs = network, outputs

    def forward(self, groups: Sequence[Features], seeds: Sequence[int]) -> Tensor:
        """``outputs`` of all groups, end to end: float32 [n, d]; ``seeds``: of each group's dropout."""
        vectors = []
        for features, seed in zip(groups, seeds, strict=True):
            torch.manual_seed(seed)
            with _attention(features):
                vectors.append(self._outputs(self.network, features))
        return torch.cat(vectors)


def _attention(features: Features) -> contextlib.AbstractContextManager[Any]:
    """PyTorch's plain attention for short texts in bfloat16 on a CPU; its fused one is slower there, backward.

    Measured with PyTorch 2.13, forward and backward, 12 heads of 32: 16 tokens 10.8 ms against 80.7, 64 tokens 22
    against 51, 128 tokens 70 against 86, 192 tokens 123 against 67; in float32 the fused one is always the faster.
    """
    texts = features["input_ids"]
    if texts.device.type == "cpu" and torch.is_autocast_enabled("cpu") and texts.shape[1] <= PLAIN_ATTENTION_TOKENS:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def backward_whole(
    module: nn.Module, groups: Sequence[Features], seeds: Sequence[int], loss_of: Callable[[Tensor], Tensor]
) -> float:
    """Forward, loss of the vectors, backward; all activations of the batch are in memory at once. Returns the loss."""
    loss = loss_of(module(groups, seeds))
    loss.backward()
    return float(loss.detach())


def backward_cached(
    module: nn.Module, groups: Sequence[Features], seeds: Sequence[int], loss_of: Callable[[Tensor], Tensor]
) -> float:
    """As :func:`backward_whole`, with the activations of one group in memory, for a second forward (arXiv 2101.06983).

    The gradients are the same: the second forward draws the same dropout. Workers average them with the last group.
    """
    own = module.module if isinstance(module, DistributedDataParallel) else module
    with torch.no_grad():
        vectors: Tensor = own(groups, seeds)
    vectors = vectors.requires_grad_()
    loss = loss_of(vectors)
    loss.backward()
    assert vectors.grad is not None  # loss_of uses all vectors
    start, last = 0, len(groups) - 1
    for number, (features, seed) in enumerate(zip(groups, seeds, strict=True)):
        with _average_after(module, number == last):
            part = module([features], [seed])
            gradient = vectors.grad[start : start + len(part)]
            (part * gradient).sum().backward()
        start += len(part)
    return float(loss.detach())


def _average_after(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """DDP averages the gradients of all groups once, in the backward of the last one."""
    if last or not isinstance(module, DistributedDataParallel):
        return contextlib.nullcontext()
    return module.no_sync()


def gather_rows(own: Tensor, rows_per_worker: int) -> Tensor:
    """The rows of all workers end to end, float [workers * rows_per_worker, d], with gradients to their owners.

    ``own``: float [at most rows_per_worker, d]; zeros fill it up. Every worker of the process group must call this.
    """
    missing = rows_per_worker - len(own)
    gathered: Tensor = _GatherRows.apply(nn.functional.pad(own, (0, 0, 0, missing)))  # type: ignore[no-untyped-call]
    return gathered


def gathered_on_cpus() -> Callable[[Any], list[Any]]:
    """A function that gives what every worker gives it, in their order. All workers must call this, and that.

    It has a process group of its own, on the CPUs, so that a thread may use it beside the training.
    """
    group = distributed.new_group(backend="gloo")

    def gather(own: Any) -> list[Any]:
        found: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, own, group)
        return found

    return gather


class _GatherRows(torch.autograd.Function):
    """all_gather, whose gradient is the sum over the workers of what each found for these rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = len(own)
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.rows
        return total[first : first + ctx.rows]

"""Normalisation layers. A batch of several workers can be normalised worker by worker in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError

EPSILON = 1e-5
MOMENTUM = 0.1  # weight of the newest batch in the running statistics, PyTorch's default


class WorkerBatchNorm2d(nn.Module):
    """BatchNorm over (B, H, W) whose training statistics are those of each worker's own batch.

    Outside ``worker_batches`` the batch belongs to one worker and the layer is ``nn.BatchNorm2d``. Inside, rows are
    split by worker; each part is normalised alone, and the running statistics become the average of what the workers
    would have had, weighted by their images (post 1: "performed over each local batch separately"), or are kept for
    each worker apart. Inside ``batch_statistics`` a batch is normalised by its own statistics, which are not kept.

    Args:
        channels: C of the (B, C, H, W) input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.sizes: Sequence[int] | None = None
        self.own: Sequence[tuple[Tensor, Tensor]] | None = None  # running mean and variance of each worker
        self.forgets = False  # within ``batch_statistics``

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        by_batch = self.training or self.forgets
        if by_batch and self.sizes is not None and len(self.sizes) > 1:
            out, mean, variance = _PerWorker.apply(x, self.weight, self.bias, self.sizes, self.own)
            if self.own is None and not self.forgets:
                with torch.no_grad():
                    self.running_mean.lerp_(mean, MOMENTUM)
                    self.running_var.lerp_(variance, MOMENTUM)
            return out
        running: tuple[Tensor | None, Tensor | None] = (self.running_mean, self.running_var)
        if self.forgets:
            running = (None, None)
        elif self.own is not None:
            running = self.own[0]
        return F.batch_norm(x, *running, self.weight, self.bias, by_batch, MOMENTUM, EPSILON)


class _PerWorker(torch.autograd.Function):
    """``native_batch_norm`` on the rows of each worker, written into one output."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, sizes: Sequence[int],
        own: Sequence[tuple[Tensor, Tensor]] | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        out, saved = torch.empty_like(x), []
        mean, variance = torch.zeros_like(weight), torch.zeros_like(weight)
        pixels = x.shape[2] * x.shape[3]
        running: Sequence[tuple[Tensor | None, Tensor | None]] = own or [(None, None)] * len(sizes)
        for part, target, kept in zip(x.split(list(sizes)), out.split(list(sizes)), running, strict=True):
            value, own_mean, own_rstd = torch.native_batch_norm(part, weight, bias, *kept, True, MOMENTUM, EPSILON)
            target.copy_(value)
            saved += [own_mean, own_rstd]
            n = len(part) * pixels
            share = len(part) / len(x)
            mean += share * own_mean
            variance += share * (own_rstd**-2 - EPSILON) * (n / max(n - 1, 1))  # unbiased, as nn.BatchNorm2d keeps it
        ctx.save_for_backward(x, weight, *saved)
        ctx.sizes = list(sizes)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        parts = zip(x.split(ctx.sizes), grads[0].split(ctx.sizes), grad_x.split(ctx.sizes), strict=True)
        for k, (part, grad, target) in enumerate(parts):
            own_x, own_weight, own_bias = torch.ops.aten.native_batch_norm_backward(
                grad,
                part,
                weight,
                None,
                None,
                saved[2 * k],
                saved[2 * k + 1],
                True,
                EPSILON,
                [True, True, True],
            )
            target.copy_(own_x)
            grad_weight += own_weight
            grad_bias += own_bias
        return grad_x, grad_weight, grad_bias, None, None


def batch_norms(model: nn.Module) -> dict[str, WorkerBatchNorm2d]:
    """The BatchNorm layers of ``model`` by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, WorkerBatchNorm2d)}


@contextmanager
def worker_batches(
    model: nn.Module, sizes: Sequence[int], own: Sequence[Mapping[str, Tensor]] | None = None
) -> Iterator[None]:
    """Within the context, batches of ``model`` are several workers' batches, ``sizes`` images each, in order.

    With ``own``, the running statistics of each worker by the buffers' names, training updates those, each with its
    worker's statistics, and leaves the model's alone.
    """
    layers = batch_norms(model)
    for name, layer in layers.items():
        layer.sizes = sizes
        if own is not None:
            layer.own = [(kept[f"{name}.running_mean"], kept[f"{name}.running_var"]) for kept in own]
    try:
        yield
    finally:
        for layer in layers.values():
            layer.sizes = layer.own = None


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within the context, BatchNorm uses the statistics of the batch, in evaluation mode too, and keeps none."""
    layers = batch_norms(model).values()
    for layer in layers:
        layer.forgets = True
    try:
        yield
    finally:
        for layer in layers:
            layer.forgets = False


def norm_layer(kind: str, channels: int, groups: int = 32) -> nn.Module:
    """A normalisation layer for ``channels`` channels.

    Args:
        kind: ``batch`` or ``group``.
        channels: C of the (B, C, H, W) input.
        groups: groups of GroupNorm, 32 in Wu & He 2018; halved until it divides the channels.

    Raises:
        ReproError: an unknown kind.
    """
    if kind == "batch":
        return WorkerBatchNorm2d(channels)
    if kind == "group":
        while channels % groups:
            groups //= 2
        return nn.GroupNorm(groups, channels, eps=EPSILON)
    raise ReproError(f"unknown norm {kind!r}; batch or group was expected")

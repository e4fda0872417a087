"""Normalisation layers, and what Fixup puts in their place.

A batch of several workers can be batch-normalised worker by worker in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError

KINDS = ("batch", "group", "layer", "instance", "none", "fixup")
EPSILON = 1e-5
SMALL = 2**14  # bytes of a worker's part of a batch up to which normalising all side by side pays
MOMENTUM = 0.1  # PyTorch's default


class WorkerBatchNorm2d(nn.Module):
    """BatchNorm over (B, H, W) whose training statistics are those of each worker's own batch.

    Outside ``worker_batches`` the batch belongs to one worker and the layer is ``nn.BatchNorm2d``. Inside, rows are
    split by worker; each part is normalised alone, and the running statistics become the average of what the workers
    would have had, weighted by their images (post 1: "performed over each local batch separately"), or are kept for
    each worker apart. Inside ``batch_statistics`` a batch is normalised by its own statistics, which are not kept.

    Args:
        channels: C of the (B, C, H, W) input.
        epsilon: added to the variance.
        momentum: weight of the newest batch in the running statistics.
    """

    def __init__(self, channels: int, epsilon: float = EPSILON, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
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
            out, mean, variance = _PerWorker.apply(
                x, self.weight, self.bias, self.sizes, self.own, self.epsilon, self.momentum
            )
            if self.own is None and not self.forgets:
                with torch.no_grad():
                    self.running_mean.lerp_(mean, self.momentum)
                    self.running_var.lerp_(variance, self.momentum)
            return out
        running: tuple[Tensor | None, Tensor | None] = (self.running_mean, self.running_var)
        if self.forgets:
            running = (None, None)
        elif self.own is not None:
            running = self.own[0]
        return F.batch_norm(x, *running, self.weight, self.bias, by_batch, self.momentum, self.epsilon)


def _sum(rows: Tensor) -> Tensor:
    """The sum of rows (W, C), added up in their order, so that it does not depend on the processor."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.add.accumulate(rows.numpy(), axis=0)[-1].copy())
    total = torch.zeros_like(rows[0])
    for row in rows:
        total += row
    return total


def _small(x: Tensor, sizes: Sequence[int]) -> bool:
    """Whether to normalise the workers' parts of x (B, C, H, W) side by side, as if they were more channels.

    That takes one call instead of one a worker, which pays where parts are small, and gives the same bits: the kernel
    for channels last treats every channel alike, in vectors of 16 at least, and with one thread adds up its rows in
    their order.
    """
    return (
        x.device.type == "cpu"
        and torch.get_num_threads() == 1
        and len(set(sizes)) == 1
        and x.shape[1] % 16 == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        and x.nbytes <= SMALL * len(sizes)
    )


def _beside(x: Tensor, workers: int) -> Tensor:
    """x (W b, C, H, W) of W workers with b images each -> (b, W C, H, W), channels last both."""
    rows, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(workers, -1, channels)
    moved = pixels.transpose(0, 1).reshape(rows // workers, height, width, workers * channels)
    return moved.permute(0, 3, 1, 2)


def _after(x: Tensor, workers: int) -> Tensor:
    """The inverse of ``_beside``, in memory of its own."""
    rows, channels, height, width = x.shape
    shape = (workers * rows, channels // workers, height, width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    moved = x.permute(0, 2, 3, 1).unflatten(3, (workers, -1)).permute(3, 0, 1, 2, 4)
    out.permute(0, 2, 3, 1).unflatten(0, (workers, -1)).copy_(moved)
    return out


def _normalised_side_by_side(
    x: Tensor, weight: Tensor, bias: Tensor, workers: int, epsilon: float
) -> tuple[Tensor, ...]:
    """The output for x (B, C, H, W), the input as the kernel saw it, and means and 1 / deviations (W, C)."""
    seen = _beside(x, workers)
    out, means, rstds = torch.native_batch_norm(
        seen, weight.repeat(workers), bias.repeat(workers), None, None, True, MOMENTUM, epsilon
    )
    return _after(out, workers), seen, means.view(workers, -1), rstds.view(workers, -1)


def _normalised_one_by_one(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    sizes: Sequence[int],
    own: Sequence[tuple[Tensor, Tensor]] | None,
    epsilon: float,
    momentum: float,
) -> tuple[Tensor, ...]:
    """The output for x (B, C, H, W), and means and 1 / deviations (W, C)."""
    out = torch.empty_like(x)
    means, rstds = torch.empty_like(weight).repeat(2, len(sizes), 1)
    running: Sequence[tuple[Tensor | None, Tensor | None]] = own or [(None, None)] * len(sizes)
    parts = (x.split(list(sizes)), out.split(list(sizes)), means.unbind(), rstds.unbind(), running)
    for part, *targets, kept in zip(*parts, strict=True):
        torch.native_batch_norm(part, weight, bias, *kept, True, momentum, epsilon, out=targets)
    return out, means, rstds


def _changed_side_by_side(
    grad: Tensor, seen: Tensor, weight: Tensor, means: Tensor, rstds: Tensor, sizes: Sequence[int], epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, and each worker's of weight and bias (W, C)."""
    workers = len(sizes)
    grad_seen, own_weights, own_biases = torch.ops.aten.native_batch_norm_backward(
        _beside(grad, workers),
        seen,
        weight.repeat(workers),
        None,
        None,
        means.view(-1),
        rstds.view(-1),
        True,
        epsilon,
        [True, True, True],
    )
    return _after(grad_seen, workers), own_weights.view(workers, -1), own_biases.view(workers, -1)


def _changed_one_by_one(
    grad: Tensor, x: Tensor, weight: Tensor, means: Tensor, rstds: Tensor, sizes: Sequence[int], epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_changed_side_by_side``."""
    grad_x = torch.empty_like(x)
    own_weights, own_biases = [], []
    parts = (x.split(sizes), grad.split(sizes), grad_x.split(sizes), means.unbind(), rstds.unbind())
    for part, own_grad, target, mean, rstd in zip(*parts, strict=True):
        own_x, own_weight, own_bias = torch.ops.aten.native_batch_norm_backward(
            own_grad, part, weight, None, None, mean, rstd, True, epsilon, [True, True, True]
        )
        target.copy_(own_x)
        own_weights.append(own_weight)
        own_biases.append(own_bias)
    return grad_x, torch.stack(own_weights), torch.stack(own_biases)


class _PerWorker(torch.autograd.Function):
    """``native_batch_norm`` on the rows of each worker, written into one output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        sizes: Sequence[int],
        own: Sequence[tuple[Tensor, Tensor]] | None,
        epsilon: float,
        momentum: float,
    ) -> tuple[Tensor, ...]:
        ctx.epsilon = epsilon
        ctx.sizes, ctx.side_by_side = list(sizes), own is None and _small(x, sizes)
        if ctx.side_by_side:
            out, seen, means, rstds = _normalised_side_by_side(x, weight, bias, len(sizes), epsilon)
        else:
            out, means, rstds = _normalised_one_by_one(x, weight, bias, ctx.sizes, own, epsilon, momentum)
            seen = x
        images = weight.new_tensor(sizes, dtype=torch.float64)
        shares = (images / len(x)).to(weight.dtype)[:, None]
        n = images * x.shape[2] * x.shape[3]
        unbiased = (n / (n - 1).clamp(min=1)).to(weight.dtype)[:, None]  # as nn.BatchNorm2d keeps it
        mean, variance = _sum(shares * means), _sum(shares * (rstds**-2 - epsilon) * unbiased)
        ctx.save_for_backward(seen, weight, means, rstds)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, rstds = ctx.saved_tensors
        change = _changed_side_by_side if ctx.side_by_side else _changed_one_by_one
        grad_x, own_weights, own_biases = change(grads[0], x, weight, means, rstds, ctx.sizes, ctx.epsilon)
        return grad_x, _sum(own_weights), _sum(own_biases), None, None, None, None


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


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for images that are channels last in memory; layer and instance norm are its two ends.

    Args:
        groups: G; 1 is layer norm over (C, H, W), C is instance norm.
        channels: C of the (B, C, H, W) input, a multiple of G.

    Raises:
        ReproError: a group is a single number, as in instance norm on a map of 1 x 1 pixels.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        in_group = self.num_channels // self.num_groups
        if in_group * x.shape[2] * x.shape[3] == 1:
            raise ReproError(
                f"normalisation of {self.num_channels} channels in {self.num_groups} groups on a map of 1 x 1 pixels; "
                "a single number cannot be normalised; use larger images or fewer groups (group or layer norm)"
            )
        return group_norm(x, self.num_groups, self.weight, self.bias)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.group_norm`` of x (B, C, H, W), about twice as fast on a CPU if x is channels last (``benchmarks/``).

    PyTorch's kernel for channels last works on the channels of a group together, so that it is fast where they fill
    the processor's vectors. Where they do not, its kernel for the default memory format is faster, copies included.
    Statistics are never coarser than float32; on a CPU the output has x's type and memory format. A GPU runs
    ``F.group_norm`` as is.
    """
    in_group = x.shape[1] // groups
    if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
        return F.group_norm(x, groups, weight, bias, EPSILON)
    if in_group < 8:
        out = F.group_norm(x.contiguous(), groups, weight, bias, EPSILON)
        return out.contiguous(memory_format=torch.channels_last)
    if in_group < 16 and x.dtype == torch.bfloat16:  # eight values fill a vector of float32, not one of bfloat16
        return F.group_norm(x.float(), groups, weight, bias, EPSILON).to(x.dtype)
    return F.group_norm(x, groups, weight, bias, EPSILON)


class Shift(nn.Module):
    """Fixup's scalar bias: x + bias, 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shift x of any shape."""
        return x + self.bias.to(x.dtype)  # a float32 scalar would make the whole of a bfloat16 map float32


class ScaleShift(nn.Module):
    """Fixup's scalar multiplier and bias: scale * x + bias, 1 and 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x of any shape."""
        return x * self.scale.to(x.dtype) + self.bias.to(x.dtype)


@dataclass(frozen=True)
class Norms:
    """What a network puts around its convolutions, for one kind of normalisation.

    With ``none`` nothing is put in the place of the layers: convolutions have no bias there either, so that such a
    network is the others without their normalisation, and nothing else.

    Attributes:
        kind: ``batch``, ``group``, ``layer``, ``instance``, ``none`` or ``fixup``.
        groups: groups of ``group``, 32 in Wu & He 2018; halved until it divides the channels.

    Raises:
        ReproError: an unknown kind.
    """

    kind: str
    groups: int = 32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ReproError(f"unknown norm {self.kind!r}; one of {', '.join(KINDS)} was expected")

    def layer(self, channels: int) -> nn.Module:
        """Behind a convolution with ``channels`` outputs."""
        if self.kind == "batch":
            return WorkerBatchNorm2d(channels)
        if self.kind == "fixup":
            return Shift()
        if self.kind == "none":
            return nn.Identity()
        groups = {"layer": 1, "instance": channels}.get(self.kind, self.groups)
        while channels % groups:
            groups //= 2
        return GroupNorm(groups, channels)

    def last(self, channels: int) -> nn.Module:
        """Behind the last convolution of a residual branch."""
        return ScaleShift() if self.kind == "fixup" else self.layer(channels)

    def shortcut(self, channels: int) -> nn.Module:
        """Behind the convolution of a shortcut."""
        return nn.Identity() if self.kind == "fixup" else self.layer(channels)

    def before(self) -> nn.Module:
        """In front of a convolution of a residual branch, and of the classifier."""
        return Shift() if self.kind == "fixup" else nn.Identity()

"""Several networks of one kind, each with weights of its own, as one network: grouped convolutions, batched products.

A small network on a small batch leaves a processor, and still more a GPU, mostly waiting. Stacked, K such networks read
images whose channels lie side by side, (B, K 3, H, W), and each convolution is one of K groups. Every parameter has one
more dimension in front, the network's number, and its own name.

On a CPU this pays for few channels and small batches only (``benchmarks/stacked_clients.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.dropout import SeededDropout
from repro.models.norms import GroupNorm, ScaleShift, Shift, WorkerBatchNorm2d, group_norm
from repro.randomness import derive

_NEEDS_NOTHING = (nn.Identity, nn.ReLU, nn.MaxPool2d, nn.Flatten)
"""Layers that treat every channel alike, and keep networks side by side."""


def _copies(tensor: Tensor, networks: int) -> Tensor:
    return tensor.detach().expand(networks, *tensor.shape).clone(memory_format=torch.contiguous_format)


class _Layer(nn.Module):
    """The layers of K networks in one place.

    Args:
        layer: of one network; its parameters and float buffers are copied K times.
        networks: K.
    """

    def __init__(self, layer: nn.Module, networks: int) -> None:
        super().__init__()
        self.sizes: Sequence[int] = [0] * networks  # images of each network that takes part, which are the first ones
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(self, name, nn.Parameter(_copies(parameter, networks)))
        for name, buffer in layer.named_buffers(recurse=False):
            self.register_buffer(name, _copies(buffer, networks))

    def own(self, name: str) -> Tensor:
        """The values called ``name`` of the networks that take part, one after the other."""
        values: Tensor = getattr(self, name)
        return values[: len(self.sizes)].flatten(0, 1)


class _Convolution(_Layer):
    def __init__(self, layer: nn.Conv2d, networks: int) -> None:
        super().__init__(layer, networks)
        self.biased, self.stride, self.padding = layer.bias is not None, layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """x (B, K I, H, W) -> (B, K O, H', W')."""
        bias = self.own("bias") if self.biased else None
        groups = self.groups * len(self.sizes)
        return F.conv2d(x, self.own("weight"), bias, self.stride, self.padding, self.dilation, groups)


class _Linear(_Layer):
    def __init__(self, layer: nn.Linear, networks: int) -> None:
        super().__init__(layer, networks)
        self.biased = layer.bias is not None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, K I) -> (B, K O)."""
        networks = len(self.sizes)
        inputs = x.unflatten(1, (networks, -1)).transpose(0, 1)
        out = torch.bmm(inputs, self.get_parameter("weight")[:networks].transpose(1, 2))
        if self.biased:
            out = out + self.get_parameter("bias")[:networks, None].to(out.dtype)
        return out.transpose(0, 1).flatten(1)


class _GroupNorm(_Layer):
    def __init__(self, layer: GroupNorm, networks: int) -> None:
        super().__init__(layer, networks)
        self.groups = layer.num_groups

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, K C, H, W)."""
        return group_norm(x, self.groups * len(self.sizes), self.own("weight"), self.own("bias"))


class _BatchNorm(_Layer):
    """Statistics of a network are those of its own images; rows beyond them fill the batch, and count for nothing."""

    def __init__(self, layer: WorkerBatchNorm2d, networks: int) -> None:
        super().__init__(layer, networks)
        self.epsilon, self.momentum = layer.epsilon, layer.momentum

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, K C, H, W)."""
        mean, variance = self.own("running_mean"), self.own("running_var")  # views, which training updates
        weight, bias = self.own("weight"), self.own("bias")
        if not self.training or len(set(self.sizes)) == 1:
            return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.epsilon)
        return self._by_own_rows(x, mean, variance) * _per_channel(weight, x) + _per_channel(bias, x)

    def _by_own_rows(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        images = torch.tensor(self.sizes, device=x.device)
        rows = torch.arange(len(x), device=x.device)[:, None] < images  # (B, K)
        counts = (images * x.shape[2] * x.shape[3]).repeat_interleave(len(mean) // len(self.sizes)).to(mean.dtype)
        counted = rows.to(mean.dtype).repeat_interleave(len(mean) // len(self.sizes), 1)[:, :, None, None]
        wide = x.to(mean.dtype)
        own_mean = (wide * counted).sum((0, 2, 3)) / counts
        centred = wide - _per_channel(own_mean, wide)
        own_variance = (centred.square() * counted).sum((0, 2, 3)) / counts
        with torch.no_grad():
            mean.lerp_(own_mean, self.momentum)
            unbiased = own_variance * counts / (counts - 1).clamp(min=1)  # as nn.BatchNorm2d
            variance.lerp_(unbiased, self.momentum)
        return (centred * _per_channel((own_variance + self.epsilon).rsqrt(), wide)).to(x.dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype)[:, None, None]


class _Scalars(_Layer):
    """Fixup's scalar multiplier, where there is one, and bias of each network."""

    def __init__(self, layer: Shift | ScaleShift, networks: int) -> None:
        super().__init__(layer, networks)
        self.scaled = isinstance(layer, ScaleShift)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x (B, K C, ...)."""
        apart = x.unflatten(1, (len(self.sizes), -1))  # (B, K, C, ...)
        places = (-1, *(1 for _ in apart.shape[2:]))
        if self.scaled:
            apart = apart * self.own("scale").to(x.dtype).view(places)
        return (apart + self.own("bias").to(x.dtype).view(places)).flatten(1, 2)


class _Dropout(_Layer):
    """Each network's mask is drawn from its own seed."""

    def __init__(self, layer: SeededDropout, networks: int) -> None:
        super().__init__(layer, networks)
        self.one, self.number = copy.deepcopy(layer), 0
        self.seeds: Sequence[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x (B, K F)."""
        if not self.training:
            return x
        made = []
        for rows, seed, values in zip(self.sizes, self.seeds, x.chunk(len(self.sizes), 1), strict=True):
            self.one.draws = [(derive(seed, "layer", self.number), None)]
            made.append(F.pad(self.one(values[:rows]), (0, 0, 0, len(x) - rows)))
        return torch.cat(made, 1)


_KINDS: dict[type[nn.Module], Callable[..., _Layer]] = {
    nn.Conv2d: _Convolution,
    nn.Linear: _Linear,
    GroupNorm: _GroupNorm,
    WorkerBatchNorm2d: _BatchNorm,
    Shift: _Scalars,
    ScaleShift: _Scalars,
    SeededDropout: _Dropout,
}


class Stack(nn.Module):
    """K networks as one, with the parameters' names of one network; all begin with the weights of ``model``.

    Args:
        model: a network whose ``forward`` keeps networks side by side if its layers do.
        networks: K.

    Raises:
        ReproError: it has a layer that cannot be stacked, or ``forward`` mixes networks.
    """

    def __init__(self, model: nn.Module, networks: int) -> None:
        super().__init__()
        self.name, self.networks = type(model).__name__, networks
        self.net = self._stacked(copy.deepcopy(model))
        if hasattr(self.net, "plain"):  # such a network uses a layer's weights itself unless it is a plain one
            setattr(self.net, "plain", True)  # noqa: B010
        self._layers = [layer for layer in self.net.modules() if isinstance(layer, _Layer)]
        self._dropouts = [layer for layer in self._layers if isinstance(layer, _Dropout)]
        for number, layer in enumerate(self._dropouts):
            layer.number = number

    def _stacked(self, module: nn.Module) -> nn.Module:
        """``module`` with its layers stacked."""
        made = next((made for kind, made in _KINDS.items() if isinstance(module, kind)), None)
        if made is not None:
            return made(module, self.networks)
        children, own = list(module.named_children()), list(module.parameters(recurse=False))
        if own or not (children or isinstance(module, _NEEDS_NOTHING)):
            raise self._refusal(module)
        for name, child in children:
            setattr(module, name, self._stacked(child))
        return module

    def _refusal(self, module: nn.Module) -> ReproError:
        return ReproError(
            f"{self.name} cannot be stacked: it has a layer {type(module).__name__}; convolutions, linear layers, the "
            "norms of this package and its dropout were expected; leave `stacked` out"
        )

    @property
    def drops(self) -> bool:
        """Whether there is dropout, which needs seeds in training."""
        return bool(self._dropouts)

    def begin(self, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        """Say how many images each of the first networks has in the next batch, and its seed of dropout."""
        for layer in self._layers:
            layer.sizes = sizes
        for dropout in self._dropouts:
            dropout.seeds = seeds

    def forward(self, x: Tensor) -> Tensor:
        """Images x (k, B, 3, H, W) of the first k networks -> logits (k, B, classes)."""
        beside = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(beside)
        return logits.unflatten(1, (len(x), -1)).transpose(0, 1)

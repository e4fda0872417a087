"""Initial weights, drawn by numpy in float64 and rounded once: the same numbers on every processor.

torch's own ``normal_`` and ``uniform_`` give other float32 numbers with other vector instructions
(github.com/pytorch/pytorch/issues/155423). Numbers are drawn in blocks, so that a large layer needs no second copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**18  # numbers drawn at once: 2 MiB

Draw = Callable[[int], np.ndarray]


def normal(tensor: Tensor, deviation: float, random: np.random.Generator) -> None:
    """Fill ``tensor`` with normal numbers of mean 0."""
    _fill(tensor, lambda n: deviation * random.standard_normal(n))


def truncated_normal(tensor: Tensor, deviation: float, limit: float, random: np.random.Generator) -> None:
    """Fill ``tensor`` with normal numbers of mean 0; those beyond -``limit`` and ``limit`` are drawn again."""

    def draw(n: int) -> np.ndarray:
        values = deviation * random.standard_normal(n)
        while len(beyond := np.flatnonzero(np.abs(values) > limit)):
            values[beyond] = deviation * random.standard_normal(len(beyond))
        return values

    _fill(tensor, draw)


def uniform(tensor: Tensor, bound: float, random: np.random.Generator) -> None:
    """Fill ``tensor`` with numbers that are uniform between -``bound`` and ``bound``."""
    _fill(tensor, lambda n: bound * (2 * random.random(n) - 1))  # numpy rounds each operation: no fused multiply-add


def he_normal(weight: Tensor, random: np.random.Generator) -> None:
    """``nn.init.kaiming_normal_`` by fan out, for ReLU: a convolution's weight (O, I, K, K), variance 2 / (O K K)."""
    normal(weight, math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel())), random)


def default_uniform(weight: Tensor, bias: Tensor | None, random: np.random.Generator) -> None:
    """PyTorch's default of convolutions and linear layers: within 1 / sqrt(inputs of a unit), the bias too."""
    bound = 1 / math.sqrt(weight[0].numel())
    uniform(weight, bound, random)
    if bias is not None:
        uniform(bias, bound, random)


@torch.no_grad()
def _fill(tensor: Tensor, draw: Draw) -> None:
    """Fill in the order of the indices, whatever the memory format, so that a network can be initialised again."""
    target = tensor if tensor.is_contiguous() else torch.empty_like(tensor, memory_format=torch.contiguous_format)
    for block in target.view(-1).split(BLOCK):
        block.copy_(torch.from_numpy(draw(len(block))).to(torch.float32))  # float32 first: a seed is one network
    if target is not tensor:
        tensor.copy_(target)

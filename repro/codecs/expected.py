"""What a receiver accepts: a payload must never make it take more memory than what it waits for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

MAX_TENSORS = 4096
"""Tensors in a message to a receiver that does not know what to expect; ResNet50 has 161."""
ALLOWANCE, RATIO = 64 * 2**20, 1024
"""A receiver that does not know what to expect accepts 64 MiB and 1 024 bytes for each byte received. Sparsity 0.999
unfolds five bytes to 4 000."""


class Head(NamedTuple):
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its values; a dimension of 0 does not hide others, of which torch could not take the product."""
        return math.prod(max(1, size) for size in self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} of {self.shape}"


class Expected(NamedTuple):
    """What ``decode`` accepts; anything else it refuses before it makes room for it.

    Attributes:
        heads: types and shapes of the tensors, in order; None if the receiver does not know them.
        tensors: the most tensors.
        bytes: the most bytes that the values of all tensors may take.
    """

    heads: tuple[Head, ...] | None
    tensors: int
    bytes: int

    @classmethod
    def like(cls, tensors: Iterable[Tensor]) -> Expected:
        """Tensors of exactly these types and shapes, in this order, for example the parameters of a model."""
        heads = tuple(Head(tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
        return cls(heads, len(heads), sum(head.bytes for head in heads))

    @classmethod
    def unknown(cls, length: int) -> Expected:
        """Any tensors that a payload of ``length`` bytes may reasonably hold."""
        return cls(None, MAX_TENSORS, ALLOWANCE + RATIO * length)

    @property
    def payload(self) -> int:
        """The most bytes that any codec's payload of such tensors takes.

        The longest body is that of 1-bit SGD where each value is a column of its own: two values for each, and a bit.
        A head takes at most 131 bytes, what a body begins with at most 16.
        """
        return 4096 + 160 * self.tensors + 2 * self.bytes + self.bytes // 4

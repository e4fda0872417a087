"""1-bit SGD with error feedback (Seide et al. 2014)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs.base import register
from repro.codecs.message import Buffer, Item, Reader, Rule, TensorCodec, little_endian, parameters
from repro.codecs.sparse import add_residual
from repro.codecs.state import State

_CODED = 1
_COLUMNS = struct.Struct("<I")
_BYTE = np.dtype("u1")


@register("1-bit", version=1)
class OneBit(TensorCodec):
    """A bit a value, and for each column the mean of its negative and the mean of its other values.

    A value is received as the mean of its kind; the difference is added to the next message. A column is what belongs
    to one output unit: the weights of one output channel of a convolution or of one class, and all of a vector.

    Body: uint32 number of columns; for each the mean of the negative values, then for each the mean of the others, as
    values of the tensor's type; then a bit a value, set where it is not negative, the first in the highest bit.

    Args:
        chosen: which tensors to quantise.
    """

    number, name = 9, "1-bit"

    def __init__(self, chosen: Rule = parameters) -> None:
        super().__init__(chosen)

    def prepare(self, state: State, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add what earlier messages left."""
        return add_residual(state, tensors, self.chosen)

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class."""
        count = item.values.numel()
        columns = 0 if not count else item.shape[0] if len(item.shape) > 1 else 1
        matrix = item.values.view(columns, -1) if columns else item.values.view(0, 1)
        positive = matrix >= 0
        means = torch.stack([_means(matrix, ~positive), _means(matrix, positive)])
        matrix -= torch.where(positive, means[1][:, None], means[0][:, None])
        bits = np.packbits(positive.cpu().numpy())
        return _CODED, [_COLUMNS.pack(columns), little_endian(means.view(-1)), bits.data]

    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See the class."""
        (columns,) = reader.numbers(_COLUMNS)
        if coding != _CODED or (columns == 0) != (count == 0) or (columns and count % columns):
            raise reader.error(f"coding {coding}, {columns} columns of {count} values")
        means = reader.values(kind, 2 * columns).astype(kind.newbyteorder("="), copy=False).reshape(2, columns, 1)
        bits = np.unpackbits(reader.array(_BYTE, (count + 7) // 8)).view(np.bool_)
        if bits[count:].any():
            raise reader.error("padding that is not zero")
        return np.where(bits[:count].reshape(columns, -1) if columns else bits[:0], means[1], means[0]).ravel()


def _means(matrix: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked values of each row, 0 where there are none; dividing first, so that nothing overflows."""
    share = matrix.double() / mask.sum(dim=1, keepdim=True)
    greatest = torch.finfo(matrix.dtype).max
    return torch.where(mask, share, 0.0).sum(dim=1).clamp(-greatest, greatest).to(matrix.dtype)

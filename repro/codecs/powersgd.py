"""Low-rank compression with error feedback: PowerSGD (Vogels, Karimireddy, Jaggi 2019), which the paper names.

A gradient of one layer is taken as a matrix M of n output units and m inputs each. One step of a power iteration that
starts from the factor of the message before finds a left factor P and a right factor Q of rank r, and P Q^T stands for
M; what it misses is added to the next gradient.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs.base import register
from repro.codecs.message import RAW, Buffer, Item, Reader, Rule, TensorCodec, convolutions, little_endian
from repro.codecs.sparse import add_residual
from repro.codecs.state import State
from repro.errors import ReproError

_FACTORS = 1
_SHAPE = struct.Struct("<HI")


@register("powersgd", version=1)
class PowerSGD(TensorCodec):
    """Two factors of rank r in place of each matrix, r (n + m) numbers instead of n m.

    In the published algorithm all workers average P before Q is computed, in two rounds of messages. Here a message
    goes from one worker to a server, which sees each worker's own factors and averages their products. With one worker
    both are the same.

    Body: uint16 rank, uint32 n; P, n rows of r numbers, then Q, m rows of r, as values of the tensor's type. A tensor
    whose factors would be no shorter is sent as it is.

    Args:
        rank: r, from 1 up.
        chosen: which tensors to compress.

    Raises:
        ReproError: an impossible rank.
    """

    number, name = 10, "powersgd"

    def __init__(self, rank: int = 2, chosen: Rule = convolutions) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank < 2**16:
            raise ReproError(f"rank {rank}; a whole number from 1 to {2**16 - 1} was expected")
        super().__init__(chosen)
        self.rank = rank

    def prepare(self, state: State, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add what earlier messages missed."""
        return add_residual(state, tensors, self.chosen)

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class."""
        rows = item.shape[0] if len(item.shape) > 1 else 1
        matrix = item.values.view(rows, -1) if item.values.numel() else item.values.view(0, 0)
        columns = matrix.shape[1]
        if not item.values.numel() or _SHAPE.size + self.rank * (rows + columns) * 4 >= 4 * rows * columns:
            body = [little_endian(item.values.clone())]
            item.values.zero_()
            return RAW, list(body)
        started = state["memory"].setdefault("right factor", {})
        if item.name not in started:
            drawn = random.standard_normal((columns, self.rank))
            started[item.name] = torch.from_numpy(drawn).to(matrix.dtype).to(matrix.device)
        left = _orthogonal(matrix @ started[item.name])
        right = matrix.t() @ left
        if bool(right.any()):  # a gradient of zeros would end the iteration for good
            started[item.name] = right
        matrix -= _product(left, right)
        head = _SHAPE.pack(self.rank, rows)
        return _FACTORS, [head, little_endian(left.reshape(-1)), little_endian(right.contiguous().view(-1))]

    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See the class."""
        rank, rows = reader.numbers(_SHAPE)
        if coding != _FACTORS or not rank or not rows or not count or count % rows:
            raise reader.error(f"coding {coding}: rank {rank}, {rows} rows of {count} values")
        own = kind.newbyteorder("=")
        columns = count // rows
        left, right = (
            torch.from_numpy(reader.values(kind, n * rank).astype(own, copy=True)).view(n, rank)
            for n in (rows, columns)
        )
        values: np.ndarray = _product(left, right).reshape(-1).numpy()
        if not np.isfinite(values).all():
            raise reader.error("factors whose product overflows")
        return values


def _product(left: Tensor, right: Tensor) -> Tensor:
    """P Q^T (n, m), the same to the last bit at both ends of the wire."""
    total = left[:, :1] * right[:, 0]
    for k in range(1, left.shape[1]):
        total += left[:, k : k + 1] * right[:, k]
    return total


def _orthogonal(matrix: Tensor) -> Tensor:
    """The columns of a matrix (n, r), made orthonormal one after the other (Gram-Schmidt), in float64.

    A column that the ones before it span already becomes zero.
    """
    made = matrix.double()
    for k in range(made.shape[1]):
        column = made[:, k]
        length = column.norm()
        for _ in range(2):  # once more, because the first pass leaves round-off along the others
            column -= made[:, :k] @ (made[:, :k].t() @ column)
        rest = column.norm()
        if rest > 1e-10 * length:
            column /= rest
        else:
            column.zero_()
    return made.to(matrix.dtype)

"""Uncompressed tensors: 4 bytes a float32 value (8 a float64 value), shapes in front."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs import wire
from repro.codecs.base import register
from repro.codecs.expected import Expected
from repro.codecs.message import Buffer, Reader, check
from repro.codecs.state import State, new_state

_COUNT, _HEAD = struct.Struct("<I"), struct.Struct("<BB")
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f8")}
_DTYPES = (torch.float32, torch.float64)
_NUMBER = {dtype: number for number, dtype in enumerate(_DTYPES)}


@register("dense", version=1)
class Dense:
    """The codec of the baselines.

    Content: uint32 number of tensors; for each a type byte (0 float32, 1 float64), a byte with the number of
    dimensions and a uint32 a dimension; then all values in the same order, row-major.
    """

    number = 1
    fixed_size = True
    corrects_momentum = False

    def new_state(self, seed: int = 0, client: int = 0) -> State:
        """The codec has no memory of its own."""
        return new_state(seed, client)

    def encode(self, state: State | None, tensors: Mapping[str, Tensor]) -> bytes:
        """Tensors by name -> payload.

        Raises:
            ReproError: a tensor is neither float32 nor float64; the message names it.
            NotFinite: a tensor holds NaN or infinity; the message names it.
        """
        check(tensors)
        head, values = [_COUNT.pack(len(tensors))], []
        for tensor in tensors.values():
            head.append(struct.pack(f"<BB{tensor.dim()}I", _NUMBER[tensor.dtype], tensor.dim(), *tensor.shape))
            values.append(tensor.detach().cpu().contiguous().numpy().astype(_TYPES[_NUMBER[tensor.dtype]], copy=False))
        return wire.seal(self.number, b"".join([*head, *(value.tobytes() for value in values)]))

    def decode(self, payload: Buffer, expected: Expected | None = None) -> list[Tensor]:
        """Payload -> tensors, such as are ``expected``.

        Raises:
            ReproError: the payload is truncated, damaged, foreign, inconsistent or not what is expected, or holds NaN
                or infinity.
        """
        reader = Reader(wire.unseal(self.number, payload), "dense", expected)
        heads = []
        for _ in range(reader.count()):
            kind, dimensions = reader.numbers(_HEAD)
            if kind not in _TYPES:
                raise reader.error(f"type {kind}")
            heads.append((_TYPES[kind], reader.shape(dimensions, _DTYPES[kind])))
        tensors = []
        for kind, shape in heads:
            values = reader.values(kind, math.prod(shape)).astype(kind.newbyteorder("="))
            tensors.append(torch.from_numpy(values.reshape(shape)))
        reader.finish()
        return tensors

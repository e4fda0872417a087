"""Uncompressed tensors: 4 bytes a float32 value (8 a float64 value), shapes in front."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs import wire
from repro.codecs.state import State, new_state
from repro.errors import NotFinite, ReproError

_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f8")}
_NUMBER = {torch.float32: 0, torch.float64: 1}


class Dense:
    """The codec of the baselines.

    Content: uint32 number of tensors; for each a type byte (0 float32, 1 float64), a byte with the number of
    dimensions and a uint32 a dimension; then all values in the same order, row-major.
    """

    number = 1
    fixed_size = True

    def new_state(self, seed: int = 0, client: int = 0) -> State:
        """The codec has no memory of its own."""
        return new_state(seed, client)

    def encode(self, state: State | None, tensors: Mapping[str, Tensor]) -> bytes:
        """Tensors by name -> payload.

        Raises:
            ReproError: a tensor is neither float32 nor float64; the message names it.
            NotFinite: a tensor holds NaN or infinity; the message names it.
        """
        head, values = [struct.pack("<I", len(tensors))], []
        for name, tensor in tensors.items():
            if tensor.dtype not in _NUMBER:
                raise ReproError(f"tensor {name} is {tensor.dtype}; float32 or float64 was expected")
            # One pass: the sum of finite values is finite or overflows, and only then the values are looked at.
            if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
                raise NotFinite(
                    f"tensor {name} holds NaN or infinity; finite values were expected; lower the learning rate"
                )
            head.append(struct.pack(f"<BB{tensor.dim()}I", _NUMBER[tensor.dtype], tensor.dim(), *tensor.shape))
            values.append(tensor.detach().cpu().contiguous().numpy().astype(_TYPES[_NUMBER[tensor.dtype]], copy=False))
        return wire.seal(self.number, b"".join([*head, *(value.tobytes() for value in values)]))

    def decode(self, payload: bytes) -> list[Tensor]:
        """Payload -> tensors.

        Raises:
            ReproError: the payload is truncated, damaged, foreign or inconsistent.
        """
        content = wire.unseal(self.number, payload)
        try:
            (count,), at = struct.unpack_from("<I", content), 4
            shapes = []
            for _ in range(count):
                kind, dimensions = struct.unpack_from("<BB", content, at)
                shapes.append((_TYPES[kind], struct.unpack_from(f"<{dimensions}I", content, at + 2)))
                at += 2 + 4 * dimensions
            tensors = []
            for kind, shape in shapes:
                values = np.frombuffer(content, kind, count=int(np.prod(shape, dtype=np.int64)), offset=at)
                tensors.append(torch.from_numpy(values.reshape(shape).astype(kind.newbyteorder("="))))
                at += values.nbytes
        except (struct.error, ValueError, KeyError) as error:
            raise ReproError(f"dense payload is inconsistent ({error}); send it again") from error
        if at != len(content):
            raise ReproError(f"dense payload has {len(content) - at} bytes too many; send it again")
        return tensors

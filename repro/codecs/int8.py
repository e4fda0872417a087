"""F2I: float32 to int8, a scale a tensor (post 2, "one of the most straightforward methods for quantization")."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs.base import register
from repro.codecs.message import BLOCK, Buffer, Item, Reader, Rule, TensorCodec, parameters, scalar_type
from repro.codecs.state import State

_SYMMETRIC, _AFFINE = 1, 2
_INT8 = np.dtype("i1")
_ZERO = struct.Struct("<b")


@register("int8", version=1)
@register("int8-affine", version=1, affine=True)
class Int8(TensorCodec):
    """x is sent as q = round(x / scale) + zero, half to even, and received as (q - zero) * scale.

    * symmetric: q in [-127, 127], zero = 0, scale = max|x| / 127;
    * affine: q in [-128, 127], scale = (max - min) / 255 over a range that includes 0,
      zero = round(-128 - min / scale), so that 0 is received as exactly 0.

    The error of a value is at most half a scale. These are the rules of TensorFlow Lite for weights and for
    activations, per tensor; which one the post used is not said.

    Body: the scale as a value of the tensor's type, for affine the zero as an int8, then an int8 a value.

    Args:
        affine: the affine rule instead of the symmetric one.
        chosen: which tensors to quantise; running statistics, for one, are no gradients and stay as they are.
    """

    number, name = 2, "int8"

    def __init__(self, affine: bool = False, chosen: Rule = parameters) -> None:
        super().__init__(chosen)
        self.affine = affine

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class."""
        kind = scalar_type(item.values)
        low, high = item.range()
        if not self.affine:
            scale = _scale(max(-low, high), 127, kind)
            return _SYMMETRIC, [scale.tobytes(), _quantise(item.values, float(scale), None)]
        low, high = min(low, 0.0), max(high, 0.0)
        halved = high / 2 - low / 2  # high - low can overflow
        scale = _scale(halved, 127.5, kind)
        zero = min(127, max(-128, round(-128 - low / float(scale))))
        return _AFFINE, [scale.tobytes(), _ZERO.pack(zero), _quantise(item.values, float(scale), zero)]

    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See the class."""
        if coding not in (_SYMMETRIC, _AFFINE):
            raise reader.error(f"coding {coding}")
        (scale,) = reader.values(kind, 1)
        if scale <= 0:
            raise reader.error(f"scale {scale}")
        zero = reader.numbers(_ZERO)[0] if coding == _AFFINE else 0
        levels = reader.array(_INT8, count)
        if coding == _SYMMETRIC and bool((levels == -128).any()):
            raise reader.error("level -128")
        if coding == _AFFINE:
            levels = levels.astype(np.int16)
            levels -= np.int16(zero)
        greatest = np.finfo(kind).max
        with np.errstate(over="ignore"):
            values = np.multiply(levels, scale, dtype=kind.newbyteorder("="))
        return values if scale < greatest / 256 else values.clip(-greatest, greatest, out=values)


def _scale(peak: float, levels: float, kind: np.dtype[Any]) -> np.ndarray:
    """``peak / levels`` in the tensor's type, and never so small that ``peak / scale`` would exceed ``levels``."""
    if peak == 0:
        return np.ones((), kind)
    scale = np.array(peak / levels, kind)
    # Among subnormal numbers rounding down can halve the scale.
    return np.nextafter(scale, np.array(math.inf, kind)) if scale < np.finfo(kind).tiny else scale


def _quantise(values: Tensor, scale: float, zero: int | None) -> memoryview:
    """``round(values / scale) + zero``: on a processor the same, block by block and without new memory."""
    if values.device.type != "cpu":
        return (values.div(scale).round_() + (zero or 0)).clamp_(-128, 127).to(torch.int8).cpu().numpy().data
    given, out = values.numpy(), np.empty(len(values), np.int8)
    buffer, step = np.empty(min(BLOCK, len(given)), given.dtype), given.dtype.type(scale)
    for at in range(0, len(given), BLOCK):
        block = given[at : at + BLOCK]
        levels = np.divide(block, step, out=buffer[: len(block)])
        np.rint(levels, out=levels)
        if zero is not None:
            levels += zero
            np.clip(levels, -128, 127, out=levels)  # half a step beyond the last level can round to the next one
        out[at : at + BLOCK] = levels
    return out.data

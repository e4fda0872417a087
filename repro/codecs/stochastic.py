"""Unbiased quantisation by rounding up or down at random: QSGD (Alistarh et al. 2017), TernGrad (Wen et al. 2017)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from repro.codecs.base import register
from repro.codecs.message import BLOCK, Buffer, Item, Reader, Rule, TensorCodec, parameters, scalar_type
from repro.codecs.state import State
from repro.errors import ReproError

_CODED = 1
_BUCKETS = struct.Struct("<IB")
_BYTE = np.dtype("u1")


@register("qsgd", version=1)
class QSGD(TensorCodec):
    """x is sent as the length of its bucket's vector, and a level l: x is received as l / levels times that length.

    |l| is levels |x| / length, rounded up with the probability of its fraction and down otherwise, so that the mean of
    what is received is x. The variance of a bucket of n values is at most min(n / levels**2, sqrt(n) / levels) times
    its squared length.

    Body: uint32 values in a bucket, uint8 levels; the lengths as values of the tensor's type; then l + levels in 2, 4
    or 8 bits, whichever is the least that fits, first value in the lowest bits. The paper's variable-length Elias code
    is left to ``Zipped``.

    Args:
        levels: 1 to 127; 1 fits 2 bits, up to 7 fit 4, up to 127 fit 8.
        bucket: values that share a length.
        chosen: which tensors to quantise.

    Raises:
        ReproError: an impossible number of levels or bucket.
    """

    number, name = 7, "qsgd"

    def __init__(self, levels: int = 7, bucket: int = 512, chosen: Rule = parameters) -> None:
        if levels not in range(1, 128) or bucket not in range(1, 2**32):
            raise ReproError(f"{levels} levels, buckets of {bucket}; 1 to 127 and 1 or more were expected")
        super().__init__(chosen)
        self.levels, self.bucket = levels, bucket

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class."""
        kind, count = scalar_type(item.values), item.values.numel()
        bucket = max(1, min(self.bucket, count))  # of a small tensor, the whole
        padded = np.zeros((-(-count // bucket), bucket))
        padded.ravel()[:count] = item.values.cpu().numpy()
        peak = np.abs(padded).max(axis=1, initial=0.0)
        # Relative to the peak nothing overflows; a length cut to the largest float is still no shorter than the peak.
        relative = np.sqrt(((padded / np.where(peak > 0, peak, 1.0)[:, None]) ** 2).sum(axis=1))
        with np.errstate(over="ignore"):
            length = np.minimum(peak * relative, np.finfo(kind).max).astype(kind)
        share = np.abs(padded) / np.where(length > 0, length, 1.0)[:, None]
        level = np.minimum(np.floor(self.levels * share + random.random(padded.shape)), self.levels)
        code = (self.levels + np.where(padded < 0, -level, level)).astype(np.uint8).ravel()[:count]
        head = _BUCKETS.pack(bucket, self.levels)
        return _CODED, [head, length.tobytes(), pack(code, _bits(self.levels))]

    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See the class."""
        if coding != _CODED:
            raise reader.error(f"coding {coding}")
        bucket, levels = reader.numbers(_BUCKETS)
        if bucket not in range(1, max(1, count) + 1) or levels not in range(1, 128):
            raise reader.error(f"{levels} levels, buckets of {bucket}")
        length = reader.values(kind, -(-count // bucket))
        blocks, own = unpack(reader, count, _bits(levels), 2 * levels), kind.newbyteorder("=")
        out = np.empty(count, own)
        for place, codes in blocks:
            level = (codes.astype(np.int16) - np.int16(levels)) / kind.type(levels)
            whose = np.arange(place.start, place.start + len(codes)) // bucket
            out[place] = level.astype(own, copy=False) * length[whose]
        return out


@register("terngrad", version=1)
class TernGrad(TensorCodec):
    """x is sent as -1, 0 or 1 times its tensor's peak s = max|x|: not 0 with probability |x| / s.

    The mean of what is received is x, unless values were clipped. Scales are each worker's own; the authors'
    option of one scale for all workers would need a round of communication more.

    Body: s as a value of the tensor's type; then two bits a value (0: zero, 1: s, 2: -s), first value in the lowest.

    Args:
        clip: values are first clipped to this many standard deviations of the tensor (the authors' script has 2.5,
            which biases); None leaves them.
        chosen: which tensors to quantise.

    Raises:
        ReproError: the clipping is not positive.
    """

    number, name = 8, "terngrad"

    def __init__(self, clip: float | None = None, chosen: Rule = parameters) -> None:
        if clip is not None and not clip > 0:
            raise ReproError(f"clip {clip}; a positive number or none was expected")
        super().__init__(chosen)
        self.clip = clip

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class."""
        kind, values = scalar_type(item.values), item.values.cpu().numpy()
        low, high = item.range()
        peak = max(-low, high)
        if self.clip is not None and peak > 0:
            peak = min(peak, self.clip * peak * float((values / kind.type(peak)).std(dtype=np.float64)))
        scale = np.array(peak, kind)
        if not scale:  # all values are zero, or equal and clipped to nothing
            return _CODED, [scale.tobytes(), pack(np.zeros(len(values), np.uint8), 2)]
        share = np.abs(values, dtype=np.float64) / float(scale)
        sign = np.where(values < 0, np.uint8(2), np.uint8(1))
        return _CODED, [scale.tobytes(), pack(np.where(random.random(len(values)) < share, sign, np.uint8(0)), 2)]

    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See the class."""
        if coding != _CODED:
            raise reader.error(f"coding {coding}")
        (scale,) = reader.values(kind, 1)
        if scale < 0:
            raise reader.error(f"scale {scale}")
        received, blocks = np.array([0, scale, -scale], kind.newbyteorder("=")), unpack(reader, count, 2, 2)
        out = np.empty(count, received.dtype)
        for place, codes in blocks:
            np.take(received, codes, out=out[place], mode="clip")  # unpack has looked at the codes
        return out


def _bits(levels: int) -> int:
    return 2 if levels == 1 else 4 if levels <= 7 else 8


def pack(codes: np.ndarray, bits: int) -> memoryview:
    """Numbers (uint8) below 2**bits, with 1, 2, 4 or 8 bits each, first in the lowest bits of the first byte."""
    each = 8 // bits
    padded = np.zeros(-(-len(codes) // each) * each, np.uint8)
    padded[: len(codes)] = codes
    out = np.zeros(len(padded) // each, np.uint8)
    for k in range(each):
        out |= padded[k::each] << np.uint8(bits * k)
    return out.data


def unpack(reader: Reader, count: int, bits: int, most: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The inverse of ``pack``: ``count`` numbers of at most ``most``, in blocks, each with its place among all.

    All bytes are read at once, so that who makes room for what they say knows that they are there.

    Raises:
        ReproError: a number is larger, or what pads the last byte is not zero.
    """
    each = 8 // bits
    packed = reader.array(_BYTE, -(-count // each))

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, count, BLOCK):
            part = packed[start // each : (start + BLOCK) // each]
            codes = np.empty(len(part) * each, np.uint8)
            for k in range(each):
                codes[k::each] = part >> np.uint8(bits * k) & np.uint8(2**bits - 1)
            if codes[count - start :].any() or (codes > most).any():
                raise reader.error(f"a number above {most}, or padding that is not zero")
            yield slice(start, start + BLOCK), codes[: count - start]

    return blocks()

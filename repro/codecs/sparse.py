"""Sparse tensors on the wire, and sparsification without tricks: top-k and a fixed threshold.

Body of a sparse tensor: a uint32 with the number of values sent; the values; their places, in one of two codings,
whichever is shorter for the tensor at hand:

* bitmap: a bit a place, the first place in the highest bit; ceil(n / 8) bytes;
* gaps: for each value the number of places skipped since the one before, in groups of 7 bits, lowest first, with the
  high bit set on all groups but the last (LEB128). The number of values says where they end.

Why not uint32 places: a gap below 2**28 takes at most four bytes, and tensors are not larger (``MAX_ELEMENTS``), so
that they can never be shorter. What each coding takes on real gradients: ``benchmarks/README.md``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.codecs.base import register
from repro.codecs.message import BLOCK, Buffer, Item, Reader, Rule, TensorCodec, blank, convolutions, little_endian
from repro.codecs.state import State
from repro.errors import ReproError

BITMAP, GAPS = 1, 3
"""Codings of a tensor; 2 was gaps behind their length, which is no longer written nor read."""
_COUNT = struct.Struct("<I")
_BYTE = np.dtype("u1")
_MAX_GROUPS = 4  # 7 bits each, enough for MAX_ELEMENTS
_SHIFTS = 7 * np.arange(_MAX_GROUPS)


def density(sparsity: float) -> Fraction:
    """Share of values sent at ``sparsity``, the share of values not sent; exact in decimal notation.

    Raises:
        ReproError: not in 0 <= sparsity < 1.
    """
    if not 0 <= sparsity < 1:
        raise ReproError(f"sparsity {sparsity}; at least 0 and less than 1 was expected")
    return 1 - Fraction(str(sparsity))


def kept(count: int, share: Fraction) -> int:
    """How many of ``count`` values are sent: never less than one of them."""
    return math.ceil(count * share)


def above(values: Tensor, threshold: float) -> Tensor:
    """Places, ascending, whose magnitude is at least ``threshold``: on a processor the same, block by block."""
    if values.device.type != "cpu":
        return (values.abs() >= threshold).nonzero().view(-1)
    given = values.numpy()
    with np.errstate(over="ignore"):
        least = given.dtype.type(threshold)
    buffer, found = np.empty(min(BLOCK, len(given)), given.dtype), [np.empty(0, np.int64)]
    for at in range(0, len(given), BLOCK):
        block = given[at : at + BLOCK]
        found.append(np.flatnonzero(np.abs(block, out=buffer[: len(block)]) >= least) + at)
    return torch.from_numpy(np.concatenate(found))


def compress(values: Tensor, places: Tensor) -> tuple[int, list[Buffer]]:
    """A vector and the places, ascending, whose values are sent -> coding and body."""
    sent, index = values[places], places.cpu().numpy()
    head: list[Buffer] = [_COUNT.pack(len(index)), little_endian(sent)]
    bitmap = (len(values) + 7) // 8
    if len(index) <= bitmap:  # a gap takes a byte or more
        gaps = pack_gaps(index)
        if len(gaps) <= bitmap:
            return GAPS, [*head, gaps]
    bits = np.zeros(len(values), np.bool_)
    bits[index] = True
    return BITMAP, [*head, np.packbits(bits).data]


def expand(coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
    """Coding and body of a vector of ``count`` values -> the vector, zero where nothing was sent.

    Raises:
        ReproError: the body makes no sense.
    """
    (sent,) = reader.numbers(_COUNT)
    if sent > count:
        raise reader.error(f"{sent} of {count} values")
    values, own = reader.values(kind, sent), kind.newbyteorder("=")
    if coding == BITMAP:
        return _from_bitmap(reader, values, count, own)
    if coding != GAPS:
        raise reader.error(f"coding {coding}")
    out, at = np.empty(0, own), 0
    for index in unpack_gaps(reader, sent, count):
        out = out if at else np.zeros(count, own)  # no room is made before the first places make sense
        out[index] = values[at : at + len(index)]
        at += len(index)
    return out if at else np.zeros(count, own)


def _from_bitmap(reader: Reader, values: np.ndarray, count: int, own: np.dtype[Any]) -> np.ndarray:
    packed = reader.array(_BYTE, (count + 7) // 8)
    out, at = np.zeros(count, own), 0
    for start in range(0, count, BLOCK):
        bits = np.unpackbits(packed[start // 8 : (start + BLOCK) // 8]).view(np.bool_)
        block, padding = out[start : start + BLOCK], bits[count - start :]
        here = int(np.count_nonzero(bits))
        if at + here > len(values) or padding.any():
            raise reader.error(f"a bitmap of more than {at} places for {len(values)} values, or padding that is not 0")
        block[bits[: len(block)]] = values[at : at + here]
        at += here
    if at != len(values):
        raise reader.error(f"a bitmap of {at} places for {len(values)} values")
    return out


def pack_gaps(index: np.ndarray) -> bytes:
    """Ascending places -> gaps in groups of 7 bits."""
    gaps = np.diff(index, prepend=-1) - 1
    rest = gaps[:, None] >> _SHIFTS  # what each group and those after it have to say
    needed = rest > 0
    needed[:, 0] = True
    groups = rest & 127
    groups[:, :-1] |= 128 * needed[:, 1:]
    return groups[needed].astype(np.uint8).tobytes()


def unpack_gaps(reader: Reader, sent: int, count: int) -> Iterator[np.ndarray]:
    """The inverse of ``pack_gaps``: ``sent`` ascending places below ``count``, in blocks.

    Raises:
        ReproError: what is read makes no sense.
    """
    last = -1
    for at in range(0, sent, BLOCK):
        here = min(BLOCK, sent - at)
        ends = np.flatnonzero(np.frombuffer(reader.peek(_MAX_GROUPS * here), np.uint8) < 128)[:here] + 1
        lengths = np.diff(ends, prepend=0)
        if len(ends) < here or lengths.max() > _MAX_GROUPS:
            raise reader.error(f"no {sent} gaps of at most {_MAX_GROUPS} bytes")
        groups, starts = reader.array(_BYTE, int(ends[-1])), ends - lengths
        if bool((groups[ends - 1][lengths > 1] == 0).any()):
            raise reader.error("a gap with a group too many")
        position = np.arange(len(groups)) - np.repeat(starts, lengths)
        gaps = np.add.reduceat((groups & 127).astype(np.int64) << 7 * position, starts)
        index = last + np.cumsum(gaps + 1)
        last = int(index[-1])
        if last >= count:
            raise reader.error(f"place {last} of {count}")
        yield index


class _Sparse(TensorCodec):
    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """See the module."""
        return expand(coding, reader, count, kind)


@register("top-k", version=2)
@register("top-k-residual", version=2, residual=True)
class TopK(_Sparse):
    """The largest values by magnitude, found exactly; the rest is lost, or kept for later.

    Args:
        sparsity: share of values not sent.
        residual: what is not sent is added to the next message ("gradient dropping", Aji & Heafield 2017); otherwise
            it is lost.
        chosen: which tensors to sparsify.

    Raises:
        ReproError: an impossible sparsity.
    """

    number, name = 4, "top-k"

    def __init__(self, sparsity: float = 0.999, residual: bool = False, chosen: Rule = convolutions) -> None:
        super().__init__(chosen)
        self.density, self.residual = density(sparsity), residual

    def prepare(self, state: State, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Add what earlier messages left."""
        return add_residual(state, tensors, self.chosen) if self.residual else tensors

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class; zeros are not sent."""
        magnitude = item.values.abs()
        places = magnitude.topk(kept(len(magnitude), self.density), sorted=False).indices.sort().values
        places = places[magnitude[places] > 0]
        coded = compress(item.values, places)
        if self.residual:
            item.values[places] = 0
        return coded


@register("threshold", version=2)
class Threshold(_Sparse):
    """The values whose magnitude reaches a threshold that is fixed before training; the rest is lost.

    Args:
        threshold: least magnitude sent, in units of the gradient.
        chosen: which tensors to sparsify.

    Raises:
        ReproError: the threshold is not positive.
    """

    number, name = 5, "threshold"

    def __init__(self, threshold: float, chosen: Rule = convolutions) -> None:
        if not threshold > 0:
            raise ReproError(f"threshold {threshold}; a positive number was expected")
        super().__init__(chosen)
        self.threshold = threshold

    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """See the class."""
        return compress(item.values, above(item.values, self.threshold))


def add_residual(state: State, tensors: Mapping[str, Tensor], chosen: Rule) -> dict[str, Tensor]:
    """Tensors plus what earlier messages left of the chosen ones; the sums are the new ``state["memory"]["residual"]``.

    Who compresses one of the sums takes what was sent out of it in place.
    """
    residual = state["memory"].setdefault("residual", {})
    sums = dict(tensors)
    for name, tensor in tensors.items():
        if chosen(name, tensor):
            if name not in residual:
                residual[name] = blank(tensor)
            sums[name] = residual[name].add_(tensor)
    return sums

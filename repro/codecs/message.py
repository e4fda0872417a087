"""What the compressing codecs share: a message of tensors, each in a coding of its own.

Content of a message, all numbers little-endian: a uint32 with the number of tensors; for each of them a head of

* a byte for the coding: 0 is uncompressed, the others are the codec's,
* a byte for the form: bit 0 set means float64 (else float32), bit 1 values in channels-last order (else row-major),
* a byte for the number of dimensions and a uint32 for each;

then the body of each, in the same order. Values travel in the order in which they lie in memory, because convolutions
are trained channels last and transposing 11 million values takes longer than quantising them.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.codecs import wire
from repro.codecs.expected import Expected, Head
from repro.codecs.state import State, new_state
from repro.errors import NotFinite, ReproError
from repro.randomness import generator

MAX_ELEMENTS = 2**28
"""Values in a message, whatever is expected: 1 GiB of float32, twice VGG11."""

BLOCK = 1 << 17
"""Values treated at a time on a processor, so that they stay in the second-level cache between two passes."""

RAW = 0
_DOUBLE, _CHANNELS_LAST = 1, 2
_HEAD = struct.Struct("<BBB")
_TYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype("<f4"), torch.float64: np.dtype("<f8")}

Rule = Callable[[str, Tensor], bool]
"""Name and tensor -> whether the codec compresses it; what it leaves is sent as it is."""

Buffer = bytes | memoryview


def parameters(name: str, tensor: Tensor) -> bool:
    """All parameters, their gradients or changes; not the running statistics of a normalisation."""
    return not name.endswith(("running_mean", "running_var"))


def convolutions(name: str, tensor: Tensor) -> bool:
    """Weights of convolutions, the only tensors of four dimensions (post 2: "sparsifies only the convolutional")."""
    return tensor.dim() == 4


class Item(NamedTuple):
    """A tensor to be compressed.

    Attributes:
        name, shape: of the tensor.
        values: its values as one vector, in the order of the wire; a view of what ``prepare`` returned.
    """

    name: str
    shape: torch.Size
    values: Tensor

    def range(self) -> tuple[float, float]:
        """Least and greatest value; 0 if there is none."""
        if not len(self.values):
            return 0.0, 0.0
        low, high = torch.aminmax(self.values)
        return float(low), float(high)


class Reader:
    """Reads a payload's content from front to back and refuses to read beyond its end, or what is not ``expected``."""

    def __init__(self, content: memoryview, codec: str, expected: Expected | None = None) -> None:
        self._content, self._at, self._codec, self._heads, self._claimed = content, 0, codec, 0, 0
        self._expected = expected or Expected.unknown(len(content))

    def error(self, reason: str) -> ReproError:
        """The error to raise for content that makes no sense."""
        return ReproError(f"{self._codec} payload is inconsistent ({reason}); send it again")

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes."""
        start, end = self._at, self._at + length
        if end > len(self._content):
            raise self.error(f"{length} bytes expected at {start}, {len(self._content) - start} there")
        self._at = end
        return self._content[start:end]

    def peek(self, most: int) -> memoryview:
        """The next bytes, ``most`` of them or all that are left, which are not counted as read."""
        return self._content[self._at : self._at + most]

    def numbers(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next numbers, laid out as ``layout`` says."""
        return layout.unpack(self.take(layout.size))

    def unexpected(self, found: str, wanted: str) -> ReproError:
        """The error to raise for content that makes sense, but not to this receiver."""
        return ReproError(
            f"{self._codec} payload is inconsistent with what is expected ({found}; {wanted}); send it to the network "
            "that it was made for"
        )

    def count(self) -> int:
        """The number of tensors."""
        (count,) = self.numbers(struct.Struct("<I"))
        heads = self._expected.heads
        if heads is not None and count != len(heads):
            raise self.unexpected(f"{count} tensors", f"{len(heads)} were expected")
        if count > self._expected.tensors:
            raise self.unexpected(f"{count} tensors", f"at most {self._expected.tensors} are accepted")
        return count

    def shape(self, dimensions: int, dtype: torch.dtype) -> tuple[int, ...]:
        """The shape of the next tensor, of type ``dtype``; all together may claim what is expected and no more."""
        if dimensions > 32:
            raise self.error(f"{dimensions} dimensions")
        head = Head(dtype, self.numbers(struct.Struct(f"<{dimensions}I")))
        heads = self._expected.heads
        if heads is not None and head != heads[self._heads]:
            raise self.unexpected(f"tensor {self._heads} is {head}", f"{heads[self._heads]} was expected")
        self._heads += 1
        self._claimed += head.bytes
        most = min(self._expected.bytes, MAX_ELEMENTS * dtype.itemsize)
        if self._claimed > most:
            raise self.unexpected(f"values of {self._claimed} bytes or more", f"at most {most} are accepted")
        return head.shape

    def array(self, kind: np.dtype[Any], count: int) -> np.ndarray:
        """The next ``count`` numbers of type ``kind``; read-only and not copied."""
        return np.frombuffer(self.take(count * kind.itemsize), kind)

    def values(self, kind: np.dtype[Any], count: int) -> np.ndarray:
        """As ``array``, and every number is finite."""
        values = self.array(kind, count)
        if not all(np.isfinite(values[at : at + BLOCK]).all() for at in range(0, count, BLOCK)):
            raise self.error("NaN or infinity")
        return values

    def finish(self) -> None:
        """Raise unless everything was read."""
        if self._at != len(self._content):
            raise self.error(f"{len(self._content) - self._at} bytes too many")


def flatten(tensor: Tensor) -> tuple[Tensor, bool]:
    """Values as one vector in the order of memory, and whether that is channels last; a view where there is one."""
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).view(-1), True
    return tensor.contiguous().view(-1), False


def blank(tensor: Tensor) -> Tensor:
    """Zeros in the shape of ``tensor``, whose ``flatten`` is a view."""
    channels_last = flatten(tensor)[1]
    return torch.zeros_like(tensor, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _unflatten(values: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    if channels_last:
        images, channels, height, width = shape
        return values.view(images, height, width, channels).permute(0, 3, 1, 2)
    return values.view(shape)


def check(tensors: Mapping[str, Tensor]) -> None:
    """Raise unless every tensor can be sent.

    Raises:
        ReproError: a tensor is neither float32 nor float64; the message names it.
        NotFinite: a tensor holds NaN or infinity; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise ReproError(f"tensor {name} is {tensor.dtype}; float32 or float64 was expected")
        # One pass: the sum of finite values is finite or overflows, and only then the values are looked at.
        if not math.isfinite(tensor.detach().sum()) and not bool(torch.isfinite(tensor).all()):
            raise NotFinite(
                f"tensor {name} holds NaN or infinity; finite values were expected; lower the learning rate"
            )


class TensorCodec(ABC):
    """A codec that compresses each tensor for itself.

    Args:
        chosen: which tensors to compress; the rest is sent as it is.
    """

    number: int
    name: str
    fixed_size = False
    corrects_momentum = False

    def __init__(self, chosen: Rule) -> None:
        self.chosen = chosen

    def new_state(self, seed: int = 0, client: int = 0) -> State:
        """The memory of a client that has sent nothing yet; ``seed`` and ``client`` name its random stream."""
        return new_state(seed, client)

    def prepare(self, state: State, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What to compress instead of ``tensors``: where a codec adds what it kept from earlier messages."""
        return tensors

    @abstractmethod
    def compress(self, state: State, item: Item, random: np.random.Generator) -> tuple[int, list[Buffer]]:
        """A tensor -> number of the coding (not 0), and its body in parts."""

    @abstractmethod
    def expand(self, coding: int, reader: Reader, count: int, kind: np.dtype[Any]) -> np.ndarray:
        """The body of a tensor of ``count`` values of type ``kind`` -> its values, finite, in memory of their own.

        Raises:
            ReproError: the body makes no sense, or the coding is not one of this codec's.
        """

    def encode(self, state: State, tensors: Mapping[str, Tensor]) -> bytes:
        """Tensors by name -> payload; ``state`` moves on.

        Raises:
            ReproError: a tensor is neither float32 nor float64; the message names it, and ``state`` is unchanged.
            NotFinite: a tensor holds NaN or infinity; the message names it, and ``state`` is unchanged. Or what has
                accumulated in ``state`` does, after which it is of no use.
        """
        tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        check(tensors)
        random = generator(state["seed"], "codec", state["client"], state["messages"])
        heads: list[Buffer] = [struct.pack("<I", len(tensors))]
        bodies: list[Buffer] = []
        prepared = self.prepare(state, tensors)
        check({name: tensor for name, tensor in prepared.items() if tensor is not tensors[name]})
        for name, tensor in prepared.items():
            values, channels_last = flatten(tensor)
            coding: int = RAW
            parts: list[Buffer] = [little_endian(values)]
            if self.chosen(name, tensor):
                coding, parts = self.compress(state, Item(name, tensor.shape, values), random)
            form = _DOUBLE * (tensor.dtype == torch.float64) + _CHANNELS_LAST * channels_last
            heads.append(_HEAD.pack(coding, form, tensor.dim()) + struct.pack(f"<{tensor.dim()}I", *tensor.shape))
            bodies += parts
        state["messages"] += 1
        return wire.seal(self.number, *heads, *bodies)

    def decode(self, payload: Buffer, expected: Expected | None = None) -> list[Tensor]:
        """Payload -> tensors, such as are ``expected``.

        Raises:
            ReproError: the payload is truncated, damaged, foreign, inconsistent or not what is expected.
        """
        reader = Reader(wire.unseal(self.number, payload), self.name, expected)
        heads = []
        for _ in range(reader.count()):
            coding, form, dimensions = reader.numbers(_HEAD)
            if form > _DOUBLE + _CHANNELS_LAST or (form & _CHANNELS_LAST and dimensions != 4):
                raise reader.error(f"form {form} with {dimensions} dimensions")
            dtype = torch.float64 if form & _DOUBLE else torch.float32
            heads.append((coding, form, dtype, reader.shape(dimensions, dtype)))
        tensors = []
        for coding, form, dtype, shape in heads:
            count, kind = math.prod(shape), _TYPES[dtype]
            values = reader.values(kind, count) if coding == RAW else self.expand(coding, reader, count, kind)
            own = torch.from_numpy(values.astype(kind.newbyteorder("="), copy=coding == RAW))
            tensors.append(_unflatten(own, shape, bool(form & _CHANNELS_LAST)))
        reader.finish()
        return tensors


def little_endian(values: Tensor) -> memoryview:
    """The values of a vector of floats as they are sent."""
    return values.cpu().numpy().astype(_TYPES[values.dtype], copy=False).data


def scalar_type(values: Tensor) -> np.dtype[Any]:
    """The type in which a codec sends scales of ``values``."""
    return _TYPES[values.dtype]

"""Zip around another codec."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from torch import Tensor

from repro.codecs import wire
from repro.codecs.base import Codec, register
from repro.codecs.expected import Expected
from repro.codecs.state import State
from repro.errors import ReproError

_LENGTH = struct.Struct("<Q")
_MAX_RATIO = 1032  # of deflate, from its format
_STEP = 2**16  # bytes unzipped at a time


@register("+zip", version=1)
class Zipped:
    """The payload of another codec, deflated (post 2: "the standard Zip method").

    Deflate is the method of zip files, and zlib comes with Python; zstd, a younger method, is not what the post names.

    Content: a uint64 with the length of the inner payload, then the inner payload as a zlib stream.

    Args:
        inner: the codec whose payloads are zipped.
        level: zlib's, from 0 (none) over 1 (fastest) to 9 (smallest).

    Raises:
        ReproError: an unknown level.
    """

    number = 3
    fixed_size = False

    def __init__(self, inner: Codec, level: int = 6) -> None:
        if level not in range(10):
            raise ReproError(f"zip level {level}; 0 to 9 was expected")
        self.inner, self.level, self.corrects_momentum = inner, level, inner.corrects_momentum

    def new_state(self, seed: int = 0, client: int = 0) -> State:
        """The inner codec's."""
        return self.inner.new_state(seed, client)

    def encode(self, state: State, tensors: Mapping[str, Tensor]) -> bytes:
        """Tensors by name -> payload.

        Raises:
            ReproError: the inner codec's.
        """
        return self.zip(self.inner.encode(state, tensors))

    def zip(self, payload: bytes) -> bytes:
        """A payload of the inner codec -> the zipped one."""
        return wire.seal(self.number, _LENGTH.pack(len(payload)), zlib.compress(payload, self.level))

    def decode(self, payload: bytes | memoryview, expected: Expected | None = None) -> list[Tensor]:
        """Payload -> tensors, such as are ``expected``.

        Raises:
            ReproError: the payload is truncated, damaged, foreign, inconsistent or not what is expected, or the inner
                one is.
        """
        content = wire.unseal(self.number, payload)
        expected = expected or Expected.unknown(len(payload))
        if len(content) < _LENGTH.size:
            raise ReproError("zipped payload is inconsistent (no length); send it again")
        (length,) = _LENGTH.unpack_from(content)
        stream = content[_LENGTH.size :]
        most = min(expected.payload, _MAX_RATIO * len(stream))
        if length > most:
            raise ReproError(
                f"zipped payload is inconsistent with what is expected ({len(stream)} bytes for {length}; at most "
                f"{most} are accepted); send it again"
            )
        return self.inner.decode(_unzip(stream, length), expected)


def _unzip(stream: memoryview, length: int) -> memoryview:
    """Exactly ``length`` bytes out of a zlib stream, in memory of that size and no more.

    Raises:
        ReproError: it is not such a stream.
    """
    room, at, unzip = memoryview(bytearray(length)), 0, zlib.decompressobj()
    wrong = ReproError(f"zipped payload is inconsistent (not a stream of {length} bytes); send it again")
    for start in range(0, len(stream), _STEP):
        given: bytes | memoryview = stream[start : start + _STEP]
        more = True
        while more:
            try:
                part = unzip.decompress(given, _STEP)
            except zlib.error as error:
                raise ReproError(f"zipped payload is inconsistent ({error}); send it again") from error
            if len(part) > length - at or unzip.unused_data:
                raise wrong
            room[at : at + len(part)] = part
            at, given = at + len(part), unzip.unconsumed_tail
            more = bool(given) or len(part) == _STEP  # zlib may hold back what did not fit
    if at != length or not unzip.eof:
        raise wrong
    return room

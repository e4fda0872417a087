"""Codecs turn tensors into bytes and back. What crosses the wire is ``len(payload)``, nothing else is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from repro.codecs.dense import Dense
from repro.errors import ReproError


class Codec(Protocol):
    """What the engines ask of a codec.

    ``state`` is the codec's memory of one client (residuals, momentum), made by ``new_state`` and owned by the caller.
    ``fixed_size`` tells that a payload's length depends on shapes only, and that decoding is exact, so that the mean of
    decoded payloads is the decoded mean.
    """

    fixed_size: bool

    def new_state(self) -> Any:
        """The memory of a client that has sent nothing yet."""

    def encode(self, state: Any, tensors: Mapping[str, Tensor]) -> bytes:
        """Tensors by name -> the bytes to send; the order of the mapping is the order on the wire."""

    def decode(self, payload: bytes) -> list[Tensor]:
        """Bytes as received -> tensors in the sender's order."""


def build(name: str) -> Codec:
    """A codec by its name.

    Raises:
        ReproError: an unknown codec.
    """
    if name != "dense":
        raise ReproError(f"unknown codec {name!r}; dense was expected")
    return Dense()

"""Codecs turn tensors into bytes and back. What crosses the wire is ``len(payload)``, nothing else is counted.

Numbers in the envelope: 1 dense, 2 int8, 3 zipped, 4 top-k, 5 threshold, 6 DGC, 7 QSGD, 8 TernGrad, 9 1-bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from repro.codecs.dense import Dense
from repro.codecs.dgc import DGC, WARM_UP, warm_up
from repro.codecs.expected import Expected
from repro.codecs.int8 import Int8
from repro.codecs.onebit import OneBit
from repro.codecs.sparse import Threshold, TopK
from repro.codecs.state import State
from repro.codecs.stochastic import QSGD, TernGrad
from repro.codecs.zipped import Zipped
from repro.errors import ReproError

__all__ = [
    "DGC",
    "NAMES",
    "QSGD",
    "WARM_UP",
    "Codec",
    "Dense",
    "Expected",
    "Int8",
    "OneBit",
    "State",
    "TernGrad",
    "Threshold",
    "TopK",
    "Zipped",
    "build",
    "of_run",
    "warm_up",
]


class Codec(Protocol):
    """What the engines ask of a codec.

    ``state`` is the codec's memory of one client (see ``repro.codecs.state``), made by ``new_state`` and owned by the
    caller, who sets ``state["progress"]`` before encoding. ``fixed_size`` tells that a payload's length depends on
    shapes only, and that decoding is exact, so that the mean of decoded payloads is the decoded mean.
    ``corrects_momentum`` tells that workers of large-batch training apply momentum and weight decay before they
    encode, so that the server must apply neither.
    """

    fixed_size: bool
    corrects_momentum: bool

    def new_state(self, seed: int = 0, client: int = 0) -> Any:
        """The memory of a client that has sent nothing yet; ``seed`` and ``client`` name its random stream."""

    def encode(self, state: Any, tensors: Mapping[str, Tensor]) -> bytes:
        """Tensors by name -> the bytes to send; the order of the mapping is the order on the wire."""

    def decode(self, payload: bytes | memoryview, expected: Expected | None = None) -> list[Tensor]:
        """Bytes as received -> tensors in the sender's order.

        ``expected`` is what the receiver waits for; without it, a limit follows from the payload's length.

        Raises:
            ReproError: the payload is damaged or not what is expected. It is refused before room is made for it.
        """


_CODECS: dict[str, Callable[..., Codec]] = {
    "dense": Dense,
    "int8": Int8,
    "int8-affine": partial(Int8, affine=True),
    "dgc": DGC,
    "dgc-without-accumulation": partial(DGC, accumulation=False),
    "dgc-without-clipping": partial(DGC, clip=None),
    "dgc-without-correction": partial(DGC, correction=False),
    "dgc-without-masking": partial(DGC, masking=False),
    "top-k": TopK,
    "top-k-residual": partial(TopK, residual=True),
    "threshold": Threshold,
    "qsgd": QSGD,
    "terngrad": TernGrad,
    "1-bit": OneBit,
}
NAMES = tuple(_CODECS)
"""All codecs. ``dgc-without-...`` is DGC less one of its parts; clipping is one only where a ``clip`` is given."""

_LEFT_OUT = {
    "dgc-without-accumulation": "accumulation",
    "dgc-without-clipping": "clip",
    "dgc-without-correction": "correction",
    "dgc-without-masking": "masking",
}
"""The option that a codec's name decides."""
_OF_DGC = ("dgc", *_LEFT_OUT)


def build(name: str, **options: Any) -> Codec:
    """A codec by its name, to which ``+zip`` may be added.

    Args:
        name: one of ``NAMES``, for example ``int8``, or ``int8+zip``.
        options: the arguments of its class, for example ``momentum`` of ``dgc``; with ``+zip`` also ``level``.

    Raises:
        ReproError: an unknown codec, or options that it does not have.
    """
    inner, _, zipped = name.partition("+")
    if inner not in _CODECS or zipped not in ("", "zip") or name.endswith("+"):
        raise ReproError(f"unknown codec {name!r}; {', '.join(NAMES)} was expected, alone or with +zip")
    if _LEFT_OUT.get(inner) in options:
        raise ReproError(f"codec {name}: option {_LEFT_OUT[inner]!r}, which this codec goes without; leave it out")
    zip_options = {"level": options.pop("level")} if zipped and "level" in options else {}
    try:
        codec = _CODECS[inner](**options)
    except TypeError as error:
        raise ReproError(f"codec {name}: {error}; see its class in repro/codecs") from error
    return Zipped(codec, **zip_options) if zipped else codec


def of_run(
    name: str, method: str, momentum: float, *, workers: int = 1, options: Mapping[str, Any] | None = None
) -> Codec:
    """The codec of a run, by fields of its spec.

    Args:
        name: as in ``build``.
        method: ``large_batch`` or ``federated``.
        momentum: of the run, for a codec that corrects it.
        workers: whose gradients are averaged, for a codec that clips them.
        options: of the codec besides, as in ``build``.

    Raises:
        ReproError: an unknown codec, options that it does not have, or that it takes from other fields of the spec.
    """
    options = dict(options or {})
    if taken := sorted({"momentum", "workers", "correction"} & set(options)):
        raise ReproError(f"codec {name}: option {taken[0]!r} follows from other fields of the spec; leave it out")
    if name.partition("+")[0] in _OF_DGC:
        # Local training has a momentum of its own; what it sends is a change of weights, whose rest only waits.
        options |= {"momentum": momentum if method == "large_batch" else 0.0, "workers": workers}
    return build(name, **options)

"""What a codec is, and how one is made from its name.

A codec is one file of this folder: a class with a number of its own in the envelope, registered under its name with
the version of its numerics (see ``repro.experiments.numerics``, which reads it from there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from repro.codecs.expected import Expected
from repro.errors import ReproError

WRAPS = "+"
"""First character of the name of a codec that wraps another one, as in ``int8+zip``."""


class Codec(Protocol):
    """What the engines ask of a codec.

    ``state`` is the codec's memory of one client (see ``repro.codecs.state``), made by ``new_state`` and owned by the
    caller, who sets ``state["progress"]`` before encoding.

    Attributes:
        number: which codec made a payload, in its envelope.
        fixed_size: a payload's length depends on shapes only, and decoding is exact, so that the mean of decoded
            payloads is the decoded mean.
        corrects_momentum: workers of large-batch training apply momentum and weight decay before they encode, so that
            the server must apply neither.
    """

    number: int
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


class Entry(NamedTuple):
    """What a name stands for: the codec's class, the options that the name decides, and the version of its numerics."""

    make: Any
    options: dict[str, Any]
    version: int


REGISTERED: dict[str, Entry] = {}
"""Every codec by name; names of wrappers begin with ``+``."""

C = TypeVar("C", bound=type[Codec])


def register(name: str, *, version: int, part_of: str | None = None, **options: Any) -> Callable[[C], C]:
    """Class decorator: ``name`` is this class with ``options``.

    ``repro.experiments.numerics`` reads the arguments from the source, so ``name``, ``version`` and ``part_of`` must be
    literals.

    Args:
        name: of the codec; with a leading ``+`` it wraps another one.
        version: of its numerics; raise it when a change alters any result.
        part_of: another codec, whose version counts in runs of this one, too.
        options: arguments of the class that the name decides; they cannot be given again.

    Raises:
        ValueError: the name is taken, or another class has the same number in the envelope.
    """

    def add(made: C) -> C:
        others = {entry.make for entry in REGISTERED.values()} - {made}
        if name in REGISTERED or made.number in {other.number for other in others}:
            raise ValueError(f"codec {name}: its name or number is taken; take another one")
        REGISTERED[name] = Entry(made, options, version)
        return made

    return add


def names() -> tuple[str, ...]:
    """All codecs but the wrappers, by their number in the envelope."""
    known = [name for name in REGISTERED if not name.startswith(WRAPS)]
    return tuple(sorted(known, key=lambda name: (REGISTERED[name].make.number, REGISTERED[name].options != {}, name)))


def build(name: str, **options: Any) -> Codec:
    """A codec by its name, to which that of a wrapper may be added.

    Args:
        name: one of ``names()``, for example ``int8``, or ``int8+zip``.
        options: the arguments of its class, for example ``momentum`` of ``dgc``; with ``+zip`` also ``level``.

    Raises:
        ReproError: an unknown codec, or options that it does not have.
    """
    entry, wrapper = _entries(name)
    if taken := sorted(entry.options.keys() & options.keys()):
        raise ReproError(f"codec {name}: option {taken[0]!r}, which this codec goes without; leave it out")
    outer = {"level": options.pop("level")} if wrapper and "level" in options else {}
    try:
        codec: Codec = entry.make(**options, **entry.options)
    except TypeError as error:
        raise ReproError(f"codec {name}: {error}; see its class in repro/codecs") from error
    return wrapper.make(codec, **outer) if wrapper else codec


def _entries(name: str) -> tuple[Entry, Entry | None]:
    inner, plus, outer = name.partition(WRAPS)
    if inner not in REGISTERED or (plus and plus + outer not in REGISTERED):
        wrappers = " or ".join(sorted(name for name in REGISTERED if name.startswith(WRAPS)))
        raise ReproError(f"unknown codec {name!r}; {', '.join(names())} was expected, alone or with {wrappers}")
    return REGISTERED[inner], REGISTERED[plus + outer] if plus else None


def of_run(
    name: str, method: str, momentum: float, *, workers: int = 1, options: Mapping[str, Any] | None = None
) -> Codec:
    """The codec of a run, by fields of its spec.

    A class may have a static method ``of_run(method, momentum, workers)``, which returns the options that follow from
    the spec's other fields, and ``decided_elsewhere``, the names of all options that a spec must not give.

    Args:
        name: as in ``build``.
        method: ``large_batch`` or ``federated``.
        momentum: of the run, for a codec that corrects it.
        workers: whose gradients are averaged, for a codec that clips them.
        options: of the codec besides, as in ``build``.

    Raises:
        ReproError: an unknown codec, options that it does not have, or that it takes from other fields of the spec.
    """
    given, made = dict(options or {}), _entries(name)[0].make
    if taken := sorted(set(getattr(made, "decided_elsewhere", ())) & given.keys()):
        raise ReproError(f"codec {name}: option {taken[0]!r} follows from other fields of the spec; leave it out")
    follows = made.of_run(method, momentum, workers) if hasattr(made, "of_run") else {}
    return build(name, **given, **follows)

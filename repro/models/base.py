"""The table of networks by name.

A network is one file of this folder: a class with ``forward`` and ``initialise``, registered under its name with the
version of its numerics (see ``repro.experiments.numerics``, which reads it from there).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import nn


class Entry(NamedTuple):
    """What a name stands for.

    Attributes:
        make: the class.
        norms: normalisations that it can have; its constructor takes ``norm`` if that is more than one.
        options: what else can be chosen.
        smallest: height and width of the smallest images, where the class does not check them itself.
    """

    make: Callable[..., Any]
    norms: tuple[str, ...]
    options: tuple[str, ...]
    smallest: int | None


NETWORKS: dict[str, Entry] = {}
"""Every network by name."""

C = TypeVar("C", bound=type[nn.Module])


def register(
    name: str,
    *,
    version: int | None = None,
    part: str | None = None,
    norms: tuple[str, ...] = ("none",),
    options: tuple[str, ...] = (),
    smallest: int | None = None,
) -> Callable[[C], C]:
    """Class decorator: ``name`` is this class.

    ``repro.experiments.numerics`` reads the arguments from the source, so the first three must be literals.

    Args:
        name: of the network in a spec.
        version: of its numerics; raise it when a change alters any result. The version of all ResNets is that of the
            part ``models``.
        part: the name of its part of the numerics; its own name when None.
        norms, options, smallest: see ``Entry``.
    """

    def add(made: C) -> C:
        if name in NETWORKS:
            raise ValueError(f"network {name}: its name is taken; take another one")
        NETWORKS[name] = Entry(made, norms, options, smallest)
        return made

    return add

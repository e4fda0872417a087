"""Tables of parameters: what a source's text states beside what our runs had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from repro.registry.labels import number
from repro.report.rows import Row
from repro.report.selection import setting
from repro.report.tables import ABSENT, UNKNOWN
from repro.results.records import Record

Reading = Callable[[Sequence[Record]], str]
"""One run's value of a parameter, from its records, or from what they say was executed."""

_WORDS = {"cifar10": "CIFAR-10", "resnet18": "ResNet18", "iid": "even, IID", True: "yes", False: "no"}


class Parameter(NamedTuple):
    """One row of a table of parameters.

    Attributes:
        name: for readers.
        published: one value per published column, as the source's text gives it.
        basis: how it is known, per column where it differs: ``stated``, ``derived`` (arithmetic on stated numbers, or
            the data set's own) or ``implied`` (a reading of what is stated, or arithmetic on one).
        ours: how a run's value is read.
    """

    name: str
    published: tuple[str, ...]
    basis: str | tuple[str, ...]
    ours: Reading

    def basis_of(self, column: int) -> str:
        """How the published value of a column is known."""
        fixed = {UNKNOWN: UNKNOWN, ABSENT: "does not apply"}
        own = self.basis if isinstance(self.basis, str) else self.basis[column]
        return fixed.get(self.published[column], own)

    def row(self, artefact: str, group: Sequence[Record], column: int, value: str, **more: Any) -> Row:
        """CSV row of one run, whose published value is that of ``column``."""
        first = group[0]
        return (
            {"artefact": artefact, "profile": first.profile, "source": first.source, "run": first.run}
            | {"seeds": " ".join(str(record.seed) for record in group), "n": len(group), **more}
            | {"parameter": self.name, "published": self.published[column], "basis": self.basis_of(column)}
            | {"ours": value}
        )


def word(value: Any) -> str:
    """A setting as readers know it."""
    if isinstance(value, (bool, str)):
        return _WORDS.get(value, str(value))
    return number(value) if isinstance(value, int) else f"{value:g}"


def field(name: str) -> Reading:
    """The spec's field ``name``."""
    return lambda group: word(setting(group, name))


def distributed(reading: Reading) -> Reading:
    """``reading``, which says nothing about training on a single machine."""
    return lambda group: ABSENT if group[0].spec["method"] == "central" else reading(group)


def image_size(group: Sequence[Record]) -> str:
    """Height and width."""
    return " × ".join([number(setting(group, "image_size"))] * 2)


@distributed
def synchronised(group: Sequence[Record]) -> str:
    """How often workers exchange."""
    if setting(group, "method") == "large_batch":
        return "every batch"
    every = setting(group, "local_epochs")
    return "once per epoch" if every == 1 else f"every {every} epochs"


@distributed
def images_per_round(group: Sequence[Record]) -> str:
    """Images of all workers between two exchanges."""
    if setting(group, "method") == "large_batch":
        return word(setting(group, "workers") * setting(group, "local_batch"))
    return word(setting(group, "train_images") * setting(group, "local_epochs"))


@distributed
def rounds_per_epoch(group: Sequence[Record]) -> str:
    """As counted while training: the rest of an epoch is a round too."""
    counted = [record.rows[-1] for record in group if record.rows]
    return f"{counted[0]['round'] / counted[0]['epoch']:g}" if counted else "no evaluation"


@distributed
def sent(group: Sequence[Record]) -> str:
    """What a worker sends."""
    return "gradient" if setting(group, "method") == "large_batch" else "update"

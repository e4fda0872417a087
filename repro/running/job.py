"""One run to execute: what every kind of run is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.checkpoint import Checkpoint
from repro.distributed import Group
from repro.registry.specs import Spec
from repro.results.records import Record

Report = Callable[[float], None]  # is told the finished share, 0 to 1


@dataclass(frozen=True)
class Job:
    """A spec, a seed, and what the execution needs besides.

    Attributes:
        spec, seed: which run; the seed is that of everything random.
        root: root of the repository.
        identity: fields of the record that tell which run it is of.
        checkpoint: from which the run goes on, and into which its state is saved.
        processes: processes that the clients of federated averaging are spread over.
        report: called with the finished share after every round, step or measured size.
        group: the other processes, where torchrun started several: the clients are there.
        separate: workers of large batch compute one after the other, and gradients are summed in their order, as with
            a group, though all is in this process.
        seconds: what a part of the run took, by its name, for the provenance; filled by kinds of runs that tell.
    """

    spec: Spec
    seed: int
    root: Path
    identity: dict[str, Any]
    checkpoint: Checkpoint
    processes: int
    report: Report
    group: Group | None = None
    separate: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def record(self, **content: Any) -> Record:
        """The record of this run; it is completed unless ``content`` says otherwise."""
        return Record(**self.identity, **{"status": "completed", **content})

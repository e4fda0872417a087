"""What to ask a cluster for: time and memory of runs, from the provenance of those that were run before.

Runs that take seconds share a job, since a job costs seconds to start; long ones have a job each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro import files
from repro.registry import store
from repro.registry.specs import Spec
from repro.results import records

Task = tuple[Spec, int]
JOB_SECONDS = 300.0
"""Runs share a job up to this time."""
UNKNOWN_MINUTES = 240
"""Time limit of a job whose runs were never timed; one that needs longer goes on from its checkpoint in the next."""
LEAST_MINUTES = 15
SLOWER = 2.0
"""How many times slower a node may be than the machine that was timed."""
SPARE_MEMORY = 1.25
_SLOW_IMAGES = 100.0  # a second: what a training that was never timed is taken for when jobs are filled
GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Of a run: ``seconds`` of one core and ``memory`` in bytes, each the most that any seed took; None: not known."""

    seconds: float | None
    memory: int | None

    @property
    def gib(self) -> int | None:
        """Memory to ask for: some to spare, up to a power of two, so that few sizes are asked for."""
        return None if self.memory is None else _power_of_two(SPARE_MEMORY * self.memory / GIB)


def _power_of_two(least: float) -> int:
    return int(2 ** max(0, math.ceil(math.log2(least))))


def of(spec: Spec, root: Path = Path()) -> Need:
    """What a run needs, from all its seeds.

    Raises:
        ReproError: a provenance file is damaged.
    """
    folder = records.provenance_path(store.record_path(spec, 0, root)).parent
    paths = sorted(folder.glob(f"{spec.run}.s*.json"))
    seconds = [taken for path in paths if (taken := records.core_seconds(path)) is not None]
    memory = [int(held) for path in paths if (held := files.read_json(path).get("peak_memory"))]
    return Need(max(seconds, default=None), max(memory, default=None))


@dataclass(frozen=True)
class Array:
    """Jobs that ask for the same.

    Attributes:
        minutes: time limit of each job.
        gib: memory of each job; None: not known, the cluster's default.
        jobs: the runs of each.
        untimed: how many of these runs were never timed.
    """

    minutes: int
    gib: int | None
    jobs: tuple[tuple[Task, ...], ...]
    untimed: int


def arrays(tasks: Iterable[Task], root: Path = Path(), jobs: int | None = None, apart: bool = False) -> list[Array]:
    """Split runs into jobs, and jobs into arrays; the order of runs is kept within both.

    Args:
        tasks: runs and seeds.
        root: root of the repository.
        jobs: how many run at a time, to have work for each of them; None: any number.
        apart: give each run a job of its own.

    Raises:
        ReproError: a provenance file is damaged.
    """
    known: dict[str, Need] = {}
    by_memory = defaultdict[int | None, list[tuple[Task, float]]](list)
    for task in tasks:
        need = known.setdefault(task[0].run, of(task[0], root))
        by_memory[need.gib].append((task, _share(task[0], need)))
    whole = sum(seconds for each in by_memory.values() for _, seconds in each)
    limit = 0.0 if apart else min(JOB_SECONDS, whole / (jobs or 1))
    found = defaultdict[tuple[int, int | None], list[tuple[Task, ...]]](list)
    for gib, each in by_memory.items():
        for job in _filled(each, limit):
            found[_minutes([known[spec.run].seconds for spec, _ in job]), gib].append(tuple(job))
    return [
        Array(*asked, tuple(made), sum(known[spec.run].seconds is None for job in made for spec, _ in job))
        for asked, made in found.items()
    ]


def _share(spec: Spec, need: Need) -> float:
    """Seconds that a run counts for in a job; infinity gives it a job of its own."""
    if need.seconds is not None:
        return need.seconds
    images = {"law": 0.0, "train": spec.train_images * spec.epochs}.get(spec.kind, math.inf)
    return 1.0 + images / _SLOW_IMAGES


def _filled(runs: Sequence[tuple[Task, float]], limit: float) -> list[list[Task]]:
    """Runs in a row share a job up to ``limit`` seconds; one that takes longer is alone."""
    made, taken = list[list[Task]](), math.inf
    for task, seconds in runs:
        if taken + seconds > limit * (1 + 1e-9):  # sums of equal parts may be a hair above their whole
            made.append([])
            taken = 0.0
        made[-1].append(task)
        taken += seconds
    return made


def _minutes(seconds: Sequence[float | None]) -> int:
    """Time limit for runs one after the other: time to spare and to start, up to 15 minutes times a power of two."""
    known = [each for each in seconds if each is not None]
    least = UNKNOWN_MINUTES if len(known) < len(seconds) else 0
    asked = (SLOWER * sum(known) + 120.0) / 60
    return max(least, LEAST_MINUTES * _power_of_two(asked / LEAST_MINUTES))

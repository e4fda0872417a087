"""What the study costs: core-hours by group of ``data/study.yaml``, of the runs that are done and of those left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean

from repro.registry import order, specs, store, study
from repro.results import records


@dataclass(frozen=True)
class Line:
    """One sweep of ``make study``.

    Attributes:
        group: its name.
        done, left: planned records that are valid, and that are not.
        hours: of one core, that those done took, as their provenance says.
        hours_left: of one core, that those left will take, as other seeds of the same run did.
        unknown: of those left, how many no other seed tells the time of.
    """

    group: str
    done: int
    left: int
    hours: float
    hours_left: float
    unknown: int


def lines(valid: Collection[tuple[str, int]], root: Path = Path()) -> list[Line]:
    """The bill, in the order of the sweeps; a run belongs to the first that computes it.

    Args:
        valid: (run, seed) of the records that count.
        root: root of the repository.

    Raises:
        ReproError: malformed specs, or a damaged record or provenance file.
    """
    known = dict[tuple[str, int], float | None]()
    planned: list[tuple[str, str, str, int]] = []  # source, group, run, seed
    for source in specs.SOURCES:
        for group in specs.GROUPS:
            tasks, waiting = specs.runs_and_waiting(source, study.PROFILE, group, root)
            planned += [(source, group, run, seed) for run, seed in waiting]
            planned += [(source, group, spec.run, seed) for spec, seed in tasks]
            known |= times(tasks, root)
    done = {task: seconds or 0.0 for task, seconds in known.items() if task in valid}
    each, made = expected(known), []
    for step in order.steps(root):
        mine = [
            (run, seed)
            for source, group, run, seed in planned
            if (source == step.tune and group == "grid" if step.tune else group != "grid")
            and any(fnmatchcase(run, pattern) for pattern in step.patterns)
        ]
        taken = set(mine)
        planned = [each for each in planned if each[2:] not in taken]
        left = [run for run, seed in mine if (run, seed) not in done]
        if mine:
            made.append(
                Line(
                    step.name,
                    len(mine) - len(left),
                    len(left),
                    sum(done.get(task, 0.0) for task in mine) / 3600,
                    sum(each.get(run, 0.0) for run in left) / 3600,
                    sum(run not in each for run in left),
                )
            )
    return made


def times(tasks: Iterable[tuple[specs.Spec, int]], root: Path = Path()) -> dict[tuple[str, int], float | None]:
    """(run, seed) -> core-seconds, as its provenance says; None where nothing tells them.

    Raises:
        ReproError: a provenance file is damaged.
    """
    return {
        (spec.run, seed): records.core_seconds(records.provenance_path(store.record_path(spec, seed, root)))
        for spec, seed in tasks
    }


def expected(times: Mapping[tuple[str, int], float | None]) -> dict[str, float]:
    """Run -> core-seconds that a seed without a time will take: the mean of the others; runs without any are left out.

    >>> expected({("a", 1): 10.0, ("a", 2): 20.0, ("a", 3): None, ("b", 1): None})
    {'a': 15.0}
    """
    known = defaultdict[str, list[float]](list)
    for (run, _), seconds in times.items():
        if seconds is not None:
            known[run].append(seconds)
    return {run: fmean(each) for run, each in known.items()}


def total(lines: Iterable[Line]) -> Line:
    """All lines in one."""
    names = ("done", "left", "hours", "hours_left", "unknown")
    found = list(lines)
    return Line("total", *(sum(getattr(line, name) for line in found) for name in names))

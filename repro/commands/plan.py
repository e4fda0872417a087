"""What runs will cost, from the provenance of those that were run before: time, memory, disk.

``of_study`` says what the study has cost and what is left of it, group by group of ``data/study.yaml``. A run without a
time of its own is estimated from other runs: ``Estimates`` says how.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from repro import files, report
from repro.errors import ReproError, did_you_mean
from repro.registry import order, specs, store, study
from repro.results import records
from repro.verdicts import judge

Task = tuple[specs.Spec, int]
Planned = tuple[list[Task], list[tuple[str, int]]]
"""Runs with their seeds, and ids with seeds of those whose learning rate a grid has still to choose."""


@dataclass(frozen=True)
class Cost:
    """Cost of some planned runs; what no provenance tells counts as nothing, and is counted in ``untimed``.

    Attributes:
        runs: planned records, a seed counted each.
        seconds: of one core, for all of them whose time is known; CPU seconds where they were counted, else those of
            the wall clock, in which pauses count.
        seconds_to_do: for those that have no valid record.
        untimed: records of which no time is known.
        memory: bytes that the largest process held at most, or None where nobody looked. A sweep runs several runs in
            one process, so it is an upper bound for each of them.
        disk: bytes of the records and their provenance.
        devices: on which times were taken.
    """

    runs: int
    seconds: float
    seconds_to_do: float
    untimed: int
    memory: int | None
    disk: int
    devices: tuple[str, ...]


def cost(tasks: Iterable[Task], root: Path = Path()) -> Cost:
    """Add up what is known of ``tasks``.

    Raises:
        ReproError: a provenance file or a record is damaged.
    """
    runs = untimed = disk = 0
    seconds = todo = 0.0
    peaks, devices = [], set()
    for spec, seed in tasks:
        runs += 1
        record = store.record_path(spec, seed, root)
        path = records.provenance_path(record)
        taken = records.core_seconds(path)
        if taken is None:
            untimed += 1
            continue
        known = files.read_json(path)
        seconds += taken
        if isinstance(machine := known.get("machine"), dict) and "device" in machine:
            devices.add(str(machine["device"]))
        peaks += [int(known["peak_memory"])] if known.get("peak_memory") else []
        disk += path.stat().st_size + (record.stat().st_size if record.exists() else 0)
        todo += taken if store.stored(spec, seed, root) is None else 0.0
    return Cost(runs, seconds, todo, untimed, max(peaks, default=None), disk, tuple(sorted(devices)))


def all_runs(
    profile: str, root: Path = Path(), sources: Iterable[str] = specs.SOURCES
) -> dict[tuple[str, str], Planned]:
    """What is planned for each (source, group).

    Raises:
        ReproError: malformed specs.
    """
    return {
        (source, group): specs.runs_and_waiting(source, profile, group, root)
        for source in sources
        for group in specs.GROUPS
    }


# The study ----------------------------------------------------------------------------------------------------


class Estimates:
    """Seconds of one core that runs without a record will take, from those of finished ones.

    A run takes as long as its other seeds did, on average. Where none is finished, a training takes as many seconds for
    an image that it trains on as finished trainings of the same network at the same sizes with the same method did, all
    of them together (``alike``). Anything else is not known.

    Args:
        finished: runs with the seconds that each took.
    """

    def __init__(self, finished: Iterable[tuple[specs.Spec, float]]):
        self._of_run: dict[str, list[float]] = {}
        self._of_kind: dict[tuple[object, ...], tuple[float, float]] = {}
        for spec, seconds in finished:
            self._of_run.setdefault(spec.run, []).append(seconds)
            if spec.kind == "train":
                taken, images = self._of_kind.get(self.alike(spec), (0.0, 0.0))
                self._of_kind[self.alike(spec)] = (taken + seconds, images + self.images(spec))

    @staticmethod
    def alike(spec: specs.Spec) -> tuple[object, ...]:
        """What the time for an image depends on most: network, width, pixels, norm, precision, method."""
        return (spec.model, spec.width, spec.image_size, spec.norm, spec.precision, spec.method)

    @staticmethod
    def images(spec: specs.Spec) -> int:
        """Images that a training goes through, each counted once an epoch."""
        return spec.train_images * spec.epochs

    def of(self, spec: specs.Spec) -> float | None:
        """Seconds of one core, or None where nothing tells."""
        if spec.run in self._of_run:
            return fmean(self._of_run[spec.run])
        if spec.kind != "train" or self.alike(spec) not in self._of_kind:
            return None
        taken, images = self._of_kind[self.alike(spec)]
        return taken / images * self.images(spec)


@dataclass(frozen=True)
class Bill:
    """Runs of the study that ``make study`` computes together.

    Attributes:
        group: name of the group.
        runs: planned records, a seed counted each, those that wait for a learning rate included.
        done: those with a valid record.
        spent: seconds of one core that these took; a record whose time nobody knows counts as nothing.
        left: estimated seconds of one core for the others.
        unknown: those of the others that nothing is known of; ``left`` is without them.
    """

    group: str
    runs: int
    done: int
    spent: float
    left: float
    unknown: int

    def as_dict(self) -> dict[str, Any]:
        """For programs; times in core-hours."""
        return {
            "group": self.group, "runs": self.runs, "runs_done": self.done, "core_hours_spent": self.spent / 3600,
            "core_hours_left": self.left / 3600, "runs_of_unknown_cost": self.unknown,
        }  # fmt: skip


def of_study(root: Path = Path()) -> list[Bill]:
    """What each group of ``data/study.yaml`` has cost and what is left of it; the last entry is the total.

    A run that several groups name counts in the first of them. Groups without a run are left out.

    Raises:
        ReproError: a spec, ``data/study.yaml``, a record or a provenance file is damaged.
    """
    every = _of_every_source(root)
    done: dict[tuple[str, int], float | None] = {}
    for task in (task for tasks in every.values() for task in tasks):
        if store.stored(*task, root) is not None:
            done[_key(task)] = records.core_seconds(records.provenance_path(store.record_path(*task, root)))
    timed = ((task[0], done.get(_key(task))) for tasks in every.values() for task in tasks)
    estimates = Estimates((spec, seconds) for spec, seconds in timed if seconds is not None)
    bills, billed = [], set[tuple[str, int]]()
    for group in order.groups(root):
        tasks = [
            task
            for (source, kind), planned in every.items()
            for task in planned
            if _key(task) not in billed
            and (source in group.grids if kind == "grid" else any(fnmatchcase(task[0].run, p) for p in group.runs))
        ]
        billed |= {_key(task) for task in tasks}
        if tasks:
            bills.append(_bill(group.name, tasks, done, estimates))
    total = [sum(getattr(bill, name) for bill in bills) for name in ("runs", "done", "spent", "left", "unknown")]
    return [*bills, Bill("total", *total)]


def _of_every_source(root: Path) -> dict[tuple[str, str], list[Task]]:
    """What is planned for each (source, group); runs that wait for their learning rate at one that does not matter."""
    return {
        (source, group): [
            *tasks, *((specs.unchosen(run, source, study.PROFILE, root), seed) for run, seed in waiting)
        ]
        for (source, group), (tasks, waiting) in all_runs(study.PROFILE, root).items()
    }  # fmt: skip


def _key(task: Task) -> tuple[str, int]:
    return task[0].run, task[1]


def _bill(name: str, tasks: list[Task], done: dict[tuple[str, int], float | None], estimates: Estimates) -> Bill:
    finished = [task for task in tasks if _key(task) in done]
    ahead = [estimates.of(spec) for spec, seed in tasks if (spec.run, seed) not in done]
    return Bill(
        name,
        len(tasks),
        len(finished),
        sum(done[_key(task)] or 0.0 for task in finished),
        sum(seconds for seconds in ahead if seconds is not None),
        sum(seconds is None for seconds in ahead),
    )


def of_id(name: str, profile: str, root: Path = Path()) -> Planned:
    """What is planned behind a figure, a table, a statement or a run.

    Raises:
        ReproError: no such id, or one that no run is planned for.
    """
    published = judge.load_published(root)
    statements = {statement.id: statement for statement in published.statements}
    planned = all_runs(profile, root).values()
    if name in report.ARTEFACTS:
        patterns = report.ARTEFACTS[name].runs
    elif name in statements:  # an arm of a grid stands for its runs
        patterns = tuple(p for run in judge.runs_named(statements[name]) for p in (run, f"{run}-lr*"))
    else:
        patterns = (name,)

    def behind(run: str) -> bool:
        return any(fnmatchcase(run, pattern) for pattern in patterns)

    found = [task for tasks, _ in planned for task in tasks if behind(task[0].run)]
    waiting = [task for _, tasks in planned for task in tasks if behind(task[0])]
    if not found + waiting:
        if why := without_a_run(name, published):
            raise ReproError(why)
        runs = [run for tasks, later in planned for run in [*(spec.run for spec, _ in tasks), *(r for r, _ in later)]]
        known = [*report.ARTEFACTS, *statements, *dict.fromkeys(runs)]
        raise ReproError(
            f"{name!r}: no run of profile {profile} stands behind it; {did_you_mean(name, known)}the id of a figure, "
            "table, statement or run was expected; `python -m repro list` shows all"
        )
    return found, waiting


def without_a_run(name: str, published: judge.Published) -> str | None:
    """What to say of an id that a source has and for which this package has no run; None of any other id."""
    for statement in published.statements:
        if statement.id == name and statement.judge is None:
            return f"{name} is a statement that has no run in this package; its verdict is 'not run'"
    for artefact in published.artefacts:
        if artefact.id == name and name not in report.ARTEFACTS:
            return f"{name} is a {artefact.kind} that has no run in this package; nothing draws it"
    return None


def not_a_run(name: str, root: Path = Path()) -> str | None:
    """What to say where a run was expected and ``name`` is a figure, a table or a statement; None of any other id."""
    published = judge.load_published(root)
    if why := without_a_run(name, published):
        return why
    patterns = {statement.id: tuple(judge.runs_named(statement)) for statement in published.statements}
    patterns |= {artefact: item.runs for artefact, item in report.ARTEFACTS.items()}
    if name not in patterns:
        return None
    behind = ", ".join(patterns[name][:3]) + ("" if len(patterns[name]) <= 3 else " and others")
    return f"{name} is no run; the id of a run was expected, and behind it stand {behind}"

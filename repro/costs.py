"""What runs will cost, from the provenance of those that were run before: time, memory, disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from repro import claims, records, report, specs, store
from repro.errors import ReproError, did_you_mean

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
        known = records.read_json(path)
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


def of_id(name: str, profile: str, root: Path = Path()) -> Planned:
    """What is planned behind a figure, a table, a statement or a run.

    Raises:
        ReproError: no such id, or one that no run is planned for.
    """
    published = claims.load_published(root)
    statements = {statement.id: statement for statement in published.statements}
    planned = all_runs(profile, root).values()
    if name in report.ARTEFACTS:
        patterns = report.ARTEFACTS[name].runs
    elif name in statements:  # an arm of a grid stands for its runs
        patterns = tuple(p for run in claims.runs_named(statements[name]) for p in (run, f"{run}-lr*"))
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


def without_a_run(name: str, published: claims.Published) -> str | None:
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
    published = claims.load_published(root)
    if why := without_a_run(name, published):
        return why
    patterns = {statement.id: tuple(claims.runs_named(statement)) for statement in published.statements}
    patterns |= {artefact: item.runs for artefact, item in report.ARTEFACTS.items()}
    if name not in patterns:
        return None
    behind = ", ".join(patterns[name][:3]) + ("" if len(patterns[name]) <= 3 else " and others")
    return f"{name} is no run; the id of a run was expected, and behind it stand {behind}"

"""What runs will cost, from the provenance of those that were run before: time, memory, disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from repro import claims, records, report, specs, store
from repro.errors import ReproError

Task = tuple[specs.Spec, int]


@dataclass(frozen=True)
class Cost:
    """Cost of some planned runs; what no provenance tells counts as nothing, and is counted in ``untimed``.

    Attributes:
        runs: planned records, a seed counted each.
        seconds: of one core, for all of them.
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
        if not path.exists():
            untimed += 1
            continue
        known = records.read_json(path)
        seconds += known["seconds"]
        devices.add(str(known["machine"]["device"]))
        peaks += [int(known["peak_memory"])] if known.get("peak_memory") else []
        disk += path.stat().st_size + (record.stat().st_size if record.exists() else 0)
        todo += known["seconds"] if store.stored(spec, seed, root) is None else 0.0
    return Cost(runs, seconds, todo, untimed, max(peaks, default=None), disk, tuple(sorted(devices)))


def of_id(name: str, profile: str, root: Path = Path()) -> list[Task]:
    """The planned runs behind a figure, a table, a statement or a run.

    Raises:
        ReproError: no such id, or one that no run is planned for.
    """
    statements = {statement.id: statement for statement in claims.load_published(root).statements}
    if name in report.ARTEFACTS:
        patterns = report.ARTEFACTS[name].runs
    elif name in statements:  # an arm of a grid stands for its runs
        patterns = tuple(p for run in claims.runs_named(statements[name]) for p in (run, f"{run}-lr*"))
    else:
        patterns = (name,)
    planned = [task for source in specs.SOURCES for g in specs.GROUPS for task in specs.runs(source, profile, g, root)]
    found = [task for task in planned if any(fnmatchcase(task[0].run, pattern) for pattern in patterns)]
    if not found:
        raise ReproError(
            f"{name!r}: no run of profile {profile} stands behind it; the id of a figure, table, statement or run that "
            "is built was expected; `python -m repro list` shows all"
        )
    return found

"""``repro plan``: what runs will cost, from the provenance of those that were run before: time, memory, disk.

Of the study it is the bill: what each group of ``data/study.yaml`` has cost and what is left of it. With an executor it
is what to ask a cluster for.
"""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from repro import files
from repro.commands import console, named
from repro.errors import ReproError, did_you_mean
from repro.registry import specs, store, study
from repro.registry.published import load_published, runs_named
from repro.results import records
from repro.running import bill
from repro.running.executors import needs

_HEADER = ("runs", "core-hours", "to do", "runs never timed", "memory (MB)", "disk (MB)", "measured on")
_OF_STUDY = ("group", "runs", "done", "core-hours spent", "core-hours left", "cost unknown")


def run(options: Namespace, root: Path) -> int:
    """Print the cost of what was named, or of all, with its total."""
    if options.profile == study.PROFILE and not options.ids and options.source is None and not options.executor:
        return _study(root, options.json)
    wanted: list[tuple[dict[str, str], named.Planned]]
    if options.ids:
        wanted = [({"id": name}, _of_id(name, options.profile, root)) for name in options.ids]
    else:
        known = named.planned(options.profile, root, named.sources(options))
        wanted = [({"source": source, "group": group}, tasks) for (source, group), tasks in known.items()]
    if options.executor:
        return _cluster([planned for _, planned in wanted], options, root)
    found = [(name, cost(tasks, root), len(waiting)) for name, (tasks, waiting) in wanted]
    every = {(spec.run, seed): (spec, seed) for _, (tasks, _) in wanted for spec, seed in tasks}
    total = cost(every.values(), root)  # a run behind two ids counts once
    waiting = len({task for _, (_, later) in wanted for task in later})
    if options.json:
        groups = [name | each.as_dict() | {"runs_without_a_learning_rate": later} for name, each, later in found]
        console.as_json({"groups": groups, "total": total.as_dict() | {"runs_without_a_learning_rate": waiting}})
        return 0
    console.table(
        [
            (*found[0][0], *_HEADER),
            *((*name.values(), *each.cells()) for name, each, _ in found),
            ("total", *[""] * (len(found[0][0]) - 1), *total.cells()),
        ]
    )
    if waiting:
        of = ", ".join(f"{' '.join(name.values())} {later}" for name, _, later in found if later)
        print(
            "not in the table, for their learning rates are still to be chosen, by "
            f"`{specs.remedy(options.profile)}`: {waiting} runs ({of})"
        )
    print("core-hours are CPU time; a run takes as long as its other seeds did")
    if total.untimed:
        print(f"nothing is known of the cost of {total.untimed} runs, no seed of which was timed")
    return 0


@dataclass(frozen=True)
class Cost:
    """Cost of some planned runs; what no provenance tells counts as nothing, and is counted in ``untimed``.

    Attributes:
        runs: planned records, a seed counted each.
        seconds: of one core, for all of them whose time is known, or that of another seed of the run, whose mean they
            take; CPU seconds where they were counted, else those of the wall clock, in which pauses count.
        seconds_to_do: for those that have no valid record.
        untimed: records of runs of which no seed was timed.
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

    def as_dict(self) -> dict[str, Any]:
        """For programs; times in core-hours."""
        return {
            "runs": self.runs,
            "core_hours": self.seconds / 3600,
            "core_hours_to_do": self.seconds_to_do / 3600,
            "runs_without_a_time": self.untimed,
            "peak_memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "measured_on": list(self.devices),
        }

    def cells(self) -> tuple[object, ...]:
        """For readers, as ``_HEADER`` names them."""
        unknown = self.runs and self.untimed == self.runs
        least = "at least " if self.untimed else ""
        hours = ["not known" if unknown else f"{least}{each / 3600:.2f}" for each in (self.seconds, self.seconds_to_do)]
        memory = "not recorded" if self.memory is None else f"{self.memory / 1e6:.0f}"
        return (self.runs, *hours, self.untimed, memory, f"{self.disk / 1e6:.2f}", "; ".join(self.devices))


def cost(tasks: Iterable[named.Task], root: Path = Path()) -> Cost:
    """Add up what is known of ``tasks``.

    Raises:
        ReproError: a provenance file or a record is damaged.
    """
    tasks = list(tasks)
    untimed = disk = 0
    seconds = todo = 0.0
    peaks, devices = [], set()
    times = bill.times(tasks, root)
    others = bill.expected(times)
    for spec, seed in tasks:
        if spec.run not in others:
            untimed += 1
            continue
        known_time = times[spec.run, seed]
        taken = others[spec.run] if known_time is None else known_time
        seconds += taken
        todo += taken if store.stored(spec, seed, root) is None else 0.0
        if known_time is None:
            continue
        record = store.record_path(spec, seed, root)
        path = records.provenance_path(record)
        known = files.read_json(path)
        if isinstance(machine := known.get("machine"), dict) and "device" in machine:
            devices.add(str(machine["device"]))
        peaks += [int(known["peak_memory"])] if known.get("peak_memory") else []
        disk += path.stat().st_size + (record.stat().st_size if record.exists() else 0)
    return Cost(len(tasks), seconds, todo, untimed, max(peaks, default=None), disk, tuple(sorted(devices)))


# The study ---------------------------------------------------------------------------------------------------------


def _study(root: Path, as_json: bool) -> int:
    """Print what the study has cost and what is left of it, sweep by sweep, with the total."""
    found = (store.current(source, study.PROFILE, root).records for source in specs.SOURCES)
    lines = bill.lines({(record.run, record.seed) for valid in found for record in valid}, root)
    total = bill.total(lines)
    if as_json:
        console.as_json({"groups": [_as_dict(line) for line in lines], "total": _as_dict(total)})
        return 0
    console.table([_OF_STUDY, *map(_cells, [*lines, total])])
    print(
        "core-hours are CPU time. What is left is estimated: a run takes as long as its other seeds did. "
        f"Nothing is known of the cost of {total.unknown} runs, which are not in the core-hours left"
    )
    return 0


def _as_dict(line: bill.Line) -> dict[str, Any]:
    return {
        "group": line.group,
        "runs": line.done + line.left,
        "runs_done": line.done,
        "core_hours_spent": line.hours,
        "core_hours_left": line.hours_left,
        "runs_of_unknown_cost": line.unknown,
    }


def _cells(line: bill.Line) -> Sequence[object]:
    left = f"{line.hours_left:.2f}"
    if line.unknown and line.unknown == line.left:
        left = "not known"
    elif line.unknown:
        left = f"at least {left}"
        left += f" (cost of {line.unknown} runs is not known)" if line.group == "total" else ""
    return (line.group, line.done + line.left, line.done, f"{line.hours:.2f}", left, line.unknown)


# A cluster ---------------------------------------------------------------------------------------------------------

_OF_SLURM = ("jobs", "runs", "time limit of a job (min)", "memory of a job (GiB)", "cores of a job", "never timed")
_OF_RAY = ("runs", "CPUs of a run", "memory of a run (GiB)", "longest run (min)", "core-hours", "never timed")


def _cluster(wanted: Iterable[named.Planned], options: Namespace, root: Path) -> int:
    """Print what a sweep with an executor asks for, of the runs that have no valid record."""
    planned = list(wanted)
    tasks = {(spec.run, seed): (spec, seed) for now, _ in planned for spec, seed in now}
    left = [task for task in tasks.values() if store.stored(*task, root) is None]
    todo = [task for task in left if task[0].kind != "measure"]
    header, rows = (_OF_SLURM, _slurm(todo, root)) if options.executor == "submitit" else (_OF_RAY, _ray(todo, root))
    later = len({task for _, waiting in planned for task in waiting})
    if options.json:
        asked = [dict(zip(header, row, strict=True)) for row in rows]
        rest = {"measurements": len(left) - len(todo), "runs_without_a_learning_rate": later}
        console.as_json({"executor": options.executor, "asked": asked} | rest)
        return 0
    words = ["cluster's default" if name.startswith("memory") else "not known" for name in header]
    console.table(
        [header, *([word if cell is None else cell for cell, word in zip(row, words, strict=True)] for row in rows)]
    )
    if options.executor == "submitit":
        print(
            f"a job takes runs in a row, up to {needs.JOB_SECONDS / 60:.0f} minutes; one whose time ends is requeued "
            "and goes on from the checkpoint"
        )
    if len(left) > len(todo):
        print(f"not in the table: {len(left) - len(todo)} measurements, which --executor local makes on one machine")
    if later:
        print(f"not in the table: {later} runs that wait for their learning rates (`{specs.remedy(options.profile)}`)")
    return 0


def _slurm(tasks: Sequence[named.Task], root: Path) -> list[tuple[object, ...]]:
    found = sorted(needs.arrays(tasks, root), key=lambda array: (array.minutes, array.gib or 0))
    return [(len(a.jobs), sum(map(len, a.jobs)), a.minutes, a.gib, 1, a.untimed) for a in found]


def _ray(tasks: Sequence[named.Task], root: Path) -> list[tuple[object, ...]]:
    known = {spec.run: needs.of(spec, root) for spec, _ in tasks}
    by_memory = defaultdict[int | None, list[float | None]](list)
    for spec, _ in tasks:
        by_memory[known[spec.run].gib].append(known[spec.run].seconds)
    rows: list[tuple[object, ...]] = []
    for gib, each in sorted(by_memory.items(), key=lambda item: item[0] or 0):
        timed = [seconds for seconds in each if seconds is not None]
        longest, hours = (f"{max(timed) / 60:.1f}", f"{sum(timed) / 3600:.2f}") if timed else (None, None)
        rows.append((len(each), 1, gib, longest, hours, len(each) - len(timed)))
    return rows


# Behind an id ------------------------------------------------------------------------------------------------------


def _of_id(name: str, profile: str, root: Path) -> named.Planned:
    """What is planned behind a figure, a table, a statement or a run.

    Raises:
        ReproError: no such id, or one that no run is planned for.
    """
    from repro import report

    published = load_published(root)
    statements = {statement.id: statement for statement in published.statements}
    planned = named.planned(profile, root).values()
    if name in report.ARTEFACTS:
        patterns = report.ARTEFACTS[name].runs
    elif name in statements:  # an arm of a grid stands for its runs
        patterns = tuple(p for run in runs_named(statements[name]) for p in (run, f"{run}-lr*"))
    else:
        patterns = (name,)
    found = [task for tasks, _ in planned for task in tasks if _matches(task[0].run, patterns)]
    waiting = [task for _, later in planned for task in later if _matches(task[0], patterns)]
    if not found + waiting:
        if why := named.without_a_run(name, published):
            raise ReproError(why)
        runs = [run for tasks, later in planned for run in [*(spec.run for spec, _ in tasks), *(r for r, _ in later)]]
        known = [*report.ARTEFACTS, *statements, *dict.fromkeys(runs)]
        raise ReproError(
            f"{name!r}: no run of profile {profile} stands behind it; {did_you_mean(name, known)}the id of a figure, "
            "table, statement or run was expected; `python -m repro list` shows all"
        )
    return found, waiting


def _matches(run: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(run, pattern) for pattern in patterns)

"""The records that a figure or table shows, by run, and what is read from the records of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.registry.labels import label
from repro.results.metrics import end_top1
from repro.results.records import Record

Groups = Mapping[str, list[Record]]


class Selection(dict[str, list[Record]]):
    """The records of one artefact by run, in the order in which it names its runs, each list sorted by seed.

    ``root``: of the checkout, where files beside the records are read.
    """

    def __init__(self, artefact: str, groups: Groups, root: Path = Path()):
        super().__init__(groups)
        self.root = root
        self.artefact = artefact
        self.profile = next(iter(groups.values()))[0].profile


def select(artefact: str, records: Iterable[Record], patterns: Sequence[str], root: Path = Path()) -> Selection:
    """The records that ``artefact`` needs.

    Args:
        artefact: id.
        records: any records; those of other runs are left aside.
        patterns: run ids, in which ``*`` stands for anything.
        root: of the checkout.

    Raises:
        ReproError: a needed run has no record, a seed occurs twice, or profiles are mixed.
    """
    records = list(records)
    groups: dict[str, list[Record]] = {}
    for pattern in patterns:
        names = sorted({r.run for r in records if fnmatchcase(r.run, pattern)})
        if not names:
            raise ReproError(
                f"{artefact}: no record of run {pattern}; at least one seed was expected; "
                "run `python -m repro sweep` for this profile first"
            )
        for name in names:
            groups[name] = sorted((r for r in records if r.run == name), key=lambda r: r.seed)
    profiles = sorted({r.profile for group in groups.values() for r in group})
    if len(profiles) > 1:
        raise ReproError(
            f"{artefact}: records of profiles {', '.join(profiles)} are mixed; one profile was expected; "
            "load the records of one profile only"
        )
    for name, group in groups.items():
        seeds = [r.seed for r in group]
        if len(set(seeds)) < len(seeds):
            raise ReproError(f"{artefact}: run {name} has seeds {seeds}; each seed once was expected; load it once")
    return Selection(artefact, groups, root)


def members(groups: Groups) -> list[Record]:
    """All records, run by run."""
    return [record for group in groups.values() for record in group]


def only(groups: Groups, runs: Iterable[str]) -> dict[str, list[Record]]:
    """The groups of ``runs``."""
    return {run: groups[run] for run in runs}


def named(group: Sequence[Record]) -> str:
    """A run in words, with the settings that its records have."""
    return label(group[0].run, group[0].spec)


def setting(group: Sequence[Record], name: str) -> Any:
    """The value of a spec's field, which all seeds of one run must share.

    Raises:
        ReproError: the field is absent, or seeds differ in it (some record is stale).
    """
    values = {str(r.spec.get(name)): r.spec.get(name) for r in group}
    if len(values) != 1 or any(name not in r.spec for r in group):
        raise ReproError(
            f"run {group[0].run}: spec field {name} is {' and '.join(values)}; one value over all seeds was "
            "expected; recompute stale records with `python -m repro sweep`"
        )
    return next(iter(values.values()))


def global_batch(group: Sequence[Record]) -> int:
    """Images behind one step of the shared model: workers x local batch."""
    return int(setting(group, "workers")) * int(setting(group, "local_batch"))


def completed(records: Iterable[Record]) -> list[Record]:
    """The records that did not diverge."""
    return [record for record in records if record.status == "completed"]


def diverged(group: Iterable[Record]) -> list[Record]:
    """The records that diverged."""
    return [record for record in group if record.status == "diverged"]


def ends(group: Sequence[Record]) -> dict[int, float]:
    """Seed -> accuracy at the end of training (``end_top1``), in percent, as verdicts have it."""
    return {record.seed: 100 * end_top1(record) for record in group}


def finals(group: Sequence[Record]) -> list[float]:
    """Accuracy at the end of training of each seed, in percent."""
    return list(ends(group).values())


def percent(fraction: float | None) -> float | None:
    """A fraction in percent; None stays None."""
    return None if fraction is None else 100 * fraction


def recorded(record: Record, name: str) -> Any:
    """What a run recorded at its last evaluation under ``name``; None for a diverged run, which has no end.

    Raises:
        ReproError: a completed run did not record it.
    """
    if record.status == "diverged":
        return None
    if name not in record.rows[-1]:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no {name} at the last evaluation; a run that tracks it was expected; "
            f"correct `track` in pipelines/{record.source}.yaml and run the sweep again"
        )
    return record.rows[-1][name]


def series(record: Record, name: str) -> list[float]:
    """What a run recorded at every iteration under ``name``.

    Raises:
        ReproError: the run did not record it.
    """
    if name not in record.series:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no {name}; a run that records it at every iteration was expected; "
            f"correct `track` or `step_up` in pipelines/{record.source}.yaml and run the sweep again"
        )
    return record.series[name]

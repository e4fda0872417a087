"""Runs and their records as pages show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro.book.inputs import Inputs
from repro.book.wording import plural, setting
from repro.registry import labels
from repro.registry.specs import GROUPS
from repro.results.records import Record, path_of, provenance_path


@dataclass(frozen=True)
class Stored:
    """A record as pages show it: ``seconds`` is None where no provenance exists; ``result`` is in words.

    ``rules`` are the hashes of the rules that stood when it was made, by statement.
    """

    run: str
    seed: int
    href: str
    provenance: str | None
    fingerprint: str
    seconds: float | None
    result: str
    rules: Mapping[str, str] = field(default_factory=dict)

    def by_wait(self) -> tuple[bool, float]:
        """Sorts records by how soon they are computed again; those of unknown time come last."""
        return self.seconds is None, self.seconds or 0.0


@dataclass(frozen=True)
class Run:
    """All records of one run."""

    run: str
    source: str
    group: str
    kind: str
    what: str
    settings: list[tuple[str, str]]
    stored: list[Stored]
    device: str

    @property
    def href(self) -> str:
        """Its place on the page of runs."""
        return f"runs-{self.source}.html#{self.run}"

    @property
    def quickest(self) -> Stored:
        """The record that is checked soonest."""
        return min(self.stored, key=lambda one: (*one.by_wait(), one.seed))

    @property
    def seconds(self) -> float:
        """Of all its records together, where known."""
        return sum(one.seconds or 0.0 for one in self.stored)


def of(inputs: Inputs) -> dict[str, Run]:
    """The runs of the profile that is shown, by id, in the order of their sources and groups."""
    by_run: dict[str, list[Record]] = {}
    order = {group: i for i, group in enumerate(GROUPS)}
    chosen = [record for record in inputs.records if record.profile == inputs.profile]
    for record in sorted(chosen, key=lambda r: (r.source, order.get(r.group, len(order)), r.run, r.seed)):
        by_run.setdefault(record.run, []).append(record)
    return {run: _run(run, group, inputs.provenance) for run, group in by_run.items()}


def _run(run: str, group: Sequence[Record], provenance: Mapping[str, Mapping[str, Any]]) -> Run:
    first = group[0]
    devices = {_device(provenance.get(path_of(record).as_posix())) for record in group} - {""}
    settings = [
        (name.replace("_", " "), setting(value))
        for name, value in first.spec.items()
        if value is not None and name not in ("run", "source", "group", "kind", "profile")
    ]
    return Run(
        run, first.source, first.group, first.kind, labels.label(run, first.spec), settings,
        [_stored(record, provenance.get(path_of(record).as_posix())) for record in group], ", ".join(sorted(devices)),
    )  # fmt: skip


def _device(known: Mapping[str, Any] | None) -> str:
    return str((known or {}).get("machine", {}).get("device", ""))


def _stored(record: Record, known: Mapping[str, Any] | None) -> Stored:
    path = path_of(record)
    return Stored(
        run=record.run,
        seed=record.seed,
        href=f"../{path.as_posix()}",
        provenance=f"../{provenance_path(path).as_posix()}" if known else None,
        fingerprint=record.fingerprint,
        seconds=float(known["seconds"]) if known else None,
        result=_result(record),
        rules=record.rules or {},
    )


def _result(record: Record) -> str:
    """What a record ends with, in words."""
    if record.status == "diverged":
        return "diverged"
    if record.kind == "law":
        return "law executed"
    if record.kind == "train" and record.rows:
        last = record.rows[-1]
        top5 = f", top-5 {100 * last['test_top5']:.1f} %" if "test_top5" in last else ""
        return f"top-1 {100 * last['test_top1']:.1f} %{top5}, epoch {last['epoch']:g}"
    return plural(len(record.rows), "row")

"""Which stored records count: those of planned runs whose fingerprint is that of today's spec, data and numerics.

Everything that reads results (figures, notebooks, verdicts, the page) reads them through ``current``, so that all of
them rest on the same evidence. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro import files
from repro.data import sets
from repro.errors import ReproError
from repro.experiments import numerics
from repro.registry import specs
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record


def fingerprint(spec: Spec, seed: int, root: Path = Path()) -> str:
    """The fingerprint that a valid record of this run carries; reads the data set's manifest, not its images."""
    data = sets.manifest_sha256(spec.dataset, root / "data") if spec.kind != "law" else None
    other = (spec.step_up or {}).get("share_of")
    after = fingerprint(specs.sibling(other, spec, root), seed, root) if other else None
    return numerics.fingerprint(spec.as_dict(), seed, data, after)


def record_path(spec: Spec, seed: int, root: Path = Path()) -> Path:
    """Where the record of this run belongs."""
    return Path(root, records.folder(spec.profile, spec.source, spec.group), f"{spec.run}.s{seed}.json")


def was_run(spec: Spec, seed: int, root: Path = Path()) -> bool:
    """Whether a record of this run, valid or not, or its provenance is here."""
    path = record_path(spec, seed, root)
    return path.exists() or records.provenance_path(path).exists()


def stored(spec: Spec, seed: int, root: Path = Path()) -> Record | None:
    """The stored record of this run if it is ``valid``; raises likewise."""
    path = record_path(spec, seed, root)
    return valid(path, spec, seed, root) if path.exists() else None


def valid(path: Path, spec: Spec, seed: int, root: Path = Path()) -> Record | None:
    """The record at ``path`` if it is one of this run, complete, unedited, and with the current fingerprint.

    Raises:
        ReproError: the record is truncated or was edited, or its contents are not those of its fingerprint.
    """
    record = records.read(path)
    if record.fingerprint != fingerprint(spec, seed, root):
        return None
    if wrong := _unlike_its_fingerprint(record, spec, seed, root):
        raise ReproError(
            f"{path}: its {wrong} is not what its fingerprint stands for, though its checksum fits; the record that "
            f"the run wrote was expected; restore it from git (`git checkout -- {path}`) or delete it and run the "
            "sweep again"
        )
    return record


def _unlike_its_fingerprint(record: Record, spec: Spec, seed: int, root: Path) -> str | None:
    """The part of a record with the fingerprint of ``spec`` that cannot have led to it; None where all fits.

    Equal fingerprints mean equal specs, seeds and data. A record whose own contents give another one was edited.
    """
    named = {name: getattr(spec, name) for name in ("run", "source", "group", "kind", "profile")}
    for name, expected in (named | {"seed": seed}).items():
        if getattr(record, name) != expected:
            return name
    if files.canonical_json(record.spec) != files.canonical_json(spec.as_dict()):
        return "spec"
    data = (None, None) if spec.kind == "law" else (spec.dataset, sets.manifest_sha256(spec.dataset, root / "data"))
    if (record.data.get("name"), record.data.get("sha256")) != data:
        return "data"
    if spec.kind != "law" and not isinstance(record.data.get("classes"), int):
        return "number of classes"
    return _not_to_the_end(record, spec)


def _not_to_the_end(record: Record, spec: Spec) -> str | None:
    """What shows that a training or a look at gradients that says "completed" was not; None where nothing does."""
    if record.status != "completed":
        return None
    if spec.kind == "train":
        last = record.rows[-1] if record.rows else {"epoch": 0.0, "round": 0}
        if not math.isclose(last["epoch"], spec.epochs):
            return f"last epoch ({last['epoch']:g} of {spec.epochs:g})"
        if (losses := len(record.series.get("train_loss", ()))) != last["round"]:
            return f"number of losses ({losses} of {last['round']} rounds)"
    if spec.kind == "gradients":
        planned = {(step, size) for step in spec.measured_steps or () for size in spec.batch_sizes or ()}
        if {(row.get("step"), row["batch"]) for row in record.rows} != planned or len(record.rows) != len(planned):
            return "set of steps and batches"
    return None


@dataclass(frozen=True)
class Found:
    """The planned runs of a source: their valid records, and (run, seed) of those that have none.

    Attributes:
        records: valid records, in order of the plan.
        missing: planned, and no record exists; at profile ``study`` runs that wait for their learning rate, too.
        stale: planned, and the record was made by another spec, other data or older numerics.
    """

    records: list[Record]
    missing: list[tuple[str, int]]
    stale: list[tuple[str, int]]


def current(source: str, profile: str, root: Path = Path(), groups: Sequence[str] = specs.GROUPS) -> Found:
    """What counts for ``source`` at ``profile``. Files of runs or seeds that are not planned are left aside.

    Raises:
        ReproError: unknown source or profile, malformed spec, or a record that is truncated or edited.
    """
    found = Found([], [], [])
    for group in groups:
        if profile == "study":  # it grows over days: grids, and what waits for them, come in their turn
            tasks, waiting = specs.runs_and_waiting(source, profile, group, root)
            found.missing.extend(waiting)
        else:
            tasks = specs.runs(source, profile, group, root)
        for spec, seed in tasks:
            record = stored(spec, seed, root)
            if record is not None:
                found.records.append(record)
            elif record_path(spec, seed, root).exists():
                found.stale.append((spec.run, seed))
            else:
                found.missing.append((spec.run, seed))
    return found


def keep_folders(profile: str, source: str, group: str, root: Path = Path()) -> None:
    """Let the folders of a source's records and of their provenance exist in git, where no record is yet.

    The pipeline names these folders; an empty one holds a ``.gitkeep``, which goes when the first record comes.
    """
    place = root / records.folder(profile, source, group)
    for folder in (place, records.provenance_path(place)):
        keep, used = folder / ".gitkeep", any(folder.glob("*.json"))
        if used:
            keep.unlink(missing_ok=True)
        elif not keep.exists():
            files.write_atomic(keep, "")

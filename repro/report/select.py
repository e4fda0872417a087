"""From records to what is drawn: which runs, which seeds, mean curves with their intervals, and the stamp."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.registry.labels import label, number
from repro.results.metrics import end_top1
from repro.results.records import Record
from repro.verdicts.rules import paired_interval

#: Scale of the sources' CIFAR-10 experiments: training images, pixels, base width of ResNet18.
PUBLISHED_SCALE = {"train_images": 50_000, "image_size": 32, "width": 64}

Groups = Mapping[str, list[Record]]


def group(artefact: str, records: Iterable[Record], patterns: Sequence[str]) -> dict[str, list[Record]]:
    """The records that ``artefact`` needs by run, in the order of ``patterns``, each list sorted by seed.

    Args:
        artefact: id, for messages.
        records: any records; those of other runs are left aside.
        patterns: run ids, in which ``*`` stands for anything.

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
    return groups


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


@dataclass(frozen=True)
class Curve:
    """Test accuracy of one run over epochs, in percent.

    Attributes:
        epochs: (E,) epochs at which the run was evaluated.
        values: (n, E) one row per seed; what a diverged seed did not reach stands at chance.
        imputed: (n, E) True where a value was set to chance because its seed had diverged.
        mean, low, high: (E,) mean and 95 % Student-t interval over seeds; with n = 1 the bounds are NaN.
        seeds: the n seeds, in the order of ``values``.
    """

    epochs: np.ndarray
    values: np.ndarray
    imputed: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: tuple[int, ...]


def ends(group: Sequence[Record]) -> dict[int, float]:
    """Seed -> accuracy at the end of training (``end_top1``), in percent, as verdicts have it."""
    return {record.seed: 100 * end_top1(record) for record in group}


def curve(group: Sequence[Record], name: str = "test_top1") -> Curve:
    """Mean accuracy curve over the seeds of one run; ``name``: which accuracy of its rows.

    Raises:
        ReproError: completed seeds were not evaluated at the same epochs, so that no mean exists.
    """
    by_epoch = [{round(float(row["epoch"]), 6): 100.0 * row[name] for row in r.rows} for r in group]
    grids = {tuple(sorted(points)) for r, points in zip(group, by_epoch, strict=True) if r.status == "completed"}
    if len(grids) > 1 or () in grids:
        raise ReproError(
            f"run {group[0].run}: seeds were evaluated at different epochs or never; the same epochs were "
            "expected; recompute stale records with `python -m repro sweep`"
        )
    if grids:
        grid = grids.pop()
    else:  # every seed diverged: what was seen, then chance at the planned end
        seen = {epoch for points in by_epoch for epoch in points}
        grid = tuple(sorted(seen | {float(setting(group, "epochs"))}))
    missing = np.array([[epoch not in points for epoch in grid] for points in by_epoch])
    values = np.array(
        [[points.get(e, 100.0 * r.chance) for e in grid] for r, points in zip(group, by_epoch, strict=True)]
    )
    mean, low, high = np.array([interval(column) for column in values.T]).T
    return Curve(np.array(grid), values, missing, mean, low, high, tuple(r.seed for r in group))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % Student-t bounds; with fewer than two values the bounds are NaN."""
    if len(values) < 2:
        return float(values[0]), float("nan"), float("nan")
    mean, low, high, _ = paired_interval([float(v) for v in values])
    return mean, low, high


def _span(values: Iterable[int]) -> str:
    low, high = min(values := list(values)), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def stamp(groups: Groups) -> str:
    """The scale at which a figure was made, from its records: profile, images, pixels, width, seeds."""
    members = [r for group in groups.values() for r in group]
    values = {name: [int(r.spec[name]) for r in members] for name in PUBLISHED_SCALE}
    counts = [len(group) for group in groups.values()]
    text = (
        f"{members[0].profile} profile: {_span(values['train_images'])} images at "
        f"{' to '.join(f'{number(s)} × {number(s)}' for s in sorted(set(values['image_size'])))} px, "
        f"width {_span(values['width'])}, n = {_span(counts)} seed{'s' if max(counts) > 1 else ''}"
    )
    if any(set(values[name]) != {full} for name, full in PUBLISHED_SCALE.items()):
        text += " – not the published scale"
    reduced = sorted({f"{r.data['name']}: {r.data['reduced']}" for r in members if r.data.get("reduced")})
    return text + "".join(f"; reduced data ({item})" for item in reduced)


def gaps(groups: Groups, *, fewer: bool = True) -> list[str]:
    """Sentences on seeds that diverged, and on seeds that a run lacks while others have them.

    A run without the last seeds of the others has fewer, as the study plans them by looks; one without a seed before
    its own last misses it. ``fewer``: say the former, too.
    """
    every_seed = sorted({r.seed for group in groups.values() for r in group})
    notes, short = [], []
    for group in groups.values():
        diverged = [r.seed for r in group if r.status == "diverged"]
        own = {r.seed for r in group}
        missing = [seed for seed in every_seed if seed not in own and seed < max(own)]
        if fewer and len(own) + len(missing) < len(every_seed):
            short.append(f"{named(group)} ({len(own)})")
        if diverged:
            chance = number(100.0 * group[0].chance)
            notes.append(f"Diverged, counted at chance ({chance} %): {named(group)}, {_seeds(diverged)}.")
        if missing:
            notes.append(f"Missing: {named(group)}, {_seeds(missing)}.")
    if short:
        notes.append(f"Fewer seeds than {len(every_seed)}: {', '.join(short)}.")
    single = [named(group) for group in groups.values() if len(group) < 2]
    if len(single) == len(groups):
        notes.append("One seed, so no interval.")
    elif single:
        notes.append(f"One seed, so no interval: {', '.join(single)}.")
    return notes


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def provenance(artefact: str, record: Record, n: int, columns: Sequence[str] = ()) -> dict[str, Any]:
    """The columns with which every row of every CSV begins: where the numbers of the row come from.

    Args:
        artefact: id.
        record: of the row.
        n: seeds of its run.
        columns: further fields of the spec; of a schedule its kind is given.
    """
    names = (
        "method",
        "dataset",
        "train_images",
        "image_size",
        "evaluate_on",
        "width",
        "norm",
        "workers",
        "partition",
        "labels_per_client",
        "local_batch",
        "local_epochs",
        "epochs",
    )
    return (
        {
            "artefact": artefact,
            "profile": record.profile,
            "source": record.source,
            "run": record.run,
            "seed": record.seed,
            "n": n,
            "status": record.status,
            "fingerprint": record.fingerprint,
        }
        | {name: record.spec.get(name) for name in names}
        | {"base_lr": record.spec.get("lr")}
        | {name: record.spec["schedule"]["kind"] if name == "schedule" else record.spec.get(name) for name in columns}
    )


def curve_rows(artefact: str, groups: Groups, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One CSV row per run, seed and evaluation: its accuracy beside the mean and interval that are drawn."""
    rows = []
    for group in groups.values():
        data = curve(group)
        for record, values, imputed in zip(group, data.values, data.imputed, strict=True):
            logged = {round(float(row["epoch"]), 6): row for row in record.rows}
            for i, epoch in enumerate(data.epochs):
                row = logged.get(float(epoch), {})
                rows.append(
                    provenance(artefact, record, len(group), columns)
                    | {"epoch": epoch, "round": row.get("round"), "lr": row.get("lr")}
                    | {"accuracy_percent": values[i], "imputed_chance": int(imputed[i])}
                    | {"mean_percent": data.mean[i], "low_percent": data.low[i], "high_percent": data.high[i]}
                )
    return rows


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with one header line and ``\\n`` line ends.

    Numbers carry at most 8 significant digits, so that the last bits of a sum do not show; absent values are
    empty.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else value

"""The rows of CSV files: where each number comes from, and the rows of accuracy curves, from which figures draw."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.report.intervals import Interval, bounded, intervals
from repro.report.selection import Selection, setting
from repro.results.records import Record

Row = dict[str, Any]

SPAN = ("mean_percent", "low_percent", "high_percent")
"""Columns of a mean in percent and of its interval."""

_SETTINGS = (
    "method", "dataset", "train_images", "image_size", "evaluate_on", "width", "norm", "workers", "partition",
    "labels_per_client", "local_batch", "local_epochs", "epochs",
)  # fmt: skip

_UNEQUAL = (
    "run {}: seeds were evaluated at different epochs or never; the same epochs were expected; recompute stale records "
    "with `python -m repro sweep`"
)


class Rows(list[Row]):
    """Rows of one CSV file, as figures read them."""

    def where(self, **values: Any) -> Rows:
        """The rows that have these values."""
        return Rows(row for row in self if all(row[name] == value for name, value in values.items()))

    def seeds(self) -> list[Rows]:
        """The rows of each seed."""
        return [self.where(seed=seed) for seed in dict.fromkeys(row["seed"] for row in self)]

    def by_seed(self, name: str) -> np.ndarray:
        """(seeds, rows of a seed) the column ``name`` as floats.

        Raises:
            ReproError: seeds have different numbers of rows.
        """
        found = [seed.numbers(name)[0] for seed in self.seeds()]
        if len({len(values) for values in found}) > 1:
            raise ReproError(_UNEQUAL.format(self[0]["run"]))
        return np.array(found)

    def numbers(self, *names: str) -> np.ndarray:
        """(columns, rows) the columns ``names`` as floats; NaN where a row has no value."""
        return np.array([[np.nan if row[name] is None else row[name] for row in self] for name in names], float)

    def once(self, *names: str) -> np.ndarray:
        """As ``numbers``, of the first seed alone: what all seeds of a run share."""
        return self.seeds()[0].numbers(*names) if self else np.empty((len(names), 0))


def origin(artefact: str, record: Record, n: int, columns: Sequence[str] = ()) -> Row:
    """The columns with which the rows of trained runs begin: where the numbers of the row come from.

    Args:
        artefact: id.
        record: of the row.
        n: seeds of its run.
        columns: further fields of the spec; of a schedule its kind is given.
    """
    return (
        _identity(artefact, record)
        | {"n": n, "status": record.status, "fingerprint": record.fingerprint}
        | {name: record.spec.get(name) for name in _SETTINGS}
        | {"base_lr": record.spec.get("lr")}
        | {name: record.spec["schedule"]["kind"] if name == "schedule" else record.spec.get(name) for name in columns}
    )


def measured(artefact: str, record: Record, settings: Sequence[str], **more: Any) -> Row:
    """The columns with which the rows of measurements and of payloads begin; ``settings``: fields of the spec."""
    return (_identity(artefact, record) | more | {"fingerprint": record.fingerprint}) | {
        name: record.spec.get(name) for name in settings
    }


def _identity(artefact: str, record: Record) -> Row:
    return {
        "artefact": artefact, "profile": record.profile, "source": record.source, "run": record.run,
        "seed": record.seed,
    }  # fmt: skip


def span(values: Sequence[float], names: Sequence[str] = SPAN, of: Interval = bounded) -> Row:
    """Mean and interval of ``values``, in percent, as columns; None in each where there is no value.

    ``of``: ``intervals.interval`` for what may lie below 0 or above 100, such as a difference.
    """
    return dict(zip(names, of(values) if len(values) else (None,) * 3, strict=True))


@dataclass(frozen=True)
class Curve:
    """Accuracy of one run over epochs, in percent.

    Attributes:
        epochs: (E,) epochs at which the run was evaluated.
        values: (n, E) one row per seed; what a diverged seed did not reach stands at chance.
        imputed: (n, E) True where a value was set to chance because its seed had diverged.
        mean, low, high: (E,) mean and 95 % Student-t interval over seeds, cut at 0 and 100; NaN with n = 1.
        seeds: the n seeds, in the order of ``values``.
    """

    epochs: np.ndarray
    values: np.ndarray
    imputed: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: tuple[int, ...]


def curve(group: Sequence[Record], name: str = "test_top1") -> Curve:
    """Mean accuracy curve over the seeds of one run; ``name``: which accuracy of its rows.

    Raises:
        ReproError: completed seeds were not evaluated at the same epochs, so that no mean exists.
    """
    by_epoch = [{round(float(row["epoch"]), 6): 100.0 * row[name] for row in r.rows} for r in group]
    grids = {tuple(sorted(points)) for r, points in zip(group, by_epoch, strict=True) if r.status == "completed"}
    if len(grids) > 1 or () in grids:
        raise ReproError(_UNEQUAL.format(group[0].run))
    if grids:
        grid = grids.pop()
    else:  # every seed diverged: what was seen, then chance at the planned end
        seen = {epoch for points in by_epoch for epoch in points}
        grid = tuple(sorted(seen | {float(setting(group, "epochs"))}))
    missing = np.array([[epoch not in points for epoch in grid] for points in by_epoch])
    values = np.array(
        [[points.get(e, 100.0 * r.chance) for e in grid] for r, points in zip(group, by_epoch, strict=True)]
    )
    mean, low, high = intervals(values, bounded)
    return Curve(np.array(grid), values, missing, mean, low, high, tuple(r.seed for r in group))


def curves(*columns: str) -> Callable[[Selection], list[Row]]:
    """Rows of accuracy curves, with further ``columns`` from the spec: one per run, seed and evaluation."""
    return lambda chosen: curve_rows(chosen.artefact, chosen.values(), columns)


def curve_rows(artefact: str, groups: Iterable[Sequence[Record]], columns: Sequence[str] = ()) -> list[Row]:
    """One row per run, seed and evaluation: its accuracy beside the mean and interval that are drawn."""
    rows = []
    for group in groups:
        data = curve(group)
        for record, values, imputed in zip(group, data.values, data.imputed, strict=True):
            start = origin(artefact, record, len(group), columns)
            logged = {round(float(row["epoch"]), 6): row for row in record.rows}
            for i, epoch in enumerate(data.epochs):
                row = logged.get(float(epoch), {})
                rows.append(
                    start
                    | {"epoch": epoch, "round": row.get("round"), "lr": row.get("lr")}
                    | {"accuracy_percent": values[i], "imputed_chance": int(imputed[i])}
                    | dict(zip(SPAN, (data.mean[i], data.low[i], data.high[i]), strict=True))
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

"""Teachers of the paper (Equation 5): how well gradients of small batches can be predicted from those of large ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repro.registry.labels import number
from repro.report.artefact import table
from repro.report.intervals import interval, with_interval
from repro.report.notes import REDUCED, gaps, network_size, reduced_data, seeds
from repro.report.rows import Row, measured
from repro.report.selection import Selection
from repro.report.tables import ABSENT, Table
from repro.results import teachers
from repro.results.records import Record
from repro.results.teachers import ANOTHER, IDENTITY, LATER

RUN = "lb-teacher-resnet18"
_HELD_OUT = (LATER, ANOTHER)
_SETTINGS = ("dataset", "model", "image_size", "width", "norm", "train_images", "local_batch", "repetitions")


def _names(record: Record) -> list[str]:
    return list(dict.fromkeys(row["teacher"] for row in record.rows))


def _values(group: Sequence[Record], name: str, held_out: str, large: int, what: str) -> list[float]:
    return [100 * float(teachers.row(record, name, held_out, large)[what]) for record in group]


def _gains(group: Sequence[Record], name: str, held_out: str, large: int) -> list[float]:
    both = (_values(group, each, held_out, large, "r2") for each in (name, IDENTITY))
    return [ours - plain for ours, plain in zip(*both, strict=True)]


def _csv_rows(artefact: str, group: Sequence[Record], name: str, large: int) -> list[Row]:
    """One row per held-out set and seed."""
    rows = []
    for held_out in _HELD_OUT:
        values, gains = _values(group, name, held_out, large, "r2"), _gains(group, name, held_out, large)
        spans = {
            f"{called}_{end}": value
            for called, of in (("r2_percent", values), ("beyond_identity_points", gains))
            for end, value in zip(("mean", "low", "high"), interval(of), strict=True)
        }
        for record, value, gained in zip(group, values, gains, strict=True):
            found = teachers.row(record, name, held_out, large)
            rows.append(
                measured(artefact, record, _SETTINGS)
                | {"n": len(group), "teacher": name, "held_out": held_out}
                | {key: found[key] for key in ("small", "large", "pairs", "numbers")}
                | {"r2_percent": value, "beyond_identity_points": gained, "length_percent": 100 * found["length"]}
                | {key: None if np.isnan(end) else end for key, end in spans.items()}
            )
    return rows


@table("lb.teacher", title="Teachers: how well gradients of small batches are predicted", runs=(RUN,))
def predictions(groups: Selection) -> Table:
    """List what teachers predict of held-out gradients (statement lb.c32)."""
    group = groups[RUN]
    first, rows, csv_rows = group[0], list[list[str]](), list[Row]()
    for large in reversed(teachers.larges(first)):
        for name in _names(first):
            later, another = (
                with_interval(_values(group, name, held_out, large, "r2"), 1, interval) for held_out in (LATER, ANOTHER)
            )
            gained = ABSENT if name == IDENTITY else with_interval(_gains(group, name, LATER, large), 2, interval)
            length = with_interval(_values(group, name, LATER, large, "length"), 0, interval)
            kept = number(int(teachers.row(first, name, LATER, large)["numbers"]))
            rows.append([name, str(large), later, gained, another, length, kept])
            csv_rows += _csv_rows(groups.artefact, group, name, large)
    return Table(
        "lb.teacher: predicting the gradient of a small batch from that of a large one",
        ["teacher", "large batch", f"R², {LATER} (%)", "beyond the identity (points)", f"R², {ANOTHER} (%)",
         f"squared length, {LATER} (%)", "numbers kept"],
        rows,
        _notes(group),
        csv_rows,
    )  # fmt: skip


def _notes(group: Sequence[Record]) -> list[str]:
    first = group[0]
    spec, small = first.spec, first.rows[0]["small"]
    steps = [int(step) for step in spec["measured_steps"]]
    fitted, later = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    most = ", ".join(f"{number(100 * most_beyond(first, large), 1)} at {large}" for large in teachers.larges(first))
    pairs = number(len(fitted) * int(spec["repetitions"]))
    return [
        f"{first.profile} profile: {network_size(first)}, {number(int(spec['train_images']))} images, "
        f"{seeds([len(group)])}{'' if first.profile == 'paper' else REDUCED}{reduced_data(group)}.",
        "R² is 1 less the squared error over the squared norm of the small batch's gradient. Mean over seeds [95 % "
        f"Student-t interval]. Small batch: {small} images, none of which is in the large batch of its pair; "
        "training images only.",
        f"Trained on {pairs} pairs after steps {number(fitted[0])} to {number(fitted[-1])} of a training with batch "
        f"{spec['local_batch']}; held out: steps {number(later[0])} to {number(later[-1])} of it, and "
        "the first ones of a training with other initial weights and another order of images.",
        "Identity: the large batch's gradient as it is. Nothing predicts better than the gradient of all images, which "
        f"is less than (b/B + b/N) / (1 - b/N) above the identity (points: {most}; N: all training images); the last "
        "row of each batch comes near it. Teachers that add noise draw from a distribution, so that their squared "
        "error is larger by its variance; their squared length shows what it is for (100 %: that of a small batch).",
        *gaps({RUN: list(group)}),
    ]


def most_beyond(record: Record, large: int) -> float:
    """R2 that no teacher exceeds that of the identity by, for batches that share no image (ledger: lb-teacher).

    With the covariance C of one image's gradient, disjoint batches of b and B of N images differ by tr C (1/b + 1/B),
    and a small batch's gradient has at least the squared norm tr C (1/b - 1/N).
    """
    small, images = record.rows[0]["small"], int(record.spec["train_images"])
    return float((small / large + small / images) / (1 - small / images))

"""What devices of post 3 know of each class before and after their models are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.files import read_json
from repro.report import layout
from repro.report.artefact import figure
from repro.report.e3.runs import COLUMNS, SKEWED_RUNS, every
from repro.report.intervals import with_interval
from repro.report.layout import Axes, Figure
from repro.report.notes import gaps, stamp
from repro.report.rows import Row, Rows, origin
from repro.report.selection import Selection, completed, members, percent, recorded
from repro.results import metrics
from repro.results.records import Record


def forgetting_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed, device and class."""
    rows = []
    for group in chosen.values():
        for record in group:
            start = origin(chosen.artefact, record, len(group), COLUMNS)
            before = recorded(record, "clients_top1_by_class")
            if before is None:
                rows.append(start | dict.fromkeys(("device", "class", "own_class", "before_percent", "after_percent")))
                continue
            shards, after = (recorded(record, name) for name in ("classes_of_clients", "test_top1_by_class"))
            rows += [
                start
                | {"device": device + 1, "class": each, "own_class": int(each in shards[device])}
                | {"before_percent": percent(top1), "after_percent": percent(after[each])}
                for device, by_class in enumerate(before)
                for each, top1 in enumerate(by_class)
            ]
    return rows


def by_device(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Accuracy by class before and after the last aggregation of one run, mean over seeds, in percent.

    Returns:
        (devices, classes) of the devices' own models, (classes,) of the shared model, and (devices, classes) whether a
        class is a device's own; None if every seed diverged.

    Raises:
        ReproError: the seeds gave the devices different classes.
    """
    kept = Rows(row for row in rows if row["device"] is not None)
    if not kept:
        return None
    shape = max(row["device"] for row in kept), -1
    before, after, own = (
        np.array([seed.numbers(name).reshape(shape) for seed in kept.seeds()])
        for name in ("before_percent", "after_percent", "own_class")
    )
    if (own != own[0]).any():
        raise ReproError(
            f"run {kept[0]['run']}: devices have different classes in different seeds; the same ones were expected, or "
            "their mean has no meaning; recompute stale records with `python -m repro sweep`"
        )
    # Where there is no test image of a class, a value is NaN and its cell is left blank.
    return before.mean(axis=0), after.mean(axis=0)[0], own[0].astype(bool)


@figure(
    "e3.extra-forgetting", title="Accuracy by class of devices before and after averaging", runs=SKEWED_RUNS,
    rows=forgetting_rows,
)  # fmt: skip
def forgetting(groups: Selection, rows: Rows) -> Figure:
    """Draw each device's own model before averaging, and the shared model after it (statement e3.c7)."""
    notes = [
        "Accuracy by class at the end of the last round, mean over completed seeds: a row a device with its own "
        "model before aggregation, framed its own classes; at the bottom the shared model after aggregation.",
        *gaps(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("e3.extra-forgetting  What devices know before and after averaging", stamp(groups), notes),
        panels=[f"every {every(group)} batches" for group in groups.values()],
        legend_rows=2,
        right=0.85,
    )
    image, names = None, _class_names(groups)
    for axes, (run, group) in zip(panels, groups.items(), strict=True):
        image = _draw(axes, rows.where(run=run), group, names) or image
    panels[0].set_ylabel("device")
    if image is not None:
        bar = panels[-1].inset_axes((1.06, 0, 0.07, 1))
        figure.colorbar(image, cax=bar).set_label("test accuracy, top-1 (%)", fontsize=8)
        bar.tick_params(labelsize=7)
    return figure


def _class_names(groups: Selection) -> list[str]:
    """Of the data set, from its manifest."""
    (data,) = {record.data["name"] for record in members(groups)}
    return list(read_json(groups.root / f"data/manifests/{data}.json")["classes"])


def _draw(axes: Axes, rows: Rows, group: Sequence[Record], names: Sequence[str]) -> Any:
    """One run as an image with the ``names`` of classes, which is returned; None where every seed diverged."""
    from matplotlib.patches import Rectangle

    found = by_device(rows)
    axes.grid(False)
    if found is None:
        axes.text(0.5, 0.5, "every seed diverged", transform=axes.transAxes, ha="center")
        return None
    before, after, own = found
    devices, classes = before.shape
    shown = np.full((devices + 2, classes), np.nan)
    shown[:devices], shown[-1] = before, after
    image = axes.imshow(shown, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    for device, each in np.argwhere(own):
        corner = (each - 0.46, device - 0.46)
        for colour, width in (("#1A1A1A", 2.6), ("white", 1.1)):  # seen on any cell, in grey too
            axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=colour, linewidth=width, clip_on=False))
    axes.set_xticks(range(classes), names, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks([*range(devices), devices + 1], [*(str(d + 1) for d in range(devices)), "shared"])
    axes.tick_params(length=0, labelsize=6.5)
    known, unknown = (
        with_interval([100 * metric(record) for record in completed(group)])
        for metric in (metrics.own_classes_top1, metrics.other_classes_top1)
    )
    text = f"own classes {known} %\nothers {unknown} %"
    axes.text(0.0, 1.015, text, transform=axes.transAxes, fontsize=7, va="bottom", color="#444444")
    return image

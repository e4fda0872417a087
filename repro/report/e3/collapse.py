"""Why BatchNorm collapses on label-skewed data, which post 3 does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repro.experiments.sizes import local_steps
from repro.registry.labels import number
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.e3.layers import draw_by_layer, layer_axis, layer_rows
from repro.report.e3.runs import BN, BN_SKEWED, COLUMNS, split
from repro.report.intervals import interval
from repro.report.notes import OURS, gaps, stamp
from repro.report.rows import Row, Rows, origin
from repro.report.selection import Selection, completed, members, recorded, setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repro.results.records import Record

COLLAPSE_RUNS = (BN, BN_SKEWED)

MODES = {
    "all_running": "all classes,\nrunning",
    "mixed_batch": "all classes,\nof the batch",
    "own_batch": "own classes,\nof the batch",
    "training_batches": "training\nbatches",
}
"""Images, and the statistics with which they are normalised, in words."""


def _accuracies(record: Record) -> dict[str, float]:
    """Accuracy by ``MODES`` in percent, and on devices' own classes with the averaged running statistics."""
    found, last = recorded(record, "batch_statistics"), record.rows[-1]
    return {
        "all_running": 100 * last["test_top1"],
        "mixed_batch": 100 * found["mixed"],
        "own_batch": 100 * found["own_classes"],
        "training_batches": 100 * last["train_top1"],
        "own_running": 100 * float(found["own_classes_running"]),
    }


def collapse_rows(chosen: Selection) -> list[Row]:
    """As ``layer_rows``, and one row per run, seed and accuracy."""
    rows = layer_rows(chosen)
    for record in completed(members(chosen)):
        start = origin(chosen.artefact, record, len(chosen[record.run]), COLUMNS)
        rows += [
            start | {"layer": None, "quantity": f"{name}_percent", "value": value}
            for name, value in _accuracies(record).items()
        ]
    return rows


@figure(
    "e3.extra-collapse", title="Why BatchNorm collapses on label-skewed data", runs=COLLAPSE_RUNS, rows=collapse_rows
)  # fmt: skip
def collapse(groups: Selection, rows: Rows) -> Figure:
    """Draw one model normalised in several ways, and the spread in devices' batches (statement e3.c1)."""
    notes = [
        "Left: the last shared model on test images of all classes, or of one device's own classes (mean over "
        "devices), normalised with the running statistics or with those of the batch (about "
        f"{batch_of_probe(groups[BN])} images); beside them accuracy counted while training, over the last epoch: "
        f"augmented training images, batches of one device. {_twice_the_same(rows)}",
        "Right: mean over devices and channels of the standard deviation in the device's batch over that of all "
        f"batches. {_least_spread(groups, rows)}",
        f"Mean over seeds with 95 % Student-t interval. {OURS}",
        *gaps(groups),
    ]
    figure, (left, right) = layout.new(
        layout.Texts("e3.extra-collapse  Why BatchNorm collapses on label-skewed data", stamp(groups), notes),
        panels=("one model; images, and statistics used", "one device against all"),
        share_y=False,
        ratios=(1.6, 1.0),
    )
    _draw_modes(left, groups, rows)
    drawn = [draw_by_layer(right, rows, group, "std_ratio") for group in groups.values()]
    right.axhline(1, color=look.GREY, linewidth=1.0, linestyle=look.DOTTED, zorder=2)
    far = max((abs(float(y) - 1) for line in drawn for y in np.asarray(line.get_ydata(), float)), default=0.0)
    right.set_ylim(1 - 1.5 * max(far, 0.02), 1 + 0.5 * max(far, 0.02))
    layer_axis(right, "standard deviation, relative (no unit)")
    marks.legend(right, drawn, 1 if any("diverged" in str(line.get_label()) for line in drawn) else 2)
    return figure


def _draw_modes(axes: Axes, groups: Selection, rows: Rows) -> None:
    lines = []
    any_completed = bool(completed(members(groups)))
    for shift, (run, group) in zip((-0.1, 0.1), groups.items(), strict=True):
        style = look.of(run, "large_batch")
        lines += axes.plot([], [], **style.kwargs() | {"linestyle": "none"}, label=split(group))
        for place, mode in enumerate(MODES):
            found = rows.where(run=run, quantity=f"{mode}_percent").numbers("value")[0]
            if len(found):
                mean, low, high = interval(found)
                marks.whisker(axes, place + shift, low, high, style.colour, 1.4)
                axes.plot([place + shift], [mean], **style.kwargs(), zorder=3)
    names = list(MODES.values()) if any_completed else []
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_xlim(-0.5, max(len(names), 1) - 0.5)
    axes.set_ylabel("accuracy, top-1 (%)")
    axes.set_ylim(0, 100)
    marks.chance(axes, groups[BN], last=False)
    marks.legend(axes, lines, 2)


def batch_of_probe(group: Sequence[Record]) -> int:
    """Test images in a batch of the probe: as near to the devices' batch as an even split allows."""
    images = int(setting(group, "test_images"))
    return round(images / local_steps(images, int(setting(group, "local_batch"))))


def _twice_the_same(rows: Rows) -> str:
    """Why own classes with the averaged running statistics have no place of their own, and whether that is so."""
    own, every = (rows.where(quantity=f"{name}_percent").numbers("value")[0] for name in ("own_running", "all_running"))
    if not len(own):
        return ""
    return (
        "Own classes with running statistics would be the first value again, since these are the same for all devices "
        "and every class is on equally many of them, and are not drawn (largest difference "
        f"{number(float(np.abs(own - every).max()), 1)} points). "
    )


def _least_spread(groups: Selection, rows: Rows) -> str:
    """Reads the right panel: the layer and split with the least spread in a device's batch."""
    found: list[tuple[float, int, str]] = []
    for run, group in groups.items():
        ratios = rows.where(run=run, quantity="std_ratio").by_seed("value")
        if len(ratios):
            means = np.mean(ratios, axis=0)
            layer = int(np.argmin(means))
            found.append((float(means[layer]), layer + 1, split(group)))
    if not found:
        return ""
    ratio, layer, where = min(found)
    return (
        f"Its least value is {number(ratio, 2)} ({where}, layer {layer}): a device's batch alone has "
        f"{number(100 * (1 - ratio))} % less spread there than all batches together, and less is missing elsewhere."
    )

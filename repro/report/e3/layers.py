"""Normalisation in post 3: what it averages over, and why BatchNorm collapses on label-skewed data."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from repro.experiments.sizes import local_steps
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.e3.runs import BN, BN_SKEWED, COLUMNS, LAW, split
from repro.report.intervals import bounded, intervals
from repro.report.layout import Axes, Figure, Line2D
from repro.report.notes import INTERVAL, gaps, stamp
from repro.report.rows import Row, Rows, origin
from repro.report.selection import Selection, completed, members, only, recorded, setting
from repro.results.records import Record

_IMAGES, _CHANNELS = 4, 6
#: norm -> (what one statistic averages over, in words; rows; columns of the cells that share it)
AVERAGED: dict[str, tuple[str, str, range, range]] = {
    "batch": ("BatchNorm", "all images, one channel", range(_IMAGES), range(1, 2)),
    "layer": ("LayerNorm", "one image, all channels", range(1, 2), range(_CHANNELS)),
    "instance": ("InstanceNorm", "one image, one channel", range(1, 2), range(1, 2)),
    "group": ("GroupNorm", "one image, some channels", range(1, 2), range(_CHANNELS // 2)),
}


def layer_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed, layer and statistic; and per number of the law, where it is shown."""
    rows = []
    for run, group in chosen.items():
        for record in group:
            start = origin(chosen.artefact, record, len(group), COLUMNS)
            if run == LAW:
                numbers = {name: value for name, value in (record.law or {}).items() if isinstance(value, float)}
                rows += [start | {"layer": None, "quantity": name, "value": value} for name, value in numbers.items()]
                continue
            found = recorded(record, "batch_statistics")
            if found is None:
                rows.append(start | {"layer": None, "quantity": "diverged", "value": None})
                continue
            for quantity in ("mean_shift", "std_ratio"):
                pairs = zip(found["layers"], found[quantity], strict=True)
                rows += [start | {"layer": layer, "quantity": quantity, "value": value} for layer, value in pairs]
    return rows


def draw_by_layer(axes: Axes, rows: Rows, group: Sequence[Record], quantity: str) -> Line2D:
    """Mean over seeds of a statistic of every normalisation layer, with its band."""
    found = rows.where(run=group[0].run, quantity=quantity).by_seed("value")
    style, text = look.of_group(group), split(group)
    if not len(found):
        return axes.plot([], [], **style.kwargs(), label=f"{text}: diverged")[0]
    spread = np.maximum(intervals(found), 0)  # neither statistic lies below
    line = marks.curve(axes, np.arange(1, found.shape[1] + 1), spread, style, text, every=3)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.08 * float(np.nanmax([spread[0], spread[2]]))))
    return line


def layer_axis(axes: Axes, text: str) -> None:
    """Labels of axes on which layers stand."""
    axes.set_xlabel("BatchNorm layer, from input to output", fontsize=8)
    axes.set_ylabel(text, fontsize=8)


@figure(
    "e3.fig1", title="What normalisations average over, and statistics of one device against all",
    runs=(BN, BN_SKEWED, LAW), rows=layer_rows,
    details="Distances are measured in a training pass. The layers before have already normalised each device's batch "
    "alone, so that a layer sees only what has come apart again since: those in the middle look harmless.",
)  # fmt: skip
def averages(groups: Selection, rows: Rows) -> Figure:
    """Draw the cells that share a mean, and how far one device's batch means lie from those of all (e3.c8)."""
    trained = only(groups, (BN, BN_SKEWED))
    notes = [
        "Left: images × channels of one layer, a cell for all pixels; coloured cells share one mean and variance.",
        "Right: end of training, mean over devices and channels of |mean of the device's batch − mean of all|, in",
        "standard deviations over all; bands: 95 % Student-t interval over seeds, cut at 0.",
        *textwrap.wrap(_law_note(groups[LAW]), 104),  # capitals and minus signs are wider than other letters
        *gaps(trained),
    ]
    figure, (left, right) = layout.new(
        layout.Texts("e3.fig1  What a normalisation averages over", stamp(trained), notes),
        panels=("one mean and variance for", "one device against all"), share_y=False, ratios=(1.25, 1.0),
    )  # fmt: skip
    _teach(left)
    lines = [draw_by_layer(right, rows, group, "mean_shift") for group in trained.values()]
    layer_axis(right, "distance of means (standard deviations)")
    marks.legend(right, lines, 2)
    return figure


def _teach(axes: Axes) -> None:
    """Four grids of images x channels; coloured are the cells, each of H x W pixels, that share a mean and variance."""
    from matplotlib.patches import Rectangle

    axes.set_axis_off()
    across, down = _CHANNELS + 1.6, _IMAGES + 2.6
    for place, (norm, (name, words, rows, columns)) in enumerate(AVERAGED.items()):
        left, top = (place % 2) * across, -(place // 2) * down
        for row in range(_IMAGES):
            for column in range(_CHANNELS):
                colour = look.NORMS[norm].colour if row in rows and column in columns else "#D9D9D9"
                corner = (left + column, top - row - 1)
                axes.add_patch(Rectangle(corner, 1, 1, linewidth=0.8, edgecolor="white", facecolor=colour))
        axes.text(left, top + 0.85, name, fontsize=8.5, fontweight="bold", va="bottom")
        axes.text(left, top + 0.15, words, fontsize=7, color="#444444", va="bottom")
        axes.text(left - 0.25, top - _IMAGES / 2, "images", fontsize=7, rotation=90, va="center", ha="right")
        axes.text(left + _CHANNELS / 2, top - _IMAGES - 0.2, "channels", fontsize=7, va="top", ha="center")
    axes.set_xlim(-1, 2 * across - 1.2)
    axes.set_ylim(-2 * down + 1.3, 1.9)


def _law_note(group: Sequence[Record]) -> str:
    numbers = group[0].law or {}
    said = []
    for norm, (name, *_) in AVERAGED.items():
        found = [numbers.get(f"{norm}_{what}_difference") for what in ("mode", "batch")]
        if None not in found:
            said.append(
                f"{name} {found[0]:.1g} and {found[1]:.1g}".replace("-", "\u2212")
            )  # no hyphen to break a line at
    return (
        "Executed in float64 on a toy network, the largest change of an output from training to evaluation, and from "
        f"an image alone to the same image in a batch: {'; '.join(said)}."
    )


# Why BatchNorm collapses -------------------------------------------------------------------------------------------

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
    "e3.extra-collapse", title="Why BatchNorm collapses on label-skewed data", runs=COLLAPSE_RUNS, rows=collapse_rows,
    details="Accuracy on a device's own classes is the mean over devices. Accuracy while training is that of the last "
    "epoch, on augmented images in batches of one device.",
)  # fmt: skip
def collapse(groups: Selection, rows: Rows) -> Figure:
    """Draw one model normalised in several ways, and the spread in devices' batches (statement e3.c1)."""
    notes = [
        "Left: the last shared model on test images of all classes or of a device's own, normalised with running "
        f"statistics or with those of a batch of about {batch_of_probe(groups[BN])} images, and accuracy counted while "
        "training. Right: standard deviation in a device's batch over that of all batches, mean over devices and "
        f"channels; the frame cuts its bands. Both: mean over seeds with {INTERVAL}.",
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
                mean, low, high = bounded(found)
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

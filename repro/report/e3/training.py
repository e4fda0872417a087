"""Training of post 3 that it does not show: gradients of Fixup, training accuracy, how GroupNorm starts."""

from __future__ import annotations

import numpy as np

from repro.registry.labels import number
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.e3 import curves
from repro.report.e3.runs import BN, COLUMNS, FIXUP_RUNS, GN, LINEAR_RUNS, SHORT_RUNS, network, thin_lines, warm_up
from repro.report.intervals import bounded, intervals, points
from repro.report.layout import Axes, Figure, Line2D
from repro.report.notes import BAND, gaps, ours, stamp
from repro.report.rows import Row, Rows, curve, curve_rows, origin
from repro.report.selection import Selection, global_batch, only, series, setting
from repro.results import metrics
from repro.results.records import Record

DIVERGENCE_RUNS = (*FIXUP_RUNS[1:], *SHORT_RUNS, *LINEAR_RUNS)
_DRAWN_ROUNDS = 300  # of a series of one number a round; its CSV would else be larger than the record


def drawn_rounds(count: int) -> np.ndarray:
    """Indices of a series that are drawn: all of a short one, of a longer one about as many for each factor of ten."""
    if count <= _DRAWN_ROUNDS:
        return np.arange(count)
    return np.unique(np.round(np.geomspace(1, count, _DRAWN_ROUNDS)).astype(int)) - 1


def norm_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and drawn round."""
    rows = []
    for group in chosen.values():
        for record in group:
            start, norms = origin(chosen.artefact, record, len(group), COLUMNS), series(record, "gradient_norm")
            drawn = [{"round": int(at) + 1, "gradient_norm": norms[at]} for at in drawn_rounds(len(norms))]
            rows += [start | row for row in drawn or [{"round": None, "gradient_norm": None}]]
    return rows


@figure(
    "e3.extra-divergence", title="Norm of the gradient of Fixup by learning rate and warm-up", runs=DIVERGENCE_RUNS,
    rows=norm_rows,
)  # fmt: skip
def divergence(groups: Selection, rows: Rows) -> Figure:
    """Draw the norm in every round, by the last rate and by the length of the warm-up (statement e3.c5)."""
    sides = tuple(zip(FIXUP_RUNS[1:], SHORT_RUNS, LINEAR_RUNS, strict=True))
    notes = [
        "Above the panels: the learning rate in the warm-up, and its length. A line a seed, X where it diverged; of "
        "long runs some rounds are drawn.",
        *gaps(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("e3.extra-divergence  Fixup's gradient, by learning rate and warm-up", stamp(groups), notes),
        panels=[f"batch {number(global_batch(groups[side[0]]))}" for side in sides],
        legend_rows=3,
    )
    for axes, side in zip(panels, sides, strict=True):
        lines: list[Line2D] = []
        for run, style in zip(side, look.WARM_UPS.values(), strict=True):
            lines += axes.plot([], [], color=style.colour, linestyle=style.line, label=f"rate {warm_up(groups[run])}")
            marks.seeds(axes, rows.where(run=run), "round", "gradient_norm", style)
        axes.set_xlabel("round (one step of the shared model)", fontsize=8)
        marks.legend(axes, lines, 1)
    if any(np.any(np.asarray(line.get_ydata(), float) > 0) for axes in panels for line in axes.lines):
        for axes in panels:
            axes.set_xscale("log")
            marks.log_axis(axes)
            marks.plain_ticks(axes.xaxis)
    panels[0].set_ylabel("L2 norm of the gradient (no unit)")
    return figure


REGULARISATION_RUNS = (BN, GN)
TRAINED_RUNS = ("e3-gn-128", "e3-gn-128-unit-scale", "e3-none-128")
WIDE_RUNS = ("e3-gn-wide", "e3-gn-wide-unit-scale")


# Training against test accuracy -------------------------------------------------------------------------------


def _on_training_images(record: Record) -> float:
    """Accuracy of the last model on its training images, without augmentation, in percent; chance if it diverged."""
    return 100 * (metrics.final_top1(record) + metrics.regularisation_gap(record))


def regularisation_rows(chosen: Selection) -> list[Row]:
    """As the rows of a curve, with both training accuracies beside test accuracy; that of the last model at the end."""
    rows = []
    for group in chosen.values():
        train, last = curve(group, "train_top1"), {record.seed: _on_training_images(record) for record in group}
        values = iter(train.values.flat)
        for i, row in enumerate(curve_rows(chosen.artefact, [group], COLUMNS)):
            at = i % len(train.epochs)
            at_the_end = at == len(train.epochs) - 1
            row |= {"train_percent": next(values), "train_mean_percent": train.mean[at]}
            rows.append(row | {"train_images_percent": last[row["seed"]] if at_the_end else None})
    return rows


@figure(
    "e3.extra-regularisation", title="Training against test accuracy of BatchNorm and GroupNorm",
    runs=REGULARISATION_RUNS, rows=regularisation_rows,
    details="Accuracy counted while training is the mean over an epoch, on augmented images, with weights that still "
    "move and statistics of each batch.",
)  # fmt: skip
def regularisation(groups: Selection, rows: Rows) -> Figure:
    """Draw BatchNorm and GroupNorm on IID shards (statement e3.c10)."""
    notes = [
        "Above the panels: accuracy of the last model on its training images, not augmented (diamond), minus that on "
        "test images (end of the solid line), with its 95 % interval. Dotted: accuracy counted while training, which "
        f"has no part in that difference. {BAND}",
        *gaps(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("e3.extra-regularisation  Training against test accuracy", stamp(groups), notes),
        panels=[
            f"{network(run)}: {points([100 * metrics.regularisation_gap(r) for r in group])}"
            for run, group in groups.items()
        ],
        legend_rows=2,
    )
    for axes, (run, group) in zip(panels, groups.items(), strict=True):
        colour = look.of(
            run, "large_batch"
        ).colour  # of the network; marker and line say of which images, in both panels
        tested = marks.accuracy(axes, rows, group, "test images", look=look.Style(colour, "o", "-"))
        line, end = _draw_training(axes, rows.where(run=run), colour)
        marks.legend(axes, [tested, end, line], 2)
    marks.epoch_axes(panels, rows)
    panels[0].set_ylabel("accuracy, top-1 (%)")
    return figure


def _draw_training(axes: Axes, rows: Rows, colour: str) -> tuple[Line2D, Line2D]:
    """Accuracy counted while training, and that of the last model on its training images."""
    (epochs,) = rows.once("epoch")
    mean, low, high = intervals(rows.by_seed("train_percent"), bounded)
    (line,) = axes.plot(epochs, mean, color=colour, linestyle=(0, (1.2, 1.2)), label="counted while training")
    marks.shade(axes, epochs, low, high, colour)
    mean, low, high = bounded([row["train_images_percent"] for row in rows if row["epoch"] == epochs[-1]])
    marks.whisker(axes, epochs[-1], low, high, colour, 1.4, zorder=4)
    (end,) = axes.plot(
        epochs[-1:], [mean], color=colour, marker="D", markersize=7, markerfacecolor="white", linestyle="none",
        label="training images", zorder=5, clip_on=False,
    )  # fmt: skip
    return line, end


# How GroupNorm starts -------------------------------------------------------------------------------------------


def initialisation_rows(chosen: Selection) -> list[Row]:
    """The rows of the curves on the left, then one per seed and step of the losses on the right."""
    trained = curve_rows(chosen.artefact, only(chosen, TRAINED_RUNS).values(), COLUMNS)
    rows = [row | {"train_loss": None} for row in trained]
    for group in only(chosen, WIDE_RUNS).values():
        for record in group:
            start = dict.fromkeys(rows[0]) | origin(chosen.artefact, record, len(group), COLUMNS)
            steps = [{"round": at, "train_loss": loss} for at, loss in enumerate(record.series["train_loss"], 1)]
            rows += [start | step for step in steps or [{}]]
    return rows


@figure(
    "e3.extra-initialisation", title="GroupNorm with zero and unit last scale, and no normalisation",
    runs=(*TRAINED_RUNS, *WIDE_RUNS), group="control", rows=initialisation_rows,
)  # fmt: skip
def initialisation(groups: Selection, rows: Rows) -> Figure:
    """Draw blocks that start as the identity, and blocks with scales of one; their first steps at full width.

    On the left also the network without any normalisation.
    """
    trained, wide = only(groups, TRAINED_RUNS), groups[WIDE_RUNS[0]]
    size, width, classes = (*(int(setting(wide, name)) for name in ("image_size", "width")), wide[0].data["classes"])
    notes = [
        f"Left: batch {number(global_batch(groups[TRAINED_RUNS[0]]))}, mean over seeds with its 95 % Student-t "
        f"interval, cut at 0 and 100 %. Right: width {width}, {size} × {size} px, batch {number(global_batch(wide))}, "
        f"constant rate {wide[0].spec['lr']:g}, n = {len(wide)}; a line a seed, X where it diverged. A network that "
        f"guesses has a loss of ln {classes}.",
        *thin_lines(groups),
        *gaps(groups),
    ]
    heading = "e3.extra-initialisation  GroupNorm's last scale, and no normalisation"
    figure, (left, right) = layout.new(
        layout.Texts(heading, f"Left: {stamp(trained)}{ours(groups)}", notes),
        panels=("accuracy", f"first steps at width {width}"),
        legend_rows=4,
        right=0.5,
        share_y=False,
        ratios=(1.5, 1.0),
    )
    words = ("GroupNorm, last scale of a block zero", "GroupNorm, all scales one", "no normalisation")
    runs = zip(TRAINED_RUNS, words, strict=True)
    lines = [curves.draw(left, rows, groups[run], text, 2 * i, when=True) for i, (run, text) in enumerate(runs)]
    marks.chance(left, groups[TRAINED_RUNS[0]], last=False)
    marks.epoch_axes([left], Rows(row for row in rows if row["run"] in trained))
    chance = f"chance, {number(100 * groups[TRAINED_RUNS[0]][0].chance)} %"
    lines += left.plot([], [], color=look.GREY, linewidth=1.0, linestyle=look.DOTTED, label=chance)
    marks.legend(left, lines, 1)
    _first_steps(right, groups, rows, [text.removeprefix("GroupNorm, ") for text in words[:2]])
    marks.reference(right, float(np.log(classes)), f"ln {classes}")
    _loss_axis(right)
    return figure


def _first_steps(axes: Axes, groups: Selection, rows: Rows, words: list[str]) -> None:
    shown: list[Line2D] = []
    for run, text in zip(WIDE_RUNS, words, strict=True):
        style = look.of_group(groups[run])
        shown += axes.plot([], [], color=style.colour, linestyle=style.line, label=text)
        marks.seeds(axes, rows.where(run=run), "round", "train_loss", style)
    marks.legend(axes, shown, 1)


def _loss_axis(axes: Axes) -> None:
    marks.log_axis(axes)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (no unit)", fontsize=8)

"""Accuracy curves of post 3: splits, batches and synchronisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.e3.runs import (
    BN,
    BN_SKEWED,
    COLUMNS,
    FIXUP,
    FIXUP_RUNS,
    FIXUP_SKEWED,
    GN,
    GN_RUNS,
    GN_SKEWED,
    IID_RUNS,
    LINEAR_RUNS,
    OTHER_NORM_RUNS,
    SKEWED_RUNS,
    SYNCHRONISED,
    every,
    network,
    split,
    steps,
    thin_lines,
)
from repro.report.intervals import bounded
from repro.report.layout import Axes, Figure, Line2D
from repro.report.look import DOTTED, GREY, Style, of, of_group
from repro.report.notes import BAND, INTERVAL, gaps, stamp
from repro.report.rows import Rows, curves
from repro.report.selection import Selection, completed, finals, global_batch
from repro.results import metrics
from repro.results.records import Record

FIG2_RUNS = (BN, GN, FIXUP, BN_SKEWED, GN_SKEWED, FIXUP_SKEWED)
FIG3_RUNS = (*GN_RUNS, *OTHER_NORM_RUNS)
FIG4_RUNS = (*FIXUP_RUNS, *LINEAR_RUNS)
FIG5_RUNS = (*IID_RUNS, *SKEWED_RUNS)

RATES = (
    "Below: learning rate in the colours above, a line a seed until it diverged, one inside another where rates are "
    "the same."
)
_ROWS = curves(*COLUMNS)
PUBLISHED_SKEWED = 50
"""Accuracy of non-IID shards, synchronised every 10 batches, in percent (statement e3.c7)."""
_SKEWED = (0, (5.0, 1.2, 1.2, 1.2))


def draw(
    axes: Axes,
    rows: Rows,
    group: Sequence[Record],
    text: str,
    shift: int = 0,
    *,
    when: bool = False,
    look: Style | None = None,
) -> Line2D:
    """Mean and band of a run. Where a seed diverged, each seed as a thin line and an X at chance for every lost one.

    ``when``: the legend says at which epochs, for which there is room in figures of one panel; ``look``: another style
    than the run's own.

    Returns:
        What stands for the run in a legend.
    """
    from matplotlib.lines import Line2D

    lost = [found[1] for record in group if (found := metrics.divergence(record)) is not None]
    if not lost:
        return marks.accuracy(axes, rows, group, text, shift, look=look)
    style = look or of_group(group)
    seeds = rows.where(run=group[0].run, imputed_chance=0).seeds()
    for seed in seeds:
        axes.plot(*seed.numbers("epoch", "accuracy_percent"), color=style.colour, linestyle=style.line, linewidth=0.9,
                  zorder=3)  # fmt: skip
    ends = dict.fromkeys(number(epoch, 1) for epoch in (min(lost), max(lost)))
    said = f"{text}: {len(lost)} of {len(group)} diverged" + (f", at epoch {' to '.join(ends)}" if when else "")
    marks.cross(axes, lost, [100 * group[0].chance] * len(lost), style.colour, label=said)
    shown: dict[str, Any] = {"linestyle": style.line if seeds else "none", "linewidth": 0.9, "label": said}
    return Line2D([], [], color=style.colour, marker="X", markersize=8, markeredgecolor="white", **shown)


def _chance(panels: Sequence[Axes], groups: Selection) -> None:
    for axes in panels:
        marks.chance(axes, next(iter(groups.values())), last=axes is panels[-1])


@figure("e3.fig2", title="Three networks on IID and on label-skewed data", runs=FIG2_RUNS, rows=_ROWS)
def splits(groups: Selection, rows: Rows) -> Figure:
    """Draw three networks whose gradients are averaged in every round (statements e3.c1, e3.c2)."""
    sides = (FIG2_RUNS[:3], FIG2_RUNS[3:])
    columns = 1 if thin_lines(groups) else 2  # the legend also says how many seeds diverged
    notes = [
        f"{BAND} Ten devices, gradients averaged in every round; evaluated with averaged running statistics.",
        *thin_lines(groups),
        *gaps(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("e3.fig2  Networks on IID and on label-skewed data", stamp(groups), notes),
        panels=[split(groups[side[0]]) for side in sides],
        legend_rows=4 // columns,
        right=0.62,
    )
    for axes, side in zip(panels, sides, strict=True):
        lines = [
            draw(axes, rows, groups[run], network(run), 2 * i, look=of_group(groups[iid]))
            for i, (run, iid) in enumerate(zip(side, sides[0], strict=True))
        ]
        if side is sides[1]:
            beside = Style(GREY, ".", DOTTED)
            lines.append(draw(axes, rows, groups[BN], f"{network(BN)} on IID data", 6, look=beside))
        marks.legend(axes, lines, columns)
    _chance(panels, groups)
    marks.epoch_axes(panels, rows)
    return figure


def _rates(axes: Axes, groups: Selection, runs: Sequence[str]) -> None:
    """The learning rate of each seed until it diverged: its warm-up, a straight line, then what was logged.

    A logged rate is that of the epochs since the evaluation before. The first run is drawn wide, the next ones narrower
    inside of it, so that none is hidden where rates are the same; colours are those of the legend above.
    """
    for before, run in enumerate(runs):
        colour, left = of_group(groups[run]).colour, 1 - before / max(1, len(runs) - 1)
        for record in groups[run]:
            schedule, lost = record.spec["schedule"], metrics.divergence(record)
            end, warm = lost[1] if lost else float("inf"), schedule.get("warmup_epochs", 0.0)
            first = schedule.get("warmup_from", schedule["lr"])
            epochs = list(np.linspace(0, min(warm, end), 40))
            rates = list(first + (schedule["lr"] - first) * np.array(epochs) / (warm or 1.0))
            logged = [(row["epoch"], row["lr"]) for row in record.rows if row["epoch"] > warm]
            if not logged and end > warm:
                logged = [(end, schedule["lr"])]
            for epoch, rate in logged:
                epochs, rates = [*epochs, epochs[-1], epoch], [*rates, rate, rate]
            if end > 0:
                axes.plot(epochs, rates, color=colour, linewidth=1.2 + 4.8 * left, label=f"_{run}",
                          solid_capstyle="butt", zorder=3)  # fmt: skip


@figure("e3.fig3", title="GroupNorm, LayerNorm and InstanceNorm by batch", runs=FIG3_RUNS, rows=_ROWS)
def within_an_image(groups: Selection, rows: Rows) -> Figure:
    """Draw normalisations within an image by batch, with their learning rates (statement e3.c3)."""
    notes = [f"{BAND} {RATES}", steps(groups, GN_RUNS), *thin_lines(groups), *gaps(groups)]
    figure, axes = layout.new(
        layout.Texts("e3.fig3  Normalisation within an image, by batch", stamp(groups), notes),
        panels=("GroupNorm", "LayerNorm and InstanceNorm"),
        legend_rows=3,
        right=0.62,
        lower=1.2,
    )
    upper, lower = axes[:2], axes[2:]
    batches = {run: number(global_batch(groups[run])) for run in FIG3_RUNS}
    for one, below, runs in zip(upper, lower, (GN_RUNS, OTHER_NORM_RUNS), strict=True):
        several = runs is OTHER_NORM_RUNS
        words = {run: f"{network(run) if several else 'batch'} {batches[run]}" for run in runs}
        lines = [draw(one, rows, groups[run], words[run], 2 * i) for i, run in enumerate(runs)]
        _rates(below, groups, runs)
        marks.legend(one, lines, 2)
    _chance(upper, groups)
    marks.epoch_axes(upper, rows)
    marks.label_below(upper, lower)
    marks.rate_axis(figure, lower)
    return figure


@figure("e3.fig4", title="Fixup by batch, and where it diverged", runs=FIG4_RUNS, rows=_ROWS)
def fixup(groups: Selection, rows: Rows) -> Figure:
    """Draw Fixup by batch, also with rates in proportion to the batch (statements e3.c4, e3.c5)."""
    notes = [f"{BAND} {RATES}", steps(groups, FIXUP_RUNS), *thin_lines(groups), *gaps(groups)]
    figure, (upper, lower) = layout.new(
        layout.Texts("e3.fig4  Fixup by batch", stamp(groups), notes), legend_rows=5, right=0.62, lower=1.2
    )
    words = {run: f"batch {number(global_batch(groups[run]))}" for run in FIG4_RUNS}
    words |= {run: f"{words[run]}, rate {groups[run][0].spec['lr']:g} (linear scaling)" for run in LINEAR_RUNS}
    lines = [draw(upper, rows, groups[run], words[run], 2 * i, when=True) for i, run in enumerate(FIG4_RUNS)]
    _rates(lower, groups, FIG4_RUNS)
    _chance([upper], groups)
    marks.epoch_axes([upper], rows)
    marks.label_below([upper], [lower])
    marks.rate_axis(figure, [lower])
    marks.legend(upper, lines, 1)
    return figure


@figure("e3.fig5", title="Federated averaging with GroupNorm by synchronisation", runs=FIG5_RUNS, rows=_ROWS)
def synchronisation(groups: Selection, rows: Rows) -> Figure:
    """Draw runs by the local batches between two synchronisations (statements e3.c7, e3.c9)."""
    notes = [
        "Lines: mean over seeds, in brackets rounds in all. Right: their last tenth, with its "
        f"{INTERVAL}; 40 batches are ours. Dashes: what the post gives for non-IID shards, every 10 batches.",
        *thin_lines(groups),
        *gaps(groups),
    ]
    figure, (left, right) = layout.new(
        layout.Texts("e3.fig5  Federated averaging with GroupNorm", stamp(groups), notes),
        panels=("accuracy against epochs", "at the end"),
        legend_rows=5,
        right=0.62,
        ratios=(2.2, 1.0),
    )
    words = {
        run: f"{'IID' if run in IID_RUNS else 'non-IID'}, every {every(group)} batches ({_rounds(group)})"
        for run, group in groups.items()
    }
    lines = [draw(left, rows, groups[run], words[run], 2 * i) for i, run in enumerate(FIG5_RUNS)]
    for band in list(left.collections):  # five of them would lie on top of each other
        band.remove()
    _ends(right, groups, IID_RUNS, "-", 0.93)
    _ends(right, groups, SKEWED_RUNS, _SKEWED, 1.07)
    marks.published(left, PUBLISHED_SKEWED)
    marks.published(right, PUBLISHED_SKEWED, f"post\n{PUBLISHED_SKEWED} %")
    marks.epoch_axes([left], rows)
    right.set_xscale("log")
    marks.plain_ticks(right.xaxis, SYNCHRONISED)
    right.set_xlim(7, 215)
    right.set_xlabel("local batches in a round")
    _chance([left, right], groups)
    marks.legend(left, lines, 1)
    marks.legend(
        right,
        [
            right.plot([], [], color=GREY, linewidth=0.8, linestyle=dash, label=words)[0]
            for words, dash in (("IID", "-"), ("non-IID", _SKEWED))
        ],
        1,
    )
    return figure


def _rounds(group: Sequence[Record]) -> str:
    """Rounds of the completed seeds of a run, in words."""
    ends = sorted({int(record.rows[-1]["round"]) for record in completed(group)})
    if not ends:
        return "no round completed"
    return " or ".join(map(number, ends)) + (" round" if ends == [1] else " rounds")


def _ends(
    axes: Axes, groups: Selection, runs: Sequence[str], line: str | tuple[int, tuple[float, ...]], shift: float
) -> None:
    """Accuracy at the end of runs against the local batches in a round, joined by a ``line``.

    ``shift``: of points on the logarithmic axis, so that those of both splits stand side by side.
    """
    places, means = [shift * every(groups[run]) for run in runs], []
    for run, place in zip(runs, places, strict=True):
        style = of(run, "federated")
        mean, low, high = bounded(finals(groups[run]))
        marks.whisker(axes, place, low, high, style.colour)
        axes.plot([place], [mean], **style.kwargs(), zorder=3)
        means.append(mean)
    axes.plot(places, means, color=GREY, linewidth=0.8, zorder=1, linestyle=line)

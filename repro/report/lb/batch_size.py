"""Accuracy and gradients of the paper by batch size: figures 3 and 6."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.intervals import intervals
from repro.report.lb.paths import POINTS, draw_path, of_run, path_rows, thinned
from repro.report.lb.runs import BATCHES, MODELS, STEPPED, batch_run, lb_origin, titles
from repro.report.look import of
from repro.report.notes import BAND, gaps_of_many, stamp_by_network
from repro.report.rows import SPAN, Row, Rows
from repro.report.selection import Groups, Selection, completed, diverged, series
from repro.results.measurements import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIG3_RUNS = tuple(batch_run(model, batch) for model in MODELS for batch in BATCHES[model])
FIG6_RUNS = tuple(batch_run(model, batch) for model in STEPPED for batch in BATCHES[model])
_EARLY = 1000  # iterations of figure 6, at most


def accuracy_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and evaluation."""
    return [row for group in chosen.values() for row in path_rows(chosen.artefact, group)]


@figure("lb.fig3", title="Test accuracy by batch size", runs=FIG3_RUNS, rows=accuracy_rows)
def accuracy(groups: Selection, rows: Rows) -> Figure:
    """Draw it over iterations and over training images seen (statement lb.c6)."""
    notes = [
        f"{BAND} The paper does not say what its axis is. Above: equal iterations, logarithmic axis. Below: equal "
        "images. All runs of a network see the same number of images; dotted: chance.",
        *gaps_of_many(groups),
    ]
    figure, (upper, lower) = layout.rows(
        layout.Texts("lb.fig3  Test accuracy by batch size", stamp_by_network(groups), notes),
        panels=titles(groups, MODELS), heights=(2.1, 2.1), legend_rows=4,
    )  # fmt: skip
    for above, below, model in zip(upper, lower, MODELS, strict=True):
        lines = []
        for i, batch in enumerate(BATCHES[model]):
            run, text = batch_run(model, batch), f"batch {batch}"
            at, images, *spread = of_run(rows, run, "iteration", "images_seen", *SPAN)
            lines.append(draw_path(above, at, np.array(spread), groups[run], text, shift=i))
            draw_path(below, images / 1000, np.array(spread), groups[run], text, shift=i, images=True)
        marks.legend(above, lines, 1)
        _axes(above, below)
        for axes in (above, below):
            marks.chance(axes, groups[batch_run(model)], last=False)
    for row in (upper, lower):
        row[0].set_ylabel("test accuracy, top-1 (%)", fontsize=8)
        marks.percent_axis(row[0])
    return figure


def _axes(above: Axes, below: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    above.set_xscale("log")
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    above.xaxis.set_minor_formatter(NullFormatter())
    above.tick_params(axis="x", labelsize=7)
    above.set_xlabel("iterations", fontsize=8)
    below.set_xlabel("training images seen (thousands)", fontsize=8)
    below.set_xlim(left=0)
    below.xaxis.set_major_locator(MaxNLocator(4))


def _early(groups: Groups, model: str) -> int:
    """Iterations that every completed run of a network has, at most ``_EARLY``."""
    runs = [groups[batch_run(model, batch)] for batch in BATCHES[model]]
    lengths = [len(series(record, "gradient_norm")) for group in runs for record in completed(group)]
    return min([_EARLY, *lengths])


def norm_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and drawn iteration; one without numbers for a seed that diverged."""
    rows = []
    names = ("iteration", "cumulative_norm", "mean", "low", "high")
    for model in STEPPED:
        early = _early(chosen, model)
        at = thinned(early)
        for group in (chosen[batch_run(model, batch)] for batch in BATCHES[model]):
            start = {record.seed: lb_origin(chosen.artefact, record, len(group)) for record in group}
            rows += [start[record.seed] | dict.fromkeys(names) for record in diverged(group)]
            if not (kept := completed(group)):
                continue
            values = np.array([np.cumsum(series(record, "gradient_norm")[:early])[at] for record in kept])
            spread = intervals(values)
            rows += [
                start[record.seed] | dict(zip(names, (place, *numbers), strict=True))
                for record, own in zip(kept, values, strict=True)
                for place, *numbers in zip((at + 1).tolist(), own, *spread, strict=True)
            ]
    return rows


@figure("lb.fig6", title="Gradient norm in early training", runs=FIG6_RUNS, rows=norm_rows)
def gradient_norm(groups: Selection, rows: Rows) -> Figure:
    """Draw the cumulative norm in early training (statement lb.c10)."""
    spans = ", ".join(f"{number(_early(groups, model))} of {TITLES[model]}" for model in STEPPED)
    notes = [
        f"Sum of the L2 norms of the gradients so far. {BAND} Shown are the first {number(_EARLY)} iterations, or "
        f"as many as every batch size has ({spans}); of a longer curve {POINTS} points.",
        *gaps_of_many(groups, "left out"),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts("lb.fig6  Gradient norm in early training", stamp_by_network(groups), notes),
        panels=titles(groups, STEPPED), heights=(2.8,), legend_rows=2, share_y=False,
    )  # fmt: skip
    for axes, model in zip(panels, STEPPED, strict=True):
        lines = []
        for i, batch in enumerate(BATCHES[model]):
            run, text = batch_run(model, batch), f"batch {batch}"
            style, own = of(run, "central"), rows.where(run=run, status="completed")
            if not own:
                lines += axes.plot([], [], **style.kwargs(), label=f"{text}: diverged")
                continue
            at, *spread = own.once("iteration", "mean", "low", "high")
            every = max(1, len(at) // 8)
            lines.append(marks.curve(axes, at, np.array(spread), style, text, every=every, shift=2 * i))
        axes.set_xlabel("iterations", fontsize=8)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        marks.legend(axes, lines, 2)
    panels[0].set_ylabel("cumulative gradient norm (no unit)", fontsize=8)
    return figure

"""Sharpness of the minima that the paper's networks find, by batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.intervals import interval
from repro.report.lb.batch_size import FIG3_RUNS
from repro.report.lb.runs import BATCHES, MODELS, OURS, batch_run, lb_origin, titles
from repro.report.look import of
from repro.report.notes import gaps_of_many, span, stamp_by_network
from repro.report.rows import Row, Rows
from repro.report.selection import Selection, named, recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPAN = ("geometric_mean", "low", "high")


def _above_zero(rows: Rows) -> list[float]:
    """Eigenvalues of which a logarithm can be taken."""
    found = [row["top_eigenvalue"] for row in rows]
    return [float(value) for value in found if value is not None and value > 0]


def sharpness_rows(chosen: Selection) -> list[Row]:
    """One row per run and seed, with the training loss and the iterations behind the eigenvalue."""
    rows = []
    for group in chosen.values():
        own = Rows()
        for record in group:
            eigenvalue = recorded(record, "hessian_top_eigenvalue")
            last = record.rows[-1] if record.status == "completed" else {}
            names = ("hessian_iterations", "hessian_converged", "hessian_images", "train_loss")
            own.append(
                lb_origin(chosen.artefact, record, len(group))
                | {"iterations": last.get("round"), "top_eigenvalue": eigenvalue}
                | {name: last.get(name) for name in names}
            )
        found = _above_zero(own)
        ends = np.exp(interval(np.log(found))).tolist() if found else [None] * 3
        rows += [row | dict(zip(_SPAN, ends, strict=True)) for row in own]
    return rows


@figure("lb.extra-sharpness", title="Sharpness of minima by batch size", runs=FIG3_RUNS, rows=sharpness_rows)
def sharpness(groups: Selection, rows: Rows) -> Figure:
    """Draw the top Hessian eigenvalue at the end of training (statement lb.c19)."""
    ended = rows.where(status="completed")
    below = [name for name, own in _by_run(groups, ended) if len(_above_zero(own)) < len(own)]
    unsettled = [name for name, own in _by_run(groups, ended) if not all(row["hessian_converged"] for row in own)]
    images = {int(row["hessian_images"]) for row in ended}
    notes = [
        "Top eigenvalue of the Hessian of the mean training loss, by power iteration, on "
        f"{span(images) if images else 'no'} training images. Dots: seeds. Large markers: geometric mean, "
        "with its 95 % Student-t interval. Logarithmic axes. Equal images are fewer iterations of a larger batch, "
        f"which may not be at a minimum yet: the CSV has the training loss. {OURS}",
        *([f"Not above 0, so not on this axis: {', '.join(below)}."] if below else []),
        *([f"Not settled after the last product with the Hessian: {', '.join(unsettled)}."] if unsettled else []),
        *gaps_of_many(groups, "no eigenvalue"),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts("lb.extra-sharpness  Sharpness of minima by batch size", stamp_by_network(groups), notes),
        panels=titles(groups, MODELS), heights=(2.6,), legend_rows=0,
    )  # fmt: skip
    for axes, model in zip(panels, MODELS, strict=True):
        for batch in BATCHES[model]:
            _draw(axes, rows.where(run=batch_run(model, batch)), batch)
        axes.set_xscale("log", base=2)
        axes.set_xlim(20, 1900)
        marks.plain_ticks(axes.xaxis, BATCHES[model])
        axes.tick_params(axis="x", labelsize=7)
        axes.set_xlabel("batch size (images)", fontsize=8)
    if _above_zero(rows):
        _eigenvalue_axis(panels[0])
    panels[0].set_ylabel("top Hessian eigenvalue (no unit)", fontsize=8)
    return figure


def _by_run(groups: Selection, rows: Rows) -> list[tuple[str, Rows]]:
    return [(named(group), rows.where(run=run)) for run, group in groups.items()]


def _draw(axes: Axes, rows: Rows, batch: int) -> None:
    """Seeds as dots, and their geometric mean with its interval."""
    found, style = _above_zero(rows), of(rows[0]["run"], "central")
    if not found:
        return
    axes.plot([batch * 1.35] * len(found), found, color=style.colour, marker=".", markersize=4,
              linestyle="none", zorder=2)  # fmt: skip
    mean, low, high = rows.once(*_SPAN)[:, 0]
    marks.whisker(axes, batch, low, high, style.colour, 1.3)
    axes.plot([batch], [mean], **style.kwargs() | {"markersize": 7}, zorder=3)


def _eigenvalue_axis(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    least, most = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0) if most < 100 * least else (1.0,)))
    marks.plain_ticks(axes.yaxis)

"""Fixup's gradient by learning rate and warm-up, which post 3 does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repro.registry.labels import number
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.e3.runs import COLUMNS, FIXUP_RUNS, LINEAR_RUNS, SHORT_RUNS, warm_up
from repro.report.notes import OURS, gaps, stamp
from repro.report.rows import Row, Rows, origin
from repro.report.selection import Selection, global_batch, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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
        "Above the panels: the learning rate in the warm-up, and its length. A line a seed, X where it diverged. "
        f"Of long runs some rounds are drawn. {OURS}",
        *gaps(groups),
    ]
    figure, panels = layout.new(
        layout.Texts("e3.extra-divergence  Fixup's gradient, by learning rate and warm-up", stamp(groups), notes),
        panels=[f"batch {number(global_batch(groups[side[0]]))}" for side in sides],
        legend_rows=3,
    )
    for axes, side in zip(panels, sides, strict=True):
        lines: list[Line2D] = []
        for run in side:
            style = look.of_group(groups[run])
            lines += axes.plot([], [], color=style.colour, linestyle=style.line, label=f"rate {warm_up(groups[run])}")
            marks.seeds(axes, rows.where(run=run), "round", "gradient_norm", style)
        axes.set_xlabel("round (one step of the shared model)", fontsize=8)
        marks.legend(axes, lines, 1)
    if any(np.any(np.asarray(line.get_ydata(), float) > 0) for axes in panels for line in axes.lines):
        for axes in panels:
            axes.set_xscale("log")
            axes.set_yscale("log")
    panels[0].set_ylabel("L2 norm of the gradient (no unit)")
    return figure

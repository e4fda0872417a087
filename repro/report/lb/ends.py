"""Accuracy at the end of the paper's runs against the step-up factor, for figures of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from repro.report import marks
from repro.report.lb.runs import FACTORS, Case, iterations, lb_origin, stepped_runs
from repro.report.look import Style
from repro.report.rows import SPAN, Row, Rows, span
from repro.report.selection import Groups, Selection, finals, percent, setting
from repro.results import metrics
from repro.results.measurements import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

AT_X = tuple(f"at_x_{name}" for name in SPAN)
"""Columns of the share of iterations at X, mean over seeds with its interval."""

Points = Sequence[tuple[float, str]]
"""Factor and run."""


def end_rows(chosen: Selection) -> list[Row]:
    """One row per run and seed: accuracy at the end, and the share of iterations at X where there is a gate."""
    rows = []
    for group in chosen.values():
        shares = [metrics.step_up_share(record) if "step_up" in record.spec else None for record in group]
        known = [100 * share for share in shares if share is not None]
        rows += [
            lb_origin(chosen.artefact, record, len(group))
            | {"iterations": iterations(group)}
            | {"accuracy_percent": final, "imputed_chance": int(record.status == "diverged")}
            | span(finals(group))
            | {"iterations_at_x_percent": percent(share)}
            | span(known, AT_X)
            for record, final, share in zip(group, finals(group), shares, strict=True)
        ]
    return rows


def draw_ends(
    axes: Axes, rows: Rows, points: Points, look: Style, text: str, shift: float = 1.0
) -> Line2D:  # fmt: skip
    """Final accuracy of runs against a factor: mean and interval over seeds, and an X where a seed diverged.

    ``shift``: of points on the logarithmic axis, so that those of one factor stand side by side.
    """
    own = [rows.where(run=run) for _, run in points]
    x = np.array([at * shift for at, _ in points])
    spread = np.array([found.once(*SPAN)[:, 0] for found in own]).T
    more = {"linestyle": "none"} if len(x) == 1 else {}
    line = _draw(axes, x, spread, look, label=text, **more)
    lost = [any(row["imputed_chance"] for row in found) for found in own]
    if any(lost):
        marks.cross(axes, x[lost], spread[0][lost], look.colour, markersize=6)
    return line


def draw_shares(axes: Axes, rows: Rows, points: Points, look: Style, shift: float) -> None:
    """Share of the iterations at X against the factor."""
    known = [(at * shift, *rows.where(run=run).once(*AT_X)[:, 0]) for at, run in points]
    x, *spread = np.array([point for point in known if not np.isnan(point[1])]).reshape(-1, 4).T
    if len(x):
        _draw(axes, x, np.array(spread), look)


def _draw(axes: Axes, x: np.ndarray, spread: np.ndarray, look: Style, **more: str) -> Line2D:
    (line,) = axes.plot(x, spread[0], **look.kwargs() | {"linewidth": 1.3, "markersize": 4} | more, zorder=3)
    marks.errors(axes, x, spread, look.colour, 2, elinewidth=1.0)
    return line


def panel(groups: Groups, case: Case, ending: str = "") -> str:
    """Title of a panel: network and threshold."""
    step_up = setting(groups[stepped_runs(*case)[1] + ending], "step_up")
    return f"{TITLES[case[0]]}, threshold {step_up['threshold']:g}"


def factor_axis(axes: Axes, text: str, least: float = 1.0) -> None:
    """A logarithmic axis of step-up factors, or of factors of the learning rate, from ``least`` up."""
    marks.log2_axis(axes, [factor for factor in (0.25, 1, *FACTORS) if factor >= least])
    axes.set_xlabel(text, fontsize=8)

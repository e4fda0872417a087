"""Step-up factors at two learning rates, of which the paper states none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.lb.ends import draw_ends, end_rows, factor_axis, panel
from repro.report.lb.runs import (
    BATCHES,
    CASES,
    FACTORS,
    LOW,
    OURS,
    STEPPED,
    batch_run,
    factor,
    given,
    small_run,
    stepped_runs,
)
from repro.report.look import Style
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Rows
from repro.report.selection import Selection, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALONE = "lb-step-resnet50-t08-x8"
"""The one run of ResNet50 at the higher threshold."""
LOW_RATE_RUNS = tuple(dict.fromkeys((
    *(run + ending for case in CASES for ending in ("", LOW) for run in (*stepped_runs(*case), small_run(case[0]))),
    ALONE,
)))  # fmt: skip

_LOOKS = (Style("#B8352F", "D", "-"), Style("#1A4E8A", "s", (0, (5.0, 1.5)), filled=False))
_BESIDE = (0.92, 1.08)
"""Shifts of points that belong to one factor."""


@figure("lb.extra-low-rate", title="Step-up factors at two learning rates", runs=LOW_RATE_RUNS, rows=end_rows)
def low_rate(groups: Selection, rows: Rows) -> Figure:
    """Draw accuracy at the end against the step-up factor (statements lb.c11 to c14, c18, c31)."""
    notes = [
        f"Accuracy at the end of equally many iterations ({given(groups, STEPPED)}) at batch 1024, the gradient "
        "times X where its squared norm has changed by the threshold or more; X = 1: no step-up. The paper states no "
        "rate. Left of 1 stands the small batch, with the same images. A cross marks what diverged in a seed. Points "
        f"side by side belong to one factor. Bars: 95\u00a0% Student-t interval over seeds. {OURS}",
        *gaps_of_many(groups),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts("lb.extra-low-rate  Step-up factors at two learning rates", stamp_by_network(groups), notes),
        panels=[panel(groups, case) for case in CASES], heights=(2.9,), legend_rows=3, right=0.72,
    )  # fmt: skip
    for axes, case in zip(panels, CASES, strict=True):
        model, lines = case[0], []
        for ending, style, shift in zip(("", LOW), _LOOKS, _BESIDE, strict=True):
            points = [(factor(groups[run + ending]), run + ending) for run in stepped_runs(*case)]
            rate = float(setting(groups[points[0][1]], "lr"))
            lines.append(draw_ends(axes, rows, points, style, f"learning rate {rate:g}", shift))
            draw_ends(axes, rows, [(0.4, small_run(model) + ending)], style, "", shift)
        if case == CASES[0]:
            beside, threshold = groups[ALONE], setting(groups[ALONE], "step_up")["threshold"]
            text = f"threshold {threshold:g}, rate {float(setting(beside, 'lr')):g}"
            style = Style("#6F6F6F", "^", "-")
            lines.append(draw_ends(axes, rows, [(factor(beside), ALONE)], style, text, 1.2))
        marks.legend(axes, lines, 1)
        marks.chance(axes, groups[batch_run(model)], last=axes is panels[-1])
        axes.axvline(0.63, color="#BBBBBB", linewidth=0.8, zorder=1)
        axes.set_xlim(0.28, 23)
        factor_axis(axes, "step-up factor X")
        ticks = [0.4, 1, *FACTORS]
        axes.set_xticks(ticks, [f"b {BATCHES[model][0]}", *(f"{each}" for each in ticks[1:])])
    marks.percent_axis(panels[0])
    panels[0].set_ylabel("test accuracy at the end, top-1 (%)", fontsize=8)
    return figure

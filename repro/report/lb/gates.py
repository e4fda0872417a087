"""When gradients are stepped up: two readings of the paper's step function, and what its gate is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.lb.ends import Points, draw_ends, draw_shares, end_rows, factor_axis, panel
from repro.report.lb.runs import (
    CASES,
    FACTORS,
    LOW,
    OURS,
    STEPPED,
    Case,
    batch_run,
    factor,
    given,
    stepped_runs,
)
from repro.report.notes import gaps_of_many, stamp_by_network
from repro.report.rows import Rows
from repro.report.selection import Selection, setting
from repro.results.measurements import TITLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW_GATED = (4, 16)
"""Factors of the runs at the second learning rate that step up always or at random."""


def _by_equation(model: str, threshold: str) -> tuple[str, ...]:
    return (batch_run(model), *(f"lb-equation-{model}-{threshold}-x{factor}" for factor in FACTORS))


def _always(model: str, factors: Sequence[int], ending: str = "") -> list[str]:
    return [f"lb-always-{model}-x{factor}{ending}" for factor in factors]


def _random(model: str, threshold: str, ending: str = "") -> list[str]:
    return [f"lb-random-{model}-{threshold}-x{factor}{ending}" for factor in (4, 16)]


EQUATION_RUNS = tuple(dict.fromkeys(run for case in CASES for run in (*stepped_runs(*case), *_by_equation(*case))))
GATING_RUNS = tuple(dict.fromkeys((
    *(run for case in CASES for run in stepped_runs(*case)),
    *(run for model in STEPPED for run in _always(model, FACTORS)),
    *(run for case in CASES for run in _random(*case)),
    *(f"lb-rate-{model}-0_25" for model in STEPPED),
)))  # fmt: skip
LOW_GATING_RUNS = tuple(dict.fromkeys((
    *(run + LOW for case in CASES for run in stepped_runs(*case)),
    *(run for model in STEPPED for run in _always(model, LOW_GATED, LOW)),
    *(run for case in CASES for run in _random(*case, LOW)),
)))  # fmt: skip

WORDS = {
    "above": "change ≥ threshold (text)", "below": "change < threshold (Eq. 6)", "always": "X always",
    "random": "random, same share", "rate": "quarter of the learning rate",
}  # fmt: skip
_BESIDE = {"rate": 1.0, "above": 0.85, "below": 1.12, "always": 1.0, "random": 1.18}
"""Shifts of points that belong to one factor."""
_BARS = f"Points side by side belong to one factor. Bars: 95\u00a0% Student-t interval over seeds. {OURS}"


@figure(
    "lb.extra-equation", title="Two readings of the step function", runs=EQUATION_RUNS, group="control", rows=end_rows
)  # fmt: skip
def equation(groups: Selection, rows: Rows) -> Figure:
    """Draw the equation's reading of the step function beside the text's: accuracy and share of iterations at X."""
    notes = [
        "The text steps up where the gradient changes much, Eq. 6 and the conclusion where it changes little. Batch "
        f"1024, equal iterations ({given(groups, STEPPED)}). Above: accuracy at the end; a cross marks a factor at "
        f"which a seed diverged. Below: share of the iterations at X. {_BARS}",
        *gaps_of_many(groups),
    ]
    figure, (upper, lower) = layout.rows(
        layout.Texts("lb.extra-equation  Two readings of the step function", stamp_by_network(groups), notes),
        panels=[panel(groups, case) for case in CASES], heights=(2.3, 1.4), right=0.72, gap=0.46,
    )  # fmt: skip
    for above, below, case in zip(upper, lower, CASES, strict=True):
        lines = []
        for when, runs in (("above", stepped_runs(*case)), ("below", _by_equation(*case))):
            points = [(factor(groups[run]), run) for run in runs]
            lines.append(draw_ends(above, rows, points, look.GATES[when], WORDS[when], _BESIDE[when]))
            draw_shares(below, rows, points[1:], look.GATES[when], _BESIDE[when])
        last = above is upper[-1]
        if above is upper[0]:
            marks.legend(above, lines, 2)
        marks.chance(above, groups[batch_run(case[0])], last=last)
        marks.reference(below, 50, "half" if last else "")
        below.set_ylim(0, 100)
        for axes in (above, below):
            axes.set_xlim(0.66, 23)
            factor_axis(axes, "step-up factor X")
    marks.percent_axis(upper[0])
    upper[0].set_ylabel("accuracy at the end, top-1 (%)", fontsize=8)
    lower[0].set_ylabel("iterations at X (%)", fontsize=8)
    figure.align_ylabels()
    return figure


@figure("lb.extra-gating", title="What the gate is worth", runs=GATING_RUNS, group="control", rows=end_rows)
def gating(groups: Selection, rows: Rows) -> Figure:
    """Draw runs gated by the gradient's change, always or at random, and a slower run (statement lb.c20)."""
    note = "At 0.25 stands the rate times 0.25 with the weight decay as it is."
    return _gating(groups, rows, "What the gate is worth", note)


@figure(
    "lb.extra-low-gating", title="What the gate is worth at the second learning rate", runs=LOW_GATING_RUNS,
    group="control", rows=end_rows,
)  # fmt: skip
def low_gating(groups: Selection, rows: Rows) -> Figure:
    """Draw the same at the second learning rate (statement lb.c20)."""
    rates = ", ".join(f"{float(setting(groups[batch_run(m) + LOW], 'lr')):g} of {TITLES[m]}" for m in STEPPED)
    return _gating(groups, rows, "What the gate is worth at the second learning rate", f"Learning rates: {rates}.", LOW)


def _gating(groups: Selection, rows: Rows, heading: str, note: str, ending: str = "") -> Figure:
    """The figure of the runs whose ids end in ``ending``."""
    notes = [
        f"Accuracy at the end of equally many iterations ({given(groups, STEPPED, ending)}) at batch 1024. A cross "
        "marks a factor at which a seed diverged. X always is the sweep of the learning rate: the rate times X with "
        f"the weight decay divided by X. {note} Random: each iteration steps up with the share that the gated run had. "
        f"{_BARS}",
        *gaps_of_many(groups),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts(f"{groups.artefact}  {heading}", stamp_by_network(groups), notes),
        panels=[panel(groups, case, ending) for case in CASES], heights=(2.9,), legend_rows=2, right=0.72,
    )  # fmt: skip
    for axes, case in zip(panels, CASES, strict=True):
        arms = _arms(groups, case, ending)
        lines = [
            draw_ends(axes, rows, points, look.GATES[when], WORDS[when], _BESIDE[when])
            for when, points in arms.items()
        ]  # fmt: skip
        if axes is panels[0]:
            marks.legend(axes, lines, 2)
        marks.chance(axes, groups[batch_run(case[0]) + ending], last=axes is panels[-1])
        axes.set_xlim(0.66 if ending else 0.16, 25)
        factor_axis(axes, "factor X", 1.0 if ending else 0.25)
    marks.percent_axis(panels[0])
    panels[0].set_ylabel("test accuracy at the end, top-1 (%)", fontsize=8)
    return figure


def _arms(groups: Selection, case: Case, ending: str) -> dict[str, Points]:
    """Runs of a panel by their gate, with their factors; of the slower run that of its learning rate."""
    model, threshold = case
    plain = batch_run(model) + ending
    factors, gated = LOW_GATED if ending else FACTORS, [run + ending for run in stepped_runs(*case)]
    arms: dict[str, Points] = {
        "above": [(factor(groups[run]), run) for run in gated],
        "always": [(factor(groups[run]), run) for run in (plain, *_always(model, factors, ending))],
        "random": list(zip((4.0, 16.0), _random(model, threshold, ending), strict=True)),
    }
    if not ending:
        slow = f"lb-rate-{model}-0_25"
        arms["rate"] = [(float(setting(groups[slow], "lr")) / float(setting(groups[plain], "lr")), slow)]
    return arms

"""Figures of ours on the step-up of gradients: accuracy at the end by gate, factor and learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.layout import Axes, Figure, Line2D
from repro.report.lb.runs import (
    BATCHES,
    CASES,
    FACTORS,
    LOW,
    STEPPED,
    Case,
    batch_run,
    factor,
    given,
    iterations,
    lb_origin,
    small_run,
    stepped_runs,
)
from repro.report.look import Style
from repro.report.notes import INTERVAL, gaps_of_many, stamp_by_network
from repro.report.rows import SPAN, Row, Rows, span
from repro.report.selection import Groups, Selection, finals, percent, setting
from repro.results import metrics
from repro.results.measurements import TITLES

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


def draw_ends(axes: Axes, rows: Rows, points: Points, look: Style, text: str, shift: float = 1.0) -> Line2D:
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


# When gradients are stepped up -------------------------------------------------------------------------------------

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
_BARS = f"Points side by side belong to one factor; bars: {INTERVAL}."


@figure(
    "lb.extra-equation", title="Two readings of the step function", runs=EQUATION_RUNS, group="control", rows=end_rows
)
def equation(groups: Selection, rows: Rows) -> Figure:
    """Draw the equation's reading of the step function beside the text's: accuracy and share of iterations at X."""
    notes = [
        "The text steps up where the gradient changes much, Eq. 6 and the conclusion where it changes little; batch "
        f"1024, equal iterations ({given(groups, STEPPED)}). Above: accuracy at the end, a cross where a seed "
        f"diverged; below: share of the iterations at X. {_BARS}",
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
    note = "at 0.25: the rate times 0.25 with the weight decay as it is"
    return _gating(groups, rows, "What the gate is worth", note)


@figure(
    "lb.extra-low-gating", title="What the gate is worth at the second learning rate", runs=LOW_GATING_RUNS,
    group="control", rows=end_rows,
)  # fmt: skip
def low_gating(groups: Selection, rows: Rows) -> Figure:
    """Draw the same at the second learning rate (statement lb.c20)."""
    rates = ", ".join(f"{float(setting(groups[batch_run(m) + LOW], 'lr')):g} of {TITLES[m]}" for m in STEPPED)
    return _gating(groups, rows, "What the gate is worth at the second learning rate", f"learning rates: {rates}", LOW)


def _gating(groups: Selection, rows: Rows, heading: str, note: str, ending: str = "") -> Figure:
    """The figure of the runs whose ids end in ``ending``."""
    notes = [
        f"Accuracy at the end of equally many iterations ({given(groups, STEPPED, ending)}) at batch 1024, a cross "
        "where a seed diverged. X always: the rate times X with the weight decay divided by X; random: each iteration "
        f"steps up with the share that the gated run had; {note}. {_BARS}",
        *gaps_of_many(groups),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts(f"{groups.artefact}  {heading}", stamp_by_network(groups), notes),
        panels=[panel(groups, case, ending) for case in CASES], heights=(2.9,), legend_rows=2, right=0.72,
    )  # fmt: skip
    for axes, case in zip(panels, CASES, strict=True):
        arms = _arms(groups, case, ending)
        lines = [
            draw_ends(axes, rows, points, look.GATES[when], WORDS[when], _BESIDE[when]) for when, points in arms.items()
        ]
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


# Two learning rates ------------------------------------------------------------------------------------------------

ALONE = "lb-step-resnet50-t08-x8"
"""The one run of ResNet50 at the higher threshold."""
LOW_RATE_RUNS = tuple(dict.fromkeys((
    *(run + ending for case in CASES for ending in ("", LOW) for run in (*stepped_runs(*case), small_run(case[0]))),
    ALONE,
)))  # fmt: skip

_LOOKS = (Style("#B8352F", "D", "-"), Style("#1A4E8A", "s", (0, (5.0, 1.5)), filled=False))
_BESIDE_RATES = (0.92, 1.08)
"""Shifts of points that belong to one factor."""


@figure("lb.extra-low-rate", title="Step-up factors at two learning rates", runs=LOW_RATE_RUNS, rows=end_rows)
def low_rate(groups: Selection, rows: Rows) -> Figure:
    """Draw accuracy at the end against the step-up factor (statements lb.c11 to c14, c18, c31)."""
    notes = [
        f"Accuracy at the end of equally many iterations ({given(groups, STEPPED)}) at batch 1024, the gradient "
        "times X where its squared norm has changed by the threshold or more; X = 1: no step-up. Left of 1 stands the "
        "small batch, with the same images; a cross marks what diverged in a seed; the paper states no rate. "
        f"{_BARS}",
        *gaps_of_many(groups),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts("lb.extra-low-rate  Step-up factors at two learning rates", stamp_by_network(groups), notes),
        panels=[panel(groups, case) for case in CASES], heights=(2.9,), legend_rows=3, right=0.72,
    )  # fmt: skip
    for axes, case in zip(panels, CASES, strict=True):
        model, lines = case[0], []
        for ending, style, shift in zip(("", LOW), _LOOKS, _BESIDE_RATES, strict=True):
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

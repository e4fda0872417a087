"""Step-up of the paper's gradients: figures 7 and 8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from repro.registry.labels import number
from repro.report import layout, marks
from repro.report.artefact import figure
from repro.report.intervals import bounded
from repro.report.layout import Axes, Figure
from repro.report.lb.runs import (
    CASES,
    FACTORS,
    Case,
    batch_run,
    draw_path,
    factor,
    given,
    iterations,
    lb_origin,
    of_run,
    path_rows,
    small_run,
    stepped_runs,
    thinned,
)
from repro.report.look import GREY, of_group
from repro.report.notes import INTERVAL, gaps_of_many, stamp_by_network
from repro.report.rows import SPAN, Row, Rows
from repro.report.selection import Selection, completed, percent, series, setting
from repro.results import metrics
from repro.results.measurements import TITLES
from repro.results.records import Record

PUBLISHED_AT_16 = {("vgg11", "t05"): 10, ("vgg11", "t08"): 30}
"""Accuracy with a factor of 16 in percent, which fails to improve or learns a little (statements lb.c13, lb.c14)."""
_WIDTH = 0.04  # of a kernel: share of the iterations
_GREY = "#777777"
_DENSITY = (
    "The density is a Gaussian kernel density estimate of the iterations that used X, times their number; its kernels "
    f"have a standard deviation of {100 * _WIDTH:g} % of training. A density over the factor itself would mislead: it "
    "has two values, and nothing lies between them."
)

PICKED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "at_x": lambda factors: factors > 1,
    "at_1x": lambda factors: factors == 1,
    "all": lambda factors: factors > 0,
}
"""Iterations of which there is a density, by their factors."""


def _runs(cases: Sequence[Case]) -> tuple[str, ...]:
    return tuple(run for case in cases for run in (*stepped_runs(*case), small_run(case[0])))


def _cases(artefact: str) -> tuple[Case, ...]:
    return CASES[2:] if artefact == "lb.fig8" else CASES[:2]


# Rows -----------------------------------------------------------------------------------------------------------


def density(group: Sequence[Record], total: int, which: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    """Gaussian kernel density estimate of the iterations that ``which`` picks by their factor, times their number.

    Pooled over seeds and divided by the seeds, so that 1 means: every seed, at every iteration nearby. All estimates
    have kernels of one width, so that those at X and at 1x sum to that of all iterations.

    Returns:
        Values at ``density_grid(total)``, NaN where every seed had diverged; None with fewer than two different
        iterations, which have no density.
    """
    from scipy.stats import gaussian_kde  # takes a second to import

    factors = [np.asarray(series(record, "step_up_factor"), float) for record in group]
    steps = np.concatenate([np.flatnonzero(which(values)) + 1 for values in factors])
    if len(set(steps)) < 2:
        return None
    kernel, at = gaussian_kde(steps, bw_method=_WIDTH * total / steps.std(ddof=1)), density_grid(total)
    return np.where(at <= max(map(len, factors)), kernel(at) * len(steps) / len(group), np.nan)


def density_grid(total: int) -> np.ndarray:
    """Iterations at which a density is drawn."""
    return thinned(total) + 1.0


_QUANTITY = ("quantity", "iteration", "images_seen", "value", "imputed_chance", "mean", "low", "high")


def _row(start: Row, *values: Any) -> Row:
    """``start`` with the columns ``_QUANTITY``, of which those at the end can be left out."""
    return start | dict.fromkeys(_QUANTITY) | dict(zip(_QUANTITY, values, strict=False))


def step_rows(chosen: Selection) -> list[Row]:
    """Every evaluation, share of iterations at X, and points of the densities.

    ``quantity`` tells them apart. A density belongs to all seeds of a run together, and its seed is empty.
    """
    rows: list[Row] = []
    for model, threshold in _cases(chosen.artefact):
        total = iterations(chosen[batch_run(model)])
        for run in (*stepped_runs(model, threshold), small_run(model)):
            group = chosen[run]
            starts = {record.seed: lb_origin(chosen.artefact, record, len(group)) for record in group}
            columns = ("iteration", "images_seen", "accuracy_percent", "imputed_chance", *SPAN)
            rows += [
                _row(starts[found["seed"]], "accuracy_percent", *(found[name] for name in columns))
                for found in path_rows(chosen.artefact, group, total)
            ]
            if run in stepped_runs(model, threshold)[1:]:
                rows += [*_share_rows(starts, group), *_density_rows(starts[group[0].seed], group, total)]
    return rows


def _share_rows(starts: dict[int, Row], group: Sequence[Record]) -> list[Row]:
    shares = {record.seed: percent(metrics.step_up_share(record)) for record in group}
    known = [share for share in shares.values() if share is not None]
    ends = bounded(known) if known else (None, None, None)
    return [
        _row(starts[seed], "iterations_at_x_percent", None, None, share, None, *ends) for seed, share in shares.items()
    ]


def _density_rows(start: Row, group: Sequence[Record], total: int) -> list[Row]:
    start, rows = start | {"seed": None, "status": None, "fingerprint": None}, []
    for name, which in PICKED.items():
        values = density(group, total, which)
        points = zip(density_grid(total), [] if values is None else values.tolist(), strict=False)
        rows += [_row(start, f"density_{name}", int(at), None, value) for at, value in points]
    return rows


# Figures --------------------------------------------------------------------------------------------------------


@figure("lb.fig7", title="Step-up factors at threshold 0.5", runs=_runs(CASES[:2]), rows=step_rows, details=_DENSITY)
def at_half(groups: Selection, rows: Rows) -> Figure:
    """Draw ResNet50 and VGG11 (statements lb.c11, lb.c12, lb.c13, lb.c15)."""
    return _draw(groups, rows, "Step-up factors at threshold 0.5")


@figure("lb.fig8", title="Step-up factors at threshold 0.8", runs=_runs(CASES[2:]), rows=step_rows, details=_DENSITY)
def at_more(groups: Selection, rows: Rows) -> Figure:
    """Draw VGG11 (statements lb.c14, lb.c15, lb.c18)."""
    return _draw(groups, rows, "Step-up factors at threshold 0.8")


def _draw(groups: Selection, rows: Rows, words: str) -> Figure:
    """A column a network: accuracy, density of the iterations at X, and their share."""
    cases = _cases(groups.artefact)
    wide = len(cases) == 1
    figure, (upper, middle, lower) = layout.rows(
        layout.Texts(f"{groups.artefact}  {words}", stamp_by_network(groups), _notes(groups, cases)),
        panels=[TITLES[model] for model, _ in cases], heights=(2.3, 1.1, 0.9), legend_rows=2 if wide else 4,
        right=0.72, gap=0.46,
    )  # fmt: skip
    for above, dense, bars, case in zip(upper, middle, lower, cases, strict=True):
        total, last = iterations(groups[batch_run(case[0])]), above is upper[-1]
        marks.legend(above, _draw_accuracies(above, groups, rows, case, total), 4 if wide else 2)
        marks.chance(above, groups[small_run(case[0])], last=last)
        for place, run in enumerate(stepped_runs(*case)[1:]):
            _draw_density(dense, rows, groups[run])
            _draw_share(bars, place, rows, groups[run])
        all_drawn = _draw_all(dense, groups, rows, case)
        if last and all_drawn:
            marks.margin_label(dense, 1.0, "all")
        for axes in (above, dense):
            _iteration_axis(axes, total)
        dense.set_ylim(0, 1.15)
        _share_axis(bars, list(map(str, FACTORS)))
    upper[0].set_ylabel("test accuracy, top-1 (%)", fontsize=8)
    marks.percent_axis(upper[0])
    middle[0].set_ylabel("density at X\n(1 = all)", fontsize=8)
    lower[0].set_ylabel("iterations\nat X (%)", fontsize=8)
    figure.align_ylabels()
    return figure


def _notes(groups: Selection, cases: Sequence[Case]) -> list[str]:
    threshold = setting(groups[stepped_runs(*cases[0])[1]], "step_up")["threshold"]
    ends = given(groups, [model for model, _ in cases])
    return [
        f"Lines: mean over seeds; bars right of them: {INTERVAL}, at the last iteration drawn. "
        f"Batch 1024, gradient times X where its squared norm has changed by {threshold:g} or more since "
        f"the iteration before (Eq. 8, the text's reading), for equal iterations ({ends}), at which the small batch is "
        "cut. Middle: density of the iterations that used X, so that 1 means all; bottom: their share.",
        *gaps_of_many(groups),
    ]


def _draw_accuracies(axes: Axes, groups: Selection, rows: Rows, case: Case, total: int) -> list[Any]:
    """The curves of a case, and right of them their intervals at the end: bands would hide other curves."""
    rows, lines, ends = rows.where(quantity="accuracy_percent"), [], []
    small = small_run(case[0])
    runs = (*stepped_runs(*case), small)
    for i, run in enumerate(runs):
        group = groups[run]
        text = f"batch {group[0].spec['local_batch']}" if run == small else f"X = {factor(group)}"
        at, *spread = of_run(rows, run, "iteration", "mean", "low", "high")
        shift = 0 if run == small else i
        lines.append(draw_path(axes, at, np.array(spread), group, text, shift=shift, band=False))
        ends.append(np.array(spread)[:, -1:])
    for place, (run, end) in enumerate(zip(runs, ends, strict=True)):
        if not end.size or not completed(groups[run]) or math.isnan(end[1, 0]):
            continue
        at, colour = [total * (1.04 + 0.028 * place)], of_group(groups[run]).colour
        axes.plot(at, end[0], ".", color=colour, markersize=4, zorder=3)
        marks.errors(axes, at, end, colour, 2.5, elinewidth=1.3, zorder=3)
    if case in PUBLISHED_AT_16:
        at = [total * (1.04 + 0.028 * runs.index(stepped_runs(*case)[-1]))]
        lines += axes.plot(
            at, [PUBLISHED_AT_16[case]], "*", color=GREY, markersize=10, markerfacecolor="white", zorder=5,
            label="X = 16 (paper)",
        )  # fmt: skip
    return lines


def _draw_density(axes: Axes, rows: Rows, group: Sequence[Record]) -> None:
    at, values = rows.where(run=group[0].run, quantity="density_at_x").numbers("iteration", "value")
    if len(at):
        every = max(1, len(at) // 6)
        axes.plot(at, values, **of_group(group).kwargs() | {"linewidth": 1.3, "markersize": 3.5},
                  markevery=(factor(group) % every, every))  # fmt: skip


def _draw_all(axes: Axes, groups: Selection, rows: Rows, case: Case) -> bool:
    """The density of all iterations, of the first run that completed every seed; False where there is none."""
    runs = stepped_runs(*case)[1:]
    whole = next((run for run in runs if len(completed(groups[run])) == len(groups[run])), None)
    at, values = rows.where(run=whole, quantity="density_all").numbers("iteration", "value")
    if not len(at):
        return False
    axes.plot(at, values, color=_GREY, linewidth=1.0, linestyle=(0, (1, 2)))
    return True


def _draw_share(axes: Axes, place: float, rows: Rows, group: Sequence[Record]) -> None:
    """A bar with its interval and its number; nothing for runs without an iteration."""
    mean, low, high = rows.where(run=group[0].run, quantity="iterations_at_x_percent").once("mean", "low", "high")[:, 0]
    if np.isnan(mean):
        return
    axes.bar([place], [mean], width=0.55, color=of_group(group).colour, zorder=2)
    top = mean
    if not np.isnan(low):
        top = high
        marks.whisker(axes, place, low, high, _GREY, zorder=3)
    axes.text(place, top + 4, f"{number(mean)} %", ha="center", va="bottom", fontsize=7)


def _iteration_axis(axes: Axes, total: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, 1.2 * total)  # right of the last iteration stand the intervals
    axes.set_xlabel("iterations", fontsize=8)
    axes.set_xticks([at for at in MaxNLocator(6, integer=True).tick_values(0, total) if at <= total])


def _share_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(0, 128)
    axes.set_yticks([0, 50, 100])
    axes.grid(False, axis="x")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("step-up factor X", fontsize=8)

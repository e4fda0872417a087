"""Figures of ours beside the paper's training experiments: a second learning rate, training against test accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.report import e3, select, style
from repro.report.lb_training import (
    BATCHES,
    CASES,
    FACTORS,
    MODELS,
    OURS,
    STEPPED,
    _accuracy_axis,
    _batch,
    _chance,
    _ends,
    _factor,
    _factor_axis,
    _gaps,
    _gating,
    _given,
    _origin,
    _panel,
    _scale,
    _stepped,
)
from repro.results import metrics
from repro.results.measurements import TITLES, title
from repro.results.records import Record

LOW = "-low"
"""Ending of the runs at the second learning rate."""
ALONE = "lb-step-resnet50-t08-x8"
"""The one run of ResNet50 at the higher threshold."""


def _small(model: str) -> str:
    return _batch(model, BATCHES[model][0])


LOW_RATE_RUNS = tuple(dict.fromkeys((
    *(run + ending for case in CASES for ending in ("", LOW) for run in (*_stepped(*case), _small(case[0]))), ALONE,
)))  # fmt: skip
LOW_GATED = (4, 16)
LOW_GATING_RUNS = tuple(dict.fromkeys((
    *(run + LOW for case in CASES for run in _stepped(*case)),
    *(f"lb-always-{model}-x{factor}{LOW}" for model in STEPPED for factor in LOW_GATED),
    *(f"lb-random-{model}-{threshold}-x{factor}{LOW}" for model, threshold in CASES for factor in LOW_GATED),
)))  # fmt: skip
TRAINING_RUNS = tuple(_batch(model, batch) for model in MODELS for batch in (BATCHES[model][0], BATCHES[model][-1]))


# lb.extra-low-rate, lb.extra-low-gating ---------------------------------

_RATES = (style.Style("#B8352F", "D", "-"), style.Style("#1A4E8A", "s", (0, (5.0, 1.5)), filled=False))
_BESIDE = (0.92, 1.08)
"""Shifts of points that belong to one factor."""


def low_rate(groups: select.Groups, profile: str) -> Figure:
    """Accuracy at the end against the step-up factor, at both learning rates (lb.c11 to c14, c18, c31)."""
    figure, (panels,) = style.rows(
        "lb.extra-low-rate  Step-up factors at two learning rates", _scale(groups),
        [f"Accuracy at the end of equally many iterations ({_given(groups, STEPPED)}) at batch 1024, the gradient "
         "times X where its squared norm has changed by the threshold or more; X = 1: no step-up. The paper states no "
         "rate. Left of 1 stands the small batch, with the same images. A cross marks what diverged in a seed. Points "
         f"side by side belong to one factor. Bars: 95\u00a0% Student-t interval over seeds. {OURS}",
         *_gaps(groups)],
        panels=[_panel(groups, case) for case in CASES], heights=(2.9,), legend_rows=3, right=0.72,
    )  # fmt: skip
    for axes, case in zip(panels, CASES, strict=True):
        model, lines = case[0], []
        for ending, look, shift in zip(("", LOW), _RATES, _BESIDE, strict=True):
            points = [(_factor(groups[run + ending]), groups[run + ending]) for run in _stepped(*case)]
            rate = float(select.setting(points[0][1], "lr"))
            lines.append(_ends(axes, points, look, f"learning rate {rate:g}", shift))
            _ends(axes, [(0.4, groups[_small(model) + ending])], look, "", shift)
        if case == CASES[0]:
            beside, threshold = groups[ALONE], select.setting(groups[ALONE], "step_up")["threshold"]
            look = style.Style("#6F6F6F", "^", "-")
            text = f"threshold {threshold:g}, rate {float(select.setting(beside, 'lr')):g}"
            lines.append(_ends(axes, [(_factor(beside), beside)], look, text, 1.2))
        style.legend(axes, lines, 1)
        _chance(axes, groups[_batch(model)], last=axes is panels[-1])
        axes.axvline(0.63, color="#BBBBBB", linewidth=0.8, zorder=1)
        axes.set_xlim(0.28, 23)
        _factor_axis(axes, "step-up factor X")
        ticks = [0.4, 1, *FACTORS]
        axes.set_xticks(ticks, [f"b {BATCHES[model][0]}", *(f"{factor}" for factor in ticks[1:])])
    _accuracy_axis(panels[0])
    panels[0].set_ylabel("test accuracy at the end, top-1 (%)", fontsize=8)
    return figure


def low_gating(groups: select.Groups, profile: str) -> Figure:
    """As ``lb_training.gating``, at the second learning rate (lb.c20)."""
    rates = ", ".join(
        f"{float(select.setting(groups[_batch(model) + LOW], 'lr')):g} of {TITLES[model]}" for model in STEPPED
    )
    return _gating(
        groups, "lb.extra-low-gating  What the gate is worth at the second learning rate", LOW, LOW_GATED,
        f"Learning rates: {rates}.",
    )  # fmt: skip


# lb.extra-training ------------------------------------------------------


def _looks(run: str) -> tuple[style.Style, style.Style]:
    """Of accuracy on training images (open markers, solid) and on test images."""
    look = style.of(run, "central")
    return replace(look, line="-", filled=False), replace(look, line=(0, (4.0, 1.5)))


def _completed(group: Sequence[Record]) -> list[Record]:
    return [record for record in group if record.status == "completed"]


def _matched(groups: select.Groups, model: str) -> float | None:
    """The training loss at which the rule of lb.c22 compares a network's runs, mean over the seeds that all have."""
    runs = [_completed(groups[_batch(model, batch)]) for batch in (BATCHES[model][0], BATCHES[model][-1])]
    by_seed = [{record.seed: record for record in found} for found in runs]
    shared = sorted(set(by_seed[0]) & set(by_seed[1]))
    losses = [metrics.matched_loss([found[seed] for found in by_seed]) for seed in shared]
    return float(np.mean(losses)) if losses else None


def training(groups: select.Groups, profile: str) -> Figure:
    """Accuracy on training and test images against epochs, and their gap against the training loss (lb.c22)."""
    figure, (upper, lower) = style.rows(
        "lb.extra-training  Training and test accuracy by batch size", _scale(groups),
        ["Above: accuracy on a fixed sample of training images (solid) and on test images (dashed), both without "
         "augmentation. Below: their difference against the loss on the same training images, which falls to the "
         "right, a line a seed; dotted: the loss at which batches are compared, the largest of the smallest that both "
         f"reach, mean over seeds. {e3.LINES} {OURS}",
         *_gaps(groups, "left out")],
        panels=[title(groups[_batch(model)][0]) for model in MODELS], heights=(2.0, 1.9), legend_rows=2,
    )  # fmt: skip
    for above, below, model in zip(upper, lower, MODELS, strict=True):
        lines = []
        for batch in (BATCHES[model][0], BATCHES[model][-1]):
            group = _completed(groups[_batch(model, batch)])
            if not group:
                look = style.of(_batch(model, batch), "central")
                lines += above.plot([], [], **look.kwargs(), label=f"batch {batch}: diverged")
                continue
            lines.append(_draw_accuracies(above, group, f"batch {batch}"))
            _draw_gaps(below, group)
        style.legend(above, lines, 1)
        if (loss := _matched(groups, model)) is not None:
            below.axvline(loss, color="#555555", linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
        above.set_xlabel("epochs", fontsize=8)
        above.set_xlim(left=0)
        below.invert_xaxis()
        below.set_xlabel("loss on training images (nats)", fontsize=8)
        below.axhline(0, color="#999999", linewidth=0.8, zorder=1)
    upper[0].set_ylabel("accuracy, top-1 (%)", fontsize=8)
    upper[0].set_ylim(0, min(100.0, upper[0].get_ylim()[1]))
    lower[0].set_ylabel("training minus\ntest (points)", fontsize=8)
    figure.align_ylabels()
    return figure


def _draw_accuracies(axes: Axes, group: Sequence[Record], text: str) -> Line2D:
    """Two lines with their bands; the one of training images, which the legend shows, is returned."""
    drawn = []
    for look, name in zip(_looks(group[0].run), ("train_sample_top1", "test_top1"), strict=True):
        data = select.curve(group, name)
        every = max(1, len(data.epochs) // 5)
        drawn += axes.plot(data.epochs, data.mean, **look.kwargs(), label=text, markevery=every, zorder=3)
        axes.fill_between(data.epochs, data.low, data.high, color=look.colour, alpha=0.16, linewidth=0)
    return drawn[0]


def _draw_gaps(axes: Axes, group: Sequence[Record]) -> None:
    look = style.of(group[0].run, "central")
    for record in group:
        loss = [row["train_sample_loss"] for row in record.rows]
        gap = [100 * (row["train_sample_top1"] - row["test_top1"]) for row in record.rows]
        axes.plot(loss, gap, **look.kwargs() | {"linewidth": 0.9, "markersize": 2.5}, zorder=3)


def training_rows(artefact: str, groups: select.Groups) -> list[dict[str, Any]]:
    """One CSV row per run, seed and evaluation; one without numbers for a seed that diverged."""
    names = ("epoch", "train_sample_loss", "train_sample_percent", "test_percent", "gap_points", "matched_loss")
    rows = []
    for model in MODELS:
        matched = _matched(groups, model)
        for batch in (BATCHES[model][0], BATCHES[model][-1]):
            group = groups[_batch(model, batch)]
            for record in group:
                start = _origin(artefact, record, len(group))
                if record.status == "diverged":
                    rows.append(start | dict.fromkeys(names))
                    continue
                for row in record.rows:
                    accuracies = 100 * row["train_sample_top1"], 100 * row["test_top1"]
                    values = (
                        row["epoch"],
                        row["train_sample_loss"],
                        *accuracies,
                        accuracies[0] - accuracies[1],
                        matched,
                    )
                    rows.append(start | dict(zip(names, values, strict=True)))
    return rows

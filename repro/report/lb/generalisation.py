"""Training against test accuracy of the paper's networks, by batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.intervals import intervals
from repro.report.lb.runs import MODELS, OURS, batch_run, lb_origin, small_run, titles
from repro.report.notes import BAND, gaps_of_many, stamp_by_network
from repro.report.rows import Row, Rows
from repro.report.selection import Groups, Selection, completed
from repro.results import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

TRAINING_RUNS = tuple(run for model in MODELS for run in (small_run(model), batch_run(model)))
_NAMES = ("epoch", "train_sample_loss", "train_sample_percent", "test_percent", "gap_points", "matched_loss")


def _matched(groups: Groups, model: str) -> float | None:
    """The training loss at which the rule of lb.c22 compares a network's runs, mean over the seeds that all have."""
    small, large = (
        {record.seed: record for record in completed(groups[run])} for run in (small_run(model), batch_run(model))
    )
    losses = [metrics.matched_loss([small[seed], large[seed]]) for seed in sorted(set(small) & set(large))]
    return float(np.mean(losses)) if losses else None


def training_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and evaluation; one without numbers for a seed that diverged."""
    rows = []
    for model in MODELS:
        matched = _matched(chosen, model)
        for group in (chosen[small_run(model)], chosen[batch_run(model)]):
            for record in group:
                start = lb_origin(chosen.artefact, record, len(group))
                if record.status == "diverged":
                    rows.append(start | dict.fromkeys(_NAMES))
                    continue
                for row in record.rows:
                    trained, tested = 100 * row["train_sample_top1"], 100 * row["test_top1"]
                    found = (row["epoch"], row["train_sample_loss"], trained, tested, trained - tested, matched)
                    rows.append(start | dict(zip(_NAMES, found, strict=True)))
    return rows


@figure("lb.extra-training", title="Training and test accuracy by batch size", runs=TRAINING_RUNS, rows=training_rows)
def training(groups: Selection, rows: Rows) -> Figure:
    """Draw both against epochs, and their gap against the training loss (statement lb.c22)."""
    notes = [
        "Above: accuracy on a fixed sample of training images (solid) and on test images (dashed), both without "
        "augmentation. Below: their difference against the loss on the same training images, which falls to the "
        "right, a line a seed; dotted: the loss at which batches are compared, the largest of the smallest that both "
        f"reach, mean over seeds. {BAND} {OURS}",
        *gaps_of_many(groups, "left out"),
    ]
    figure, (upper, lower) = layout.rows(
        layout.Texts("lb.extra-training  Training and test accuracy by batch size", stamp_by_network(groups), notes),
        panels=titles(groups, MODELS), heights=(2.0, 1.9), legend_rows=2,
    )  # fmt: skip
    for above, below, model in zip(upper, lower, MODELS, strict=True):
        lines = []
        for run in (small_run(model), batch_run(model)):
            own, text = rows.where(run=run, status="completed"), f"batch {groups[run][0].spec['local_batch']}"
            if not own:
                lines += above.plot([], [], **look.of(run, "central").kwargs(), label=f"{text}: diverged")
                continue
            lines.append(_draw_accuracies(above, own, text))
            _draw_gaps(below, own)
        marks.legend(above, lines, 1)
        matched = [row["matched_loss"] for row in rows.where(run=batch_run(model)) if row["matched_loss"] is not None]
        if matched:
            below.axvline(matched[0], color=look.GREY, linewidth=1.0, linestyle=look.DOTTED, zorder=2)
        above.set_xlabel("epochs", fontsize=8)
        above.set_xlim(left=0)
        below.invert_xaxis()
        below.set_xlabel("loss on training images (nats)", fontsize=8)
        below.axhline(0, color="#999999", linewidth=0.8, zorder=1)
    upper[0].set_ylabel("accuracy, top-1 (%)", fontsize=8)
    marks.percent_axis(upper[0])
    lower[0].set_ylabel("training minus\ntest (points)", fontsize=8)
    figure.align_ylabels()
    return figure


def _draw_accuracies(axes: Axes, rows: Rows, text: str) -> Line2D:
    """Two lines with their bands; the one of training images, which the legend shows, is returned."""
    style = look.of(rows[0]["run"], "central")
    epochs = np.array([round(epoch, 6) for epoch in rows.once("epoch")[0]])  # as those of all accuracy curves
    trained, tested = replace(style, line="-", filled=False), replace(style, line=(0, (4.0, 1.5)))
    every = max(1, len(epochs) // 5)
    lines = [
        marks.curve(axes, epochs, intervals(rows.by_seed(name)), look_of, text, every=every)
        for look_of, name in ((trained, "train_sample_percent"), (tested, "test_percent"))
    ]
    return lines[0]


def _draw_gaps(axes: Axes, rows: Rows) -> None:
    style = look.of(rows[0]["run"], "central").kwargs() | {"linewidth": 0.9, "markersize": 2.5}
    for seed in rows.seeds():
        axes.plot(*seed.numbers("train_sample_loss", "gap_points"), **style, zorder=3)

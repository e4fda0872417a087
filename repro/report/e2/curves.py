"""Accuracy of post 2: compressed messages, and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from repro.registry.labels import label, largest
from repro.report import layout, look, marks
from repro.report.artefact import figure, table
from repro.report.e2.runs import (
    BASELINE,
    CLIPPED,
    COLUMNS,
    COSINE,
    DGC,
    DGC_COSINE,
    FEDERATED_GQ,
    FEDERATED_RUNS,
    GQ,
    LARGE_BATCH_RUNS,
    PARTS,
    PUBLISHED_ACCURACY,
    SPARSE_RUNS,
    WEIGHTS,
)
from repro.report.intervals import change, intervals, points, with_interval
from repro.report.layout import Axes, Figure, Line2D
from repro.report.notes import BAND, LOST, gaps, stamp
from repro.report.rows import Rows, curve, curves, origin, span
from repro.report.selection import Selection, ends, finals, named, setting
from repro.report.tables import ABSENT, NO_VALUE, Table
from repro.results.metrics import epochs_to_first_cut
from repro.results.records import Record

COSINE_RUNS = (BASELINE, COSINE, DGC, DGC_COSINE)
CUT_RUNS = (
    "e2-decay-large-batch", "e2-decay-large-batch-cosine", "e2-decay-large-batch-dgc", "e2-decay-large-batch-dgc-cosine"
)  # fmt: skip
WEIGHTS_RUNS = (BASELINE, GQ, WEIGHTS)

_ROWS = curves(*COLUMNS)


def _curves(axes: Axes, rows: Rows, groups: Selection, labels: Mapping[str, str]) -> list[Line2D]:
    """Mean and band of each run; the first one lies on top, since compressed ones hide behind it otherwise."""
    drawn = {
        run: marks.accuracy(axes, rows, groups[run], labels[run], 2 * i) for i, run in reversed(list(enumerate(labels)))
    }
    return [drawn[run] for run in labels]


def _rates(axes: Axes, rows: Rows, groups: Selection, runs: Sequence[str]) -> None:
    """The learning rate of each seed; a logged rate is that of the epochs since the evaluation before."""
    for run in reversed(runs):
        style = look.of_group(groups[run])
        for seed in rows.where(run=run).seeds():
            epochs, rates = ([row[name] for row in seed if row["lr"] is not None] for name in ("epoch", "lr"))
            if rates:
                axes.plot([0, *epochs], [rates[0], *rates], color=style.colour, linestyle=style.line, linewidth=1.3,
                          drawstyle="steps-pre", zorder=3)  # fmt: skip


def _cuts(groups: Selection, runs: Sequence[str]) -> str:
    """The first cut of each seed, in words."""
    parts = []
    for run in runs:
        cuts = [(record.status, *epochs_to_first_cut(record)) for record in groups[run]]
        words = ["diverged" if end == "diverged" else f"{at:g}" if reached else "never" for end, at, reached in cuts]
        parts.append(f"{named(groups[run])} {', '.join(words)}")
    return f"first evaluation after a cut of the learning rate, in epochs (seed by seed): {'; '.join(parts)}"


@figure(
    "e2.fig1", title="Large batch with compressed gradients: accuracy and learning rate against epochs",
    runs=LARGE_BATCH_RUNS, rows=_ROWS,
)  # fmt: skip
def large_batch(groups: Selection, rows: Rows) -> Figure:
    """Draw uncompressed, GQ and DGC (statements e2.c4, e2.c11)."""
    notes = [f"{BAND} Below: learning rate, a line a seed; {_cuts(groups, LARGE_BATCH_RUNS)}.", *gaps(groups)]
    texts = layout.Texts("e2.fig1  Large batch with compressed gradients", stamp(groups), notes)
    figure, (upper, lower) = layout.new(texts, lower=1.3)
    lines = _curves(upper, rows, groups, {run: named(groups[run]) for run in LARGE_BATCH_RUNS})
    _rates(lower, rows, groups, LARGE_BATCH_RUNS)
    rates = {row["lr"] for row in rows if row["lr"] is not None}
    if len(rates) == 1:  # all lines are one
        lower.text(
            0.5, 0.75, f"every run: {rates.pop():g}, never cut", ha="center", fontsize=8, transform=lower.transAxes
        )
    marks.epoch_axes([upper], rows)
    marks.label_below([upper], [lower])
    marks.rate_axis(figure, [lower])
    marks.legend(upper, lines, 3)
    return figure


@figure(
    "e2.extra-cosine", title="Reduce on plateau against cosine annealing, with and without DGC", runs=COSINE_RUNS,
    rows=_ROWS,
)  # fmt: skip
def cosine(groups: Selection, rows: Rows) -> Figure:
    """Draw both schedules without weight decay."""
    return _schedules(groups, rows, "Learning-rate schedules with and without DGC", "")


@figure(
    "e2.extra-cut", title="Learning rate and accuracy where a plateau cuts the rate, with and without DGC",
    runs=CUT_RUNS, rows=curves(*COLUMNS, "weight_decay"),
)  # fmt: skip
def cut(groups: Selection, rows: Rows) -> Figure:
    """Draw both schedules with weight decay (statements e2.c4, e2.c5)."""
    decay = float(setting(groups[CUT_RUNS[0]], "weight_decay"))
    more = f"; weight decay {decay:g}; {_cuts(groups, (CUT_RUNS[0], CUT_RUNS[2]))}"
    return _schedules(groups, rows, "Schedules where a plateau cuts the learning rate", more)


def _schedules(groups: Selection, rows: Rows, heading: str, more: str) -> Figure:
    """Accuracy and learning rate of four runs: baseline under both schedules, then DGC under both."""
    runs = list(groups)
    pairs = ((runs[0], runs[1]), (runs[2], runs[3]))
    said = (
        f"{BAND} Below: learning rate, a line a seed; above the panels: cosine minus plateau at the end (last tenth), "
        "paired by seed, with its 95 % Student-t interval. DGC's gain from cosine beyond that of the baseline: "
        f"{_excess(groups, runs)}{more}."
    )
    texts = layout.Texts(
        f"{groups.artefact}  {heading}",
        stamp(groups),
        [said, *gaps(groups)],
    )
    figure, axes = layout.new(
        texts, lower=1.3,
        panels=[f"{label(plain)}: {change(groups[run], groups[other])}"
                for plain, (run, other) in zip((BASELINE, DGC), pairs, strict=True)],
    )  # fmt: skip
    upper, lower = axes[:2], axes[2:]
    for above, below, pair in zip(upper, lower, pairs, strict=True):
        lines = _curves(above, rows, groups, {run: str(setting(groups[run], "schedule")["kind"]) for run in pair})
        _rates(below, rows, groups, pair)
        marks.legend(above, lines, 2)
    marks.epoch_axes(upper, rows)
    marks.label_below(upper, lower)
    marks.rate_axis(figure, lower)
    return figure


def _excess(groups: Selection, runs: Sequence[str]) -> str:
    """(cosine - plateau of the second pair) - (that of the first), at the end, over seeds that all runs have."""
    plain, plain_cosine, sparse, sparse_cosine = (ends(groups[run]) for run in runs)
    return points([
        sparse_cosine[s] - sparse[s] - plain_cosine[s] + plain[s]
        for s in plain if s in plain_cosine and s in sparse and s in sparse_cosine
    ])  # fmt: skip


@figure(
    "e2.fig2", title="Federated averaging with quantised deltas: accuracy against epochs", runs=FEDERATED_RUNS,
    rows=_ROWS,
)  # fmt: skip
def federated(groups: Selection, rows: Rows) -> Figure:
    """Draw quantised and unquantised model deltas, and their difference (statement e2.c6)."""
    notes = [
        f"{BAND} Below: GQ minus uncompressed, paired by seed; dashes: published.",
        *gaps(groups),
    ]
    figure, (upper, lower) = layout.new(
        layout.Texts("e2.fig2  Federated averaging with quantised deltas", stamp(groups), notes),
        right=0.72,
        lower=1.3,
    )
    lines = _curves(upper, rows, groups, {run: named(groups[run]) for run in FEDERATED_RUNS})
    _difference(lower, *(rows.where(run=run) for run in FEDERATED_RUNS))
    lower.axhline(0, color=look.GREY, linewidth=1.0, zorder=2)
    marks.published(upper, PUBLISHED_ACCURACY, f"post\n{PUBLISHED_ACCURACY} %")
    marks.epoch_axes([upper], rows)
    marks.label_below([upper], [lower])
    lower.set_ylabel("difference (points)", fontsize=8)
    figure.align_ylabels()
    marks.legend(upper, lines, 2)
    return figure


def _difference(axes: Axes, plain: Rows, quantised: Rows) -> None:
    """Second minus first run, paired by seed and epoch; nothing where they share no seed."""
    first, second = (
        {(row["seed"], row["epoch"]): row["accuracy_percent"] for row in rows} for rows in (plain, quantised)
    )
    both = [pair for pair in first if pair in second]
    seeds, epochs = (list(dict.fromkeys(column)) for column in zip(*both, strict=True)) if both else ([], [])
    if not seeds:
        return
    gaps = np.array([[second[seed, epoch] - first[seed, epoch] for epoch in epochs] for seed in seeds])
    mean, low, high = intervals(gaps)
    style = look.of(FEDERATED_GQ, "federated")
    axes.plot(epochs, mean, color=style.colour, linestyle=style.line, zorder=3)
    marks.shade(axes, np.array(epochs), low, high, style.colour)


@figure("e2.extra-weights", title="Quantised weights against quantised gradients", runs=WEIGHTS_RUNS, rows=_ROWS)
def weights(groups: Selection, rows: Rows) -> Figure:
    """Draw weights kept in int8 during training beside quantised gradients (statement e2.c3)."""
    notes = [
        f"{BAND} Weights: after every step the model itself is rounded to int8, tensor by tensor.",
        *gaps(groups),
    ]
    texts = layout.Texts("e2.extra-weights  Quantised weights against quantised gradients", stamp(groups), notes)
    figure, (axes,) = layout.new(texts)
    lines = _curves(axes, rows, groups, {run: named(groups[run]) for run in WEIGHTS_RUNS})
    marks.epoch_axes([axes], rows)
    marks.legend(axes, lines, 3)
    return figure


@figure(
    "e2.extra-sparse", title="Sparsified gradients against sparsified changes of the model", runs=SPARSE_RUNS,
    rows=curves(*COLUMNS, "codec_options"), group="control",
)  # fmt: skip
def sparse(groups: Selection, rows: Rows) -> Figure:
    """Draw large batch and federated averaging with the largest values alone (statement e2.c13)."""
    methods = {"gradients, large batch": SPARSE_RUNS[:3], "changes, federated averaging": SPARSE_RUNS[3:]}
    lost = [
        f"{what} {' and '.join(change(groups[runs[0]], groups[run]) for run in runs[1:])}"
        for what, runs in methods.items()
    ]
    notes = [
        f"{BAND} Both without momentum; what is not sent waits for a later round. At the end (last tenth), a "
        f"tenth and a hundredth minus all values, paired by seed, with 95 % Student-t interval: {'; '.join(lost)}.",
        *gaps(groups),
    ]
    texts = layout.Texts("e2.extra-sparse  Sparsified gradients and sparsified changes", stamp(groups), notes)
    figure, axes = layout.new(texts, panels=list(methods), legend_rows=3)
    for one, runs in zip(axes, methods.values(), strict=True):
        marks.legend(one, _curves(one, rows, groups, {run: _share_sent(groups[run]) for run in runs}), 1)
    marks.epoch_axes(axes, rows)
    return figure


def _share_sent(group: Sequence[Record]) -> str:
    options = group[0].spec.get("codec_options") or {}
    return largest(options["sparsity"]) if "sparsity" in options else "all values"


@figure(
    "e2.extra-parts", title="Deep Gradient Compression without one of its parts", runs=tuple(PARTS),
    rows=curves(*COLUMNS, "codec_options"), group="control",
)  # fmt: skip
def parts(groups: Selection, rows: Rows) -> Figure:
    """Draw DGC with all its parts, and without accumulation, correction or clipping (statement e2.c14)."""
    without = [f"{words} {change(groups[CLIPPED], groups[run])}" for run, words in PARTS.items() if run != CLIPPED]
    notes = [
        f"{BAND} At the end (last tenth), minus DGC with all its parts, paired by seed, with 95 % Student-t "
        f"interval: {'; '.join(without)}.",
        *gaps(groups),
    ]
    texts = layout.Texts("e2.extra-parts  Deep Gradient Compression without one of its parts", stamp(groups), notes)
    figure, (axes,) = layout.new(texts, legend_rows=2)
    marks.legend(axes, _curves(axes, rows, groups, PARTS), 2)
    marks.epoch_axes([axes], rows)
    return figure


@table("e2.table3", title="Large-batch accuracy at the end", runs=(*LARGE_BATCH_RUNS, COSINE, DGC_COSINE, WEIGHTS))
def at_the_end(groups: Selection) -> Table:
    """Compare accuracy at the end of training with the uncompressed run."""
    rows, csv_rows = [], []
    for run, group in groups.items():
        data, final = curve(group), finals(group)
        distance = ABSENT if run == BASELINE else change(groups[BASELINE], group)
        kind, epochs = setting(group, "schedule")["kind"], f"{data.epochs[-1]:g}"
        rows.append([named(group), kind, epochs, with_interval(final), distance, str(len(group))])
        csv_rows += [
            origin(groups.artefact, record, len(group), COLUMNS)
            | {"accuracy_percent": final[i], "imputed_chance": int(data.imputed[i, -1])}
            | span(final)
            | NO_VALUE
            for i, record in enumerate(group)
        ]
    return Table(
        "e2.table3: large-batch test accuracy at the end of training (mean of the last tenth)",
        ["method", "schedule", "epochs", "accuracy, top-1 (%)", f"minus {label(BASELINE)}", "n"],
        rows,
        [
            stamp(groups) + ".",
            "Mean over seeds [95 % Student-t interval, cut at 0 and 100 %]; differences are paired by seed.",
            f"The runs with cosine annealing and with int8 weights are ours. {LOST}",
            *gaps(groups),
        ],
        csv_rows,
    )

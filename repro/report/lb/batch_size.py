"""The paper's networks by batch size: figures 3 and 6, sharpness, and training against test accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repro.registry.labels import number
from repro.report import layout, look, marks
from repro.report.artefact import figure
from repro.report.intervals import bounded, interval, intervals
from repro.report.layout import Axes, Figure, Line2D
from repro.report.lb.runs import (
    BATCHES,
    MODELS,
    POINTS,
    STEPPED,
    batch_run,
    draw_path,
    lb_origin,
    of_run,
    path_rows,
    small_run,
    thinned,
    titles,
)
from repro.report.look import of
from repro.report.notes import BAND, gaps_of_many, span, stamp_by_network
from repro.report.rows import SPAN, Row, Rows
from repro.report.selection import Groups, Selection, completed, diverged, named, recorded, series
from repro.results import metrics
from repro.results.measurements import TITLES

FIG3_RUNS = tuple(batch_run(model, batch) for model in MODELS for batch in BATCHES[model])
FIG6_RUNS = tuple(batch_run(model, batch) for model in STEPPED for batch in BATCHES[model])
_EARLY = 1000  # iterations of figure 6, at most


def accuracy_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and evaluation."""
    return [row for group in chosen.values() for row in path_rows(chosen.artefact, group)]


@figure("lb.fig3", title="Test accuracy by batch size", runs=FIG3_RUNS, rows=accuracy_rows)
def accuracy(groups: Selection, rows: Rows) -> Figure:
    """Draw it over iterations and over training images seen (statement lb.c6)."""
    notes = [
        f"{BAND} Above: equal iterations, logarithmic axis; below: equal images, of which all runs of a network see as "
        "many. The paper does not say what its axis is; dotted: chance.",
        *gaps_of_many(groups),
    ]
    figure, (upper, lower) = layout.rows(
        layout.Texts("lb.fig3  Test accuracy by batch size", stamp_by_network(groups), notes),
        panels=titles(groups, MODELS), heights=(2.1, 2.1), legend_rows=4,
    )  # fmt: skip
    for above, below, model in zip(upper, lower, MODELS, strict=True):
        lines = []
        for i, batch in enumerate(BATCHES[model]):
            run, text = batch_run(model, batch), f"batch {batch}"
            at, images, *spread = of_run(rows, run, "iteration", "images_seen", *SPAN)
            lines.append(draw_path(above, at, np.array(spread), groups[run], text, shift=i))
            draw_path(below, images / 1000, np.array(spread), groups[run], text, shift=i, images=True)
        marks.legend(above, lines, 1)
        _axes(above, below)
        for axes in (above, below):
            marks.chance(axes, groups[batch_run(model)], last=False)
    for row in (upper, lower):
        row[0].set_ylabel("test accuracy, top-1 (%)", fontsize=8)
        marks.percent_axis(row[0])
    return figure


def _axes(above: Axes, below: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    above.set_xscale("log")
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    above.xaxis.set_minor_formatter(NullFormatter())
    above.tick_params(axis="x", labelsize=7)
    above.set_xlabel("iterations", fontsize=8)
    below.set_xlabel("training images seen (thousands)", fontsize=8)
    below.set_xlim(left=0)
    below.xaxis.set_major_locator(MaxNLocator(4))


def _early(groups: Groups, model: str) -> int:
    """Iterations that every completed run of a network has, at most ``_EARLY``."""
    runs = [groups[batch_run(model, batch)] for batch in BATCHES[model]]
    lengths = [len(series(record, "gradient_norm")) for group in runs for record in completed(group)]
    return min([_EARLY, *lengths])


def norm_rows(chosen: Selection) -> list[Row]:
    """One row per run, seed and drawn iteration; one without numbers for a seed that diverged."""
    rows = []
    names = ("iteration", "cumulative_norm", "mean", "low", "high")
    for model in STEPPED:
        early = _early(chosen, model)
        at = thinned(early)
        for group in (chosen[batch_run(model, batch)] for batch in BATCHES[model]):
            start = {record.seed: lb_origin(chosen.artefact, record, len(group)) for record in group}
            rows += [start[record.seed] | dict.fromkeys(names) for record in diverged(group)]
            if not (kept := completed(group)):
                continue
            values = np.array([np.cumsum(series(record, "gradient_norm")[:early])[at] for record in kept])
            spread = np.maximum(intervals(values), 0)  # no norm lies below
            rows += [
                start[record.seed] | dict(zip(names, (place, *numbers), strict=True))
                for record, own in zip(kept, values, strict=True)
                for place, *numbers in zip((at + 1).tolist(), own, *spread, strict=True)
            ]
    return rows


@figure("lb.fig6", title="Gradient norm in early training", runs=FIG6_RUNS, rows=norm_rows)
def gradient_norm(groups: Selection, rows: Rows) -> Figure:
    """Draw the cumulative norm in early training (statement lb.c10)."""
    spans = ", ".join(f"{number(_early(groups, model))} of {TITLES[model]}" for model in STEPPED)
    notes = [
        "Sum of the L2 norms of the gradients so far: mean over seeds with its 95 % Student-t interval, cut at 0. "
        f"Shown are the first {number(_EARLY)} iterations, or as many as every batch size has ({spans}); of a longer "
        f"curve {POINTS} points.",
        *gaps_of_many(groups, "left out"),
    ]
    figure, (panels,) = layout.rows(
        layout.Texts("lb.fig6  Gradient norm in early training", stamp_by_network(groups), notes),
        panels=titles(groups, STEPPED), heights=(2.8,), legend_rows=2, share_y=False,
    )  # fmt: skip
    for axes, model in zip(panels, STEPPED, strict=True):
        lines = []
        for i, batch in enumerate(BATCHES[model]):
            run, text = batch_run(model, batch), f"batch {batch}"
            style, own = of(run, "central"), rows.where(run=run, status="completed")
            if not own:
                lines += axes.plot([], [], **style.kwargs(), label=f"{text}: diverged")
                continue
            at, *spread = own.once("iteration", "mean", "low", "high")
            every = max(1, len(at) // 8)
            lines.append(marks.curve(axes, at, np.array(spread), style, text, every=every, shift=2 * i))
        axes.set_xlabel("iterations", fontsize=8)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        marks.legend(axes, lines, 2)
    panels[0].set_ylabel("cumulative gradient norm (no unit)", fontsize=8)
    return figure


_SPAN = ("geometric_mean", "low", "high")


# Sharpness ---------------------------------------------------------------------------------------------------------


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
        f"{span(images) if images else 'no'} training images. Dots: seeds; large markers: geometric mean, "
        "with its 95 % Student-t interval. Equal images are fewer iterations of a larger batch, "
        "which may not be at a minimum yet: the CSV has the training loss.",
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
    axes.plot(
        [batch * 1.35] * len(found), found, color=style.colour, marker=".", markersize=4, linestyle="none", zorder=2
    )
    mean, low, high = rows.once(*_SPAN)[:, 0]
    marks.whisker(axes, batch, low, high, style.colour, 1.3)
    axes.plot([batch], [mean], **style.kwargs() | {"markersize": 7}, zorder=3)


def _eigenvalue_axis(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    least, most = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0) if most < 100 * least else (1.0,)))
    marks.plain_ticks(axes.yaxis)


# Training against test accuracy ------------------------------------------------------------------------------------

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


@figure(
    "lb.extra-training", title="Training and test accuracy by batch size", runs=TRAINING_RUNS, rows=training_rows,
    details="Batches are compared at the largest of the smallest losses that both reach, mean over seeds. The loss "
    "falls to the right.",
)  # fmt: skip
def training(groups: Selection, rows: Rows) -> Figure:
    """Draw both against epochs, and their gap against the training loss (statement lb.c22)."""
    notes = [
        "Above: accuracy on a fixed sample of training images (solid) and on test images (dashed), both without "
        "augmentation. Below: their difference against the loss on the same training images, a line a seed; dotted: "
        f"the loss at which batches are compared. {BAND}",
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
        marks.curve(axes, epochs, intervals(rows.by_seed(name), bounded), look_of, text, every=every)
        for look_of, name in ((trained, "train_sample_percent"), (tested, "test_percent"))
    ]
    return lines[0]


def _draw_gaps(axes: Axes, rows: Rows) -> None:
    style = look.of(rows[0]["run"], "central").kwargs() | {"linewidth": 0.9, "markersize": 2.5}
    for seed in rows.seeds():
        axes.plot(*seed.numbers("train_sample_loss", "gap_points"), **style, zorder=3)

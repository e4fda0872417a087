"""Figures of post e2: what compressed messages cost in accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from repro.registry.labels import label, number
from repro.report import e1, select, style
from repro.results.metrics import epochs_to_first_cut

BASELINE, GQ, DGC = "e2-large-batch", "e2-large-batch-gq", "e2-large-batch-dgc"
COSINE, DGC_COSINE, WEIGHTS = "e2-large-batch-cosine", "e2-large-batch-dgc-cosine", "e2-large-batch-weights"
FEDERATED, FEDERATED_GQ = "e2-federated", "e2-federated-gq"

FIG1_RUNS = (BASELINE, GQ, DGC)
COSINE_RUNS = (BASELINE, COSINE, DGC, DGC_COSINE)
CUT_RUNS = (
    "e2-decay-large-batch", "e2-decay-large-batch-cosine", "e2-decay-large-batch-dgc", "e2-decay-large-batch-dgc-cosine"
)  # fmt: skip
FIG2_RUNS = (FEDERATED, FEDERATED_GQ)
WEIGHTS_RUNS = (BASELINE, GQ, WEIGHTS)

#: Fields of a spec in which the runs of this post differ; columns of its CSV files.
COLUMNS = ("codec", "quantised_weights", "momentum", "schedule")


def _curves(axes: Axes, groups: select.Groups, labels: Mapping[str, str], *, outline: bool = False) -> list[Line2D]:
    """Mean and band of each run; the first one lies on top, since compressed ones hide behind it otherwise."""
    drawn = {
        run: e1._draw_curve(axes, groups[run], labels[run], 2 * i, outline=outline)
        for i, run in reversed(list(enumerate(labels)))
    }
    return [drawn[run] for run in labels]


def _rates(axes: Axes, groups: select.Groups, runs: Sequence[str]) -> None:
    """The learning rate of each seed; a logged rate is that of the epochs since the evaluation before."""
    for run in reversed(runs):
        for record in (record for record in groups[run] if record.rows):
            epochs, rates = ([row[name] for row in record.rows] for name in ("epoch", "lr"))
            look = style.of(run, record.spec["method"])
            axes.plot([0, *epochs], [*rates[:1], *rates], color=look.colour, linestyle=look.line, linewidth=1.3,
                      drawstyle="steps-pre", zorder=3)  # fmt: skip


def _below(upper: Axes, lower: Axes) -> None:
    """Give the lower of two axes the x-label."""
    lower.set_xlabel(upper.get_xlabel())
    upper.set_xlabel("")


_FEW_RATES = 5  # what reduce on plateau can cut within a training; a cosine has a rate for every epoch


def _rate_axis(figure: Figure, lower: Sequence[Axes]) -> None:
    """A log axis for learning rates, with ticks at those of a plateau; at the end of a cosine they fall below it."""
    drawn = [float(rate) for axes in lower for line in axes.lines for rate in np.asarray(line.get_ydata())]
    lower[0].set_yscale("log")
    if drawn:
        lower[0].set_ylim(min(rate for rate in drawn if rate > 1e-5 * max(drawn)) / 2, 2 * max(drawn))
    if 0 < len(levels := sorted(set(drawn))) <= _FEW_RATES:
        lower[0].set_yticks(levels, [f"{rate:g}" for rate in levels])
    lower[0].yaxis.set_minor_locator(NullLocator())
    lower[0].tick_params(axis="y", labelsize=7)
    lower[0].set_ylabel("learning rate (no unit)", fontsize=8)
    figure.align_ylabels()


def _cuts(groups: select.Groups, runs: Sequence[str]) -> str:
    """Note on the first cut of each seed."""
    parts = []
    for run in runs:
        cuts = [(record.status, *epochs_to_first_cut(record)) for record in groups[run]]
        words = ["diverged" if end == "diverged" else f"{at:g}" if reached else "never" for end, at, reached in cuts]
        parts.append(f"{select.named(groups[run])} {', '.join(words)}")
    return f"First evaluation after a cut of the learning rate, in epochs (seed by seed): {'; '.join(parts)}."


def fig1(groups: select.Groups, profile: str) -> Figure:
    """Test accuracy and learning rate of large-batch training: uncompressed, GQ and DGC (e2.c4, e2.c11)."""
    figure, (upper, lower) = style.new(
        "e2.fig1  Large batch with compressed gradients",
        select.stamp(groups),
        [f"{e1.OUTLINE} Below: learning rate, a line a seed.", _cuts(groups, FIG1_RUNS), *select.gaps(groups)],
        lower=1.3,
    )
    lines = _curves(upper, groups, {run: select.named(groups[run]) for run in FIG1_RUNS}, outline=True)
    _rates(lower, groups, FIG1_RUNS)
    rates = {row["lr"] for run in FIG1_RUNS for record in groups[run] for row in record.rows}
    if len(rates) == 1:  # all lines are one
        lower.text(0.5, 0.75, f"every run: {rates.pop():g}, never cut", ha="center", fontsize=8,
                   transform=lower.transAxes)  # fmt: skip
    e1._scale([upper], groups)
    _below(upper, lower)
    _rate_axis(figure, [lower])
    style.legend(upper, lines, 3)
    return figure


def cosine(groups: select.Groups, profile: str) -> Figure:
    """Reduce on plateau against cosine annealing, uncompressed and with DGC, without weight decay."""
    return _schedules(groups, "e2.extra-cosine  Learning-rate schedules with and without DGC", COSINE_RUNS, ())


def cut(groups: select.Groups, profile: str) -> Figure:
    """The same with weight decay, where a plateau cuts the learning rate (e2.c4, e2.c5)."""
    return _schedules(
        groups, "e2.extra-cut  Schedules where a plateau cuts the learning rate", CUT_RUNS,
        [f"All with weight decay {float(select.setting(groups[CUT_RUNS[0]], 'weight_decay')):g}. "
         f"{_cuts(groups, (CUT_RUNS[0], CUT_RUNS[2]))}"],
    )  # fmt: skip


def _schedules(groups: select.Groups, title: str, runs: Sequence[str], notes: Sequence[str]) -> Figure:
    """Accuracy and learning rate of ``runs``: baseline under both schedules, then DGC under both."""
    pairs = ((runs[0], runs[1]), (runs[2], runs[3]))
    change = (
        "Above the panels: at the end (last tenth), cosine minus plateau, paired by seed, with its 95 % Student-t "
        "interval."
    )
    excess = f"DGC's gain from cosine beyond that of the baseline: {_excess(groups, pairs)}."
    figure, axes = style.new(
        title,
        select.stamp(groups),
        [f"{e1.BAND} Below: learning rate, a line a seed. {e1.OURS}", f"{change} {excess}", *notes,
         *select.gaps(groups)],
        panels=[f"{label(plain)}: {e1._change(groups[run], groups[other])}"
                for plain, (run, other) in zip((BASELINE, DGC), pairs, strict=True)],
        lower=1.3,
    )  # fmt: skip
    upper, lower = axes[:2], axes[2:]
    for above, below, pair in zip(upper, lower, pairs, strict=True):
        lines = _curves(above, groups, {run: str(select.setting(groups[run], "schedule")["kind"]) for run in pair})
        _rates(below, groups, pair)
        style.legend(above, lines, 2)
    e1._scale(upper, groups)
    for above, below in zip(upper, lower, strict=True):
        _below(above, below)
    _rate_axis(figure, lower)
    return figure


def _excess(groups: select.Groups, pairs: Sequence[tuple[str, str]]) -> str:
    """(cosine - plateau of the second pair) - (that of the first), at the end, over seeds that all runs have."""
    (plain, plain_cosine), (sparse, sparse_cosine) = pairs
    ends = {run: select.ends(groups[run]) for run in (plain, plain_cosine, sparse, sparse_cosine)}
    seeds = [seed for seed in ends[plain] if all(seed in by_seed for by_seed in ends.values())]
    if not seeds:
        return "no paired seeds"
    gains = [ends[sparse_cosine][s] - ends[sparse][s] - ends[plain_cosine][s] + ends[plain][s] for s in seeds]
    mean, *bounds = (number(value, 1) for value in select.interval(gains))
    return f"{mean} points" + (f" [{', '.join(bounds)}]" if len(seeds) > 1 else "")


def fig2(groups: select.Groups, profile: str) -> Figure:
    """Federated averaging with and without quantised model deltas, and their difference (e2.c6)."""
    notes = [f"{e1.BAND} Below: GQ minus uncompressed, paired by seed.", *select.gaps(groups)]
    figure, (upper, lower) = style.new(
        "e2.fig2  Federated averaging with quantised deltas",
        select.stamp(groups),
        notes,
        right=0.72 if profile == "paper" else 0.25,
        lower=1.3,
    )
    lines = _curves(upper, groups, {run: select.named(groups[run]) for run in FIG2_RUNS})
    plain, quantised = (select.curve(groups[run]) for run in FIG2_RUNS)
    paired = [seed for seed in plain.seeds if seed in quantised.seeds]
    if paired:
        first, second = ([data.seeds.index(seed) for seed in paired] for data in (plain, quantised))
        epochs, *columns = np.intersect1d(plain.epochs, quantised.epochs, return_indices=True)
        gaps = quantised.values[second][:, columns[1]] - plain.values[first][:, columns[0]]
        mean, low, high = np.array([select.interval(column) for column in gaps.T]).T
        look = style.of(FEDERATED_GQ, "federated")
        lower.plot(epochs, mean, color=look.colour, linestyle=look.line, zorder=3)
        lower.fill_between(epochs, low, high, color=look.colour, alpha=0.16, linewidth=0)
    lower.axhline(0, color="#555555", linewidth=1.0, zorder=2)
    if profile == "paper":
        upper.axhline(90, color="#555555", linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
        style.margin_label(upper, 90, "post\n90 %")
    e1._scale([upper], groups)
    _below(upper, lower)
    lower.set_ylabel("difference (points)", fontsize=8)
    figure.align_ylabels()
    style.legend(upper, lines, 2)
    return figure


def weights(groups: select.Groups, profile: str) -> Figure:
    """Weights kept in int8 during training against quantised gradients (e2.c3)."""
    figure, (axes,) = style.new(
        "e2.extra-weights  Quantised weights against quantised gradients",
        select.stamp(groups),
        [f"{e1.OUTLINE} {e1.OURS}", "Weights: after every step the model itself is rounded to int8, tensor by tensor.",
         *select.gaps(groups)],
    )  # fmt: skip
    lines = _curves(axes, groups, {run: select.named(groups[run]) for run in WEIGHTS_RUNS}, outline=True)
    e1._scale([axes], groups)
    style.legend(axes, lines, 3)
    return figure

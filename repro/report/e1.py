"""Figures of post e1: large batch against federated learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from repro.registry.labels import label, number
from repro.report import select, style
from repro.results.metrics import target_accuracy
from repro.results.records import Record

FIG1_RUNS = ("e1-central", "e1-large-batch", "e1-federated")
SKEW_RUNS = ("e1-large-batch", "e1-large-batch-2labels", "e1-federated", "e1-federated-2labels")
SKEW_GN_RUNS = tuple(f"{run}-gn" for run in SKEW_RUNS)
BATCH_RUNS = ("e1-central", "e1-large-batch", "e1-large-batch-x2")
DEVICES_RUNS = ("e1-federated-32workers", "e1-federated", "e1-federated-384workers")
MOMENTUM_RUNS = ("e1-central", "e1-central-momentum", "e1-federated", "e1-federated-momentum")
DIRICHLET_RUNS = ("e1-federated", "e1-federated-alpha10", "e1-federated-alpha1", "e1-federated-alpha0_1")
SYNC_RUNS = ("e1-federated", "e1-federated-2epochs", "e1-federated-4epochs")
GRID_ARMS = ("central", "large-batch", "large-batch-x2", "federated", "central-momentum", "federated-momentum")
GRID_RUNS = tuple(f"e1-grid-{arm}-lr*" for arm in GRID_ARMS)

BAND = "Lines: mean over seeds. Bands: 95 % Student-t interval."
OUTLINE = "Thick lines: mean over seeds. Thin lines: 95 % Student-t interval."
OURS = "The post has no such figure."


def global_batch(group: Sequence[Record]) -> int:
    """Images behind one step of the shared model: workers x local batch."""
    return int(select.setting(group, "workers")) * int(select.setting(group, "local_batch"))


def _draw_curve(axes: Axes, group: Sequence[Record], text: str, shift: int = 0, *, outline: bool = False) -> Line2D:
    """Draw mean and band of one run; ``shift`` staggers the markers of neighbouring curves.

    ``outline``: of the band its edges only, where those of several curves lie upon one another.
    """
    data = select.curve(group)
    look = style.of(group[0].run, group[0].spec["method"])
    step = max(1, round(len(data.epochs) / 8))
    (line,) = axes.plot(
        data.epochs, data.mean, **look.kwargs(), label=text, markevery=(min(shift, step - 1), step), zorder=3
    )
    if outline:
        for edge in (data.low, data.high):
            axes.plot(data.epochs, edge, color=look.colour, linestyle=look.line, linewidth=0.6, zorder=2.5)
    else:
        axes.fill_between(data.epochs, data.low, data.high, color=look.colour, alpha=0.16, linewidth=0)
    return line


def _scale(panels: Sequence[Axes], groups: select.Groups) -> None:
    """Epochs from 0 in whole steps, accuracy from 0 to at most 100 %; a band beyond that is cut."""
    for axes in panels:
        axes.set_xlabel("epochs (passes over the training data)")
        axes.set_xlim(0, 1.02 * max(select.curve(group).epochs[-1] for group in groups.values()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panels[0].set_ylabel("test accuracy, top-1 (%)")
    panels[0].set_ylim(0, min(100.0, panels[0].get_ylim()[1]))


def fig1(groups: select.Groups, profile: str) -> Figure:
    """Test accuracy against epochs of the three methods, with the target of e1.table2 as a line."""
    target = 100 * target_accuracy([r for group in groups.values() for r in group], profile)
    notes = [BAND, *select.gaps(groups)]
    figure, (axes,) = style.new("e1.fig1  Test accuracy of the three methods", select.stamp(groups), notes, right=0.72)
    lines = [_draw_curve(axes, groups[run], select.named(groups[run]), i) for i, run in enumerate(FIG1_RUNS)]
    axes.axhline(target, color="#555555", linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
    style.margin_label(axes, target, f"target\n{target:.1f} %")
    _scale([axes], groups)
    style.legend(axes, lines, 3)
    return figure


def skew(groups: select.Groups, profile: str) -> Figure:
    """IID shards against two labels per client, for large batch and federated averaging (statement e1.c5)."""
    return _skew(groups, SKEW_RUNS, "e1.extra-skew  What label skew costs")


def skew_gn(groups: select.Groups, profile: str) -> Figure:
    """As ``skew``, with GroupNorm, which has no statistics of the local batch (statement e1.c5)."""
    return _skew(groups, SKEW_GN_RUNS, "e1.extra-skew-gn  What label skew costs with GroupNorm")


def _skew(groups: select.Groups, runs: Sequence[str], title: str) -> Figure:
    labels = {
        run: "IID shards"
        if select.setting(group, "partition") == "iid"
        else f"{select.setting(group, 'labels_per_client')} labels per client"
        for run, group in groups.items()
    }
    pairs = (runs[:2], runs[2:])
    change = "Above the panels: at the end (last tenth), skewed minus IID shards, paired by seed, with 95 % interval."
    figure, panels = style.new(
        title,
        select.stamp(groups),
        [f"{BAND} {OURS}", change, *select.gaps(groups)],
        panels=[f"{label(iid.removesuffix('-gn'))}: {_change(groups[iid], groups[skewed])}" for iid, skewed in pairs],
    )
    for axes, pair in zip(panels, pairs, strict=True):
        style.legend(axes, [_draw_curve(axes, groups[run], labels[run]) for run in pair], 2)
    _scale(panels, groups)
    return figure


def _change(before: Sequence[Record], after: Sequence[Record]) -> str:
    """Difference in final accuracy between two runs over the seeds that both have, in percentage points."""
    a, b = select.ends(before), select.ends(after)
    paired = [seed for seed in a if seed in b]
    if not paired:
        return "no paired seeds"
    changes = [b[seed] - a[seed] for seed in paired]
    mean, *bounds = (number(value, 1) for value in select.interval(changes))
    return f"{mean} points" + (f" [{', '.join(bounds)}]" if len(paired) > 1 else "")


def convergence(groups: select.Groups, profile: str) -> Figure:
    """Accuracy per epoch for larger global batches and for rarer synchronisation (statement e1.c7)."""
    labels = {run: number(global_batch(groups[run])) for run in BATCH_RUNS}
    labels[BATCH_RUNS[0]] += " (centralised)"
    for run in SYNC_RUNS:
        every = int(select.setting(groups[run], "local_epochs"))
        labels[run] = f"{every} epoch{'s' if every > 1 else ''}"
    figure, panels = style.new(
        "e1.extra-convergence  Larger batches, rarer synchronisation",
        select.stamp(groups),
        [f"{BAND} {OURS}", *select.gaps(groups)],
        panels=["large batch: images per step", "federated averaging: synchronised every"],
    )
    for axes, runs in zip(panels, (BATCH_RUNS, SYNC_RUNS), strict=True):
        style.legend(axes, [_draw_curve(axes, groups[run], labels[run], i) for i, run in enumerate(runs)], 3)
    _scale(panels, groups)
    return figure


def _ends_against(axes: Axes, points: Sequence[tuple[float, Sequence[Record]]], colour: str) -> None:
    """Accuracy at the end of training: mean and interval over seeds, joined by a line, and every seed as a dot."""
    x = [at for at, _ in points]
    mean, low, high = np.array([_final(group) for _, group in points]).T
    axes.plot(x, mean, color=colour, linewidth=1.2, zorder=3)
    for at, group in points:
        values = list(select.ends(group).values())
        axes.plot([at * 1.06] * len(values), values, ".", color="#888888", markersize=4, zorder=2)
    for (at, group), middle in zip(points, mean, strict=True):
        look = style.of(group[0].run, group[0].spec["method"])
        axes.plot([at], [middle], **look.kwargs(), zorder=4)
    axes.errorbar(x, mean, yerr=[mean - low, high - mean], fmt="none", ecolor=colour, capsize=3, zorder=3)


def _curves_and_ends(
    groups: select.Groups, title: str, notes: Sequence[str], panels: tuple[str, str], labels: Mapping[str, str],
    points: Sequence[tuple[float, str]],
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Accuracy against epochs on the left, and at the end against what ``points`` say on a logarithmic axis.

    Args:
        groups: records by run.
        title, notes, panels: texts.
        labels: of the curves, by run.
        points: place on the right axis and run.
    """
    ends = "Right: at the end (last tenth), mean with its 95 % Student-t interval; dots: seeds."
    figure, axes = style.new(
        title, select.stamp(groups), [f"{BAND} {ends} {OURS}", *notes, *select.gaps(groups)], panels=list(panels),
        legend_rows=1 if len(labels) < 4 else 2,
    )  # fmt: skip
    left, right = axes
    style.legend(left, [_draw_curve(left, groups[run], text, i) for i, (run, text) in enumerate(labels.items())],
                 3 if len(labels) < 4 else 2)  # fmt: skip
    _ends_against(right, [(at, groups[run]) for at, run in points], style.METHODS["federated"].colour)
    _scale([left], groups)
    places = sorted(at for at, _ in points)
    right.set_xscale("log", base=2)
    right.set_xlim(places[0] / 1.6, places[-1] * 1.6)
    right.set_xticks(places, [f"{at:g}" for at in places])
    right.xaxis.set_minor_locator(NullLocator())
    return figure, axes


def devices(groups: select.Groups, profile: str) -> Figure:
    """Federated averaging of the same images on few, more and many devices (statement e1.c8)."""
    counts = {run: int(select.setting(groups[run], "workers")) for run in DEVICES_RUNS}
    images = int(select.setting(groups[DEVICES_RUNS[0]], "train_images"))
    figure, (_, right) = _curves_and_ends(
        groups, "e1.extra-devices  More devices for the same images",
        [f"A device has about {', '.join(number(images / count) for count in counts.values())} images, so that more "
         "devices take fewer local steps in a round."],
        ("federated averaging: devices", "at the end"),
        {run: number(count) for run, count in counts.items()}, [(count, run) for run, count in counts.items()],
    )  # fmt: skip
    right.set_xlabel("devices (count; log2 axis)")
    return figure


def dirichlet(groups: select.Groups, profile: str) -> Figure:
    """Federated averaging on shards ever more uneven in their labels, and on IID ones (statement e1.c10)."""
    iid, *uneven = DIRICHLET_RUNS
    alphas = {run: float(select.setting(groups[run], "dirichlet_alpha")) for run in uneven}
    figure, (_, right) = _curves_and_ends(
        groups, "e1.extra-dirichlet  Shards of uneven labels",
        ["Each label is dealt to the devices in shares from a symmetric Dirichlet distribution; the smaller alpha, the "
         "more uneven. Dotted: IID shards."],
        ("federated averaging: alpha", "at the end"),
        {iid: "IID"} | {run: f"{alpha:g}" for run, alpha in alphas.items()},
        [(alpha, run) for run, alpha in alphas.items()],
    )  # fmt: skip
    right.axhline(_final(groups[iid])[0], color="#555555", linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
    right.set_xlabel("alpha (no unit; log2 axis)")
    return figure


def momentum(groups: select.Groups, profile: str) -> Figure:
    """Momentum in centralised training and in federated averaging (statement e1.c9)."""
    pairs = (MOMENTUM_RUNS[:2], MOMENTUM_RUNS[2:])
    labels = {run: f"momentum {float(select.setting(group, 'momentum')):g}" for run, group in groups.items()}
    rates = ", ".join(f"{select.named(group)} {float(select.setting(group, 'lr')):g}" for group in groups.values())
    figure, panels = style.new(
        "e1.extra-momentum  Momentum in both methods",
        select.stamp(groups),
        [f"{BAND} {OURS} Above the panels: at the end (last tenth), with minus without momentum, paired by seed, with "
         "95 % Student-t interval.",
         f"Learning rates, each the best of a grid of its own: {rates}.",
         "In federated averaging momentum is each device's own and starts at zero in every round.",
         *select.gaps(groups)],
        panels=[f"{label(plain)}: {_change(groups[plain], groups[with_it])}" for plain, with_it in pairs],
    )  # fmt: skip
    for axes, pair in zip(panels, pairs, strict=True):
        style.legend(axes, [_draw_curve(axes, groups[run], labels[run]) for run in pair], 2)
    _scale(panels, groups)
    return figure


def _arm(run: str) -> str:
    """Arm of a grid run: ``e1-grid-large-batch-x2-lr0_8`` is of arm ``large-batch-x2``."""
    return run.removeprefix("e1-grid-").rpartition("-lr")[0]


def _final(group: Sequence[Record]) -> tuple[float, float, float]:
    return select.interval(list(select.ends(group).values()))


def grid(groups: select.Groups, profile: str) -> Figure:
    """Held-out accuracy against the learning rate, the best rate of each arm ringed (statement e1.c6)."""
    counts = {arm: max(len(group) for run, group in groups.items() if _arm(run) == arm) for arm in GRID_ARMS}
    seeds = [f"{label('e1-grid-' + arm)} {number(count)}" for arm, count in counts.items()]
    budget = " and ".join(sorted({f"{select.setting(group, 'epochs')}" for group in groups.values()}))
    figure, (axes,) = style.new(
        "e1.extra-grid  Learning rate of each method",
        select.stamp(groups),
        [
            f"Accuracy after {budget} epochs on held-out training images; no test image is used. {OURS}",
            "Bars: 95 % Student-t interval over seeds. Ring: best of its arm. Cross: every seed diverged.",
            f"Seeds: {', '.join(seeds)}.",
            *select.gaps(groups, fewer=False),
        ],
        legend_rows=3,
    )
    lines, rates = [], set()
    for arm in GRID_ARMS:
        points = sorted(
            (float(select.setting(group, "lr")), *_final(group), all(r.status == "diverged" for r in group))
            for run, group in groups.items()
            if _arm(run) == arm
        )
        sample = next(group for run, group in groups.items() if _arm(run) == arm)
        look = style.of(f"e1-{arm}", sample[0].spec["method"])
        text = label(f"e1-grid-{arm}")
        if sample[0].spec["method"] != "federated":
            text += f", {number(global_batch(sample))} images per step"
        lr, mean, low, high, lost = (np.array(column) for column in zip(*points, strict=True))
        (line,) = axes.plot(lr, mean, **look.kwargs(), label=text, zorder=3)
        axes.errorbar(lr, mean, yerr=[mean - low, high - mean], fmt="none", ecolor=look.colour, capsize=2)
        axes.plot(lr[lost], mean[lost], "x", color="#555555", markersize=10, zorder=4)
        best = int(np.argmax(mean))
        axes.plot(lr[best], mean[best], "o", markersize=12, markerfacecolor="none", color=look.colour, zorder=4)
        lines.append(line)
        rates |= set(lr)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(rates), [f"{rate:g}" for rate in sorted(rates)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate (no unit; log2 axis)")
    axes.set_ylabel("held-out accuracy, top-1 (%)")
    axes.set_ylim(0, min(100.0, axes.get_ylim()[1]))
    style.legend(axes, lines, 2)
    return figure
